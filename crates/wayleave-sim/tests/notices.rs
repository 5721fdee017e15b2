//! What people and programs are told of routes: webhooks with a real receiver, the live watch, sites, and what would be.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use wayleave_model::{Approver, NodeId, Timestamp};
use wayleave_server::webhook::{SIGNATURE, signature};
use wayleave_sim::{Client, MapStream, TestServer};
use wayleave_tailnet::{ApproveMode, Command};

/// The admin API over the network.
struct Api {
    client: reqwest::Client,
    url: String,
    key: String,
}

impl Api {
    async fn of(server: &TestServer) -> Self {
        let key = server.api_key().await.unwrap();
        Self { client: reqwest::Client::new(), url: format!("http://{}", server.address()), key }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        let request = if body.is_null() { request } else { request.json(&body) };
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }
}

/// A receiver of webhooks that refuses the first so many calls.
#[derive(Clone, Default)]
struct Receiver {
    calls: Arc<Mutex<Vec<(String, String)>>>,
    refuse: Arc<Mutex<u32>>,
}

impl Receiver {
    async fn start(refuse: u32) -> (Self, String) {
        let receiver = Self { refuse: Arc::new(Mutex::new(refuse)), ..Self::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", axum::routing::post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, url)
    }

    /// The bodies that came, once there are so many; each with its signature held against the secret.
    async fn taken(&self, count: usize, secret: &str) -> Vec<Value> {
        for _ in 0..200 {
            let calls = self.calls.lock().unwrap().clone();
            if calls.len() >= count {
                return calls
                    .iter()
                    .map(|(signed, body)| {
                        let seconds: i64 = signed.split(['=', ',']).nth(1).unwrap().parse().unwrap();
                        assert_eq!(*signed, signature(secret, Timestamp::from_millis(seconds * 1000), body));
                        serde_json::from_str(body).unwrap()
                    })
                    .collect();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", self.calls.lock().unwrap());
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
    let mut refuse = receiver.refuse.lock().unwrap();
    if *refuse > 0 {
        *refuse -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let signed = headers[SIGNATURE].to_str().unwrap().to_owned();
    receiver.calls.lock().unwrap().push((signed, body));
    StatusCode::NO_CONTENT
}

/// A node that advertises these prefixes.
async fn router(server: &TestServer, key: &str, name: &str, prefixes: &[&str]) -> ((Client, MapStream), NodeId) {
    let client = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
    client.join(key, name).await.unwrap();
    let mut map = client.stream().await.unwrap();
    let first = map.next().await.unwrap().unwrap();
    client.report(name, prefixes).await.unwrap();
    ((client, map), NodeId::new(first["Node"]["ID"].as_u64().unwrap()))
}

async fn approve(server: &TestServer, node: NodeId, prefix: &str) {
    let prefixes = BTreeSet::from([prefix.parse().unwrap()]);
    let command = Command::ApproveRoutes { node, prefixes, mode: ApproveMode::Add, by: Approver::Cli };
    server.control().unwrap().command(command).await.unwrap();
}

fn words(bodies: &[Value]) -> Vec<&str> {
    bodies.iter().map(|body| body["event"].as_str().unwrap()).collect()
}

const P: &str = "10.1.0.0/16";

#[tokio::test]
async fn a_webhook_is_told_in_order_signed_and_again_after_failures_and_a_restart() {
    let mut server =
        TestServer::start_with(|options| options.webhooks.retry_after = Duration::from_millis(100)).await.unwrap();
    let api = Api::of(&server).await;
    let (receiver, url) = Receiver::start(2).await;
    let (status, made) = api.ask(Method::POST, "/api/v2/webhooks", json!({ "url": url })).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let secret = made["secret"].as_str().unwrap().to_owned();
    let (_, listed) = api.ask(Method::GET, "/api/v2/webhooks", Value::Null).await;
    assert_eq!(listed[0]["url"], url);
    assert!(!listed.to_string().contains(&secret), "the secret is shown once");

    let user = server.user("anna").await.unwrap();
    let key = server.key(user, |_| {}).await.unwrap();
    let (map, node) = router(&server, &key, "r1", &[P]).await;
    let bodies = receiver.taken(1, &secret).await;
    assert_eq!(words(&bodies), ["pending"]);
    assert_eq!((&bodies[0]["prefix"], &bodies[0]["node"]["name"]), (&json!(P), &json!("r1")));
    approve(&server, node, P).await;
    let bodies = receiver.taken(3, &secret).await;
    assert_eq!(words(&bodies[1..3]), ["approved", "primary changed"]);
    assert_eq!(bodies[2]["cause"], "only candidate");

    // Nobody answers while the prefix goes down and the server is stopped: it is told once the server is back.
    *receiver.refuse.lock().unwrap() = 3;
    drop(map);
    tokio::time::sleep(Duration::from_millis(900)).await;
    server.restart().await.unwrap();
    let bodies = receiver.taken(4, &secret).await;
    let down = bodies.iter().find(|body| body["event"] == "prefix down").unwrap();
    assert_eq!(down["prefix"], P);
}

#[tokio::test]
async fn a_receiver_that_never_answers_keeps_no_other_waiting() {
    let server = TestServer::start_with(|options| options.webhooks.timeout = Duration::from_secs(60)).await.unwrap();
    let api = Api::of(&server).await;
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", hanging.local_addr().unwrap());
    let (status, made) = api.ask(Method::POST, "/api/v2/webhooks", json!({ "url": url })).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let (receiver, url) = Receiver::start(0).await;
    let (_, made) = api.ask(Method::POST, "/api/v2/webhooks", json!({ "url": url })).await;
    let secret = made["secret"].as_str().unwrap().to_owned();

    let user = server.user("anna").await.unwrap();
    let key = server.key(user, |_| {}).await.unwrap();
    let (_first, _) = router(&server, &key, "r1", &[P]).await;
    let (_called, _) = hanging.accept().await.unwrap();
    receiver.taken(1, &secret).await;
    let (_second, _) = router(&server, &key, "r2", &[P]).await;
    let bodies = receiver.taken(2, &secret).await;
    assert_eq!(words(&bodies), ["pending", "pending"]);
}

#[tokio::test]
async fn a_webhook_is_told_of_each_kind_of_event() {
    let server = TestServer::start_with(|options| {
        options.tailnet.key_expiry = Some(Duration::from_secs(3600));
        // Two seconds after a node has joined.
        options.tailnet.key_warnings = vec![Duration::from_secs(3598)];
        options.tailnet.routes.withdraw_grace = Duration::from_millis(100);
    })
    .await
    .unwrap();
    let api = Api::of(&server).await;
    let (receiver, url) = Receiver::start(0).await;
    let (_, made) = api.ask(Method::POST, "/api/v2/webhooks", json!({ "url": url })).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    // What was told of a node, or of anybody, by then.
    let told = async |event: &str, about: &str| -> Value {
        for _ in 0..200 {
            let bodies = receiver.taken(0, &secret).await;
            let is = |body: &&Value| body["event"] == event && (about.is_empty() || body["node"]["name"] == about);
            if let Some(body) = bodies.iter().find(is) {
                return body.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody is told `{event}` of {about}: {:?}", receiver.calls.lock().unwrap());
    };
    let (anna, bert) = (server.user("anna").await.unwrap(), server.user("bert").await.unwrap());
    let key = server.key(anna, |_| {}).await.unwrap();
    let berts = server.key(bert, |_| {}).await.unwrap();
    let ((first, map), r1) = router(&server, &key, "r1", &[P]).await;
    assert_eq!(told("pending", "r1").await["prefix"], P);
    approve(&server, r1, P).await;
    told("approved", "r1").await;
    assert_eq!(told("primary changed", "").await["to"]["name"], "r1");
    let (second, r2) = router(&server, &key, "r2", &[P]).await;
    told("pending", "r2").await;
    approve(&server, r2, P).await;
    told("approved", "r2").await;

    drop(second);
    assert_eq!(told("redundancy lost", "r2").await["prefix"], P);
    first.cut();
    drop(map);
    assert_eq!(told("prefix down", "r1").await["prefix"], P);
    let back = first.again().await.unwrap();
    let _map = back.stream().await.unwrap();
    assert_eq!(told("prefix restored", "r1").await["prefix"], P);

    // Somebody else's network has the same numbers.
    let other = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
    other.join(&berts, "r3").await.unwrap();
    let _other = other.stream().await.unwrap();
    other.report_from("r3", &[P], &["10.200.1.5:41641"]).await.unwrap();
    let collision = told("collision found", "r3").await;
    assert!(collision["cause"].as_str().unwrap().ends_with("do not look like one site"), "{collision}");
    told("key expires", "r3").await;

    let prefixes = BTreeSet::from([P.parse().unwrap()]);
    let disable = Command::DisableRoutes { node: r1, prefixes, by: Approver::Cli };
    server.control().unwrap().command(disable).await.unwrap();
    told("disabled", "r1").await;
    back.report("r1", &[]).await.unwrap();
    told("withdrawn", "r1").await;
}

#[tokio::test]
async fn a_prefix_that_had_no_candidate_when_the_server_stopped_is_restored_when_it_has_one() {
    let mut server = TestServer::start().await.unwrap();
    let user = server.user("anna").await.unwrap();
    let key = server.key(user, |_| {}).await.unwrap();
    let ((client, map), node) = router(&server, &key, "r1", &[P]).await;
    approve(&server, node, P).await;
    let prefixes = BTreeSet::from([P.parse().unwrap()]);
    server.control().unwrap().command(Command::DisableRoutes { node, prefixes, by: Approver::Cli }).await.unwrap();
    drop(map);
    server.restart().await.unwrap();
    let back = client.again().await.unwrap();
    let _map = back.stream().await.unwrap();
    back.report("r1", &[P]).await.unwrap();
    approve(&server, node, P).await;
    let api = Api::of(&server).await;
    let path = format!("/api/v2/routes/history?prefix={P}&limit=50");
    let mut told = Vec::new();
    for _ in 0..100 {
        let (_, history) = api.ask(Method::GET, &path, Value::Null).await;
        let words = history.as_array().unwrap().iter().map(|line| line["event"].as_str().unwrap().to_owned());
        told = words.filter(|word| word.starts_with("prefix ")).collect();
        if told.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told, ["prefix restored", "prefix down"], "the newest first");
}

#[tokio::test]
async fn a_webhook_is_told_of_what_it_asked_for_and_a_call_in_vain_is_given_up() {
    let server = TestServer::start_with(|options| {
        options.webhooks.retry_after = Duration::from_millis(20);
        options.webhooks.attempts = 2;
    })
    .await
    .unwrap();
    let api = Api::of(&server).await;
    let (receiver, url) = Receiver::start(0).await;
    let (never, deaf) = Receiver::start(u32::MAX).await;
    let ask = |url: &str, events: Value| json!({ "url": url, "events": events });
    let (_, made) = api.ask(Method::POST, "/api/v2/webhooks", ask(&url, json!(["primary-changed"]))).await;
    let (_, other) = api.ask(Method::POST, "/api/v2/webhooks", ask(&deaf, json!([]))).await;
    for bad in [ask("ftp://x", json!([])), ask(&url, json!(["nonsense"]))] {
        let (status, refused) = api.ask(Method::POST, "/api/v2/webhooks", bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    }
    let user = server.user("anna").await.unwrap();
    let key = server.key(user, |_| {}).await.unwrap();
    let (_map, node) = router(&server, &key, "r1", &[P]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    approve(&server, node, P).await;
    let bodies = receiver.taken(1, made["secret"].as_str().unwrap()).await;
    assert_eq!(words(&bodies), ["primary changed"]);
    let mut waiting = json!(1);
    for _ in 0..100 {
        let (_, listed) = api.ask(Method::GET, "/api/v2/webhooks", Value::Null).await;
        waiting = listed[1]["waiting"].clone();
        if waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waiting, 0, "given up after two attempts");
    assert!(never.calls.lock().unwrap().is_empty());
    let id = other["id"].as_u64().unwrap();
    let (_, tested) = api.ask(Method::POST, &format!("/api/v2/webhooks/{id}/test"), Value::Null).await;
    assert_eq!((&tested["delivered"], &tested["error"]), (&json!(false), &json!("the receiver answered 503")));
    let (status, _) = api.ask(Method::DELETE, &format!("/api/v2/webhooks/{id}"), Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _) = api.ask(Method::DELETE, &format!("/api/v2/webhooks/{id}"), Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

/// What a watch tells next, an empty line apart. It may take ten seconds.
async fn next(watch: &mut reqwest::Response) -> Option<bytes::Bytes> {
    let told = tokio::time::timeout(Duration::from_secs(10), watch.chunk()).await;
    told.expect("something is told within ten seconds").unwrap()
}

#[tokio::test]
async fn a_watch_gives_what_happens_as_it_happens_and_history_has_it_later() {
    let mut server = TestServer::start().await.unwrap();
    let api = Api::of(&server).await;
    let (_, site) = api.ask(Method::POST, "/api/v2/via6/sites", json!({ "name": "berlin", "id": 7 })).await;
    assert_eq!(site["id"], 7);
    let mut watch =
        api.client.get(format!("{}/api/v2/routes/watch", api.url)).bearer_auth(&api.key).send().await.unwrap();
    let user = server.user("anna").await.unwrap();
    let key = server.key(user, |_| {}).await.unwrap();
    let encoded = "fd7a:115c:a1e0:b1a:0:7:c0a8:100/120";
    let (_map, node) = router(&server, &key, "r1", &[encoded]).await;
    let mut text = String::new();
    let mut seen = |needed: usize, chunk: Option<bytes::Bytes>| {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() >= needed).then_some(lines)
    };
    let lines = loop {
        if let Some(lines) = seen(2, next(&mut watch).await) {
            break lines;
        }
    };
    assert_eq!(words(&lines), ["advertised", "pending"]);
    assert_eq!(lines[1]["shown"], "192.168.1.0/24 via berlin (7)");
    // As a person types it.
    let ask = json!({ "node": "r1", "prefixes": ["192.168.1.0/24 via berlin"] });
    let (status, approved) = api.ask(Method::POST, "/api/v2/routes/approve", ask).await;
    assert_eq!((status, &approved[0]["prefix"]), (StatusCode::OK, &json!(encoded)), "{approved}");
    let lines = loop {
        if let Some(lines) = seen(4, next(&mut watch).await) {
            break lines;
        }
    };
    assert_eq!(words(&lines[2..4]), ["approved", "primary changed"]);
    assert_eq!(lines[3]["to"]["id"], node.get());

    // A move is in force before it is written.
    let mut all = Value::Null;
    for _ in 0..100 {
        all = api.ask(Method::GET, "/api/v2/routes/history?limit=10", Value::Null).await.1;
        if all.as_array().unwrap().len() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(words(all.as_array().unwrap()), ["primary changed", "approved", "pending", "advertised"]);
    let future = "/api/v2/routes/history?since=2100-01-01T00:00:00Z";
    let (_, none) = api.ask(Method::GET, future, Value::Null).await;
    assert_eq!(none, json!([]));
    let older = format!("/api/v2/routes/history?before={}", all[1]["id"]);
    let (_, older) = api.ask(Method::GET, &older, Value::Null).await;
    assert_eq!(words(older.as_array().unwrap()), ["pending", "advertised"], "and on from there");
    let past = format!("/api/v2/routes/history?until={}", all[3]["at"].as_str().unwrap());
    let (_, none) = api.ask(Method::GET, &past, Value::Null).await;
    assert_eq!(none, json!([]));
    let (status, refused) = api.ask(Method::GET, "/api/v2/routes/history?limit=10001", Value::Null).await;
    assert!(status == StatusCode::BAD_REQUEST && refused["message"].as_str().unwrap().contains("10000 at most"));

    // What a node did is known by its id, and by its name, when it is gone, also after a restart.
    api.ask(Method::DELETE, "/api/v2/nodes/r1?force=true", Value::Null).await;
    for restarts in [false, true] {
        if restarts {
            server.restart().await.unwrap();
        }
        for it in [node.to_string(), "r1".to_owned()] {
            let (status, of_it) = api.ask(Method::GET, &format!("/api/v2/routes/history?node={it}"), Value::Null).await;
            assert!(status == StatusCode::OK && of_it.as_array().unwrap().len() >= 4, "{of_it}");
            assert!(of_it.as_array().unwrap().iter().all(|line| line["node"]["name"] != "node 1"), "{of_it}");
            let deleted = of_it.as_array().unwrap().iter().find(|line| line["event"] == "deleted").unwrap();
            assert_eq!(deleted["cause"], "its node was deleted");
        }
    }
    let (status, _) = api.ask(Method::GET, "/api/v2/routes/history?node=r9", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_would_be_is_said_and_is_not() {
    let server = TestServer::start().await.unwrap();
    let api = Api::of(&server).await;
    let user = server.user("anna").await.unwrap();
    let key = server.key(user, |_| {}).await.unwrap();
    let (_one, first) = router(&server, &key, "r1", &[P]).await;
    let (_two, second) = router(&server, &key, "r2", &[P]).await;
    let (_three, _) = router(&server, &key, "c", &[]).await;
    approve(&server, first, P).await;
    approve(&server, second, P).await;
    let (status, what) = api.ask(Method::POST, "/api/v2/routes/what-if", json!({ "down": ["r1"] })).await;
    assert_eq!(status, StatusCode::OK, "{what}");
    let moved = &what["primaries"][0];
    assert_eq!((&moved["from"]["name"], &moved["to"]["name"]), (&json!("r1"), &json!("r2")));
    assert_eq!(moved["because"], "incumbent down: connection closed");
    let viewers = what["viewers"].as_array().unwrap();
    let of_c = viewers.iter().find(|found| found["who"] == "c").unwrap();
    assert_eq!(of_c["moves"][0]["text"], "10.1.0.0/16 through r2 instead of r1");
    let (_, what) = api.ask(Method::POST, "/api/v2/routes/what-if", json!({ "down": ["r1", "r2"] })).await;
    let who: Vec<&Value> = what["viewers"].as_array().unwrap().iter().map(|found| &found["who"]).collect();
    assert_eq!(who, ["c"], "who is lost itself is not spoken of: {what}");
    let (_, routes) = api.ask(Method::GET, "/api/v2/routes?state=primary", Value::Null).await;
    assert_eq!(routes[0]["node"]["name"], "r1", "nothing changed");
    let policy = json!({ "policy": "{ \"acls\": [] }" });
    let (_, what) = api.ask(Method::POST, "/api/v2/routes/what-if", policy).await;
    assert_eq!(what["primaries"], json!([]));
    assert!(
        what["viewers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|found| found["gains"] == json!([]) && found["loses"] != json!([])),
        "{what}"
    );
    for (bad, status) in [
        (json!({}), StatusCode::BAD_REQUEST),
        (json!({ "down": ["nobody"] }), StatusCode::NOT_FOUND),
        (json!({ "policy": "{" }), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(api.ask(Method::POST, "/api/v2/routes/what-if", bad).await.0, status);
    }
}
