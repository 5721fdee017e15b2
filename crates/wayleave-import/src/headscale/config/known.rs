//! Every key that a release of Headscale had, and what becomes of it.

use super::{Config, Fate};

const DATABASE: Fate = Fate::TakenIn("the data is imported");
const KEYS: Fate = Fate::TakenIn("the key is imported");
const NO_OIDC: Fate = Fate::Lost(
    "there is no login by an identity provider here yet: nodes stay in; new ones come with pre-auth keys, or a person lets them in",
);
const NO_LETS_ENCRYPT: Fate = Fate::Lost(
    "Wayleave fetches no certificates: put a proxy with TLS before it, or set tls.cert_file and tls.key_file",
);
const ITS_OWN: Fate = Fate::Lost("not needed here");
const NO_GRPC: Fate = Fate::Lost("there is no gRPC here: the admin API is HTTP, at the same address as all else");

/// Keys with a fate that does not depend on what they say. A key that ends in a full stop stands for all inside it.
const FATES: &[(&str, Fate)] = &[
    ("server_url", Fate::Key("server_url")),
    ("listen_addr", Fate::Key("listen")),
    (
        "metrics_listen_addr",
        Fate::Lost("metrics are at /metrics of the main address, and need an API key: give Prometheus one"),
    ),
    ("grpc_listen_addr", NO_GRPC),
    ("grpc_allow_insecure", NO_GRPC),
    ("private_key_path", Fate::TakenIn("only the embedded relay still needs this key, up to 0.22")),
    ("noise.private_key_path", KEYS),
    ("ip_prefix", Fate::Key("nodes.prefix_v4")),
    ("ip_prefixes", Fate::Key("nodes.prefix_v4 and nodes.prefix_v6")),
    ("prefixes.v4", Fate::Key("nodes.prefix_v4")),
    ("prefixes.v6", Fate::Key("nodes.prefix_v6")),
    ("ephemeral_node_inactivity_timeout", Fate::Key("nodes.ephemeral_timeout")),
    ("node.ephemeral.inactivity_timeout", Fate::Key("nodes.ephemeral_timeout")),
    ("node.expiry", Fate::Key("nodes.key_expiry")),
    ("node.routes.ha.", Fate::Lost("Wayleave watches every router by itself: see the sections routes and probes")),
    ("node.update_check_interval", ITS_OWN),
    ("node_update_check_interval", ITS_OWN),
    ("db_type", DATABASE),
    ("db_path", DATABASE),
    ("db_host", DATABASE),
    ("db_port", DATABASE),
    ("db_name", DATABASE),
    ("db_user", DATABASE),
    ("db_pass", DATABASE),
    ("db_ssl", DATABASE),
    ("database.", DATABASE),
    (
        "acl_policy_path",
        Fate::TakenIn("the policy is imported into the database; to keep it in a file, set policy.file"),
    ),
    ("policy.path", Fate::TakenIn("the policy is imported into the database; to keep it in a file, set policy.file")),
    ("policy.mode", Fate::TakenIn("the policy is imported into the database")),
    ("dns_config.nameservers", Fate::Key("dns.nameservers")),
    ("dns_config.restricted_nameservers", Fate::Key("dns.split")),
    ("dns_config.domains", Fate::Key("dns.search_domains")),
    ("dns_config.magic_dns", Fate::Key("dns.magic_dns")),
    ("dns_config.base_domain", Fate::Key("dns.base_domain")),
    ("dns_config.extra_records", Fate::Key("dns.extra_records")),
    ("dns_config.override_local_dns", Fate::Key("dns.override_local")),
    ("dns_config.use_username_in_magic_dns", Fate::Lost("names here are host.domain, without a user")),
    ("dns.nameservers.global", Fate::Key("dns.nameservers")),
    ("dns.nameservers.split", Fate::Key("dns.split")),
    ("dns.search_domains", Fate::Key("dns.search_domains")),
    ("dns.magic_dns", Fate::Key("dns.magic_dns")),
    ("dns.base_domain", Fate::Key("dns.base_domain")),
    ("dns.extra_records", Fate::Key("dns.extra_records")),
    (
        "dns.extra_records_path",
        Fate::TakenIn("its records are in dns.extra_records; changes of that file are not followed, change them there"),
    ),
    ("dns.override_local_dns", Fate::Key("dns.override_local")),
    ("dns.use_username_in_magic_dns", Fate::Lost("names here are host.domain, without a user")),
    ("derp.server.enabled", Fate::Key("derp.enabled")),
    ("derp.server.region_id", Fate::Key("derp.region_id")),
    ("derp.server.region_code", Fate::Key("derp.region_code")),
    ("derp.server.region_name", Fate::Key("derp.region_name")),
    ("derp.server.stun_listen_addr", Fate::Key("derp.stun_listen")),
    ("derp.server.stun.", Fate::Lost("set derp.stun_listen")),
    ("derp.server.ipv4", Fate::Key("derp.ipv4")),
    ("derp.server.ipv6", Fate::Key("derp.ipv6")),
    ("derp.server.verify_clients", Fate::Key("derp.verify_clients")),
    ("derp.server.private_key_path", KEYS),
    ("derp.urls", Fate::Key("derp.urls")),
    ("derp.paths", Fate::Key("derp.files")),
    ("derp.update_frequency", Fate::Key("derp.refresh")),
    ("disable_check_updates", ITS_OWN),
    ("tls_cert_path", Fate::Key("tls.cert_file")),
    ("tls_key_path", Fate::Key("tls.key_file")),
    ("tls_client_auth_mode", Fate::Lost("certificates of clients are not asked for here")),
    ("tls_letsencrypt_hostname", NO_LETS_ENCRYPT),
    ("tls_letsencrypt_cache_dir", NO_LETS_ENCRYPT),
    ("tls_letsencrypt_challenge_type", NO_LETS_ENCRYPT),
    ("tls_letsencrypt_listen", NO_LETS_ENCRYPT),
    ("acme_url", NO_LETS_ENCRYPT),
    ("acme_email", NO_LETS_ENCRYPT),
    ("log_level", Fate::Key("log.level")),
    ("log.level", Fate::Key("log.level")),
    ("log.format", Fate::Key("log.format")),
    (
        "unix_socket",
        Fate::TakenIn("the socket of the admin API is wayleave.sock in the data folder; `socket` says otherwise"),
    ),
    ("unix_socket_permission", Fate::TakenIn("the socket is its owner's only")),
    ("logtail.enabled", ITS_OWN),
    ("taildrop.enabled", Fate::Lost("files may always be sent between a user's own nodes")),
    ("auto_update.enabled", Fate::Lost("clients are not told to update themselves")),
    ("trusted_proxies", Fate::Lost("addresses of clients are not taken from a proxy's headers")),
    ("preauth_key_expiry", Fate::Lost("say it for each key: `wayleave keys create --expires 24h`")),
    ("cli.", Fate::Lost("the command line has flags: --server and --api-key-file")),
    ("tuning.", Fate::Lost("Wayleave has no such bounds to tune")),
    ("debug.", ITS_OWN),
    ("profiling.", ITS_OWN),
    ("strip_email_domain", NO_OIDC),
    ("map_legacy_users", NO_OIDC),
    ("oidc.", NO_OIDC),
];

