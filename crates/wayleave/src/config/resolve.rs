//! From texts to the options that a server is started with.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::Value;
use wayleave_model::{Failback, PrefixSettings, duration};
use wayleave_server::options::{
    DerpOptions, DnsOptions, Evidence, HistoryLimits, Limits, Options, OwnDerp, Probes, TlsFiles, WebhookOptions,
};
use wayleave_server::tailnet;
use wayleave_server::wire::{DnsConfig, DnsRecord, Resolver};

use super::layers::{ConfigError, Layers};
use super::{keys, prefixes};

/// Reads one key after the other, with faults that say where they stand.
struct Reader<'a>(&'a Layers);

impl Reader<'_> {
    fn fault(&self, name: &str, expected: impl Into<String>) -> ConfigError {
        let key = keys::find(name).expect("only keys of the list are read");
        let (found, origin) = self.0.get(name).map_or_else(
            || (String::new(), super::layers::Source::Default),
            |(value, origin)| (value.to_string(), origin.clone()),
        );
        ConfigError::Value { origin, key: key.name.to_owned(), found, expected: expected.into() }
    }

    fn text(&self, name: &str) -> String {
        self.0.get(name).and_then(|(value, _)| value.as_str()).unwrap_or_default().trim().to_owned()
    }

    fn some_text(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(|(value, _)| value.as_bool()).unwrap_or_default()
    }

    fn number<T: TryFrom<i64>>(&self, name: &str) -> Result<T, ConfigError> {
        let number = self.0.get(name).and_then(|(value, _)| value.as_integer()).unwrap_or_default();
        T::try_from(number).map_err(|_| self.fault(name, "is out of range"))
    }

    fn list(&self, name: &str) -> Vec<String> {
        let items = self.0.get(name).and_then(|(value, _)| value.as_array()).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn parsed<T: FromStr>(&self, name: &str, expected: &str) -> Result<T, ConfigError> {
        self.text(name).parse().map_err(|_| self.fault(name, expected))
    }

    fn optional<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, ConfigError> {
        if self.text(name).is_empty() { Ok(None) } else { self.parsed(name, expected).map(Some) }
    }

    /// One of the words of a setting; the error of its parser names them all.
    fn worded<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T, ConfigError> {
        self.text(name).parse().map_err(|error: T::Err| self.fault(name, error.to_string()))
    }

    fn duration(&self, name: &str) -> Result<Duration, ConfigError> {
        duration::parse(&self.text(name)).map_err(|_| self.fault(name, "takes a duration such as 500ms, 24h or 90d"))
    }

    /// A duration that must not be zero, because something is done again and again after it.
    fn period(&self, name: &str) -> Result<Duration, ConfigError> {
        let duration = self.duration(name)?;
        if duration.is_zero() { Err(self.fault(name, "must be more than nothing")) } else { Ok(duration) }
    }

    fn duration_or_never(&self, name: &str) -> Result<Option<Duration>, ConfigError> {
        if self.text(name) == "never" { Ok(None) } else { self.duration(name).map(Some) }
    }

    fn listen(&self, name: &str) -> Result<Option<SocketAddr>, ConfigError> {
        if self.text(name) == "off" {
            return Ok(None);
        }
        self.parsed(name, "takes an address and a port such as 127.0.0.1:8080, or off").map(Some)
    }
}

