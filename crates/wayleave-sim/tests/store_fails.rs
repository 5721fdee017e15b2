//! What the server asks of itself is asked again where the database could not take it.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{Connection, SqliteConnection};
use wayleave_model::{Approver, NodeId, Prefix};
use wayleave_server::control_loop::Control;
use wayleave_sim::{Client, TestServer};
use wayleave_tailnet::{ApproveMode, Command};

/// Whether the route is advertised, and enabled; waits until it is as expected.
async fn becomes(control: &Control, node: NodeId, prefix: Prefix, expected: (bool, bool)) {
    for _ in 0..400 {
        let row = control.read(move |tailnet| {
            let row = tailnet.routes().row_of(node, &prefix).unwrap();
            (row.advertised, row.enabled)
        });
        if row.await.unwrap() == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never is (advertised, enabled) = {expected:?}");
}

/// How often the database was asked to take something that somebody asked for.
async fn commits(server: &TestServer, api_key: &str) -> f64 {
    let url = format!("http://{}/metrics", server.address());
    let text = reqwest::Client::new().get(url).bearer_auth(api_key).send().await.unwrap().text().await.unwrap();
    let name = r#"wayleave_store_seconds_count{operation="commit"} "#;
    text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).unwrap_or(0.0)
}

#[tokio::test]
async fn a_withdrawn_route_is_disabled_although_the_database_failed_at_first() {
    let server = TestServer::start().await.unwrap();
    let control = server.control().unwrap().clone();
    let prefix: Prefix = "10.1.0.0/16".parse().unwrap();
    let api_key = server.api_key().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    let client = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
    client.join(&key, "router").await.unwrap();
    let mut map = client.stream().await.unwrap();
    let first = map.next().await.unwrap().unwrap();
    let node = NodeId::new(first["Node"]["ID"].as_u64().unwrap());
    client.report("router", &["10.1.0.0/16"]).await.unwrap();
    let prefixes = BTreeSet::from([prefix]);
    let approve = Command::ApproveRoutes { node, prefixes, mode: ApproveMode::Add, by: Approver::Cli };
    control.command(approve).await.unwrap();
    becomes(&control, node, prefix, (true, true)).await;

    let file = format!("sqlite://{}", server.data_dir().join("wayleave.db").display());
    let mut database = SqliteConnection::connect(&file).await.unwrap();
    let refuse = "CREATE TRIGGER full BEFORE UPDATE ON routes BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    sqlx::query(refuse).execute(&mut database).await.unwrap();
    client.report("router", &[]).await.unwrap();
    becomes(&control, node, prefix, (false, true)).await;
    // The first try, and one after it.
    let tries = commits(&server, &api_key).await + 2.0;
    let again = async {
        while commits(&server, &api_key).await < tries {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("it is tried again");
    becomes(&control, node, prefix, (false, true)).await;
    sqlx::query("DROP TRIGGER full").execute(&mut database).await.unwrap();
    becomes(&control, node, prefix, (false, false)).await;
}
