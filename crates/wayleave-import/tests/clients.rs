//! Each client of a sample comes back with the key that it has, and is the node that it was: no login, the same addresses, the same routes.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use wayleave_import::Location;
use wayleave_import::headscale::{PolicyAt, Setup, prepare};
use wayleave_model::{NodeId, Prefix, Timestamp};
use wayleave_server::Clock;
use wayleave_server::take_over::{ServerKeys, take_over};
use wayleave_sim::{Client, MapStream, TestServer};
use wayleave_wire::PrivateKey;

/// Those that hold the nodes whose private keys are known.
const SQLITE: [&str; 11] = ["v012", "v016", "v017", "v018", "v022", "v023", "v025", "v026", "v028", "v029", "v030dev"];

fn private(hex: &Value) -> PrivateKey {
    format!("privkey:{}", hex.as_str().unwrap()).parse().unwrap()
}

/// A server that starts on a sample.
async fn moved(location: &Location, keys: &Value) -> TestServer {
    let mut server = TestServer::start().await.unwrap();
    server.stop().await;
    let setup = Setup { policy: PolicyAt::Nowhere, ..Setup::default() };
    let prepared = prepare(location, &setup, Clock::default().now(), &mut |_| {}).await.unwrap();
    let noise = Some(private(&keys["server"]["noise"]["private"]));
    let server_keys = ServerKeys { noise, derp: None };
    let (rows, older) = (&prepared.rows, &prepared.older);
    take_over(&server.data_dir(), server_keys, &[], rows, older, &mut |_| {}).await.unwrap();
    server.restart().await.unwrap();
    let public = server.server().unwrap().public_key().to_string();
    assert_eq!(public, format!("mkey:{}", keys["server"]["noise"]["public"].as_str().unwrap()));
    server
}

/// What the sample says that each node advertises, and what of it is approved and primary.
struct Wanted {
    advertised: BTreeMap<u64, Vec<String>>,
    approved: BTreeMap<u64, BTreeSet<Prefix>>,
    primary: BTreeMap<u64, BTreeSet<Prefix>>,
}

impl Wanted {
    fn of(expected: &Value) -> Self {
        let mut wanted = Self { advertised: BTreeMap::new(), approved: BTreeMap::new(), primary: BTreeMap::new() };
        for route in expected["routes"].as_array().unwrap().iter().filter(|route| route["advertised"] == true) {
            let (node, text) = (route["node"].as_u64().unwrap(), route["prefix"].as_str().unwrap());
            let prefix: Prefix = text.parse().unwrap();
            wanted.advertised.entry(node).or_default().push(text.to_owned());
            if route["enabled"] == true {
                wanted.approved.entry(node).or_default().insert(prefix);
            }
            if route["is_primary"] == true {
                wanted.primary.entry(node).or_default().insert(prefix);
            }
        }
        wanted
    }
}

