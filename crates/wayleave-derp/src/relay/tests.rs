use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;
use wayleave_wire::derp::ClientInfo;

use super::*;

struct Known(Vec<NodeKey>);

impl Admission for Known {
    fn admits(&self, node: &NodeKey, _source: IpAddr) -> bool {
        self.0.contains(node)
    }
}

fn key(n: u8) -> PrivateKey {
    PrivateKey::from_bytes([n; 32])
}

fn relay() -> Relay {
    let known = (1..=3).map(|n| key(n).node_key()).collect();
    Relay::new(key(100), Arc::new(Known(known)), Settings::default())
}

struct Peer {
    stream: DuplexStream,
    buffer: Vec<u8>,
    served: JoinHandle<Result<(), RelayError>>,
}

/// Connects as a client would; returns once the relay has answered the introduction.
async fn connect(relay: &Relay, n: u8, stop: &CancellationToken) -> Peer {
    let (ours, theirs) = duplex(4096);
    let (relay2, stop) = (relay.clone(), stop.clone());
    let source = "127.0.0.1".parse().unwrap();
    let served = tokio::spawn(async move { relay2.serve(theirs, source, &stop, || {}).await });
    let mut peer = Peer { stream: ours, buffer: Vec::new(), served };
    let server = loop {
        if let Some(server) = derp::take_server_key(&mut peer.buffer).unwrap() {
            break server;
        }
        assert_ne!(peer.stream.read_buf(&mut peer.buffer).await.unwrap(), 0);
    };
    let info = ClientInfo { version: 2, can_ack_pings: true, is_prober: false };
    peer.stream.write_all(&derp::client_info_frame(&key(n), &server, &info, [n; 24])).await.unwrap();
    // The answer is a frame of a type that steady state passes over.
    while peer.buffer.len() < 5 + 24 + 16 + 13 {
        if peer.stream.read_buf(&mut peer.buffer).await.unwrap() == 0 {
            return peer;
        }
    }
    peer
}

impl Peer {
    async fn send(&mut self, frame: FromClient) {
        self.stream.write_all(&frame.to_bytes()).await.unwrap();
    }

