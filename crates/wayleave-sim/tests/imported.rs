//! A server that starts from an import: nodes without a machine key, keys that are known by bcrypt, addresses in odd pairs.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use wayleave_model::{
    Addresses, ApiKey, ApiKeyId, AuthKey, AuthKeyId, Hostinfo, KeyHash, Node, NodeId, NodeKey, Owner, RegisterMethod,
    Timestamp, User, UserId, UserRole,
};
use wayleave_server::take_over::{ServerKeys, TakeOverError, take_over};
use wayleave_server::{Clock, secrets};
use wayleave_sim::{Client, TestServer};
use wayleave_tailnet::{Imported, Loaded, Sequences};
use wayleave_wire::PrivateKey;

const OLD_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
const PREFIX: &str = "Ab-_Ab-_Ab-_";

fn newer(kind: &str) -> String {
    format!("hskey-{kind}-{PREFIX}-{}", "s-_S".repeat(16))
}

fn bcrypt(prefix: &str, secret: &str) -> KeyHash {
    KeyHash::Bcrypt { prefix: prefix.to_owned(), hash: bcrypt::hash(secret, 10).unwrap().replacen("$2b$", "$2a$", 1) }
}

fn auth_key(id: u64, hash: KeyHash, reusable: bool) -> AuthKey {
    AuthKey {
        id: AuthKeyId::new(id),
        user: Some(UserId::new(7)),
        hint: "hskey".to_owned(),
        hash,
        reusable,
        ephemeral: false,
        tags: BTreeSet::new(),
        description: String::new(),
        created_at: Timestamp::from_millis(0),
        expires_at: None,
        used_at: None,
        revoked_at: None,
    }
}

fn api_key(id: u64, prefix: &str, secret: &str) -> ApiKey {
    ApiKey {
        id: ApiKeyId::new(id),
        name: prefix.to_owned(),
        hash: bcrypt(prefix, secret),
        user: None,
        description: String::new(),
        created_at: Timestamp::from_millis(0),
        expires_at: None,
        last_used_at: None,
    }
}

fn node(id: u64, node_key: NodeKey, addresses: Addresses) -> Node {
    Node {
        id: NodeId::new(id),
        machine_key: None,
        node_key,
        disco_key: None,
        owner: Owner::User(UserId::new(7)),
        given_name: format!("n{id}").parse().unwrap(),
        renamed: false,
        addresses,
        register_method: RegisterMethod::AuthKey,
        auth_key: None,
        ephemeral: false,
        expires_at: None,
        created_at: Timestamp::from_millis(0),
        last_seen: Some(Timestamp::from_millis(0)),
        drained: false,
        capability: 0,
        hostinfo: Hostinfo { hostname: format!("n{id}"), ..Hostinfo::default() },
        endpoints: Vec::new(),
        home_derp: 0,
        vantage: Default::default(),
    }
}

fn user(id: u64, name: &str) -> User {
    User {
        id: UserId::new(id),
        name: name.to_owned(),
        display_name: String::new(),
        email: None,
        identity: (id == 8).then(|| "https://idp.example/one".to_owned()),
        picture: String::new(),
        role: UserRole::Member,
        created_at: Timestamp::from_millis(0),
    }
}

struct World {
    server: TestServer,
    noise: PrivateKey,
    machines: [PrivateKey; 2],
    nodes: [PrivateKey; 2],
}

