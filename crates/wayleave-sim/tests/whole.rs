//! All of a server at once: what is exported comes back equal, and a copy of a database under load is one moment of it.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use wayleave_model::{Approver, NodeId};
use wayleave_server::secrets;
use wayleave_server::take_over::{ServerKeys, take_over_export};
use wayleave_sim::{Client, TestServer};
use wayleave_store::{Document, Store};
use wayleave_tailnet::{ApproveMode, Command};

async fn with_everything() -> (TestServer, String) {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna@example.com").await.unwrap();
    let key = server.key(anna, |key| key.description = "[1, 2]".to_owned()).await.unwrap();
    server.key(anna, |key| key.tags = ["tag:a".parse().unwrap()].into()).await.unwrap();
    let api = secrets::new_key("wl-api");
    let make = Command::CreateApiKey { name: api.public, hash: api.hash, description: String::new(), lifetime: None };
    let policy = "{ \"tagOwners\": {\"tag:a\": []},\n  \"acls\": [], /* nobody */ }".to_owned();
    let set = Command::SetPolicy { text: policy, replaces: None, by: "cli".to_owned() };
    for command in [make, set] {
        server.control().unwrap().command(command).await.unwrap();
    }
    for name in ["r1", "gone"] {
        let client = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
        client.join(&key, name).await.unwrap();
        client.report(name, &["10.1.0.0/16", "10.2.0.0/16"]).await.unwrap();
    }
    let approve = Command::ApproveRoutes {
        node: NodeId::new(1),
        prefixes: ["10.1.0.0/16".parse().unwrap()].into(),
        mode: ApproveMode::Add,
        by: Approver::Cli,
    };
    for command in [approve, Command::DeleteNode { node: NodeId::new(2) }] {
        server.control().unwrap().command(command).await.unwrap();
    }
    (server, api.text)
}

async fn exported(folder: &Path) -> Document {
    let store = Store::open(&folder.join("wayleave.db")).await.unwrap();
    let document = store.export("2026-01-01T00:00:00Z".parse().unwrap()).await.unwrap();
    store.close().await;
    document
}

#[tokio::test]
async fn an_export_holds_everything_but_secrets_and_comes_back_equal() {
    let (mut server, api) = with_everything().await;
    let http = reqwest::Client::new();
    let url = format!("http://{}/api/v2/export", server.address());
    assert_eq!(http.get(&url).send().await.unwrap().status().as_u16(), 401);
    let served = http.get(&url).bearer_auth(&api).send().await.unwrap().text().await.unwrap();
    let served: Value = serde_json::from_str(&served).unwrap();
    assert_eq!(served["tables"]["users"][0]["name"], "anna@example.com");
    server.stop().await;
    let document = exported(&server.data_dir()).await;
    for (table, rows) in [("users", 1), ("nodes", 1), ("routes", 4), ("auth_keys", 2), ("api_keys", 1), ("policies", 1)]
    {
        assert_eq!(document.tables[table].len(), rows, "{table}");
    }
    assert!(!document.tables["history"].is_empty() && document.tables["sequences"].iter().any(|row| row["next"] == 3));
    assert_eq!(document.tables["nodes"][0]["hostinfo"]["hostname"], "r1", "JSON is not hidden in a text");
    assert_eq!(document.tables["auth_keys"][0]["description"], "[1, 2]", "and a text stays one");
    let text = serde_json::to_string(&document).unwrap();
    let secret = secrets::hash(&api);
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    for word in ["\"hash\"", "hash_kind", "privkey", hex.as_str(), api.as_str()] {
        assert!(!text.contains(word), "{word}");
    }

    let other = tempfile::tempdir().unwrap();
    let document: Document = serde_json::from_str(&text).unwrap();
    let take = async |document: &Document| take_over_export(other.path(), ServerKeys::default(), document).await;
    take(&document).await.unwrap();
    assert_eq!(exported(other.path()).await, document);
    let error = take(&document).await.unwrap_err().to_string();
    assert!(error.contains("there is an installation already (1 nodes, 1 users"), "{error}");

    // A server goes on from it: its keys open nothing, its ids go on.
    let mut second = TestServer::start().await.unwrap();
    second.stop().await;
    std::fs::copy(other.path().join("wayleave.db"), second.data_dir().join("wayleave.db")).unwrap();
    second.restart().await.unwrap();
    let url = format!("http://{}/api/v2/nodes", second.address());
    assert_eq!(http.get(&url).bearer_auth(&api).send().await.unwrap().status().as_u16(), 401);
    let anna = wayleave_model::UserId::new(1);
    let key = second.key(anna, |_| {}).await.unwrap();
    let client = Client::connect(second.address(), second.server().unwrap().public_key()).await.unwrap();
    client.join(&key, "next").await.unwrap();
    let map = client.stream().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(map["Node"]["ID"], 3);
}

