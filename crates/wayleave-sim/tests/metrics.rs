//! What is counted, and what `/health` says.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection, SqliteConnection};
use wayleave_model::{Approver, NodeId};
use wayleave_sim::{Client, MapStream, TestServer};
use wayleave_tailnet::{ApproveMode, Command};

/// A node with this name that advertises these prefixes, and is approved for them.
async fn node(server: &TestServer, key: &str, name: &str, prefixes: &[&str]) -> (Client, MapStream) {
    let client = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
    client.join(key, name).await.unwrap();
    let mut map = client.stream().await.unwrap();
    let first = map.next().await.unwrap().unwrap();
    client.report(name, prefixes).await.unwrap();
    if !prefixes.is_empty() {
        let node = NodeId::new(first["Node"]["ID"].as_u64().unwrap());
        let prefixes: BTreeSet<_> = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let command = Command::ApproveRoutes { node, prefixes, mode: ApproveMode::Add, by: Approver::Cli };
        server.control().unwrap().command(command).await.unwrap();
    }
    (client, map)
}

#[tokio::test]
async fn a_failover_is_counted_with_its_evidence_and_health_says_what_is_down() {
    let server = TestServer::start().await.unwrap();
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", server.address());
    let refused = http.get(url("/metrics")).send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 401, "they tell how a network is doing");
    let api_key = server.api_key().await.unwrap();
    let metrics = async || http.get(url("/metrics")).bearer_auth(&api_key).send().await.unwrap().text().await.unwrap();
    let health = async || http.get(url("/health")).send().await.unwrap().json::<Value>().await.unwrap();

    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |key| key.reusable = true).await.unwrap();
    let (first, _first) = node(&server, &key, "r1", &["10.1.0.0/16"]).await;
    let (second, _second) = node(&server, &key, "r2", &["10.1.0.0/16"]).await;
    let (_viewer, mut map) = node(&server, &key, "laptop", &[]).await;
    map.next().await.unwrap();
    let text = metrics().await;
    for line in ["wayleave_nodes 3", "wayleave_map_sessions 3", r#"wayleave_routes{state="standby"} 1"#] {
        assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
    }
    assert_eq!(health().await["status"], "ok");

    first.cut();
    let moved = r#"wayleave_failovers_total{cause="incumbent down: connection closed"} 1"#;
    let convicted = r#"wayleave_evidence_total{kind="stream",verdict="convicted"} 1"#;
    let mut text = String::new();
    for _ in 0..100 {
        text = metrics().await;
        if text.contains(moved) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(text.contains(moved) && text.contains(convicted), "{text}");
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("0");
        line.parse::<f64>().unwrap()
    };
    assert!(number("wayleave_map_delivery_seconds_count") >= 1.0, "{text}");
    assert!(number(r#"wayleave_store_seconds_count{operation="commit"}"#) >= 1.0, "{text}");

    second.cut();
    let mut said = Value::Null;
    for _ in 0..100 {
        said = health().await;
        if said["status"] != "ok" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let words = "a prefix has no router that is up: `wayleave routes list --state offline` says which";
    assert_eq!((&said["status"], &said["problems"][0]), (&words.into(), &words.into()));
}

/// What `/health` says once it says something else than before.
async fn health_becomes(address: SocketAddr, expected: u16) -> Value {
    let mut said = (0, Value::Null);
    for _ in 0..200 {
        let answer = reqwest::get(format!("http://{address}/health")).await.unwrap();
        said = (answer.status().as_u16(), answer.json().await.unwrap());
        if said.0 == expected {
            return said.1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it is {said:?} and never {expected}");
}

/// What is wrong, as the doctor tells it over the socket.
async fn doctor(server: &TestServer) -> Vec<(String, String, String)> {
    let socket = reqwest::Client::builder().unix_socket(server.options().socket.clone().unwrap()).build().unwrap();
    let all: Value = socket.get("http://local/api/v2/doctor").send().await.unwrap().json().await.unwrap();
    let text = |found: &Value, field: &str| found[field].as_str().unwrap().to_owned();
    let one = |found: &Value| (text(found, "severity"), text(found, "about"), text(found, "what"));
    all.as_array().unwrap().iter().map(one).collect()
}

#[tokio::test]
async fn health_is_ill_while_the_database_takes_nothing_and_well_again_without_anybody_writing() {
    let server = TestServer::start().await.unwrap();
    assert_eq!(health_becomes(server.address(), 200).await["status"], "ok");
    let file = format!("sqlite://{}", server.data_dir().join("wayleave.db").display());
    let mut other = SqliteConnection::connect(&file).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = server.user("anna").await.unwrap_err().to_string();
    assert_eq!(refused, "nothing was changed");
    let said = health_becomes(server.address(), 503).await;
    assert!(said["status"].as_str().unwrap().starts_with("the database does not take what is written"), "{said}");
    let found = doctor(&server).await;
    assert!(
        matches!(&found[..], [(word, _, what)] if word == "error" && what.starts_with("the database does not take")),
        "{found:?}"
    );
    // Longer than a try takes: it is tried again, and fails again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    health_becomes(server.address(), 503).await;
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(health_becomes(server.address(), 200).await["status"], "ok");
    server.user("anna").await.expect("it takes them again");
    assert_eq!(doctor(&server).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_answer_while_the_control_loop_does_not() {
    let server = TestServer::start().await.unwrap();
    let control = server.control().unwrap().clone();
    let (hangs, until) = std::sync::mpsc::channel::<()>();
    let stuck = tokio::spawn(async move { control.read(move |_| until.recv().is_err()).await });
    let said = health_becomes(server.address(), 503).await;
    let words = "the control loop has not answered for 3 s, and ";
    assert!(said["status"].as_str().unwrap().starts_with(words), "{said}");
    let found = doctor(&server).await;
    assert!(matches!(&found[..], [(word, _, what)] if word == "error" && what.starts_with(words)), "{found:?}");
    let socket = reqwest::Client::builder().unix_socket(server.options().socket.clone().unwrap()).build().unwrap();
    let text = socket.get("http://local/metrics").send().await.unwrap().text().await.unwrap();
    let line = |begin: &str| text.lines().find(|line| line.starts_with(begin)).map(str::to_owned);
    assert_eq!(line("wayleave_control_loop_answers").unwrap(), "wayleave_control_loop_answers 0");
    let waits = line("wayleave_inbox_length ").unwrap();
    assert_ne!(waits, "wayleave_inbox_length 0", "the questions that were asked meanwhile");
    assert!(line("wayleave_map_frames_total").is_some(), "{text}");
    drop(hangs);
    stuck.await.unwrap().unwrap();
    assert_eq!(health_becomes(server.address(), 200).await["status"], "ok");
}