fn loaded(nodes: &[PrivateKey; 2]) -> Loaded {
    let v4 = |text: &str| Addresses { v4: Some(text.parse().unwrap()), v6: None };
    Loaded {
        users: vec![user(7, "ops"), user(8, "ops")],
        nodes: vec![
            node(1, nodes[0].node_key(), v4("100.64.0.1")),
            node(40, nodes[1].node_key(), Addresses { v4: None, v6: Some("fd7a:115c:a1e0::2".parse().unwrap()) }),
        ],
        auth_keys: vec![
            auth_key(1, KeyHash::Sha256(secrets::hash(OLD_KEY)), true),
            auth_key(2, bcrypt(PREFIX, &newer("auth")[24..]), true),
            auth_key(3, KeyHash::Unknown, true),
        ],
        api_keys: vec![
            api_key(1, "tencharact", "the-secret.of-a-key"),
            api_key(2, "seven-_", "another"),
            api_key(3, PREFIX, &newer("api")[23..]),
        ],
        sequences: Sequences { node: NodeId::new(56), user: UserId::new(9), ..Sequences::default() },
        imported: Some(Imported { at: Clock::default().now(), source: "a test".to_owned() }),
        ..Loaded::default()
    }
}

/// A server that starts on an import, which is allowed to bind machines for so long.
async fn world(bind: Duration) -> World {
    let key = || PrivateKey::from_bytes(rand::random());
    let (noise, machines, nodes) = (key(), [key(), key()], [key(), key()]);
    let mut server = TestServer::start_with(|options| options.tailnet.bind_imported = bind).await.unwrap();
    server.stop().await;
    let keys = ServerKeys { noise: Some(noise.clone()), derp: Some(key()) };
    let mut rows = 0;
    take_over(&server.data_dir(), keys, &[], &loaded(&nodes), &[], &mut |n| rows = n).await.unwrap();
    assert_eq!(rows, 2 + 2 + 3 + 3);
    server.restart().await.unwrap();
    World { server, noise, machines, nodes }
}

impl World {
    async fn client(&self, machine: usize, node: usize) -> Client {
        let (machine, node) = (self.machines[machine].clone(), self.nodes[node].clone());
        Client::connect_as(self.server.address(), self.noise.machine_key(), machine, node).await.unwrap()
    }
}

#[tokio::test]
async fn a_node_without_a_machine_key_is_bound_to_the_first_that_brings_its_node_key_and_to_no_other() {
    let world = world(Duration::from_secs(3600)).await;
    assert_eq!(world.server.server().unwrap().public_key(), world.noise.machine_key());
    // One client registers, as after a start; the other only asks for its map, as after a lost connection.
    let answer = world.client(0, 0).await.register(json!({})).await.unwrap();
    assert_eq!((&answer["MachineAuthorized"], &answer["AuthURL"]), (&json!(true), &json!("")), "{answer}");
    let map = world.client(1, 1).await.stream().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(map["Node"]["Addresses"], json!(["fd7a:115c:a1e0::2/128"]));
    assert_eq!((&map["Node"]["ID"], &map["Node"]["StableID"]), (&json!(40), &json!("40")));
    for (machine, node) in [(1, 0), (0, 1)] {
        let answer = world.client(machine, node).await.register(json!({})).await.unwrap();
        assert!(answer["Error"].as_str().unwrap().contains("belongs to another machine"), "{answer}");
        assert!(world.client(machine, node).await.stream().await.is_err());
    }
}

#[tokio::test]
async fn where_binding_is_switched_off_such_a_node_logs_in_again_and_is_the_same_node() {
    let mut world = world(Duration::ZERO).await;
    let client = world.client(0, 0).await;
    let answer = client.register(json!({})).await.unwrap();
    assert_eq!((&answer["NodeKeyExpired"], &answer["MachineAuthorized"]), (&json!(true), &json!(false)));
    let map = client.stream().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(map["Node"]["Expired"], true, "and its map says so too");
    // A stranger can't log it out either.
    client.register(json!({ "Expiry": "1970-01-01T00:00:01Z" })).await.unwrap();
    let old = client.node_key();
    let client = client.with_new_node_key();
    let answer = client.register(json!({ "OldNodeKey": old, "Auth": { "AuthKey": OLD_KEY } })).await.unwrap();
    assert_eq!(answer["MachineAuthorized"], true, "{answer}");
    let map = client.stream().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!((&map["Node"]["ID"], &map["Node"]["Addresses"]), (&json!(1), &json!(["100.64.0.1/32"])));
    world.server.restart().await.unwrap();
    let node = world.server.control().unwrap().read(|tailnet| tailnet.registry().node(NodeId::new(1)).cloned());
    let node = node.await.unwrap().unwrap();
    assert_eq!(node.machine_key, Some(world.machines[0].machine_key()));
    assert_eq!((node.auth_key, node.expires_at), (Some(AuthKeyId::new(1)), None));
}