/// The options that a server is started with.
///
/// # Errors
///
/// A value says what can't be, or two contradict each other.
pub fn options(layers: &Layers, data_dir: &Path) -> Result<Options, ConfigError> {
    let read = Reader(layers);
    let listen = read.listen("listen")?;
    let tls = match (read.some_text("tls.cert_file"), read.some_text("tls.key_file")) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert: cert.into(), key: key.into() }),
        (None, None) => None,
        (Some(_), None) => return Err(read.fault("tls.key_file", "is needed together with `tls.cert_file`")),
        (None, Some(_)) => return Err(read.fault("tls.cert_file", "is needed together with `tls.key_file`")),
    };
    let server_url = server_url(&read, listen, tls.is_some())?;
    let socket = match read.text("socket").as_str() {
        "" => Some(data_dir.join("wayleave.sock")),
        "off" => None,
        path => Some(PathBuf::from(path)),
    };
    Ok(Options {
        data_dir: data_dir.to_owned(),
        listen,
        http_listen: read.listen("http_listen")?,
        tls,
        socket,
        dns: dns(&read, &server_url)?,
        derp: derp(&read, &server_url, listen)?,
        server_url: server_url.text,
        policy_file: read.some_text("policy.file").map(PathBuf::from),
        limits: Limits {
            body: read.number("limits.body")?,
            handshake: read.period("limits.handshake")?,
            unauthenticated: read.number("limits.unauthenticated")?,
            held_logins: read.number("limits.held_logins")?,
            hold: read.period("limits.hold")?,
            stuck: read.period("limits.stuck")?,
        },
        probes: probes(&read)?,
        evidence: evidence(&read)?,
        history: HistoryLimits {
            max_age: read.duration("history.max_age")?,
            max_entries: read.number("history.max_entries")?,
        },
        webhooks: WebhookOptions {
            timeout: read.period("webhooks.timeout")?,
            retry_after: read.period("webhooks.retry_after")?,
            attempts: read.number("webhooks.attempts")?,
        },
        tailnet: tailnet_settings(&read, layers)?,
    })
}

/// The server's address, in parts.
struct ServerUrl {
    text: String,
    host: String,
    port: u16,
}

fn server_url(read: &Reader<'_>, listen: Option<SocketAddr>, tls: bool) -> Result<ServerUrl, ConfigError> {
    let text = match read.some_text("server_url") {
        Some(text) => text.trim_end_matches('/').to_owned(),
        None => {
            let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
            if listen.ip().is_unspecified() {
                return Err(
                    read.fault("server_url", "is needed where `listen` is every address: clients have to be told one")
                );
            }
            format!("{}://{listen}", if tls { "https" } else { "http" })
        }
    };
    let wrong =
        || read.fault("server_url", "takes http:// or https://, a host, and a port where it is not the usual one");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return Err(wrong()),
    };
    if rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) {
        return Err(wrong());
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (rest, usual),
    };
    if host.is_empty() {
        return Err(wrong());
    }
    Ok(ServerUrl { host: host.to_owned(), port, text: text.clone() })
}

fn domain(text: &str) -> Option<String> {
    let text = text.trim_matches('.').to_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (text.len() <= 189 && text.split('.').all(label)).then_some(text)
}

fn dns(read: &Reader<'_>, server: &ServerUrl) -> Result<DnsOptions, ConfigError> {
    // A name of a node has up to 63 characters before it, and 253 in all.
    let wrong = || read.fault("dns.base_domain", "takes a domain such as tailnet.internal, of at most 189 characters");
    let base_domain = domain(&read.text("dns.base_domain")).ok_or_else(wrong)?;
    let host = server.host.to_lowercase();
    if host == base_domain || host.ends_with(&format!(".{base_domain}")) {
        return Err(read.fault(
            "dns.base_domain",
            "must not hold the name of the server itself: clients would ask the tailnet for it, and not find it",
        ));
    }
    let resolver = |name: &str, text: &str| {
        let address = text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok();
        if address || text.starts_with("https://") {
            Ok(Resolver { addr: text.to_owned() })
        } else {
            Err(read.fault(name, "takes addresses, or https:// URLs of providers that clients know"))
        }
    };
    let mut routes: BTreeMap<String, Vec<Resolver>> = BTreeMap::new();
    let split_wrong = || read.fault("dns.split", "takes { \"corp.example\" = [\"10.0.0.53\"] }");
    let split = read.0.get("dns.split").and_then(|(value, _)| value.as_table()).ok_or_else(split_wrong)?;
    for (suffix, value) in split {
        let suffix = domain(suffix).ok_or_else(split_wrong)?;
        let items = value.as_array().ok_or_else(split_wrong)?;
        let items = items.iter().map(|item| item.as_str().ok_or_else(split_wrong));
        let resolvers: Result<_, _> = items.map(|text| text.and_then(|text| resolver("dns.split", text))).collect();
        routes.insert(suffix, resolvers?);
    }
    let proxied = read.flag("dns.magic_dns");
    if proxied {
        routes.entry(base_domain.clone()).or_default();
    }
    let mut domains = vec![base_domain.clone()];
    for text in read.list("dns.search_domains") {
        domains.push(domain(&text).ok_or_else(|| read.fault("dns.search_domains", "takes domains"))?);
    }
    let resolvers: Result<Vec<_>, _> =
        read.list("dns.nameservers").iter().map(|text| resolver("dns.nameservers", text)).collect();
    let (resolvers, fallback_resolvers) =
        if read.flag("dns.override_local") { (resolvers?, Vec::new()) } else { (Vec::new(), resolvers?) };
    let extra_records = extra_records(read)?;
    let config = DnsConfig { resolvers, fallback_resolvers, routes, domains, proxied, extra_records };
    Ok(DnsOptions { base_domain, config })
}

