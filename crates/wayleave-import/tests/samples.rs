//! Every sample comes out as it must: each field of each row, and each warning.

#![allow(clippy::unwrap_used, reason = "a test says by failing what is wrong")]

mod sources;

use std::path::Path;

use serde_json::{Map, Value, json};
use wayleave_import::headscale::installation::Secret;
use wayleave_import::headscale::{Installation, Translation};
use wayleave_import::{Location, Source, Warning};
use wayleave_model::{Owner, UserId};

fn time(time: Option<jiff::Timestamp>) -> Value {
    time.map_or(Value::Null, |time| time.to_string().into())
}

fn user(user: &wayleave_import::headscale::installation::User) -> Value {
    json!({
        "id": user.id, "name": user.name, "display_name": user.display_name, "email": user.email,
        "provider_identifier": user.provider_identifier, "provider": user.provider,
        "profile_pic_url": user.profile_pic_url, "created_at": time(user.created_at),
    })
}

fn node(node: &wayleave_import::headscale::translation::Node) -> Value {
    let (owner, user, created_by, tags) = match &node.owner {
        Owner::User(user) => ("user", Some(*user), None, Vec::new()),
        Owner::Tags { tags, created_by } => ("tags", None, *created_by, tags.iter().map(ToString::to_string).collect()),
        Owner::Nobody => ("none", None, None, Vec::new()),
    };
    json!({
        "id": node.id, "stable_id": node.id.to_string(), "machine_key": node.machine_key, "node_key": node.node_key,
        "disco_key": node.disco_key, "hostname": node.hostname, "given_name": node.given_name, "owner": owner,
        "user_id": user.map(UserId::get), "created_by_user_id": created_by.map(UserId::get), "tags": tags,
        "ipv4": node.v4, "ipv6": node.v6, "register_method": node.register_method, "preauth_key_id": node.auth_key,
        "ephemeral": node.ephemeral, "expiry": time(node.expires_at), "last_seen": time(node.last_seen),
        "created_at": time(node.created_at),
    })
}

fn route(route: &wayleave_import::headscale::translation::Route) -> Value {
    json!({
        "source_id": route.id, "node": route.node, "prefix": route.prefix, "advertised": route.advertised,
        "enabled": route.enabled, "is_primary": route.is_primary,
        "enabled_by": route.enabled.then_some("import"), "created_at": time(route.created_at),
        "updated_at": time(route.updated_at), "deleted_at": null,
    })
}

fn auth_key(key: &wayleave_import::headscale::installation::AuthKey, dev: bool) -> Value {
    let mut value = json!({
        "id": key.id, "user_id": key.user, "reusable": key.reusable, "ephemeral": key.ephemeral, "used": key.used,
        "tags": key.tags, "created_at": time(key.created_at), "expiration": time(key.expires_at),
    });
    match &key.secret {
        Secret::Clear(text) => {
            value["format"] = "legacy-plaintext".into();
            value["plaintext"] = text.as_str().into();
        }
        Secret::Bcrypt { prefix, hash } => {
            value["format"] = "hskey-auth".into();
            value["prefix"] = prefix.as_str().into();
            value["hash"] = hash.as_str().into();
        }
    }
    if dev {
        value["description"] = key.description.as_str().into();
        value["revoked"] = time(key.revoked_at);
    }
    value
}

fn api_key(key: &wayleave_import::headscale::installation::ApiKey, dev: bool) -> Value {
    let Secret::Bcrypt { prefix, hash } = &key.secret else { panic!("an API key in clear") };
    let format = match prefix.len() {
        12 => "hskey-api".to_owned(),
        length => format!("legacy-{length}"),
    };
    let mut value = json!({
        "id": key.id, "prefix": prefix, "hash": hash, "format": format, "created_at": time(key.created_at),
        "expiration": time(key.expires_at), "last_seen": time(key.last_seen),
    });
    if dev {
        value["user_id"] = key.user.into();
    }
    value
}

