//! What the system takes to bring a frame from one process to another over loopback: what telling many clients can't cost less than.

#![allow(clippy::unwrap_used, reason = "its input is its own")]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use divan::Bencher;
use divan::counter::BytesCount;

/// A failover and a piece of a map, as they go over the wire.
const SIZES: [usize; 2] = [700, 16 << 10];
/// Connections that take turns, so that one is no longer in the processor's memory when its turn comes.
const CONNECTIONS: usize = 400;

fn main() {
    println!(
        "floor: `write` and `read` are one frame of so many bytes over one of {CONNECTIONS} loopback connections that take turns."
    );
    println!("       A write has the other end's kernel take it in, too.");
    divan::main();
}

struct Pair {
    here: TcpStream,
    there: TcpStream,
}

fn pairs() -> Vec<Pair> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let pair = |_| {
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        here.set_nodelay(true).unwrap();
        Pair { here, there: listener.accept().unwrap().0 }
    };
    (0..CONNECTIONS).map(pair).collect()
}

fn take(pair: &Pair, into: &mut [u8]) {
    (&pair.there).read_exact(into).unwrap();
}

#[divan::bench(args = SIZES, sample_size = 100, sample_count = 100)]
fn write(bencher: Bencher<'_, '_>, bytes: usize) {
    let (pairs, turn, frame) = (pairs(), Cell::new(0), vec![7; bytes]);
    let ended = Cell::new(false);
    bencher
        .counter(BytesCount::new(bytes))
        .with_inputs(|| {
            // What was written a whole turn ago is taken before the next is.
            let at = turn.replace((turn.get() + 1) % CONNECTIONS);
            if ended.get() {
                take(&pairs[at], &mut vec![0; bytes]);
            }
            ended.set(ended.get() || at == CONNECTIONS - 1);
            at
        })
        .bench_local_values(|at: usize| (&pairs[at].here).write_all(&frame).unwrap());
}

#[divan::bench(args = SIZES, sample_size = 100, sample_count = 100)]
fn read(bencher: Bencher<'_, '_>, bytes: usize) {
    let (pairs, turn, frame) = (pairs(), Cell::new(0), vec![7; bytes]);
    bencher
        .counter(BytesCount::new(bytes))
        .with_inputs(|| {
            let at = turn.replace((turn.get() + 1) % CONNECTIONS);
            (&pairs[at].here).write_all(&frame).unwrap();
            (at, vec![0; bytes])
        })
        .bench_local_values(|(at, mut into): (usize, Vec<u8>)| take(&pairs[at], &mut into));
}
