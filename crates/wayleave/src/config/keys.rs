//! Every key: its name, its default, and what it means. Environment variables follow from the names.

/// How the value of a key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number,
    /// A duration such as `500ms` or `24h`; `never` where that is said.
    Duration,
    /// An address and a port such as `127.0.0.1:8080`, or `off`.
    Listen,
    /// Texts; outside a file with commas between them.
    List,
    /// A TOML value; outside a file written in one line.
    Toml,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name, with its section.
    pub name: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// What holds where nobody says anything, as it would be written.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

impl Key {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("WAYLEAVE_{}", self.name.replace('.', "_").to_uppercase())
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default, meaning }
}

/// All keys, by section.
pub const KEYS: &[Key] = &[
    key(
        "server_url",
        Kind::Text,
        "",
        "The address at which clients reach the server, such as https://wayleave.example.com. Where it is empty: http:// and `listen`.",
    ),
    key(
        "listen",
        Kind::Listen,
        "127.0.0.1:8080",
        "Where clients, browsers and API users are served. With `tls.cert_file` it speaks TLS.",
    ),
    key(
        "http_listen",
        Kind::Listen,
        "off",
        "Where the same is served without TLS while `listen` has it. Clients of an https address without a port try port 80 first.",
    ),
    key(
        "socket",
        Kind::Text,
        "",
        "The socket of the admin API, for this machine. Where it is empty: `wayleave.sock` in the data folder. `off`: none.",
    ),
    key("tls.cert_file", Kind::Text, "", "The certificate chain, as PEM. Empty: plain HTTP."),
    key("tls.key_file", Kind::Text, "", "The certificate's private key, as PEM."),
    key(
        "log.level",
        Kind::Text,
        "info",
        "`error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,wayleave_server=debug`.",
    ),
    key("log.format", Kind::Text, "text", "`text` or `json`."),
    key(
        "dns.base_domain",
        Kind::Text,
        "tailnet.internal",
        "The suffix of every node's name. It must not be the server's own.",
    ),
    key("dns.magic_dns", Kind::Flag, "true", "Clients resolve the names of nodes themselves."),
    key(
        "dns.nameservers",
        Kind::List,
        "",
        "Resolvers for everything: addresses, or the URL of a provider that clients know. Empty: clients keep their own.",
    ),
    key(
        "dns.override_local",
        Kind::Flag,
        "true",
        "`dns.nameservers` replace a client's own resolvers. `false`: they are for clients that can't tell their own.",
    ),
    key("dns.split", Kind::Toml, "{}", "Resolvers by suffix, such as { \"corp.example\" = [\"10.0.0.53\"] }."),
    key("dns.search_domains", Kind::List, "", "Search domains after the tailnet's own."),
    key(
        "dns.extra_records",
        Kind::Toml,
        "[]",
        "Names with addresses of their own, such as [{ name = \"nas.tailnet.internal\", value = \"100.64.0.9\" }].",
    ),
    key("derp.enabled", Kind::Flag, "true", "The server runs a relay of its own."),
    key("derp.region_id", Kind::Number, "900", "The id of its region: 1 to 65535; 900 to 999 are for one's own."),
    key("derp.region_code", Kind::Text, "wayleave", "The short name of its region."),
    key("derp.region_name", Kind::Text, "Wayleave", "The long name of its region."),
    key(
        "derp.host",
        Kind::Text,
        "",
        "The name or address at which clients reach the relay. Empty: the host of `server_url`.",
    ),
    key("derp.port", Kind::Number, "0", "The port there. 0: the port of `server_url`."),
    key("derp.ipv4", Kind::Text, "", "The relay's IPv4 address, so that clients ask no DNS for it."),
    key("derp.ipv6", Kind::Text, "", "The relay's IPv6 address, so that clients ask no DNS for it."),
    key(
        "derp.cert_name",
        Kind::Text,
        "",
        "The fingerprint of a certificate that no authority signed: sha256-raw: and hex.",
    ),
    key(
        "derp.stun_listen",
        Kind::Listen,
        "",
        "Where clients learn their own addresses (STUN, UDP). Empty: port 3478 at the address of `listen`, or any other if that is taken.",
    ),
    key("derp.verify_clients", Kind::Flag, "true", "Only nodes of the tailnet may use the relay."),
    key("derp.urls", Kind::List, "", "Relay maps of others, by address (JSON)."),
    key("derp.files", Kind::List, "", "Relay maps of others, in files (JSON)."),
    key("derp.refresh", Kind::Duration, "24h", "How often these are read again."),
    key(
        "nodes.ephemeral_timeout",
        Kind::Duration,
        "30m",
        "How long an ephemeral node may be gone before it is deleted.",
    ),
    key(
        "nodes.offline_after",
        Kind::Duration,
        "10s",
        "How long after its session was lost a node is still shown as online; not while clients wait for a busy server. Routes do not wait for it.",
    ),
    key(
        "nodes.key_expiry",
        Kind::Duration,
        "never",
        "How long a user's node may use its key. `never`: for ever; tagged nodes always may.",
    ),
    key(
        "nodes.bind_imported",
        Kind::Duration,
        "14d",
        "How long after an import a node for which the source had no machine key is let in by its node key alone, and bound to the machine that brings it. `0s`: not at all; such nodes log in again.",
    ),
    key("nodes.key_warnings", Kind::List, "7d,24h", "How long before the key of a router ends there are warnings."),
    key("nodes.login_timeout", Kind::Duration, "1h", "How long a login that nobody has answered is remembered."),
    key(
        "nodes.prefix_v4",
        Kind::Text,
        "100.64.0.0/10",
        "Where nodes get their IPv4 addresses from; inside 100.64.0.0/10.",
    ),
    key(
        "nodes.prefix_v6",
        Kind::Text,
        "fd7a:115c:a1e0::/48",
        "Where nodes get their IPv6 addresses from; inside fd7a:115c:a1e0::/48.",
    ),
    key(
        "nodes.max_routes",
        Kind::Number,
        "1024",
        "How many prefixes one node may have records for; more are left out.",
    ),
    key(
        "routes.lost_after",
        Kind::Duration,
        "500ms",
        "How long a lost stream may take to come back before its router is down.",
    ),
    key(
        "routes.failback_after",
        Kind::Duration,
        "60s",
        "How long a better router must be steady before it replaces a primary that is up. `never`: it does not.",
    ),
    key(
        "routes.when_down",
        Kind::Text,
        "keep",
        "While every router of a prefix is down: `keep` leaves it on the last one; `fall_back` withdraws it from those who may use a wider prefix whose router is up.",
    ),
    key(
        "routes.on_withdraw",
        Kind::Text,
        "disable",
        "When a node stops advertising a prefix: `disable` ends the approval after `routes.withdraw_grace`, `keep` keeps it.",
    ),
    key(
        "routes.spread",
        Kind::Text,
        "single",
        "Who is primary for a client: `single` the primary for all, `region` the steady router that is nearest to it, `balance` one of the steady routers by a hash.",
    ),
    key(
        "routes.prefixes",
        Kind::Toml,
        "{}",
        "What holds for single prefixes: `failback_after`, `when_down`, `on_withdraw` and `spread`, such as { \"10.0.0.0/8\" = { when_down = \"fall_back\", failback_after = \"never\" } }; in a file a section `[routes.prefixes.\"10.0.0.0/8\"]` for each. What is set by `wayleave routes set` for the prefix is stronger, what is set for all is weaker.",
    ),
    key(
        "routes.back_after",
        Kind::Duration,
        "30s",
        "How long a router must be steady before a prefix that has fallen back comes back.",
    ),
    key(
        "routes.home_stable",
        Kind::Duration,
        "60s",
        "How long a client's home region must have been stable before routers are chosen by it.",
    ),
    key(
        "routes.starting",
        Kind::Duration,
        "30s",
        "How long primaries that have not come back yet count as up after a start or a common loss.",
    ),
    key("routes.withdraw_grace", Kind::Duration, "2s", "How long a withdrawn route keeps its approval."),
    key(
        "routes.flap_downs",
        Kind::Number,
        "3",
        "So often down within `routes.flap_down_window` makes a router flapping.",
    ),
    key("routes.flap_down_window", Kind::Duration, "10m", "See `routes.flap_downs`."),
    key(
        "routes.flap_losses",
        Kind::Number,
        "5",
        "So many lost sessions within `routes.flap_loss_window` make a router flapping.",
    ),
    key("routes.flap_loss_window", Kind::Duration, "1m", "See `routes.flap_losses`."),
    key(
        "routes.flap_hold",
        Kind::Duration,
        "10m",
        "How long after the last of these a router still counts as flapping.",
    ),
    key(
        "routes.common_loss_sessions",
        Kind::Number,
        "8",
        "So many sessions lost within `routes.common_loss_window`, if they are more than half of all, are the server's own side; so many routers that fall silent at once, too.",
    ),
    key("routes.common_loss_window", Kind::Duration, "1s", "See `routes.common_loss_sessions`."),
    key(
        "routes.common_loss_gap",
        Kind::Duration,
        "200ms",
        "While so many were lost and the last of them no longer ago than this, more are waited for, within the window, before a lost stream convicts.",
    ),
    key("probes.router_every", Kind::Duration, "1s", "How often a router is sent a PING."),
    key("probes.other_every", Kind::Duration, "20s", "How often any other client is."),
    key("probes.deadline", Kind::Duration, "2s", "How long silence must last before it convicts."),
    key("probes.late", Kind::Duration, "250ms", "How late the server itself may look before its look convicts nobody."),
    key("probes.close_after", Kind::Duration, "2m", "How long a connection may be silent before it is closed."),
    key(
        "probes.keep_alive",
        Kind::Duration,
        "60s",
        "How often a map session that has nothing to tell gives a sign of life; clients give up after 120s.",
    ),
    key(
        "policy.file",
        Kind::Text,
        "",
        "The file that is the home of the policy (HuJSON); SIGHUP or `wayleave policy reload` reads it again. Empty: the database is its home.",
    ),
    key(
        "evidence.stream",
        Kind::Text,
        "act",
        "What the loss of a router's map stream may do: `act` (convict it), `observe` (be written down) or `off`.",
    ),
    key("evidence.ping", Kind::Text, "act", "The same for PINGs that a router does not answer."),
    key("evidence.echo", Kind::Text, "act", "The same for requests that a router's process does not answer."),
    key(
        "evidence.probe",
        Kind::Text,
        "act",
        "The same for a router that its witnesses don't reach through the tailnet.",
    ),
    key(
        "evidence.endpoint",
        Kind::Text,
        "act",
        "The same for a router that has no address of its own inside the prefix any more.",
    ),
    key("evidence.path", Kind::Text, "act", "The same for what does not answer behind a router (path checks)."),
    key("evidence.echo_every", Kind::Duration, "5s", "How often a router is asked to answer a request itself."),
    key("evidence.echo_misses", Kind::Number, "2", "So many in a row that are not answered convict."),
    key(
        "evidence.probe_every",
        Kind::Duration,
        "2s",
        "How often witnesses are asked to reach a router through the tailnet.",
    ),
    key("evidence.probe_within", Kind::Duration, "1500ms", "How long they have."),
    key("evidence.probe_rounds", Kind::Number, "2", "So many rounds in a row in which most were silent convict."),
    key(
        "evidence.probe_settle",
        Kind::Duration,
        "10s",
        "How long after a router connected their silence counts for nothing, unless one of them has reached it since.",
    ),
    key("evidence.probe_witnesses", Kind::Number, "3", "How many witnesses a router has."),
    key(
        "evidence.probe_budget",
        Kind::Number,
        "1000",
        "So many witnesses are asked in a second at most, those of routers that were lost first. Where that is too few, routers take turns.",
    ),
    key(
        "evidence.witness",
        Kind::Text,
        "",
        "Only nodes with this tag are witnesses. Empty: any client that may use the router, servers first.",
    ),
    key("evidence.path_within", Kind::Duration, "1500ms", "How long the target of a path check has to answer."),
    key("evidence.path_misses", Kind::Number, "2", "So many path checks in a row that are not answered convict."),
    key(
        "evidence.loan_lasts",
        Kind::Duration,
        "2s",
        "How long a witness that nobody named is led through a router that stands by, to check it.",
    ),
    key("evidence.loan_every", Kind::Duration, "60s", "How often at most, for one check."),
    key(
        "evidence.hold_most",
        Kind::Duration,
        "30s",
        "How long a router that was lost keeps its routes while its witnesses still reach it. 0s: it does not.",
    ),
    key("evidence.hold_lasts", Kind::Duration, "1s", "How long each answer of a witness holds it."),
    key("evidence.hold_every", Kind::Duration, "200ms", "How often they are asked meanwhile."),
    key(
        "evidence.forget_after",
        Kind::Duration,
        "30s",
        "A conviction by witnesses is lifted when nobody could testify for so long.",
    ),
    key("history.max_age", Kind::Duration, "90d", "How old a line of history may get."),
    key("history.max_entries", Kind::Number, "100000", "How many lines of history are kept."),
    key("webhooks.timeout", Kind::Duration, "10s", "How long the receiver of a webhook may take to answer."),
    key(
        "webhooks.retry_after",
        Kind::Duration,
        "5s",
        "How long after a failure a webhook is called again; each time twice as long, an hour at most.",
    ),
    key("webhooks.attempts", Kind::Number, "20", "How often a webhook is called before the call is given up."),
    key("limits.body", Kind::Number, "1048576", "The longest body of a request, in bytes."),
    key("limits.handshake", Kind::Duration, "10s", "How long a connection may take until it is known whose it is."),
    key(
        "limits.unauthenticated",
        Kind::Number,
        "1024",
        "Connections of which that is not known yet; more wait to be accepted.",
    ),
    key(
        "limits.held_logins",
        Kind::Number,
        "1024",
        "Clients that are held while they wait for a person; more have to ask again.",
    ),
    key("limits.hold", Kind::Duration, "2m", "How long a client is held before it has to ask again."),
    key(
        "limits.stuck",
        Kind::Duration,
        "60s",
        "How long a client may take nothing of a map that waits for it, and how long for each 64 KiB of it.",
    ),
];

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The name that is nearest to one that is none, if it is near.
pub fn nearest(name: &str) -> Option<&'static str> {
    let tail = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let scored =
        KEYS.iter().map(|key| (distance(name, key.name).min(1 + distance(&tail(name), &tail(key.name))), key.name));
    scored.min().filter(|(distance, _)| *distance <= 3).map(|(_, name)| name)
}

