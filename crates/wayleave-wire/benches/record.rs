//! What Noise costs: a server's side of a handshake, and records sealed and opened.

#![allow(clippy::unwrap_used, reason = "its input is its own")]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use wayleave_wire::noise::{self, Initiation, MAX_PLAINTEXT, Session};
use wayleave_wire::{CapabilityVersion, PrivateKey};

/// A small frame, a full record, and a map of a thousand peers or so.
const SIZES: [usize; 3] = [100, MAX_PLAINTEXT, 1 << 20];

fn main() {
    println!(
        "record: `handshake` is one client let in by the server. `seal` and `open` are so many bytes of plaintext, in records of"
    );
    println!("        up to {MAX_PLAINTEXT} bytes (a byte is one of plaintext).");
    divan::main();
}

fn initiation(server: &PrivateKey) -> ([u8; 101], noise::Initiator) {
    let client = PrivateKey::from_bytes([2; 32]);
    noise::initiate(&client, &server.machine_key(), CapabilityVersion(142), [3; 32]).unwrap()
}

/// Both ends of a connection: the server's, then the client's.
fn sessions() -> (Session, Session) {
    let server = PrivateKey::from_bytes([1; 32]);
    let (sent, initiator) = initiation(&server);
    let (response, ours) = noise::accept(&server, &Initiation::from_bytes(&sent).unwrap(), [4; 32]).unwrap();
    (ours, noise::read_response(initiator, &response).unwrap())
}

#[divan::bench]
fn handshake(bencher: Bencher<'_, '_>) {
    let server = PrivateKey::from_bytes([1; 32]);
    let initiation = Initiation::from_bytes(&initiation(&server).0).unwrap();
    bencher.bench(|| noise::accept(black_box(&server), black_box(&initiation), [4; 32]).unwrap().0);
}

#[divan::bench(args = SIZES, sample_size = 16)]
fn seal(bencher: Bencher<'_, '_>, bytes: usize) {
    let (mut ours, _) = sessions();
    let plaintext = vec![7; bytes];
    let mut wire = Vec::new();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        wire.clear();
        ours.sealer.seal(black_box(&plaintext), &mut wire).unwrap();
        wire.len()
    });
}

#[divan::bench(args = SIZES, sample_size = 16)]
fn open(bencher: Bencher<'_, '_>, bytes: usize) {
    // Records open in the order in which they were sealed, each once: the inputs of a sample are made and used in the same order.
    let (mut ours, mut theirs) = sessions();
    let plaintext = vec![7; bytes];
    bencher
        .counter(BytesCount::new(bytes))
        .with_inputs(|| {
            let mut wire = Vec::new();
            ours.sealer.seal(&plaintext, &mut wire).unwrap();
            wire
        })
        .bench_local_refs(|wire| {
            theirs.opener.feed(wire);
            let mut opened = 0;
            while let Some(record) = theirs.opener.next().unwrap() {
                opened += record.len();
            }
            assert_eq!(opened, bytes, "all that was sealed comes out");
        });
}