async fn comes_back(server: &TestServer, node: &Value, keys: &Value, wanted: &Wanted) -> Option<(Client, MapStream)> {
    let id = node["id"].as_u64().unwrap();
    let own = &keys["nodes"][id.to_string()];
    let (machine, key) = (private(&own["machine_private"]), private(&own["node_private"]));
    let public = server.server().unwrap().public_key();
    let client = Client::connect_as(server.address(), public, machine, key).await.unwrap();
    let name = node["hostname"].as_str().unwrap();
    let routes = wanted.advertised.get(&id).cloned().unwrap_or_default();
    let hostinfo = json!({ "Hostname": name, "OS": "linux", "RoutableIPs": routes });
    let answer = client.register(json!({ "Hostinfo": hostinfo })).await.unwrap();
    assert_eq!((&answer["Error"], &answer["AuthURL"]), (&json!(""), &json!("")), "node {id}: {answer}");
    let expired = node["expiry"].as_str().is_some_and(|at| at.parse::<Timestamp>().unwrap() < Clock::default().now());
    assert_eq!(answer["NodeKeyExpired"], expired, "node {id}: {answer}");
    if expired {
        return None;
    }
    assert_eq!(answer["MachineAuthorized"], true, "node {id} has to log in: {answer}");
    if let Some(user) = node["user_id"].as_u64() {
        assert_eq!(answer["User"]["ID"], user, "node {id}: {answer}");
    }
    client.report(name, &routes.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    let mut stream = client.stream().await.unwrap();
    let map = stream.next().await.unwrap().unwrap();
    let own = &map["Node"];
    assert_eq!((&own["ID"], &own["StableID"]), (&json!(id), &node["stable_id"]), "{own}");
    let ours = [("ipv4", 32), ("ipv6", 128)];
    let addresses = ours.iter().filter_map(|(family, bits)| Some(format!("{}/{bits}", node[family].as_str()?)));
    assert_eq!(own["Addresses"], json!(addresses.collect::<Vec<_>>()), "node {id}");
    let given = node["given_name"].as_str().unwrap();
    assert!(own["Name"].as_str().unwrap().starts_with(&format!("{given}.")), "node {id}: {}", own["Name"]);
    Some((client, stream))
}

async fn play(name: &str, folder: &Path, location: &Location) {
    let keys = sources::json(&folder.join("keys.json"));
    let expected = sources::json(&folder.join(format!("{name}.expected.json")));
    let wanted = Wanted::of(&expected);
    let server = moved(location, &keys).await;
    let mut effects = server.control().unwrap().effects();
    let mut open = Vec::new();
    for node in expected["nodes"].as_array().unwrap() {
        open.extend(comes_back(&server, node, &keys, &wanted).await);
    }
    assert_eq!(open.len(), 8, "{name}: all but the expired one are in");
    // Whatever a coming back could set off is done by then: proposals are planned at once, and withdrawals wait 2 s.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let snapshot = server.control().unwrap().snapshot();
    for node in expected["nodes"].as_array().unwrap() {
        let id = node["id"].as_u64().unwrap();
        let view = snapshot.node(NodeId::new(id)).unwrap();
        let expired = node["id"] == 13;
        assert_eq!(view.online, !expired, "{name}: node {id}");
        assert_eq!(view.approved, wanted.approved.get(&id).cloned().unwrap_or_default(), "{name}: node {id}");
        assert_eq!(view.primary, wanted.primary.get(&id).cloned().unwrap_or_default(), "{name}: node {id}");
        assert_eq!(view.node.given_name.as_str(), node["given_name"], "{name}: node {id}");
    }
    while let Ok(effect) = effects.try_recv() {
        let moved = matches!(effect, wayleave_tailnet::Effect::PrimaryChanged(_));
        assert!(!moved, "{name}: a first start moves no primary: {effect:?}");
    }
}

#[tokio::test]
async fn every_client_of_every_generation_is_the_node_that_it_was() {
    let Some(folder) = sources::folder() else { return };
    let scratch = tempfile::tempdir().unwrap();
    for name in SQLITE {
        let path = sources::sqlite(&folder, name, scratch.path()).await;
        play(name, &folder, &Location::Sqlite(path)).await;
    }
    let Some(cluster) = sources::Cluster::start() else { return };
    for name in sources::POSTGRES {
        let location = cluster.load(&folder, name).await;
        play(name, &folder, &location).await;
    }
}

/// Keys that worked there work here, in each form in which they were handed out; one that was used up does not.
#[tokio::test]
async fn keys_that_worked_still_work() {
    let Some(folder) = sources::folder() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let keys = sources::json(&folder.join("keys.json"));
    let path = sources::sqlite(&folder, "v029", scratch.path()).await;
    let server = moved(&Location::Sqlite(path), &keys).await;
    let public = server.server().unwrap().public_key();
    for (key, works) in [("1", true), ("2", false), ("3", true), ("4", true)] {
        let client = Client::connect(server.address(), public).await.unwrap();
        let joined = client.join(keys["preauth_keys"][key]["presented"].as_str().unwrap(), &format!("new{key}")).await;
        assert_eq!(joined.is_ok(), works, "pre-auth key {key}: {joined:?}");
    }
    let snapshot = server.control().unwrap().snapshot();
    let ids: Vec<u64> = snapshot.nodes.keys().map(|id| id.get()).filter(|id| *id > 55).collect();
    assert_eq!(ids, [56, 57, 58], "no number is given out again");
}