#[tokio::test]
async fn a_document_that_is_none_is_refused_with_its_place_and_nothing_is_written() {
    let (mut server, _) = with_everything().await;
    server.stop().await;
    let good = serde_json::to_value(exported(&server.data_dir()).await).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let change = |pointer: &str, value: Value| {
        let mut document = good.clone();
        *document.pointer_mut(pointer).unwrap() = value;
        document
    };
    for (document, expected) in [
        (change("/format", json!("other")), "this is no export of Wayleave: its format is `other`"),
        (change("/schema", json!(9999)), "the export has schema 9999"),
        (change("/tables/users/0", json!({})), "table users, row 1: the row is empty"),
        (change("/tables/users/0", json!({ "id": 1, "\"; --": 2 })), "column \"; --: there is no such column"),
        (change("/tables/auth_keys/0", json!({ "id": 1, "hash": "x" })), "column hash: there is no such column"),
        (change("/tables/nodes/0/id", json!(1.5)), "1.5 is no whole number"),
        (change("/tables/nodes/0/node_key", json!("nonsense")), "the value of node_key is invalid"),
        (change("/tables/policies/0/text", json!("{")), "what the export holds can't be served"),
        (change("/tables", json!({ "others": [] })), "has a table `others`, and there is none here"),
    ] {
        let document: Document = serde_json::from_value(document).unwrap();
        let error = take_over_export(folder.path(), ServerKeys::default(), &document).await.unwrap_err();
        let text = wayleave_server::words(&error);
        assert!(text.contains(expected), "{expected}: {text}");
        let store = Store::open(&folder.path().join("wayleave.db")).await.unwrap();
        store.check_empty().await.unwrap();
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_database_under_load_is_one_moment_of_it_and_a_server_starts_from_it() {
    let (server, api) = with_everything().await;
    let stop = Arc::new(AtomicBool::new(false));
    let control = server.control().unwrap().clone();
    let writer = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut made = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let name = format!("user-{made}");
                let user = Command::CreateUser { name, display_name: "x".repeat(2000), email: None, role: None };
                control.command(user).await.unwrap();
                made += 1;
            }
            made
        }
    });
    let url = format!("http://{}/api/v2/backup", server.address());
    let mut sizes = Vec::new();
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let answer = reqwest::Client::new().get(&url).bearer_auth(&api).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let length = answer.content_length();
        let copy = answer.bytes().await.unwrap();
        assert_eq!(length, Some(copy.len() as u64));
        let mut next = TestServer::start().await.unwrap();
        next.stop().await;
        for file in ["wayleave.db-wal", "wayleave.db-shm"] {
            std::fs::remove_file(next.data_dir().join(file)).ok();
        }
        std::fs::write(next.data_dir().join("wayleave.db"), &copy).unwrap();
        next.restart().await.unwrap();
        let (users, last) = next
            .control()
            .unwrap()
            .read(|tailnet| {
                let ids: Vec<u64> = tailnet.registry().users().map(|user| user.id.get()).collect();
                (ids.len() as u64, ids.last().copied().unwrap())
            })
            .await
            .unwrap();
        assert_eq!(users, last, "no user of a later moment, none missing (round {round})");
        let user = next.user("after").await.unwrap();
        assert_eq!(user.get(), users + 1, "and the numbers that come next are of the same moment");
        sizes.push(users);
    }
    stop.store(true, Ordering::Relaxed);
    let made = writer.await.unwrap();
    assert!(sizes.is_sorted() && sizes[0] < sizes[4] && sizes[4] <= made + 1, "{sizes:?} of {made}");
    let left: Vec<_> = std::fs::read_dir(server.data_dir())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.ends_with(".part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