/// A warning as the samples name it: rows of nodes by `node`, of users by `user`, of routes and others by `id`.
fn warning(warning: &Warning, expected: &[Value]) -> Value {
    let mut value = Map::from_iter([("code".to_owned(), Value::from(warning.code.word()))]);
    match (warning.id, warning.table.as_str()) {
        (Some(id), "nodes" | "machines") => drop(value.insert("node".to_owned(), id.into())),
        (Some(id), "users" | "namespaces") => drop(value.insert("user".to_owned(), id.into())),
        (Some(id), _) => drop(value.insert("id".to_owned(), id.into())),
        (None, "routes") if warning.prefix.is_some() => {}
        (None, table) => drop(value.insert("table".to_owned(), table.into())),
    }
    // Where the number of the row says it all, the samples leave the prefix out.
    let with_prefix = |of: &Value| of["code"] == warning.code.word() && !of["prefix"].is_null();
    if expected.iter().any(with_prefix) {
        value.insert("prefix".to_owned(), warning.prefix.clone().into());
    }
    if warning.code.word() == "request_tags_pending" {
        let tags: Vec<&str> = warning.old.as_deref().unwrap_or_default().split(',').collect();
        value.insert("tags".to_owned(), tags.into());
    }
    value.into()
}

/// Compares two lists without regard to order; what is only in one of them is a fault.
fn compare(faults: &mut Vec<String>, what: &str, expected: &Value, got: Vec<Value>) {
    let texts = |values: &[Value]| {
        let mut texts: Vec<String> = values.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    };
    let (expected, got) = (texts(expected.as_array().unwrap()), texts(&got));
    let count = |texts: &[String], text: &String| texts.iter().filter(|other| *other == text).count();
    for text in &expected {
        if count(&expected, text) != count(&got, text) {
            faults.push(format!("{what} expected {text}"));
        }
    }
    for text in &got {
        if count(&expected, text) != count(&got, text) {
            faults.push(format!("{what} got      {text}"));
        }
    }
}

async fn check(folder: &Path, name: &str, location: &Location) -> Vec<String> {
    let expected = sources::json(&folder.join(format!("{name}.expected.json")));
    let mut source = Source::open(location).await.unwrap();
    let installation = Installation::read(&mut source).await.unwrap();
    source.close().await.unwrap();
    let translation = Translation::of(&installation, None);
    let dev = name == "v030dev";
    let mut faults = Vec::new();
    if expected["family"] != installation.generation.family.to_string() {
        faults.push(format!("family {}", installation.generation.family));
    }
    compare(&mut faults, "user", &expected["users"], translation.users.iter().map(user).collect());
    compare(&mut faults, "node", &expected["nodes"], translation.nodes.iter().map(node).collect());
    compare(&mut faults, "route", &expected["routes"], translation.routes.iter().map(route).collect());
    let keys = translation.auth_keys.iter().map(|key| auth_key(key, dev)).collect();
    compare(&mut faults, "pre-auth key", &expected["preauth_keys"], keys);
    compare(
        &mut faults,
        "API key",
        &expected["api_keys"],
        translation.api_keys.iter().map(|key| api_key(key, dev)).collect(),
    );
    let policy = installation.policies.last().map(|policy| json!({ "id": policy.id, "data": policy.text }));
    if expected["policy"] != policy.unwrap_or(Value::Null) {
        faults.push("policy".to_owned());
    }
    let wanted = expected["warnings"].as_array().unwrap();
    let warnings = translation.warnings.iter().map(|own| warning(own, wanted)).collect();
    compare(&mut faults, "warning", &expected["warnings"], warnings);
    faults
}

/// All at once, so that one run shows all that is wrong.
fn judge(all: Vec<(&str, Vec<String>)>) {
    let wrong: Vec<String> = all
        .iter()
        .filter(|(_, faults)| !faults.is_empty())
        .map(|(name, faults)| format!("{name}:\n  {}", faults.join("\n  ")))
        .collect();
    assert!(wrong.is_empty(), "{} of {} samples differ\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

#[tokio::test]
async fn every_sqlite_sample_comes_out_as_it_must() {
    let Some(folder) = sources::folder() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for name in sources::SQLITE {
        let path = sources::sqlite(&folder, name, scratch.path()).await;
        let before = std::fs::read(&path).unwrap();
        all.push((name, check(&folder, name, &Location::Sqlite(path.clone())).await));
        assert_eq!(std::fs::read(&path).unwrap(), before, "{name}: the source was written to");
    }
    judge(all);
}

#[tokio::test]
async fn every_postgres_sample_comes_out_as_it_must() {
    let Some(folder) = sources::folder() else { return };
    let Some(cluster) = sources::Cluster::start() else { return };
    let mut all = Vec::new();
    for name in sources::POSTGRES {
        let location = cluster.load(&folder, name).await;
        all.push((name, check(&folder, name, &location).await));
    }
    judge(all);
}
