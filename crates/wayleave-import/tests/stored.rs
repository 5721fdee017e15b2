//! What a sample comes to once it is written: the rows that a server loads, field by field.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod sources;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use wayleave_import::Location;
use wayleave_import::headscale::{PolicyAt, Setup, prepare};
use wayleave_model::{Approver, KeyHash, Owner, RegisterMethod, Timestamp, UserId};
use wayleave_store::Store;
use wayleave_tailnet::Loaded;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_123);

/// A time of a sample in the precision of the store; `null` is the time of the import where that is what it means.
fn at(value: &Value, unset: Option<Timestamp>) -> Option<Timestamp> {
    value.as_str().map(|text| text.parse().unwrap()).or(unset)
}

fn sha256(text: &str) -> KeyHash {
    KeyHash::Sha256(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref().try_into().unwrap())
}

fn hash(expected: &Value) -> KeyHash {
    match expected["plaintext"].as_str() {
        Some(text) => sha256(text),
        None => KeyHash::Bcrypt {
            prefix: expected["prefix"].as_str().unwrap().to_owned(),
            hash: expected["hash"].as_str().unwrap().to_owned(),
        },
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().unwrap().clone()
}

/// What is loaded is what was written.
fn same<T: PartialEq + std::fmt::Debug>(loaded: &[T], written: &[T]) {
    assert_eq!(loaded.len(), written.len());
    for (loaded, written) in loaded.iter().zip(written) {
        assert_eq!(loaded, written);
    }
}

async fn write(location: &Location, folder: &Path) -> Loaded {
    // The policy of the samples names users who are in some of them only; what is stored of it is looked at elsewhere.
    let setup = Setup { policy: PolicyAt::DenyAll, ..Setup::default() };
    let prepared = prepare(location, &setup, NOW, &mut |_| {}).await.unwrap();
    let store = Store::open(&folder.join("wayleave.db")).await.unwrap();
    store.import(&prepared.rows, &prepared.older, &mut |_| {}).await.unwrap();
    let loaded = store.load().await.unwrap();
    let rows = prepared.rows;
    same(&loaded.users, &rows.users);
    same(&loaded.nodes, &rows.nodes);
    same(&loaded.routes, &rows.routes);
    same(&loaded.auth_keys, &rows.auth_keys);
    same(&loaded.api_keys, &rows.api_keys);
    assert!(loaded.policy == rows.policy && loaded.sequences == rows.sequences && loaded.imported == rows.imported);
    store.close().await;
    std::fs::remove_file(folder.join("wayleave.db")).unwrap();
    loaded
}

#[expect(clippy::too_many_lines, reason = "one line for each field")]
fn compare(expected: &Value, loaded: &Loaded) {
    let users: BTreeMap<u64, _> = loaded.users.iter().map(|user| (user.id.get(), user)).collect();
    assert_eq!(users.len(), list(&expected["users"]).len());
    for user in list(&expected["users"]) {
        let own = users[&user["id"].as_u64().unwrap()];
        assert_eq!(own.name, user["name"]);
        assert_eq!(own.display_name, user["display_name"]);
        assert_eq!(own.email.as_deref().unwrap_or_default(), user["email"]);
        assert_eq!(json!(own.identity), user["provider_identifier"]);
        assert_eq!(own.picture, user["profile_pic_url"]);
        assert_eq!(Some(own.created_at), at(&user["created_at"], Some(NOW)));
    }

    let nodes: BTreeMap<u64, _> = loaded.nodes.iter().map(|node| (node.id.get(), node)).collect();
    assert_eq!(nodes.len(), list(&expected["nodes"]).len());
    for node in list(&expected["nodes"]) {
        let own = nodes[&node["id"].as_u64().unwrap()];
        assert_eq!(json!(own.machine_key), node["machine_key"]);
        assert_eq!(json!(own.node_key), node["node_key"]);
        if own.home_derp != 0 {
            assert_eq!(json!(own.disco_key), node["disco_key"]);
        }
        assert_eq!(own.hostinfo.hostname, node["hostname"], "a client says the same again, and keeps its name");
        assert_eq!(json!(own.given_name), node["given_name"]);
        let (owner, user, by, tags) = match &own.owner {
            Owner::User(user) => ("user", Some(*user), None, json!([])),
            Owner::Tags { tags, created_by } => ("tags", None, *created_by, json!(tags)),
            Owner::Nobody => ("none", None, None, json!([])),
        };
        assert_eq!(owner, node["owner"]);
        assert_eq!(json!(user.map(UserId::get)), node["user_id"]);
        assert_eq!(json!(by.map(UserId::get)), node["created_by_user_id"]);
        assert_eq!(tags, node["tags"]);
        // A node without any address gets both; one whose address another node has gets another of that family.
        let changed = list(&expected["warnings"]).iter().any(|warning| {
            warning["node"] == node["id"] && (warning["code"] == "ip_missing" || warning["code"] == "ip_duplicate")
        });
        for (own, family) in [(json!(own.addresses.v4), "ipv4"), (json!(own.addresses.v6), "ipv6")] {
            assert!(own == node[family] || (changed && node[family].is_null() && !own.is_null()), "{node} {own}");
        }
        assert!(!changed || own.addresses.v4.is_some() || own.addresses.v6.is_some());
        let method = match own.register_method {
            RegisterMethod::AuthKey => "authkey",
            RegisterMethod::Interactive => "cli",
            RegisterMethod::Oidc => "oidc",
            RegisterMethod::Import => "",
        };
        assert_eq!(method, node["register_method"]);
        assert_eq!(json!(own.auth_key.map(|key| key.get())), node["preauth_key_id"]);
        assert_eq!(own.ephemeral, node["ephemeral"]);
        assert_eq!(own.expires_at, at(&node["expiry"], None));
        assert_eq!(own.last_seen, at(&node["last_seen"], None));
        assert_eq!(Some(own.created_at), at(&node["created_at"], None));
    }
    let mut addresses: Vec<_> = loaded.nodes.iter().flat_map(|node| node.addresses.iter()).collect();
    let count = addresses.len();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), count, "no address is given twice");

    let routes: BTreeMap<_, _> =
        loaded.routes.iter().map(|route| ((route.node.get(), route.prefix.to_string()), route)).collect();
    assert_eq!(routes.len(), list(&expected["routes"]).len());
    for route in list(&expected["routes"]) {
        let own = routes[&(route["node"].as_u64().unwrap(), route["prefix"].as_str().unwrap().to_owned())];
        if let Some(id) = route["source_id"].as_u64() {
            assert_eq!(own.id.get(), id);
        }
        assert_eq!(own.advertised, route["advertised"]);
        assert_eq!(own.enabled, route["enabled"]);
        assert_eq!(own.is_primary, route["is_primary"]);
        let by = own.approval.as_ref().filter(|approval| !approval.refused).map(|approval| approval.by.to_string());
        assert_eq!(json!(by), route["enabled_by"]);
        assert_eq!(Some(own.created_at), at(&route["created_at"], Some(NOW)));
        assert_eq!(Some(own.updated_at), at(&route["updated_at"], Some(NOW)));
        assert_eq!(own.deleted_at, None);
        if own.advertised && !own.enabled {
            assert!(own.approval.as_ref().is_some_and(|word| word.refused && word.by == Approver::Import));
        }
    }

    let keys: BTreeMap<u64, _> = loaded.auth_keys.iter().map(|key| (key.id.get(), key)).collect();
    assert_eq!(keys.len(), list(&expected["preauth_keys"]).len());
    for key in list(&expected["preauth_keys"]) {
        let own = keys[&key["id"].as_u64().unwrap()];
        assert_eq!(json!(own.user.map(UserId::get)), key["user_id"]);
        assert_eq!(own.hash, hash(&key));
        assert_eq!(own.reusable, key["reusable"]);
        assert_eq!(own.ephemeral, key["ephemeral"]);
        assert_eq!(own.used_at.is_some(), key["used"]);
        assert_eq!(json!(own.tags), key["tags"]);
        assert_eq!(Some(own.created_at), at(&key["created_at"], None));
        assert_eq!(own.expires_at, at(&key["expiration"], None));
        assert_eq!(own.description, key["description"].as_str().unwrap_or_default());
        assert_eq!(own.revoked_at, at(&key["revoked"], None));
    }
    let keys: BTreeMap<u64, _> = loaded.api_keys.iter().map(|key| (key.id.get(), key)).collect();
    assert_eq!(keys.len(), list(&expected["api_keys"]).len());
    for key in list(&expected["api_keys"]) {
        let own = keys[&key["id"].as_u64().unwrap()];
        assert_eq!(own.name, key["prefix"]);
        assert_eq!(own.hash, hash(&key));
        assert_eq!(json!(own.user.map(UserId::get)), key["user_id"]);
        assert_eq!(Some(own.created_at), at(&key["created_at"], None));
        assert_eq!(own.expires_at, at(&key["expiration"], None));
        assert_eq!(own.last_used_at, at(&key["last_seen"], None));
    }

    let next = loaded.sequences;
    let above = |number: u64, ids: &Value| list(ids).iter().all(|row| row["id"].as_u64().unwrap() < number);
    assert!(above(next.node.get(), &expected["nodes"]) && above(next.user.get(), &expected["users"]));
    assert!(above(next.auth_key.get(), &expected["preauth_keys"]) && above(next.api_key.get(), &expected["api_keys"]));
    assert!(loaded.routes.iter().all(|route| route.id < next.route));
}

#[tokio::test]
async fn every_field_of_every_sample_is_stored() {
    let Some(folder) = sources::folder() else { return };
    let scratch = tempfile::tempdir().unwrap();
    for name in sources::SQLITE {
        let path = sources::sqlite(&folder, name, scratch.path()).await;
        let loaded = write(&Location::Sqlite(path), scratch.path()).await;
        compare(&sources::json(&folder.join(format!("{name}.expected.json"))), &loaded);
    }
    let Some(cluster) = sources::Cluster::start() else { return };
    for name in sources::POSTGRES {
        let loaded = write(&cluster.load(&folder, name).await, scratch.path()).await;
        compare(&sources::json(&folder.join(format!("{name}.expected.json"))), &loaded);
    }
}
