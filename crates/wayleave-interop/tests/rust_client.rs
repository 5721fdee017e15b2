//! The official Rust client joins, learns of a router and its route, and reaches a peer through the relay.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeSet;
use std::time::Duration;

use tailscale::{Config, Device};
use wayleave_model::{Approver, NodeId, Prefix};
use wayleave_sim::{Client, TestServer};
use wayleave_tailnet::{ApproveMode, Command};

async fn device(server: &TestServer, key: &str, name: &str) -> Device {
    let config = Config {
        control_server_url: format!("http://{}", server.address()).parse().unwrap(),
        requested_hostname: Some(name.to_owned()),
        ..Config::default()
    };
    Device::new(&config, Some(key.to_owned())).await.unwrap()
}

/// Asks again until it holds; what is waited for is another program's work.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.unwrap_or_else(|_| panic!("{what}: not within 30 s"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_joins_and_learns_of_a_route() {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    let router = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
    router.join(&key, "r1").await.unwrap();
    let mut map = router.stream().await.unwrap();
    map.next().await.unwrap();
    router.report("r1", &["10.9.0.0/16", "0.0.0.0/0", "::/0"]).await.unwrap();
    let prefixes: BTreeSet<Prefix> = ["10.9.0.0/16", "0.0.0.0/0"].iter().map(|text| text.parse().unwrap()).collect();
    let approve =
        |prefixes| Command::ApproveRoutes { node: NodeId::new(1), prefixes, mode: ApproveMode::Add, by: Approver::Cli };
    server.control().unwrap().command(approve(prefixes)).await.unwrap();

    let device = device(&server, &key, "rusty").await;
    let address = eventually("it has an address", async || device.ipv4_addr().await.ok()).await;
    assert_eq!(address.to_string(), "100.64.0.2");
    let carriers = eventually("it knows the route", async || {
        let carriers = device.peers_with_route("10.9.0.1".parse().unwrap()).await.ok()?;
        (!carriers.is_empty()).then_some(carriers)
    })
    .await;
    assert_eq!(carriers[0].hostname, "r1");
    let exits = device.peers_with_route("8.8.8.8".parse().unwrap()).await.unwrap();
    assert!(exits.is_empty(), "it has no switch for exits, so it is told of none");
    server
        .control()
        .unwrap()
        .command(Command::DisableRoutes {
            node: NodeId::new(1),
            prefixes: BTreeSet::from(["10.9.0.0/16".parse().unwrap()]),
            by: Approver::Cli,
        })
        .await
        .unwrap();
    eventually("the route is gone again", async || {
        device.peers_with_route("10.9.0.1".parse().unwrap()).await.ok().filter(Vec::is_empty)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_rust_clients_talk_through_the_relay() {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    let (a, b) = (device(&server, &key, "a").await, device(&server, &key, "b").await);
    let at = eventually("b has an address", async || b.ipv4_addr().await.ok()).await;
    eventually("a knows b", async || a.peer_by_name("b").await.ok().flatten()).await;
    let listener = b.tcp_listen((at, 80).into()).await.unwrap();
    let accepted = tokio::spawn(async move { listener.accept().await.is_ok() });
    eventually("a reaches b", async || a.tcp_connect((at, 80).into()).await.ok()).await;
    assert!(accepted.await.unwrap());
}