    async fn next(&mut self) -> Option<FromServer> {
        loop {
            if let Some(frame) = FromServer::take(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}

fn disco() -> Vec<u8> {
    [b"TS\xf0\x9f\x92\xac".to_vec(), vec![0; 60]].concat()
}

#[tokio::test]
async fn two_clients_reach_each_other_and_learn_when_one_leaves() {
    let (relay, stop) = (relay(), CancellationToken::new());
    let (mut a, mut b) = (connect(&relay, 1, &stop).await, connect(&relay, 2, &stop).await);
    a.send(FromClient::SendPacket(key(2).node_key(), b"hello".to_vec())).await;
    assert_eq!(b.next().await, Some(FromServer::RecvPacket(key(1).node_key(), b"hello".to_vec())));
    b.send(FromClient::SendPacket(key(1).node_key(), vec![7; derp::MAX_PACKET])).await;
    assert_eq!(a.next().await, Some(FromServer::RecvPacket(key(2).node_key(), vec![7; derp::MAX_PACKET])));
    drop(a);
    assert_eq!(b.next().await, Some(FromServer::PeerGone(key(1).node_key(), GoneReason::Disconnected)));
    assert!(!relay.is_connected(&key(1).node_key()));
    assert_eq!(relay.counters().packets, 2);
}

#[tokio::test]
async fn a_stranger_is_not_let_in() {
    let (relay, stop) = (relay(), CancellationToken::new());
    let peer = connect(&relay, 9, &stop).await;
    assert!(matches!(peer.served.await.unwrap(), Err(RelayError::NotAdmitted)));
    assert_eq!(relay.counters().refused, 1);
}

#[tokio::test]
async fn discovery_to_somebody_who_is_not_here_is_answered_and_data_is_not() {
    let (relay, stop) = (relay(), CancellationToken::new());
    let mut a = connect(&relay, 1, &stop).await;
    let nobody = key(3).node_key();
    a.send(FromClient::SendPacket(nobody, b"data".to_vec())).await;
    for _ in 0..9 {
        a.send(FromClient::SendPacket(nobody, disco())).await;
    }
    a.send(FromClient::Ping([1; 8])).await;
    let mut gone = 0;
    while let Some(FromServer::PeerGone(who, GoneReason::NotHere)) = a.next().await {
        assert_eq!(who, nobody);
        gone += 1;
    }
    assert_eq!(gone, 3, "three at once, then one a second");
    assert_eq!(relay.counters().dropped_unknown, 10);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_client_loses_its_own_packets_and_is_cut_off() {
    let (relay, stop) = (relay(), CancellationToken::new());
    let (mut a, b) = (connect(&relay, 1, &stop).await, connect(&relay, 2, &stop).await);
    for n in 0..100_u8 {
        a.send(FromClient::SendPacket(key(2).node_key(), vec![n; 8000])).await;
    }
    a.send(FromClient::Ping([1; 8])).await;
    assert_eq!(a.next().await, Some(FromServer::Pong([1; 8])), "the sender does not wait for it");
    assert!(matches!(b.served.await.unwrap(), Err(RelayError::Stuck(_))));
    assert!(relay.counters().dropped_slow > 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_gets_signs_of_life_and_a_silent_stranger_is_cut_off() {
    let (relay, stop) = (relay(), CancellationToken::new());
    let mut a = connect(&relay, 1, &stop).await;
    assert_eq!(a.next().await, Some(FromServer::KeepAlive));
    let (_ours, theirs) = duplex(4096);
    let served = relay.serve(theirs, "127.0.0.1".parse().unwrap(), &stop, || {}).await;
    assert!(matches!(served, Err(RelayError::Slow)));
}

#[tokio::test]
async fn of_two_connections_with_one_key_the_one_that_sent_last_gets_packets() {
    let (relay, stop) = (relay(), CancellationToken::new());
    let mut first = connect(&relay, 1, &stop).await;
    let mut second = connect(&relay, 1, &stop).await;
    let mut b = connect(&relay, 2, &stop).await;
    let to = key(1).node_key();
    first.send(FromClient::SendPacket(key(2).node_key(), b"x".to_vec())).await;
    assert!(b.next().await.is_some());
    b.send(FromClient::SendPacket(to, b"y".to_vec())).await;
    assert_eq!(first.next().await, Some(FromServer::RecvPacket(key(2).node_key(), b"y".to_vec())));
    drop(first);
    b.send(FromClient::Ping([1; 8])).await;
    assert_eq!(b.next().await, Some(FromServer::Pong([1; 8])), "nobody left: the key is still here");
    second.send(FromClient::Ping([2; 8])).await;
    assert_eq!(second.next().await, Some(FromServer::Pong([2; 8])));
    assert!(relay.is_connected(&to));
}

#[tokio::test]
async fn oversized_and_truncated_frames_end_the_connection() {
    let (relay, stop) = (relay(), CancellationToken::new());
    for bytes in [vec![4, 0, 2, 0, 0], vec![4, 0, 0, 0, 2, 0, 0], vec![0x12, 0, 0, 0, 1, 0]] {
        let mut a = connect(&relay, 1, &stop).await;
        a.stream.write_all(&bytes).await.unwrap();
        assert!(matches!(a.served.await.unwrap(), Err(RelayError::Frame(_))));
    }
}

#[tokio::test]
async fn a_deleted_nodes_connections_end_and_a_stop_says_farewell() {
    let (relay, stop) = (relay(), CancellationToken::new());
    let (mut a, mut b) = (connect(&relay, 1, &stop).await, connect(&relay, 2, &stop).await);
    relay.close(&key(1).node_key());
    assert_eq!(a.next().await, None);
    stop.cancel();
    assert_eq!(b.next().await, Some(FromServer::Restarting(1000, 30_000)));
    assert_eq!(b.next().await, None);
}
