//! What is written out of a configuration, and what is said of the rest.

use super::*;

fn written(text: &str) -> NewConfig {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("derp.yaml"), "regions: {902: {regionid: 902, nodes: []}}").unwrap();
    std::fs::write(folder.path().join("more.json"), r#"[{"name":"b.ts.example.org","type":"A","value":"100.64.0.4"}]"#)
        .unwrap();
    let config = Config::parse(&folder.path().join("config.yaml"), text).unwrap();
    NewConfig::of(&config, Path::new("/var/lib/wayleave")).unwrap()
}

fn table(new: &NewConfig) -> toml::Table {
    new.text.parse().unwrap()
}

#[test]
fn what_has_a_counterpart_is_set() {
    let new = written(
        "server_url: https://hs.example.net/\nlisten_addr: :8080\nlog: {level: trace, format: json}\n\
         prefixes: {v4: 100.64.0.0/10, v6: fd7a:115c:a1e0::/48, allocation: random}\n\
         derp: {server: {enabled: true, region_id: 901, region_code: ams, region_name: Amsterdam, stun_listen_addr: \"0.0.0.0:3478\"}, \
         paths: [derp.yaml], update_frequency: 3h}\nephemeral_node_inactivity_timeout: 30m\nnode: {expiry: 90d}\n\
         dns: {base_domain: ts.example.org, override_local_dns: false, nameservers: {global: [9.9.9.9], split: {corp.example.net: [10.0.0.53]}}, \
         search_domains: [corp.example.net], extra_records: [{name: a.ts.example.org, type: A, value: 100.64.0.3}], extra_records_path: more.json}\n",
    );
    let table = table(&new);
    assert_eq!(table["server_url"].as_str(), Some("https://hs.example.net"));
    assert_eq!(table["listen"].as_str(), Some("0.0.0.0:8080"));
    assert_eq!((table["log"]["level"].as_str(), table["log"]["format"].as_str()), (Some("trace"), Some("json")));
    assert_eq!(table["derp"]["region_id"].as_integer(), Some(901));
    assert_eq!(table["derp"]["files"][0].as_str(), Some("/var/lib/wayleave/derp-1.json"));
    assert_eq!(table["derp"]["refresh"].as_str(), Some("3h"));
    assert_eq!(
        (table["nodes"]["ephemeral_timeout"].as_str(), table["nodes"]["key_expiry"].as_str()),
        (Some("30m"), Some("90d"))
    );
    assert_eq!(table["dns"]["split"]["corp.example.net"][0].as_str(), Some("10.0.0.53"));
    assert_eq!(table["dns"]["override_local"].as_bool(), Some(false));
    assert_eq!(table["dns"]["extra_records"].as_array().map(Vec::len), Some(2), "those of the file too");
    assert!(new.files[0].1.contains("\"RegionID\": 902"), "{:?}", new.files);
    assert!(
        new.text.contains(
            "# prefixes.allocation: random\n#   not carried over: addresses are given out in their order here"
        ),
        "{}",
        new.text
    );
    let lost = |key: &str| new.settings.iter().find(|setting| setting.key == key).unwrap().maps_to.is_none();
    assert!(lost("prefixes.allocation") && !lost("dns.extra_records_path") && !lost("node.expiry"));
}

#[test]
fn what_has_none_is_a_comment_with_what_to_do_and_shows_no_secret() {
    let new = written(
        "server_url: https://hs.ts.example.org\nlisten_addr: hs.example.org:8080\nprefixes: {v4: 10.0.0.0/8}\n\
         dns: {base_domain: ts.example.org, nameservers: {global: [dns.example.org, 9.9.9.9]}, extra_records: [{name: a, type: TXT, value: x}]}\n\
         tls_letsencrypt_hostname: hs.example.org\noidc: {issuer: https://idp.example.com, client_secret: s3cret}\n\
         database: {type: postgres, postgres: {pass: s3cret}}\n",
    );
    let table = table(&new);
    assert!(table.get("listen").is_none() && table["dns"].get("base_domain").is_none());
    assert_eq!(table["dns"]["nameservers"].as_array().map(Vec::len), Some(1));
    for line in [
        "# Not carried over: `listen` takes an address and a port.\n#listen = \"hs.example.org:8080\"",
        "#base_domain = \"ts.example.org\"",
        "#nameservers = [\"dns.example.org\"]",
        "#prefix_v4 = \"10.0.0.0/8\"",
        "# tls_letsencrypt_hostname: hs.example.org\n#   not carried over: Wayleave fetches no certificates",
        "# oidc.client_secret: (hidden)",
        "# database.postgres.pass: (hidden)\n#   taken in: the data is imported.",
    ] {
        assert!(new.text.contains(line), "{line}\n---\n{}", new.text);
    }
    assert!(!new.text.contains("s3cret") && !format!("{:?}", new.settings).contains("s3cret"));
    assert!(new.notices.iter().any(|notice| notice.contains("holds the name of the server")), "{:?}", new.notices);
    let setting = new.settings.iter().find(|setting| setting.key == "dns.nameservers.global").unwrap();
    assert!(setting.maps_to.is_some() && setting.note.as_ref().is_some_and(|note| note.contains("resolvers are")));
}

#[test]
fn files_that_are_not_there_or_are_something_else_are_errors_with_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |text: &str| {
        let config = Config::parse(&folder.path().join("config.yaml"), text).unwrap();
        NewConfig::of(&config, Path::new("/data")).unwrap_err().to_string()
    };
    assert!(fails("derp: {paths: [none.yaml]}").contains("cannot read"), "a relay map");
    std::fs::write(folder.path().join("x"), "nonsense").unwrap();
    assert!(fails("derp: {paths: [x]}").contains("it is no relay map"));
    assert!(fails("dns: {extra_records_path: x}").contains("it lists no DNS records"));
}
