//! A client that takes nothing of its map: it costs nobody but itself, and not for long.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use wayleave_server::options::Options;
use wayleave_sim::{Client, MapStream, TestServer};
use wayleave_wire::PrivateKey;

/// How long the server puts up with it.
const STUCK: Duration = Duration::from_secs(2);
/// What anybody else may wait for news meanwhile, on a machine that is busy.
const NEWS: Duration = Duration::from_millis(1500);

/// A connection through a gate, and how many bytes have come through it.
async fn through_a_gate(server: &TestServer) -> (DuplexStream, watch::Sender<bool>, Arc<AtomicUsize>) {
    let socket = TcpSocket::new_v4().unwrap();
    // The system takes little by itself.
    socket.set_recv_buffer_size(4096).unwrap();
    let (mut from, mut to) = socket.connect(server.address()).await.unwrap().into_split();
    let (inner, outer) = tokio::io::duplex(1 << 20);
    let (mut read, mut write) = tokio::io::split(inner);
    let (shut, mut is_shut) = watch::channel(false);
    let through = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&through);
    tokio::spawn(async move { tokio::io::copy(&mut read, &mut to).await });
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        loop {
            is_shut.wait_for(|shut| !shut).await.unwrap();
            let some = from.read(&mut bytes).await.unwrap_or(0);
            counted.fetch_add(some, Ordering::Relaxed);
            if some == 0 || write.write_all(&bytes[..some]).await.is_err() {
                return;
            }
        }
    });
    (outer, shut, through)
}

/// How many addresses are told at a time; the server takes no more of one node.
const ADDRESSES: usize = 64;

/// Reports many endpoints that nobody has had and that no compression makes smaller; `number` is in one of them.
async fn moves(client: &Client, number: u16) {
    let mut endpoints = vec![format!("10.9.0.1:{number}")];
    endpoints.extend((1..ADDRESSES).map(|_| format!("[{}]:41641", Ipv6Addr::from(rand::random::<u128>() | 1 << 125))));
    let kinds = vec![1; endpoints.len()];
    let report = json!({
        "Version": 142, "NodeKey": client.node_key(), "OmitPeers": true, "Endpoints": endpoints, "EndpointTypes": kinds,
    });
    let (status, _) = client.ask(Method::POST, "/machine/map", report.to_string().into_bytes()).await.unwrap();
    assert!(status.is_success(), "{status}");
}

async fn hears(map: &mut MapStream, what: impl Fn(&str) -> bool) -> Value {
    let news = map.until(|frame| what(&frame.to_string()));
    tokio::time::timeout(NEWS, news).await.expect("others are told meanwhile").unwrap()
}

/// What may be kept for one client: 16 KiB wait in HTTP/2 and as many again in the stream below it, and the kernels hold a segment of
/// 64 KiB and what the small buffer of the receiver lets be under way.
const KEPT: usize = 128 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_cut_off_and_others_are_told_meanwhile() {
    let change = |options: &mut Options| {
        options.limits.stuck = STUCK;
        options.tailnet.offline_after = Duration::ZERO;
    };
    let server = TestServer::start_with(change).await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    let (address, public) = (server.address(), server.server().unwrap().public_key());
    let (talker, viewer) =
        (Client::connect(address, public).await.unwrap(), Client::connect(address, public).await.unwrap());
    talker.join(&key, "talker").await.unwrap();
    viewer.join(&key, "viewer").await.unwrap();
    let (stream, shut, through) = through_a_gate(&server).await;
    let random = || PrivateKey::from_bytes(rand::random());
    let stuck = Client::over(stream, address, public, random(), random()).await.unwrap();
    stuck.join(&key, "stuck").await.unwrap();
    let mut its_map = stuck.stream().await.unwrap();
    let id = its_map.next().await.unwrap().unwrap()["Node"]["ID"].clone();
    let mut map = viewer.stream().await.unwrap();
    map.next().await.unwrap();
    shut.send_replace(true);
    let began = Instant::now();
    // News go on until the server has had enough of it; none of the others waits for it.
    let mut number = 1000;
    let gone = loop {
        number += 1;
        moves(&talker, number).await;
        let port = format!("10.9.0.1:{number}\"");
        let mut gone = false;
        let told = hears(&mut map, |frame| frame.contains(&port) || frame.contains("\"Online\":false")).await;
        for change in told["PeersChangedPatch"].as_array().into_iter().flatten() {
            gone |= change["NodeID"] == id && change["Online"] == false;
        }
        if gone {
            break began.elapsed();
        }
        assert!(began.elapsed() < STUCK * 10, "it is never cut off, after {} frames", number - 1000);
    };
    // What was kept for it comes now.
    let before = through.load(Ordering::Relaxed);
    shut.send_replace(false);
    let (mut last, mut same) = (0, 0);
    while same < 10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = through.load(Ordering::Relaxed);
        (last, same) = (now, if now == last { same + 1 } else { 0 });
    }
    // It comes back and is told what is newest.
    moves(&talker, 999).await;
    let back = Client::connect(address, public).await.unwrap();
    back.join(&key, "back").await.unwrap();
    let whole = back.stream().await.unwrap().next().await.unwrap().unwrap();
    assert!(whole["Peers"].to_string().contains("10.9.0.1:999\""), "{whole}");
    assert!(gone >= STUCK, "it had its time: {gone:?}");
    // Each address is 16 bytes that nothing makes smaller.
    let (told, kept) = (usize::from(number - 1000) * ADDRESSES * 16, last - before);
    assert!(told > 2 * KEPT, "others were told too little to say anything: {told} bytes in {gone:?}");
    assert!(kept < KEPT, "{kept} bytes were kept for it while others were told {told}");
}