fn extra_records(read: &Reader<'_>) -> Result<Vec<DnsRecord>, ConfigError> {
    let wrong =
        || read.fault("dns.extra_records", "takes [{ name = \"nas.tailnet.internal\", value = \"100.64.0.9\" }]");
    let records = read.0.get("dns.extra_records").and_then(|(value, _)| value.as_array()).ok_or_else(wrong)?;
    let record = |value: &Value| {
        let field = |name| value.get(name).and_then(Value::as_str);
        let name = field("name").and_then(domain).ok_or_else(wrong)?;
        let address: IpAddr = field("value").and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        if field("type").is_some_and(|given| given != kind) {
            return Err(wrong());
        }
        Ok(DnsRecord { name, kind: kind.to_owned(), value: address.to_string() })
    };
    records.iter().map(record).collect()
}

fn derp(read: &Reader<'_>, server: &ServerUrl, listen: Option<SocketAddr>) -> Result<DerpOptions, ConfigError> {
    let own = if read.flag("derp.enabled") {
        let region_id: u32 = read.number("derp.region_id")?;
        if !(1..=65_535).contains(&region_id) {
            return Err(read.fault("derp.region_id", "takes 1 to 65535"));
        }
        let stun_listen = match (read.text("derp.stun_listen").as_str(), listen) {
            ("", Some(listen)) => Some(SocketAddr::new(listen.ip(), 3478)),
            ("", None) => None,
            _ => read.listen("derp.stun_listen")?,
        };
        let port: u16 = read.number("derp.port")?;
        let needed = |name| read.some_text(name).ok_or_else(|| read.fault(name, "must not be empty"));
        Some(OwnDerp {
            region_id,
            region_code: needed("derp.region_code")?,
            region_name: needed("derp.region_name")?,
            host: read.some_text("derp.host").unwrap_or_else(|| server.host.clone()),
            port: if port == 0 { server.port } else { port },
            ipv4: read.optional("derp.ipv4", "takes an IPv4 address")?,
            ipv6: read.optional("derp.ipv6", "takes an IPv6 address")?,
            cert_name: read.text("derp.cert_name"),
            stun_listen,
            stun_any_port: read.text("derp.stun_listen").is_empty(),
            verify_clients: read.flag("derp.verify_clients"),
        })
    } else {
        None
    };
    let urls = read.list("derp.urls");
    if urls.iter().any(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
        return Err(read.fault("derp.urls", "takes http:// or https:// addresses"));
    }
    Ok(DerpOptions {
        own,
        urls,
        files: read.list("derp.files").into_iter().map(PathBuf::from).collect(),
        refresh: read.period("derp.refresh")?,
    })
}

