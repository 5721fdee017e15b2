//! The other ways in: WebSockets, TLS, relay maps of others, and what strangers may cost.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use wayleave_server::options::TlsFiles;
use wayleave_sim::{Client, TestServer};
use wayleave_wire::noise::{initiate, read_response};
use wayleave_wire::{CapabilityVersion, PrivateKey};

#[tokio::test]
async fn a_browser_comes_in_by_websocket() {
    let server = TestServer::start().await.unwrap();
    let machine = PrivateKey::from_bytes([3; 32]);
    let public = server.server().unwrap().public_key();
    let (initiation, initiator) = initiate(&machine, &public, CapabilityVersion(142), [4; 32]).unwrap();
    let handshake = STANDARD.encode(initiation).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let url = format!("ws://{}/ts2021?X-Tailscale-Handshake={handshake}", server.address());
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "tailscale-control-protocol".parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let mut bytes = Vec::new();
    while bytes.len() < 51 {
        bytes.extend(socket.next().await.unwrap().unwrap().into_data());
    }
    let mut session = read_response(initiator, &bytes[..51]).unwrap();
    let mut preface = Vec::new();
    let http2 = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    session.sealer.seal(&http2, &mut preface).unwrap();
    // Borders of messages mean nothing.
    let (one, two) = preface.split_at(10);
    socket.send(Message::binary(one.to_vec())).await.unwrap();
    socket.send(Message::binary(two.to_vec())).await.unwrap();
    session.opener.feed(&bytes[51..]);
    let settings = loop {
        if let Some(plain) = session.opener.next().unwrap() {
            break plain;
        }
        session.opener.feed(&socket.next().await.unwrap().unwrap().into_data());
    };
    assert_eq!(settings[3], 4, "the server's first frame is its settings");
}

#[tokio::test]
async fn relay_maps_of_others_come_from_addresses_too() {
    let map = r#"{"Regions":{"7":{"RegionID":7,"RegionCode":"x","RegionName":"X","Nodes":[{"Name":"7a","RegionID":7,"HostName":"r.test"}]}}}"#;
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/derp.json", elsewhere.local_addr().unwrap());
    let router = axum::Router::new().route("/derp.json", axum::routing::get(move || async move { map }));
    tokio::spawn(async move { axum::serve(elsewhere, router).await });
    let server = TestServer::start_with(|options| options.derp.urls = vec![url]).await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    let client = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
    client.join(&key, "a").await.unwrap();
    let first = client.stream().await.unwrap().next().await.unwrap().unwrap();
    let regions: Vec<_> = first["DERPMap"]["Regions"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(regions, ["7", "900"]);
}

#[tokio::test]
async fn strangers_keep_only_so_many_connections_and_only_for_so_long() {
    let server = TestServer::start_with(|options| {
        options.limits.unauthenticated = 2;
        options.limits.handshake = Duration::from_millis(500);
    })
    .await
    .unwrap();
    let mut idle = Vec::new();
    for _ in 0..2 {
        idle.push(TcpStream::connect(server.address()).await.unwrap());
    }
    let mut waits = TcpStream::connect(server.address()).await.unwrap();
    waits.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    let at_once = tokio::time::timeout(Duration::from_millis(200), waits.read_exact(&mut answer)).await;
    assert!(at_once.is_err(), "it has to wait for its turn");
    for stranger in &mut idle {
        assert_eq!(stranger.read(&mut [0; 1]).await.unwrap(), 0, "strangers that say nothing are cut off");
    }
    waits.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn with_a_certificate_it_speaks_tls_and_refuses_plain_requests() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    let server = TestServer::start_with(|options| options.tls = Some(TlsFiles { cert, key })).await.unwrap();
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let url = format!("https://{}/key?v=142", server.address());
    let text = client.get(&url).send().await.unwrap().text().await.unwrap();
    assert!(text.contains(&server.server().unwrap().public_key().to_string()));
    assert!(client.get(url.replace("https", "http")).send().await.is_err());
}

/// Relay clients speak nothing but TLS, whatever the server's address says.
#[tokio::test]
async fn a_plain_server_serves_relay_clients_that_come_with_tls() {
    let server = TestServer::start().await.unwrap();
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    let probe = client.get(format!("https://{}/derp/probe", server.address())).send().await.unwrap();
    assert_eq!(probe.status().as_u16(), 200);
    assert_eq!(probe.headers()["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn small_answers_outside_noise() {
    let server = TestServer::start().await.unwrap();
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", server.address());
    let portal = http.get(url("/generate_204")).header("X-Tailscale-Challenge", "abc").send().await.unwrap();
    assert_eq!(portal.status().as_u16(), 204);
    assert_eq!(portal.headers()["x-tailscale-response"], "response abc");
    let relay = http.get(url("/derp")).send().await.unwrap();
    assert_eq!(relay.status().as_u16(), 426);
    let page = http.get(url("/register/abc<script>")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("wayleave nodes register --key abcscript --user NAME"));
    let health = http.get(url("/health")).send().await.unwrap().text().await.unwrap();
    assert!(health.contains(r#""status":"ok""#));
}

#[tokio::test]
async fn machines_without_a_node_are_bounded_and_members_always_come_in() {
    let server = TestServer::start_with(|options| options.limits.unauthenticated = 2).await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    let public = server.server().unwrap().public_key();
    let member = Client::connect(server.address(), public).await.unwrap();
    member.join(&key, "member").await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let stranger = Client::connect(server.address(), public).await.unwrap();
        let login = stranger.register(serde_json::json!({})).await.unwrap();
        assert!(login["AuthURL"].as_str().unwrap().contains("/register/"));
        strangers.push(stranger);
    }
    let one_more = match Client::connect(server.address(), public).await {
        Ok(client) => client.register(serde_json::json!({})).await.is_ok(),
        Err(_) => false,
    };
    assert!(!one_more, "a third stranger was let in");
    let again = member.again().await.unwrap();
    assert!(again.stream().await.unwrap().next().await.unwrap().is_some());
}

/// A hundred clients at once: everybody sees everybody, and again after all of them have come back at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_see_each_other_also_after_a_storm() {
    const CLIENTS: usize = 100;
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    let public = server.server().unwrap().public_key();
    let mut joining = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        let (key, address) = (key.clone(), server.address());
        joining.spawn(async move {
            let client = Client::connect(address, public).await.unwrap();
            client.join(&key, &format!("n{n}")).await.unwrap();
            client
        });
    }
    let clients = joining.join_all().await;
    for _ in 0..2 {
        let mut watching = tokio::task::JoinSet::new();
        for client in clients.clone() {
            watching.spawn(async move {
                let client = client.again().await.unwrap();
                let mut map = client.stream().await.unwrap();
                let mut seen = std::collections::BTreeSet::new();
                let first = map.next().await.unwrap().unwrap();
                seen.extend(first["Peers"].as_array().unwrap().iter().map(|peer| peer["ID"].as_u64().unwrap()));
                while seen.len() < CLIENTS - 1 {
                    let frame = map.next().await.unwrap().unwrap();
                    let changed = frame["PeersChanged"].as_array().cloned().unwrap_or_default();
                    seen.extend(changed.iter().map(|peer| peer["ID"].as_u64().unwrap()));
                }
                (client, map)
            });
        }
        let all = watching.join_all().await;
        assert_eq!(all.len(), CLIENTS);
        let online = server.control().unwrap().read(wayleave_tailnet::Tailnet::open_sessions).await.unwrap();
        assert_eq!(online, CLIENTS);
        // All of them go at once.
        drop(all);
    }
}
