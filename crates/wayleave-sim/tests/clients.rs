//! Simulated clients against a server as shipped: the ways in and out, and maps.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use wayleave_model::Approver;
use wayleave_sim::{Client, TestServer};
use wayleave_tailnet::{ApproveMode, Command, LoginToken};

const P: &str = "10.1.0.0/16";

async fn client(server: &TestServer) -> Client {
    Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap()
}

async fn with_key() -> (TestServer, String) {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    (server, key)
}

async fn approve(server: &TestServer, node: u64) {
    let prefixes = BTreeSet::from([P.parse().unwrap()]);
    let node = wayleave_model::NodeId::new(node);
    let command = Command::ApproveRoutes { node, prefixes, mode: ApproveMode::Add, by: Approver::Cli };
    server.control().unwrap().command(command).await.unwrap();
}

#[tokio::test]
async fn a_client_joins_gets_its_map_and_learns_of_a_peer_and_its_route() {
    let (server, key) = with_key().await;
    let (a, b) = (client(&server).await, client(&server).await);
    a.join(&key, "a").await.unwrap();
    let mut map = a.stream().await.unwrap();
    let first = map.next().await.unwrap().unwrap();
    assert_eq!(first["Node"]["Name"], "a.tailnet.internal.");
    assert_eq!(first["Node"]["Addresses"], json!(["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]));
    assert_eq!(first["Peers"], json!([]));
    assert_eq!(first["DERPMap"]["Regions"]["900"]["Nodes"][0]["HostName"], "127.0.0.1");
    let everybody = json!(["100.115.94.0-100.127.255.255", "100.64.0.0-100.115.91.255", "fd7a:115c:a1e0::/48"]);
    assert_eq!(first["PacketFilter"][0]["SrcIPs"], everybody);
    b.join(&key, "b").await.unwrap();
    b.report("b", &[P]).await.unwrap();
    approve(&server, 2).await;
    let told = map.until(|frame| frame["PeersChanged"].to_string().contains(P)).await.unwrap();
    assert_eq!(told["PeersChanged"][0]["PrimaryRoutes"], json!([P]));
    assert!(!told.to_string().contains("RoutableIPs"));
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_moves_no_primary() {
    let (mut server, key) = with_key().await;
    for (name, n) in [("r1", 1), ("r2", 2)] {
        let router = client(&server).await;
        router.join(&key, name).await.unwrap();
        let mut map = router.stream().await.unwrap();
        map.next().await.unwrap();
        router.report(name, &[P]).await.unwrap();
        approve(&server, n).await;
        std::mem::forget((router, map));
    }
    let c = client(&server).await;
    c.join(&key, "c").await.unwrap();
    server.restart().await.unwrap();
    let c = c.again().await.unwrap();
    let answer = c.register(json!({})).await.unwrap();
    assert_eq!((answer["MachineAuthorized"].clone(), answer["Error"].clone()), (json!(true), json!("")));
    let first = c.stream().await.unwrap().next().await.unwrap().unwrap();
    let carriers: Vec<_> =
        first["Peers"].as_array().unwrap().iter().filter(|p| p["AllowedIPs"].to_string().contains(P)).collect();
    assert_eq!(carriers.len(), 1);
    assert_eq!(carriers[0]["Name"], "r1.tailnet.internal.", "nobody has come back, and nothing has moved");
}

#[tokio::test]
async fn keys_that_are_unknown_used_up_expired_or_revoked_let_nobody_in() {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let once = server.key(anna, |key| key.reusable = false).await.unwrap();
    let expired = server.key(anna, |key| key.lifetime = Some(Duration::ZERO)).await.unwrap();
    let revoked = server.key(anna, |_| {}).await.unwrap();
    let id = wayleave_model::AuthKeyId::new(3);
    server.control().unwrap().command(Command::RevokeAuthKey { key: id }).await.unwrap();
    client(&server).await.join(&once, "first").await.unwrap();
    for (key, text) in [
        (once.as_str(), "was used already"),
        (&expired, "expired on"),
        (&revoked, "was revoked on"),
        ("wl-auth-nonsense", "there is no such key"),
        ("", ""),
    ] {
        let answer = client(&server).await.register(json!({ "Auth": { "AuthKey": key } })).await.unwrap();
        if key.is_empty() {
            assert!(
                answer["AuthURL"].as_str().unwrap().contains("/register/"),
                "no key at all is an interactive login"
            );
        } else {
            assert!(answer["Error"].as_str().unwrap().contains(text), "{answer}");
        }
    }
    let nodes = server.control().unwrap().read(|tailnet| tailnet.registry().node_count()).await.unwrap();
    assert_eq!(nodes, 1);
}

#[tokio::test]
async fn a_client_that_starts_again_is_in_also_with_a_key_that_was_used() {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let once = server.key(anna, |key| key.reusable = false).await.unwrap();
    let a = client(&server).await;
    a.join(&once, "a").await.unwrap();
    a.again().await.unwrap().join(&once, "a").await.unwrap();
}

#[tokio::test]
async fn a_machine_that_repeats_its_registration_with_a_new_node_key_is_in_and_no_other_is() {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let once = server.key(anna, |key| key.reusable = false).await.unwrap();
    let a = client(&server).await;
    a.join(&once, "a").await.unwrap();
    let again = a.with_new_node_key();
    again.join(&once, "a").await.unwrap();
    let answer = client(&server).await.register(json!({ "Auth": { "AuthKey": once } })).await.unwrap();
    assert!(answer["Error"].as_str().unwrap().contains("was used already"), "another machine: {answer}");
    again.register(json!({ "Expiry": "1970-01-01T00:02:03Z" })).await.unwrap();
    let answer = a.with_new_node_key().register(json!({ "Auth": { "AuthKey": once } })).await.unwrap();
    assert!(answer["Error"].as_str().unwrap().contains("was used already"), "logged out: {answer}");
    let nodes = server.control().unwrap().read(|tailnet| tailnet.registry().node_count()).await.unwrap();
    assert_eq!(nodes, 1);
}

#[tokio::test]
async fn a_machine_keeps_its_node_under_a_new_key_and_gets_another_for_another_user() {
    let (server, key) = with_key().await;
    let boris = server.user("boris").await.unwrap();
    let others = server.key(boris, |_| {}).await.unwrap();
    let a = client(&server).await;
    a.join(&key, "a").await.unwrap();
    a.with_new_node_key().join(&key, "a").await.unwrap();
    let ids = || async {
        let control = server.control().unwrap();
        control.read(|tailnet| tailnet.registry().nodes().map(|node| node.id.get()).collect::<Vec<_>>()).await.unwrap()
    };
    assert_eq!(ids().await, [1], "the same node");
    a.with_new_node_key().join(&others, "a").await.unwrap();
    assert_eq!(ids().await, [1, 2], "another node");
}

#[tokio::test]
async fn a_login_waits_for_a_person_and_is_let_in_at_once() {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let a = client(&server).await;
    let url = a.register(json!({})).await.unwrap()["AuthURL"].as_str().unwrap().to_owned();
    let (waiting, followup) = (a.clone(), json!({ "Followup": url }));
    let held = tokio::spawn(async move { waiting.register(followup).await.unwrap() });
    let token = LoginToken(url.rsplit('/').next().unwrap().to_owned());
    server.control().unwrap().command(Command::ApproveLogin { token: token.clone(), user: anna }).await.unwrap();
    let answer = held.await.unwrap();
    assert_eq!(answer["MachineAuthorized"], true, "{answer}");
    assert_eq!(answer["Login"]["LoginName"], "anna");
    let again = server.control().unwrap().command(Command::ApproveLogin { token, user: anna }).await;
    assert!(again.unwrap_err().to_string().contains("there is no login with this key"));
    let unknown = client(&server).await.register(json!({ "Followup": "http://x/register/nonsense" })).await.unwrap();
    assert!(unknown["AuthURL"].as_str().unwrap().contains("/register/"), "a login that is not known begins anew");
}

#[tokio::test]
async fn logging_out_expires_a_node_and_deletes_an_ephemeral_one() {
    let (server, key) = with_key().await;
    let past = json!({ "Expiry": "1970-01-01T00:02:03Z", "Auth": { "AuthKey": key } });
    let a = client(&server).await;
    a.join(&key, "a").await.unwrap();
    assert_eq!(a.register(past.clone()).await.unwrap()["Error"], "", "with a key in the request too");
    let again = a.register(json!({})).await.unwrap();
    assert_eq!(again["NodeKeyExpired"], true);
    let b = client(&server).await;
    b.register(json!({ "Auth": { "AuthKey": key }, "Ephemeral": true })).await.unwrap();
    b.register(past).await.unwrap();
    let ids =
        server.control().unwrap().read(|tailnet| tailnet.registry().nodes().map(|n| n.id.get()).collect::<Vec<_>>());
    assert_eq!(ids.await.unwrap(), [1]);
}

#[tokio::test]
async fn tags_come_from_keys_and_not_from_wishes() {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let tagged = server.key(anna, |key| key.tags = BTreeSet::from(["tag:router".parse().unwrap()])).await.unwrap();
    let plain = server.key(anna, |_| {}).await.unwrap();
    let wish = json!({ "Auth": { "AuthKey": plain }, "Hostinfo": { "RequestTags": ["tag:admin"] } });
    let refused = client(&server).await.register(wish).await.unwrap();
    assert!(refused["Error"].as_str().unwrap().contains("requested tags are not permitted: tag:admin"), "{refused}");
    let a = client(&server).await;
    a.join(&tagged, "a").await.unwrap();
    let first = a.stream().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(first["Node"]["Tags"], json!(["tag:router"]));
    assert_eq!(first["UserProfiles"][0]["LoginName"], "tagged-devices");
}

#[tokio::test]
async fn a_newer_stream_replaces_the_older_quietly() {
    let (server, key) = with_key().await;
    let (a, viewer) = (client(&server).await, client(&server).await);
    a.join(&key, "a").await.unwrap();
    viewer.join(&key, "v").await.unwrap();
    let mut old = a.stream().await.unwrap();
    old.next().await.unwrap();
    let mut seen = viewer.stream().await.unwrap();
    seen.next().await.unwrap();
    let second = a.again().await.unwrap();
    let mut new = second.stream().await.unwrap();
    assert!(new.next().await.unwrap().unwrap()["Node"].is_object());
    while let Ok(Some(_)) = old.next().await {}
    let online = server.control().unwrap().read(|t| t.is_online(wayleave_model::NodeId::new(1))).await.unwrap();
    assert!(online);
    let quiet =
        tokio::time::timeout(Duration::from_millis(300), seen.until(|f| f.to_string().contains("Online\":false")));
    assert!(quiet.await.is_err(), "nobody is told that it was offline");
}

#[tokio::test]
async fn a_deleted_node_is_told_that_its_key_is_no_longer_good() {
    let (server, key) = with_key().await;
    let a = client(&server).await;
    a.join(&key, "a").await.unwrap();
    let mut map = a.stream().await.unwrap();
    map.next().await.unwrap();
    let node = wayleave_model::NodeId::new(1);
    server.control().unwrap().command(Command::DeleteNode { node }).await.unwrap();
    let last = map.until(|frame| frame["Node"]["KeyExpiry"].is_string()).await.unwrap();
    assert!(last["Node"]["KeyExpiry"].as_str().unwrap() < last["ControlTime"].as_str().unwrap());
    assert!(map.next().await.unwrap().is_none(), "and the stream ends");
    let again = a.again().await.unwrap().stream().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(
        again["Node"]["Expired"], true,
        "an unknown key gets the same answer, not an error that is retried for ever"
    );
}

#[tokio::test]
async fn a_ping_request_goes_out_and_its_answer_comes_back() {
    let (server, key) = with_key().await;
    let a = client(&server).await;
    a.join(&key, "a").await.unwrap();
    let mut map = a.stream().await.unwrap();
    map.next().await.unwrap();
    let socket = server.data_dir().join("wayleave.sock");
    let asked = tokio::spawn(async move { http_over_socket(&socket, "POST", "/api/v2/nodes/a/echo").await });
    let frame = map.until(|frame| frame["PingRequest"].is_object()).await.unwrap();
    assert_eq!(frame["PingRequest"]["Types"], "c2n");
    let url = frame["PingRequest"]["URL"].as_str().unwrap();
    let path = url.split_once("//").unwrap().1.split_once('/').unwrap().1;
    let (status, body) =
        a.ask(http::Method::POST, &format!("/{path}"), b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await.unwrap();
    assert_eq!((status.as_u16(), body.len()), (204, 0), "no body: the client would never read it");
    assert!(asked.await.unwrap().contains("milliseconds"));
}

/// One request over the admin socket, as any HTTP client sends it.
async fn http_over_socket(path: &std::path::Path, method: &str, target: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