fn probes(read: &Reader<'_>) -> Result<Probes, ConfigError> {
    let keep_alive = read.period("probes.keep_alive")?;
    if keep_alive >= Duration::from_secs(120) {
        return Err(read.fault("probes.keep_alive", "must be less than 120s: clients give up then"));
    }
    Ok(Probes {
        router_every: read.period("probes.router_every")?,
        other_every: read.period("probes.other_every")?,
        deadline: read.period("probes.deadline")?,
        late: read.period("probes.late")?,
        close_after: read.period("probes.close_after")?,
        keep_alive,
    })
}

fn key_warnings(read: &Reader<'_>) -> Result<Vec<Duration>, ConfigError> {
    let wrong = |_| read.fault("nodes.key_warnings", "takes durations such as 7d and 24h");
    read.list("nodes.key_warnings").iter().map(|text| duration::parse(text).map_err(wrong)).collect()
}

fn tailnet_settings(read: &Reader<'_>, layers: &Layers) -> Result<tailnet::Settings, ConfigError> {
    let v4 = read.parsed("nodes.prefix_v4", "takes a prefix inside 100.64.0.0/10")?;
    let v6 = read.parsed("nodes.prefix_v6", "takes a prefix inside fd7a:115c:a1e0::/48")?;
    let addresses = tailnet::AddressPool::new(v4, v6).map_err(|error| {
        let key =
            if matches!(error, tailnet::AddressError::OutsideV6(_)) { "nodes.prefix_v6" } else { "nodes.prefix_v4" };
        read.fault(key, error.to_string())
    })?;
    let defaults = tailnet::Settings::default();
    Ok(tailnet::Settings {
        routes: tailnet::RouteSettings {
            lost_after: read.duration("routes.lost_after")?,
            defaults: PrefixSettings {
                when_down: read.worded("routes.when_down")?,
                on_withdraw: read.worded("routes.on_withdraw")?,
                spread: read.worded("routes.spread")?,
                failback: read.duration_or_never("routes.failback_after")?.map_or(Failback::Never, Failback::After),
            },
            prefixes: prefixes::read(layers)?,
            back_after: read.duration("routes.back_after")?,
            starting: read.duration("routes.starting")?,
            withdraw_grace: read.duration("routes.withdraw_grace")?,
            flap_downs: read.number("routes.flap_downs")?,
            flap_down_window: read.duration("routes.flap_down_window")?,
            flap_losses: read.number("routes.flap_losses")?,
            flap_loss_window: read.duration("routes.flap_loss_window")?,
            flap_hold: read.duration("routes.flap_hold")?,
            judging: judging(read)?,
        },
        addresses,
        ephemeral_timeout: read.duration("nodes.ephemeral_timeout")?,
        offline_after: read.duration("nodes.offline_after")?,
        key_expiry: read.duration_or_never("nodes.key_expiry")?,
        bind_imported: read.duration("nodes.bind_imported")?,
        login_timeout: read.period("nodes.login_timeout")?,
        home_stable: read.duration("routes.home_stable")?,
        key_warnings: key_warnings(read)?,
        common_loss_sessions: read.number("routes.common_loss_sessions")?,
        common_loss_window: read.duration("routes.common_loss_window")?,
        common_loss_gap: read.duration("routes.common_loss_gap")?,
        loan_lasts: read.period("evidence.loan_lasts")?,
        loan_every: read.period("evidence.loan_every")?,
        max_routes_per_node: read.number("nodes.max_routes")?,
        ..defaults
    })
}

fn judging(read: &Reader<'_>) -> Result<tailnet::Judging, ConfigError> {
    let mut modes = BTreeMap::new();
    for kind in tailnet::Kind::ALL {
        modes.insert(kind, read.parsed(&format!("evidence.{}", kind.word()), "takes `off`, `observe` or `act`")?);
    }
    let times = |name| match read.number(name)? {
        0 => Err(read.fault(name, "must be more than nothing")),
        times => Ok(times),
    };
    Ok(tailnet::Judging {
        modes,
        late: read.period("probes.late")?,
        ping_deadline: read.period("probes.deadline")?,
        echo_misses: times("evidence.echo_misses")?,
        probe_rounds: times("evidence.probe_rounds")?,
        probe_settle: read.duration("evidence.probe_settle")?,
        path_misses: times("evidence.path_misses")?,
        hold_lasts: read.duration("evidence.hold_lasts")?,
        hold_most: read.duration("evidence.hold_most")?,
        forget_after: read.period("evidence.forget_after")?,
    })
}