#[tokio::test]
async fn pre_auth_keys_in_clear_text_and_as_bcrypt_let_machines_in_and_ids_and_addresses_go_on() {
    let mut world = world(Duration::from_secs(3600)).await;
    let connect = async |server: &TestServer| {
        Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap()
    };
    connect(&world.server).await.join(OLD_KEY, "old").await.unwrap();
    connect(&world.server).await.join(&newer("auth"), "slow").await.unwrap();
    world.server.restart().await.unwrap();
    let quick = Instant::now();
    connect(&world.server).await.join(&newer("auth"), "quick").await.unwrap();
    let (quick, hashes) = (quick.elapsed(), |tailnet: &wayleave_tailnet::Tailnet| {
        tailnet.registry().auth_keys().map(|key| key.hash.clone()).collect::<Vec<_>>()
    });
    let hashes = world.server.control().unwrap().read(hashes).await.unwrap();
    assert_eq!(hashes[1].sha256(), Some(&secrets::hash(&newer("auth"))), "learnt, and remembered ({quick:?})");
    for wrong in [newer("auth").replace("s-_S", "x-_S"), newer("auth").replace(PREFIX, "Ab-_Ab-_Ab-x"), newer("api")] {
        let answer = connect(&world.server).await.register(json!({ "Auth": { "AuthKey": wrong } })).await.unwrap();
        assert!(answer["Error"].as_str().unwrap().contains("there is no such key"), "{answer}");
    }
    let nodes = |tailnet: &wayleave_tailnet::Tailnet| {
        tailnet.registry().nodes().map(|node| (node.id.get(), node.addresses)).collect::<Vec<_>>()
    };
    let nodes = world.server.control().unwrap().read(nodes).await.unwrap();
    let ids: Vec<u64> = nodes.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 40, 56, 57, 58], "what the source gave out is not given out again");
    let v4: Vec<_> = nodes.iter().filter_map(|(_, addresses)| addresses.v4).map(|v4| v4.octets()[3]).collect();
    assert_eq!(v4, [1, 3, 4, 5], "the second pair has an IPv6 half that is taken");
}

#[tokio::test]
async fn api_keys_of_all_written_forms_open_the_api_and_wrong_ones_cost_little() {
    let world = world(Duration::from_secs(3600)).await;
    let url = format!("http://{}/api/v2/nodes", world.server.address());
    let ask =
        async |key: &str| reqwest::Client::new().get(&url).bearer_auth(key).send().await.unwrap().status().as_u16();
    for key in ["tencharact.the-secret.of-a-key", "seven-_.another", newer("api").as_str()] {
        assert_eq!((ask(key).await, ask(key).await), (200, 200), "{key}");
    }
    let started = Instant::now();
    for n in 0..200 {
        assert_eq!(ask(&format!("unknown.{n}")).await, 401);
    }
    let unknown = started.elapsed();
    for n in 0..200 {
        assert_eq!(ask(&format!("seven-_.{n}")).await, 401, "it is known by a fast hash, which these are not");
    }
    assert!(started.elapsed() < 3 * unknown + Duration::from_secs(1));
}

#[tokio::test]
async fn wrong_secrets_for_a_key_that_is_known_by_a_slow_hash_are_looked_at_a_few_times_only() {
    let world = world(Duration::from_secs(3600)).await;
    let url = format!("http://{}/api/v2/nodes", world.server.address());
    let mut counts = [0, 0];
    for n in 0..40 {
        let status =
            reqwest::Client::new().get(&url).bearer_auth(format!("seven-_.{n}")).send().await.unwrap().status();
        counts[usize::from(status.as_u16() == 503)] += 1;
    }
    assert!(counts[0] >= 5 && counts[0] <= 10 && counts[1] >= 30, "{counts:?}");
}

