//! Configurations of each shape, and what is read out of them.

use super::*;

fn parse(text: &str) -> Config {
    Config::parse(Path::new("/etc/headscale/config.yaml"), text).unwrap()
}

fn fails(text: &str) -> String {
    Config::parse(Path::new("/etc/headscale/config.yaml"), text).unwrap_err().to_string()
}

#[test]
fn the_shape_until_0_22() {
    let config = parse(
        "server_url: https://hs.example.net\nlisten_addr: 0.0.0.0:8080\nprivate_key_path: keys/private.key\n\
         ip_prefix: 100.64.0.0/16\nip_prefixes: [fd7a:115c:a1e0::/48]\nderp: {server: {enabled: true, region_id: 901}, urls: []}\n\
         db_type: sqlite3\ndb_path: /var/db.sqlite\nacl_policy_path: acl.yaml\nlog_level: debug\n\
         dns_config:\n  nameservers: [9.9.9.9]\n  restricted_nameservers: {corp.example.net: [10.0.0.53]}\n  domains: [corp.example.net]\n\
         oidc: {issuer: https://idp.example.com, client_secret: s3cret}\nrandomize_client_port: true\n",
    );
    assert_eq!(config.noise_key, None);
    assert_eq!(config.derp_key, Some("/etc/headscale/keys/private.key".into()));
    assert_eq!(
        (config.prefix_v4.as_deref(), config.prefix_v6.as_deref()),
        (Some("100.64.0.0/16"), Some("fd7a:115c:a1e0::/48"))
    );
    assert!(matches!(&config.database, Some(Database::Sqlite(path)) if path == Path::new("/var/db.sqlite")));
    assert_eq!(config.policy, PolicyPlace::File("/etc/headscale/acl.yaml".into()));
    assert_eq!(config.dns.base_domain.as_deref(), Some("headscale.net"), "as it was where nothing was said");
    assert_eq!(config.dns.split["corp.example.net"], ["10.0.0.53"]);
    assert!(config.dns.names_contain_user && config.dns.override_local && !config.dns.magic_dns);
    assert_eq!((config.log_level.as_str(), config.ephemeral), ("debug", Duration::from_secs(120)));
    assert!(config.randomize_client_port && config.oidc.as_ref().is_some_and(|oidc| oidc.strip_email_domain));
    let secret = config.keys.iter().find(|key| key.name == "oidc.client_secret").unwrap();
    assert_eq!(secret.shown, "(hidden)");
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn the_shape_since_0_23() {
    let config = parse(
        "noise: {private_key_path: noise.key}\nprivate_key_path: private.key\nprefixes: {v4: 100.64.0.0/10, allocation: random}\n\
         derp: {server: {enabled: true, private_key_path: derp.key, verify_clients: false}, paths: [derp.yaml], update_frequency: 1h}\n\
         node: {expiry: 180d, ephemeral: {inactivity_timeout: 45m}}\npolicy: {mode: database, path: ignored.hujson}\n\
         database:\n  type: postgres\n  postgres: {host: db, port: 6432, user: hs, pass: s3cret, name: hsdb, ssl: verify-full, max_open_conns: 10}\n\
         dns: {magic_dns: true, base_domain: ts.example.org, override_local_dns: false, nameservers: {global: [1.1.1.1]}}\n",
    );
    assert_eq!(config.noise_key, Some("/etc/headscale/noise.key".into()));
    assert_eq!(config.derp_key, Some("/etc/headscale/derp.key".into()));
    assert_eq!((config.prefix_v6.clone(), config.random_addresses), (None, true));
    assert_eq!(config.policy, PolicyPlace::Database);
    assert_eq!(
        (config.node_expiry, config.ephemeral),
        (Some(Duration::from_secs(15_552_000)), Duration::from_secs(2700))
    );
    let Some(Database::Postgres { host, port, name, user, password, ssl }) = &config.database else { panic!() };
    let all = (host.as_str(), *port, name.as_str(), user.as_str(), password.as_str(), ssl.as_str());
    assert_eq!(all, ("db", 6432, "hsdb", "hs", "s3cret", "verify-full"));
    assert!(!format!("{config:?}").contains("s3cret"));
    assert!(!config.dns.override_local && !config.dns.names_contain_user);
    assert_eq!((config.derp.verify_clients, config.derp.update), (Some(false), Duration::from_secs(3600)));
}

#[test]
fn a_key_that_no_release_had_is_a_fault_with_the_nearest_that_one_had() {
    let error = fails("acl_polcy_path: acl.hujson\n");
    assert!(
        error.contains(
            "config.yaml: no release of Headscale has the keys `acl_polcy_path` (did you mean `acl_policy_path`?)"
        ),
        "{error}"
    );
}

#[test]
fn wrong_values_are_named_without_their_secrets() {
    for (text, expected) in [
        ("db_type: mysql", "`db_type` is \"mysql\", and takes sqlite, sqlite3 or postgres"),
        ("db_type: sqlite3", "`db_path` is null, and names the database"),
        ("policy: {mode: files}", "`policy.mode` is \"files\", and takes file or database"),
        ("derp: {server: {enabled: maybe}}", "`derp.server.enabled` is \"maybe\", and takes true or false"),
        ("ephemeral_node_inactivity_timeout: soon", "takes a duration"),
        ("dns: {nameservers: {split: [a]}}", "takes suffixes with their lists of addresses"),
        ("dns: {extra_records: [{name: a}]}", "takes a list of name, type and value"),
        ("database: {type: postgres, postgres: {port: 99999}}", "takes a port"),
        ("- a", "is no configuration of Headscale"),
    ] {
        let error = fails(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
    let error = fails("db_type: postgres\ndb_pass: [s3cret]\n");
    assert!(error.contains("`db_pass` is (hidden)"), "{error}");
}