/// How many letters have to be put in, taken out or changed.
pub fn distance(a: &str, b: &str) -> usize {
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

/// The page of all keys.
pub fn document() -> String {
    let mut out = String::from(
        "# Configuration\n\nEvery key can be set in `wayleave.toml` (in the data folder, or where `--config` says), by an environment\n\
         variable, or with `--set KEY=VALUE`; each is stronger than the one before. `wayleave config show` prints what holds and where it\n\
         comes from, `wayleave config check` only whether all of it is right. In a file the part before the dot is a table.\n\n\
         This page is made by `wayleave config document`.\n",
    );
    let mut section = "?";
    for key in KEYS {
        let this = key.name.split_once('.').map_or("", |(section, _)| section);
        if this != section {
            section = this;
            let title = if section.is_empty() { "The server" } else { section };
            out.push_str(&format!("\n## {title}\n\n| key | default | variable | meaning |\n|---|---|---|---|\n"));
        }
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        let meaning = key.meaning.replace('|', "\\|");
        out.push_str(&format!("| `{}` | {default} | `{}` | {meaning} |\n", key.name, key.variable()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_unique_and_typos_find_their_key() {
        let variables: std::collections::BTreeSet<_> = KEYS.iter().map(Key::variable).collect();
        assert_eq!(variables.len(), KEYS.len());
        assert_eq!(nearest("lisen"), Some("listen"));
        assert_eq!(nearest("derp.stun_listn"), Some("derp.stun_listen"));
        assert_eq!(nearest("ephemeral_timeout"), Some("nodes.ephemeral_timeout"));
        assert_eq!(nearest("something.else"), None);
    }

    #[test]
    fn the_page_of_keys_is_the_one_in_docs() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let page = std::fs::read_to_string(page).unwrap_or_default();
        assert!(page == document(), "run `cargo run -p wayleave -- config document > docs/configuration.md`");
    }
}