#[tokio::test]
async fn an_installation_goes_into_an_empty_folder_only_and_a_refusal_leaves_all_as_it_was() {
    let mut server = TestServer::start().await.unwrap();
    let key = || PrivateKey::from_bytes(rand::random());
    let (nodes, noise) = ([key(), key()], key());
    let take = async |folder, noise: &PrivateKey, derp: &PrivateKey| {
        let keys = ServerKeys { noise: Some(noise.clone()), derp: Some(derp.clone()) };
        take_over(folder, keys, &[], &loaded(&nodes), &[], &mut |_| {}).await
    };
    let folder = server.data_dir();
    let error = take(&folder, &noise, &key()).await.unwrap_err();
    assert!(error.to_string().contains("another server runs on the data folder"), "{error}");
    let before = server.server().unwrap().public_key();
    server.user("anna").await.unwrap();
    server.stop().await;
    let error = take(&folder, &noise, &key()).await.unwrap_err();
    assert!(error.to_string().contains("there is an installation already (1 users)"), "{error}");
    assert!(matches!(take(&folder, &noise, &noise).await, Err(TakeOverError::SameKey)));
    server.restart().await.unwrap();
    assert_eq!(server.server().unwrap().public_key(), before);
    assert_eq!(server.control().unwrap().read(|tailnet| tailnet.registry().users().count()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_fault_in_the_middle_of_an_import_leaves_neither_rows_nor_keys() {
    let folder = tempfile::tempdir().unwrap();
    let key = || PrivateKey::from_bytes(rand::random());
    let nodes = [key(), key()];
    let mut broken = loaded(&nodes);
    broken.nodes[1].node_key = broken.nodes[0].node_key;
    let keys = || ServerKeys { noise: Some(key()), derp: None };
    let path = folder.path().join("data");
    let error = take_over(&path, keys(), &[], &broken, &[], &mut |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("the database refused to import"), "{error}");
    assert!(!path.join("noise.key").exists());
    take_over(&path, keys(), &[], &loaded(&nodes), &[], &mut |_| {}).await.unwrap();
    let error = take_over(&path, keys(), &[], &loaded(&nodes), &[], &mut |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("already (2 nodes, 2 users, 3 pre-auth keys, 3 API keys)"), "{error}");
}

#[tokio::test]
async fn ten_thousand_nodes_with_thirty_thousand_routes_are_written_in_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let mut big = Loaded::default();
    for id in 1..=10_000_u64 {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        let addresses = Addresses { v4: Some(std::net::Ipv4Addr::from_bits(0x6440_0000 + id as u32)), v6: None };
        big.nodes.push(node(id, NodeKey::from_bytes(bytes), addresses));
        for n in 0..3 {
            let at = Timestamp::from_millis(0);
            let prefix = format!("10.{}.{}.{}/30", n, id / 64, id % 64 * 4).parse().unwrap();
            let route = wayleave_model::RouteId::new(id * 3 + n);
            big.routes.push(wayleave_model::Route {
                id: route,
                node: NodeId::new(id),
                prefix,
                advertised: true,
                enabled: true,
                is_primary: true,
                created_at: at,
                updated_at: at,
                deleted_at: None,
                approval: None,
                priority: 0,
                had_endpoint: false,
                was_advertised: true,
                path_passed: false,
                path_failed_at: None,
            });
        }
    }
    let mut told = Vec::new();
    let started = Instant::now();
    take_over(folder.path(), ServerKeys::default(), &[], &big, &[], &mut |rows| told.push(rows)).await.unwrap();
    // An unoptimised program on a busy machine; the shipped one takes a tenth of it.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert_eq!((told.len(), told.last()), (41, Some(&40_000)));
}
