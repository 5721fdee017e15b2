//! Bad input: a clear error each, no panic, nothing lost.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wayleave_server::{Server, words};
use wayleave_sim::{Client, TestServer};
use wayleave_store::Store;

/// Sends bytes, and gives what comes back until the server closes.
async fn raw(server: &TestServer, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    read.expect("the server keeps the connection open").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn upgrade(handshake: &str) -> Vec<u8> {
    format!(
        "POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade, close\r\n{handshake}\r\n"
    )
    .into_bytes()
}

async fn still_works(server: &TestServer) {
    let anna = match server.user("anna").await {
        Ok(anna) => anna,
        Err(_) => wayleave_model::UserId::new(1),
    };
    let key = server.key(anna, |_| {}).await.unwrap();
    let client = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
    client.join(&key, "works").await.unwrap();
    assert!(client.stream().await.unwrap().next().await.unwrap().is_some());
}

#[tokio::test]
async fn handshakes_that_are_none_are_refused_with_the_reason() {
    let server = TestServer::start_with(|options| options.limits.handshake = Duration::from_millis(500)).await.unwrap();
    let other = "X-Tailscale-Handshake: AHEBAGBnXdV07XeJMQs9LnaB83kLRmx3OxUh/s82V3lYNx6lL34j4i47xyKI+og/6+z6yOR6i2xU2sf+c6rPIQgYeM/TTcLIYeh81tngJWtkNLgAKiNKeDrr1uRxms+DP1XRvTs=\r\n";
    for (handshake, expected) in [
        ("", "has no handshake"),
        ("X-Tailscale-Handshake: !!!\r\n", "not standard base64 of 101 bytes"),
        ("X-Tailscale-Handshake: AAAA\r\n", "another type or length"),
        (other, "does not fit this server's key"),
    ] {
        let answer = raw(&server, &upgrade(handshake)).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(expected), "{answer}");
    }
    let plain = raw(&server, b"POST /ts2021 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("has to upgrade"), "{plain}");
    assert!(
        raw(&server, b"GET /key HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.starts_with("HTTP/1.1 400")
    );
    assert_eq!(raw(&server, b"\x00\x01\x02 nonsense").await, "", "bytes that never become a request are cut off");
    assert!(raw(&server, b"\x16\x03\x01\x00\x05hello").await.len() <= 7, "at most a TLS alert");
    still_works(&server).await;
}

#[tokio::test]
async fn records_that_are_none_end_their_connection_only() {
    let server = TestServer::start().await.unwrap();
    let private = || wayleave_wire::PrivateKey::from_bytes([7; 32]);
    let public = server.server().unwrap().public_key();
    let version = wayleave_wire::CapabilityVersion(142);
    for garbage in [
        &[9_u8, 0, 20][..],
        &[4, 0x0f, 0xff],
        &[4, 0, 3, 1, 2, 3],
        &[4, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let (initiation, _) = wayleave_wire::noise::initiate(&private(), &public, version, [3; 32]).unwrap();
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(initiation);
        let mut bytes = upgrade(&format!("X-Tailscale-Handshake: {text}\r\n"));
        bytes.extend(garbage);
        let answer = raw(&server, &bytes).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    }
    still_works(&server).await;
}

#[tokio::test]
async fn requests_that_are_none_are_refused_and_bodies_are_bounded() {
    let server = TestServer::start().await.unwrap();
    let client = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
    for (path, body, status, expected) in [
        ("/machine/register", "{", 400, "not the JSON of this protocol"),
        ("/machine/register", "{}", 400, "needs a node key"),
        ("/machine/map", "\"x\"", 400, "not the JSON of this protocol"),
        ("/machine/map", "{}", 400, "needs a node key"),
        ("/machine/tka/init/begin", "", 501, "no tailnet lock"),
        ("/machine/set-dns", "{}", 501, "no certificates"),
        ("/machine/nonsense", "", 404, "nothing here"),
    ] {
        let (got, text) = client.ask(Method::POST, path, body.as_bytes().to_vec()).await.unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(got.as_u16() == status && text.contains(expected), "{path}: {got} {text}");
    }
    let (status, text) = client.ask(Method::POST, "/machine/map", vec![b' '; (1 << 20) + 1]).await.unwrap();
    assert_eq!(status.as_u16(), 413, "{text:?}");
    let old = client.register(json!({ "Version": 60 })).await.unwrap();
    assert!(old["Error"].as_str().unwrap().contains("too old"));
    still_works(&server).await;
}

#[tokio::test]
async fn a_node_key_of_another_machine_is_refused() {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    let public = server.server().unwrap().public_key();
    let node = || wayleave_wire::PrivateKey::from_bytes([5; 32]);
    let machine = |n| wayleave_wire::PrivateKey::from_bytes([n; 32]);
    let owner = Client::connect_as(server.address(), public, machine(1), node()).await.unwrap();
    owner.join(&key, "a").await.unwrap();
    let thief = Client::connect_as(server.address(), public, machine(2), node()).await.unwrap();
    let refused = thief.register(json!({ "Auth": { "AuthKey": key } })).await.unwrap();
    assert!(refused["Error"].as_str().unwrap().contains("belongs to another machine"), "{refused}");
    assert!(thief.stream().await.is_err_and(|error| error.to_string().contains("403")));
    assert!(thief.report("a", &["10.0.0.0/8"]).await.is_err_and(|error| error.to_string().contains("403")));
}

async fn start_error(server: &mut TestServer) -> String {
    match Server::start(server.options().clone()).await {
        Ok(_) => panic!("it started"),
        Err(error) => words(&error),
    }
}

#[tokio::test]
async fn a_server_that_can_not_start_says_why_and_changes_nothing() {
    let mut server = TestServer::start().await.unwrap();
    let error = start_error(&mut server).await;
    assert!(error.contains("another server runs on the data folder"), "{error}");
    server.stop().await;

    let taken = std::net::TcpListener::bind(server.address()).unwrap();
    let error = start_error(&mut server).await;
    assert!(error.contains("(listen): another program listens there"), "{error}");
    drop(taken);

    let key = server.data_dir().join("noise.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = start_error(&mut server).await;
    assert!(error.contains("others may read the key file") && error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    let database = server.data_dir().join("wayleave.db");
    let good = std::fs::read(&database).unwrap();
    let mut damaged = good.clone();
    damaged.truncate(good.len() / 2);
    damaged[100..4000].fill(0x5a);
    std::fs::write(&database, &damaged).unwrap();
    let error = start_error(&mut server).await;
    assert!(error.contains("is damaged"), "{error}");
    assert_eq!(std::fs::read(&database).unwrap(), damaged, "nothing was changed");
    std::fs::write(&database, b"this is no database, but it is long enough to be taken for one by its length").unwrap();
    let error = start_error(&mut server).await;
    assert!(error.contains("is damaged"), "{error}");
    std::fs::write(&database, &good).unwrap();
    server.restart().await.unwrap();
}

#[tokio::test]
async fn a_database_of_a_newer_program_or_one_that_is_locked_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wayleave.db");
    let store = Store::open(&path).await.unwrap();
    store.close().await;
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::query("UPDATE _sqlx_migrations SET version = 999 WHERE version = 2").execute(&pool).await.unwrap();
    let error = Store::open(&path).await.unwrap_err().to_string();
    assert!(error.contains("has schema 999, and this program knows up to "), "{error}");
    sqlx::query("UPDATE _sqlx_migrations SET version = 2 WHERE version = 999").execute(&pool).await.unwrap();
    let mut other = pool.acquire().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut *other).await.unwrap();
    let error = Store::open(&path).await.unwrap_err().to_string();
    assert!(error.contains("is locked by another program"), "{error}");
    sqlx::query("ROLLBACK").execute(&mut *other).await.unwrap();
    sqlx::query("INSERT INTO users (id, name, display_name, created_at) VALUES (1, 'anna', '', 0)")
        .execute(&mut *other)
        .await
        .unwrap();
    sqlx::query("INSERT INTO sequences VALUES ('node', -1)").execute(&mut *other).await.unwrap();
    let error = Store::open(&path).await.unwrap().load().await.unwrap_err().to_string();
    assert!(error.contains("table sequences"), "{error}");
}

#[tokio::test]
async fn the_api_refuses_what_can_not_be_with_words_that_help() {
    let server = TestServer::start().await.unwrap();
    still_works(&server).await;
    let socket = server.data_dir().join("wayleave.sock");
    let ask = |method: &'static str, target: &'static str, body: &'static str| {
        let socket = socket.clone();
        async move {
            let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
            let head = format!(
                "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    };
    for (method, target, body, status, expected) in [
        ("POST", "/api/v2/users", r#"{"name":"a b"}"#, 422, "is no name for a user"),
        ("POST", "/api/v2/users", r#"{"name":"anna"}"#, 409, "there is a user `anna` already"),
        ("POST", "/api/v2/users", r#"{"nam":"x"}"#, 422, "unknown field `nam`"),
        ("POST", "/api/v2/users", "{", 400, "JSON"),
        ("POST", "/api/v2/keys", r#"{"user":"nobody"}"#, 404, "there are: anna"),
        ("POST", "/api/v2/keys", r#"{"tags":["router"]}"#, 400, "a tag is `tag:`"),
        (
            "POST",
            "/api/v2/routes/approve",
            r#"{"node":"works","prefixes":["10.0.0.5/8"]}"#,
            400,
            "did you mean `10.0.0.0/8`?",
        ),
        (
            "POST",
            "/api/v2/routes/approve",
            r#"{"node":"works","prefixes":["100.64.0.0/24"]}"#,
            422,
            "overlaps the tailnet's own addresses",
        ),
        ("POST", "/api/v2/routes/approve", r#"{"node":"work","prefixes":["10.0.0.0/8"]}"#, 404, "did you mean works?"),
        ("POST", "/api/v2/routes/approve", r#"{"prefixes":["10.9.0.0/16"]}"#, 404, "no node advertises 10.9.0.0/16"),
        (
            "POST",
            "/api/v2/routes/disable",
            r#"{"node":"works","prefixes":["10.9.0.0/16"]}"#,
            404,
            "has no route 10.9.0.0/16; it has: none",
        ),
        ("POST", "/api/v2/nodes/works/name", r#"{"name":"Bad_Name"}"#, 400, "did you mean `bad-name`?"),
        ("POST", "/api/v2/nodes/works/tags", r#"{"tags":[]}"#, 422, "needs at least one tag"),
        ("POST", "/api/v2/nodes/works/expire", r#"{"at":"soon"}"#, 400, "is not a time"),
        ("GET", "/api/v2/routes?state=lost", "", 400, "is no state of a route"),
        ("GET", "/api/v2/openapi.json", "", 200, "/api/v2/routes/approve"),
        ("DELETE", "/api/v2/users/anna", "", 409, "still has nodes"),
    ] {
        let answer = ask(method, target, body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(expected),
            "{target} {body}: {answer}"
        );
    }
}

#[tokio::test]
async fn the_network_api_wants_a_key_and_takes_it_in_both_forms() {
    let server = TestServer::start().await.unwrap();
    let secret = wayleave_server::secrets::new_key("wl-api");
    let command = |lifetime| wayleave_tailnet::Command::CreateApiKey {
        name: secret.public.clone(),
        hash: secret.hash,
        description: String::new(),
        lifetime,
    };
    server.control().unwrap().command(command(None)).await.unwrap();
    let url = format!("http://{}/api/v2/nodes", server.address());
    let http = reqwest::Client::new();
    assert_eq!(http.get(&url).send().await.unwrap().status().as_u16(), 401);
    assert_eq!(http.get(&url).bearer_auth("wl-api-nonsense").send().await.unwrap().status().as_u16(), 401);
    assert_eq!(http.get(&url).bearer_auth(&secret.text).send().await.unwrap().status().as_u16(), 200);
    assert_eq!(http.get(&url).basic_auth(&secret.text, Some("")).send().await.unwrap().status().as_u16(), 200);
    let listed =
        http.get(url.replace("nodes", "apikeys")).bearer_auth(&secret.text).send().await.unwrap().text().await.unwrap();
    assert!(!listed.contains(&secret.text), "a list shows no secret");
    let devices = url.replace("nodes", "tailnet/-/devices");
    let devices = http.get(devices).bearer_auth(&secret.text).send().await.unwrap().text().await.unwrap();
    assert_eq!(devices, r#"{"devices":[]}"#);
}
