//! The configurations and policies beside the sample databases, and what must be read out of each.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod sources;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use wayleave_import::headscale::config::{Config, Database, PolicyPlace};
use wayleave_import::headscale::new_config::NewConfig;
use wayleave_import::headscale::old_policy::{Format, translate};
use wayleave_policy::{PolicyFile, Surroundings};

fn relative(folder: &Path, path: Option<&Path>) -> Value {
    path.map_or(Value::Null, |path| json!(path.strip_prefix(folder).unwrap().to_str().unwrap()))
}

/// A configuration in the form of the expected results.
fn shown(config: &Config, folder: &Path) -> Value {
    let database = match config.database.as_ref().unwrap() {
        Database::Sqlite(path) => json!({ "type": "sqlite", "path": relative(folder, Some(path)) }),
        Database::Postgres { host, port, name, user, password: _, ssl } => {
            json!({ "type": "postgres", "host": host, "port": port, "name": name, "user": user, "ssl": ssl })
        }
    };
    let policy = match &config.policy {
        PolicyPlace::Database => json!({ "mode": "database" }),
        PolicyPlace::Nowhere => Value::Null,
        PolicyPlace::File(path) => {
            let format = if path.extension().unwrap() == "yaml" { "yaml" } else { "hujson" };
            json!({ "mode": "file", "path": relative(folder, Some(path)), "format": format })
        }
    };
    let dns = &config.dns;
    let mut names = json!({
        "magic_dns": dns.magic_dns, "base_domain": dns.base_domain, "global": dns.nameservers, "split": dns.split,
        "search": dns.search, "override_local": dns.override_local, "names_contain_user": dns.names_contain_user,
    });
    if !dns.extra_records.is_empty() {
        let records = dns.extra_records.iter().map(|r| json!({ "name": r.name, "type": r.kind, "value": r.value }));
        names["extra_records"] = records.collect();
    }
    let derp = &config.derp;
    let paths: Vec<Value> = derp.paths.iter().map(|path| relative(folder, Some(path))).collect();
    let mut relays = json!({
        "embedded": derp.embedded, "urls": derp.urls, "paths": paths, "update_s": derp.update.as_secs(),
        "auto_update": derp.auto_update,
    });
    if derp.embedded {
        relays["region_id"] = json!(derp.region_id);
    }
    if let Some(verify) = derp.verify_clients {
        relays["verify_clients"] = json!(verify);
    }
    let oidc = config.oidc.as_ref().unwrap();
    json!({
        "server_url": config.server_url,
        "listen_addr": config.listen,
        "noise_key": relative(folder, config.noise_key.as_deref()),
        "derp_key": relative(folder, config.derp_key.as_deref()),
        "prefix_v4": config.prefix_v4,
        "prefix_v6": config.prefix_v6,
        "ip_allocation": if config.random_addresses { "random" } else { "sequential" },
        "database": database,
        "ephemeral_inactivity_s": config.ephemeral.as_secs(),
        "policy": policy,
        "dns": names,
        "derp": relays,
        "oidc": {
            "issuer": oidc.issuer,
            "expiry_s": oidc.expiry.map(|time| time.as_secs()),
            "strip_email_domain": oidc.strip_email_domain,
        },
        "randomize_client_port": config.randomize_client_port,
        "log_level": config.log_level,
    })
}

#[test]
fn each_configuration_is_read_as_it_is_meant_and_written_anew() {
    let Some(folder) = sources::folder().map(|folder| folder.join("files")) else { return };
    let all = sources::json(&folder.join("expected.json"));
    for name in ["config-016.yaml", "config-022.yaml", "config-028.yaml"] {
        let config = Config::read(&folder.join(name)).unwrap();
        let mut expected = all[name].clone();
        // Warnings are words of the report; each of these configurations is looked at for its own below.
        let warnings = expected.as_object_mut().unwrap().remove("warnings").unwrap();
        assert_eq!(shown(&config, &folder), expected, "{name}");
        let has = |word: &str| warnings.as_array().unwrap().contains(&json!(word));
        assert_eq!(config.noise_key.is_none(), has("no_noise_key_clients_must_restart"), "{name}");
        assert_eq!(config.dns.names_contain_user, has("magicdns_names_change"), "{name}");
        if name == "config-016.yaml" {
            // It names a relay map that is not among the files.
            let error = NewConfig::of(&config, Path::new("/data")).unwrap_err().to_string();
            assert!(error.contains("cannot read") && error.contains("derp.yaml"), "{error}");
            continue;
        }
        let new = NewConfig::of(&config, Path::new("/data")).unwrap();
        let table: toml::Table = new.text.parse().unwrap();
        assert_eq!(table["server_url"].as_str(), config.server_url.as_deref());
        assert!(!new.text.contains("not-a-real-secret"));
        assert_eq!(new.settings.len(), config.keys.len(), "every key that is set has its line in the report");
    }
}

#[test]
fn old_policies_are_understood_today() {
    let Some(folder) = sources::folder().map(|folder| folder.join("files")) else { return };
    let users: BTreeSet<String> = ["alice", "bob", "infra"].map(str::to_owned).into();
    for (name, format) in [("acl.hujson", Format::HuJson), ("acl.yaml", Format::Yaml)] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let new = translate(&text, format, &users, false).unwrap();
        let policy =
            PolicyFile::parse(&new.text, &Surroundings::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(policy.names.groups["group:ops"], ["alice@"], "{name}");
        if format == Format::HuJson {
            assert!(PolicyFile::parse(&text, &Surroundings::default()).is_err(), "as it was, it is none today");
            assert!(new.text.contains("// 0.16"), "comments stay");
        }
    }
}