fn evidence(read: &Reader<'_>) -> Result<Evidence, ConfigError> {
    Ok(Evidence {
        echo_every: read.period("evidence.echo_every")?,
        probe_every: read.period("evidence.probe_every")?,
        probe_within: read.period("evidence.probe_within")?,
        probe_witnesses: read.number("evidence.probe_witnesses")?,
        probe_budget: read.number("evidence.probe_budget")?,
        witness: read.optional("evidence.witness", "takes a tag such as tag:witness")?,
        path_within: read.period("evidence.path_within")?,
        hold_every: read.period("evidence.hold_every")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(set: &[&str]) -> Result<Options, String> {
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        let layers = Layers::read(None, std::iter::empty(), &set, &[]).map_err(|error| error.to_string())?;
        options(&layers, Path::new("/data")).map_err(|error| error.to_string())
    }

    #[test]
    fn without_any_configuration_it_is_a_server_on_loopback() {
        let options = resolve(&[]).unwrap();
        assert_eq!(options.server_url, "http://127.0.0.1:8080");
        assert_eq!(options.listen, Some("127.0.0.1:8080".parse().unwrap()));
        let own = options.derp.own.unwrap();
        assert_eq!((own.host.as_str(), own.port, own.stun_listen.unwrap().port()), ("127.0.0.1", 8080, 3478));
        assert!(options.dns.config.proxied);
        assert_eq!(options.tailnet.key_expiry, None);
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_key_and_what_it_takes() {
        for (set, expected) in [
            ("listen=nowhere", "`listen` is \"nowhere\", and takes an address and a port"),
            ("listen=0.0.0.0:8080", "`server_url` is \"\", and is needed where `listen` is every address"),
            ("server_url=ftp://x", "`server_url` is \"ftp://x\", and takes http://"),
            ("server_url=https://x/path", "takes http:// or https://, a host"),
            ("tls.cert_file=a.pem", "`tls.key_file` is \"\", and is needed together"),
            ("dns.base_domain=a b", "takes a domain"),
            ("nodes.prefix_v4=10.0.0.0/8", "10.0.0.0/8 is not inside 100.64.0.0/10"),
            ("nodes.key_expiry=soon", "takes a duration"),
            ("derp.region_id=70000", "takes 1 to 65535"),
            ("derp.urls=file:///x", "takes http:// or https:// addresses"),
            ("dns.nameservers=dns.example", "takes addresses"),
            ("dns.extra_records=[{ name = \"a\" }]", "takes [{ name ="),
            ("probes.keep_alive=3m", "must be less than 120s"),
            ("probes.router_every=0s", "must be more than nothing"),
            ("evidence.ping=on", "takes `off`, `observe` or `act`"),
        ] {
            let error = resolve(&[set]).unwrap_err();
            assert!(error.contains(expected), "{set}: {error}");
        }
        let error = resolve(&["server_url=https://hs.example.com", "dns.base_domain=example.com"]).unwrap_err();
        assert!(error.contains("must not hold the name of the server itself"), "{error}");
    }

    #[test]
    fn names_addresses_and_ports_come_from_the_servers_address() {
        let own = |set: &[&str]| resolve(set).unwrap().derp.own.unwrap();
        let https = own(&["server_url=https://hs.example.com/"]);
        assert_eq!((https.host.as_str(), https.port), ("hs.example.com", 443));
        let v6 = own(&["server_url=http://[fd00::1]:8080"]);
        assert_eq!((v6.host.as_str(), v6.port), ("[fd00::1]", 8080));
        assert!(resolve(&["derp.enabled=false"]).unwrap().derp.own.is_none());
        assert!(own(&["derp.stun_listen=off"]).stun_listen.is_none());
        assert!(resolve(&["listen=off"]).unwrap().listen.is_none());
    }
}