/// Keys whose fate depends on what is set.
const DEPENDS: &[&str] = &[
    "prefixes.allocation",
    "derp.auto_update_enabled",
    "derp.server.automatically_add_embedded_derp_region",
    "randomize_client_port",
];

fn entry(key: &str) -> Option<&'static Fate> {
    let fits = |name: &str| name == key || (name.ends_with('.') && key.starts_with(name));
    FATES.iter().find(|(name, _)| fits(name)).map(|(_, fate)| fate)
}

/// The keys that no release had, each with the nearest that one had.
pub(super) fn unknown<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<String> {
    let unknown = keys.filter(|key| entry(key).is_none() && !DEPENDS.contains(key));
    let named = unknown.map(|key| match nearest(key) {
        Some(near) => format!("`{key}` (did you mean `{near}`?)"),
        None => format!("`{key}`"),
    });
    named.collect()
}

fn nearest(key: &str) -> Option<&'static str> {
    let names = FATES.iter().map(|(name, _)| *name).chain(DEPENDS.iter().copied());
    let scored = names.map(|name| (distance(key, name), name));
    scored.min().filter(|(distance, _)| *distance <= 3).map(|(_, name)| name)
}

/// How many letters have to be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// What becomes of a key that is set.
pub(super) fn fate(key: &str, config: &Config) -> Fate {
    match key {
        "prefixes.allocation" if config.random_addresses => {
            Fate::Lost("addresses are given out in their order here; those that nodes have stay as they are")
        }
        "derp.auto_update_enabled" if !config.derp.auto_update => {
            Fate::Lost("relay maps are always read again, as often as derp.refresh says")
        }
        "derp.server.automatically_add_embedded_derp_region" if !config.derp.in_map => {
            Fate::Lost("clients are always told of the server's own relay; derp.enabled = false switches it off")
        }
        "randomize_client_port" if config.randomize_client_port => {
            Fate::TakenIn("the policy says so: \"randomizeClientPort\": true")
        }
        _ if DEPENDS.contains(&key) => Fate::Usual,
        _ => entry(key).cloned().unwrap_or(Fate::Lost("no release of Headscale had this key")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_no_release_had_comes_with_the_nearest_that_one_had() {
        let keys =
            ["server_url", "acl_polcy_path", "oidc.extra_params", "something.else", "database.sqlite.write_ahead_log"];
        assert_eq!(
            unknown(keys.into_iter()),
            ["`acl_polcy_path` (did you mean `acl_policy_path`?)", "`something.else`"]
        );
    }
}
