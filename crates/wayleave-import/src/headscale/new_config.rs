//! A `wayleave.toml` that says what a `config.yaml` said, with a comment at each line that could not be carried over.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use toml::Value;
use wayleave_model::{TAILNET_V4, TAILNET_V6};

use super::config::{Config, ConfigError, Fate, Record, SetKey};
use super::derp_map;
use crate::report::Setting;

/// What is written for Wayleave out of Headscale's configuration.
#[derive(Clone, Debug)]
pub struct NewConfig {
    /// `wayleave.toml`.
    pub text: String,
    /// Files beside it, by their names.
    pub files: Vec<(String, String)>,
    /// What became of each key.
    pub settings: Vec<Setting>,
    /// What everybody should read first.
    pub notices: Vec<String>,
}

/// A key of ours that is set, or that should have been and can't be.
struct Line {
    key: &'static str,
    value: Value,
    /// Why it is a comment, and what to do.
    not: Option<String>,
}

/// The lines so far.
#[derive(Default)]
struct Lines {
    lines: Vec<Line>,
    files: Vec<(String, String)>,
    notices: Vec<String>,
}

impl Lines {
    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.lines.push(Line { key, value: value.into(), not: None });
    }

    fn some(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// A value that the key does not take.
    fn not(&mut self, key: &'static str, value: impl Into<Value>, why: &str) {
        self.lines.push(Line { key, value: value.into(), not: Some(why.to_owned()) });
    }
}

impl NewConfig {
    /// What is written into this data folder.
    ///
    /// # Errors
    ///
    /// A file that the configuration names can't be read, or is not what it should be.
    pub fn of(config: &Config, data_dir: &Path) -> Result<Self, ConfigError> {
        let mut lines = Lines::default();
        server(config, &mut lines);
        dns(config, &mut lines)?;
        derp(config, data_dir, &mut lines)?;
        nodes(config, &mut lines);
        let Lines { lines, files, mut notices } = lines;
        notices.push(format!(
            "{} was read alone: variables HEADSCALE_... in the service's definition are stronger there; look whether there are any",
            config.path.display()
        ));
        let settings = config.keys.iter().map(|key| setting(key, &lines)).collect();
        Ok(Self { text: text(config, &lines), files, settings, notices })
    }
}

/// What the report says of a key.
fn setting(key: &SetKey, lines: &[Line]) -> Setting {
    let (maps_to, note) = match &key.fate {
        Fate::Key(ours) => {
            let names: Vec<&str> = ours.split(" and ").collect();
            let not: Vec<&str> =
                lines.iter().filter(|line| names.contains(&line.key)).filter_map(|line| line.not.as_deref()).collect();
            let set = lines.iter().any(|line| names.contains(&line.key) && line.not.is_none());
            match (set, not.is_empty()) {
                (true, true) => (Some((*ours).to_owned()), None),
                (true, false) => (Some((*ours).to_owned()), Some(not.join("; "))),
                (false, false) => (None, Some(not.join("; "))),
                (false, true) => (Some((*ours).to_owned()), Some("as it is without being set".to_owned())),
            }
        }
        Fate::Usual => (Some("the usual".to_owned()), None),
        Fate::TakenIn(note) => (Some("the import".to_owned()), Some((*note).to_owned())),
        Fate::Lost(note) => (None, Some((*note).to_owned())),
    };
    Setting { key: key.name.clone(), maps_to, note }
}

fn text(config: &Config, lines: &[Line]) -> String {
    let name = config.path.file_name().unwrap_or_default().to_string_lossy();
    let mut out = format!(
        "# Written by `wayleave import headscale` out of Headscale's {name}.\n\
         # `wayleave config show` prints every key with what holds; `wayleave config check` whether all is right.\n\n"
    );
    let mut sections: BTreeMap<&str, Vec<(&str, &Line)>> = BTreeMap::new();
    for line in lines {
        let (section, key) = line.key.split_once('.').unwrap_or(("", line.key));
        sections.entry(section).or_default().push((key, line));
    }
    for (section, lines) in sections {
        if !section.is_empty() {
            out.push_str(&format!("[{section}]\n"));
        }
        for (key, line) in lines {
            match &line.not {
                None => out.push_str(&format!("{key} = {}\n", line.value)),
                Some(why) => out.push_str(&format!("# Not carried over: {why}.\n#{key} = {}\n", line.value)),
            }
        }
        out.push('\n');
    }
    out.push_str("# What has no key here:\n");
    for SetKey { name, shown, fate } in &config.keys {
        let (what, note) = match fate {
            Fate::Key(_) | Fate::Usual => continue,
            Fate::TakenIn(note) => ("taken in", note),
            Fate::Lost(note) => ("not carried over", note),
        };
        let shown = shown.replace(['\n', '\r'], " ");
        out.push_str(&format!("#\n# {name}: {shown}\n#   {what}: {note}.\n"));
    }
    out
}

fn duration(time: Duration) -> String {
    match (time.as_secs(), time.subsec_millis()) {
        (seconds, 0) if seconds > 0 && seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        (seconds, 0) if seconds > 0 && seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds > 0 && seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        (seconds, millis) => format!("{}ms", seconds * 1000 + u64::from(millis)),
    }
}

/// An address to listen at, as Go takes it: without a host it is every address.
fn listen(text: &str) -> Option<String> {
    let text = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.replacen("localhost:", "127.0.0.1:", 1),
    };
    text.parse::<SocketAddr>().is_ok().then_some(text)
}

fn server(config: &Config, lines: &mut Lines) {
    match config.server_url.as_deref().map(|url| url.trim_end_matches('/')) {
        Some(url) => lines.set("server_url", url),
        None => lines
            .notices
            .push("server_url is not set: clients keep it, and go on only if it is the same as before".to_owned()),
    }
    let takes = "`listen` takes an address and a port";
    match config.listen.as_deref().map(|text| (text, listen(text))) {
        Some((_, Some(address))) => lines.set("listen", address),
        Some((text, None)) => lines.not("listen", text, takes),
        None => {}
    }
    if let Some((cert, key)) = &config.tls {
        lines.set("tls.cert_file", cert.display().to_string());
        lines.set("tls.key_file", key.display().to_string());
    }
    let level = match config.log_level.to_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "warn" | "warning" => "warn",
        "error" | "fatal" | "panic" | "disabled" => "error",
        _ => "info",
    };
    lines.set("log.level", level);
    lines.set("log.format", if config.log_format == "json" { "json" } else { "text" });
}

fn dns(config: &Config, lines: &mut Lines) -> Result<(), ConfigError> {
    let dns = &config.dns;
    lines.set("dns.magic_dns", dns.magic_dns);
    if let Some(domain) = &dns.base_domain {
        let domain = domain.trim_matches('.').to_lowercase();
        let host = config.server_url.as_deref().and_then(host).unwrap_or_default();
        if host == domain || host.ends_with(&format!(".{domain}")) {
            lines.not(
                "dns.base_domain",
                domain.as_str(),
                "it holds the name of the server itself, which clients would ask the tailnet for; choose another, and names in the tailnet change with it",
            );
            lines.notices.push(format!(
                "dns.base_domain `{domain}` holds the name of the server: names in the tailnet are under tailnet.internal until you choose another"
            ));
        } else {
            lines.set("dns.base_domain", domain);
        }
    }
    if dns.names_contain_user {
        lines.notices.push(
            "names in DNS had the user's name in them (host.user.domain) and have not here (host.domain)".to_owned(),
        );
    }
    let is_resolver = |text: &str| {
        text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok() || text.starts_with("https://")
    };
    let resolvers = "resolvers are addresses, or https:// URLs of providers that clients know";
    let (good, bad): (Vec<_>, Vec<_>) = dns.nameservers.iter().cloned().partition(|text| is_resolver(text));
    lines.set("dns.nameservers", good);
    if !bad.is_empty() {
        lines.not("dns.nameservers", bad, resolvers);
    }
    lines.set("dns.override_local", dns.override_local);
    let mut split = toml::Table::new();
    for (suffix, addresses) in &dns.split {
        let suffix = suffix.trim_matches('.').to_lowercase();
        let (good, bad): (Vec<_>, Vec<_>) = addresses.iter().cloned().partition(|text| is_resolver(text));
        if !bad.is_empty() {
            lines.not("dns.split", toml::Table::from_iter([(suffix.clone(), Value::from(bad))]), resolvers);
        }
        if !good.is_empty() {
            split.insert(suffix, Value::from(good));
        }
    }
    lines.set("dns.split", split);
    lines.set("dns.search_domains", dns.search.clone());
    let mut records = dns.extra_records.clone();
    if let Some(path) = &dns.extra_records_path {
        records.extend(more_records(path)?);
    }
    let table = |record: &Record| {
        let fields = [("name", &record.name), ("type", &record.kind), ("value", &record.value)];
        Value::Table(fields.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text.as_str()))).collect())
    };
    let fits = |record: &Record| match (record.kind.as_str(), record.value.parse::<IpAddr>()) {
        ("A", Ok(address)) => address.is_ipv4(),
        ("AAAA", Ok(address)) => address.is_ipv6(),
        _ => false,
    };
    let (good, bad): (Vec<_>, Vec<_>) = records.iter().partition(|record| fits(record));
    lines.set("dns.extra_records", Value::Array(good.into_iter().map(table).collect()));
    if !bad.is_empty() {
        let bad = Value::Array(bad.into_iter().map(table).collect());
        lines.not("dns.extra_records", bad, "records are of the types A and AAAA, with an address");
    }
    Ok(())
}

fn host(url: &str) -> Option<String> {
    let rest = url.split_once("://")?.1;
    let host = rest.split('/').next()?;
    Some(host.rsplit_once(':').map_or(host, |(host, _)| host).to_lowercase())
}

/// The records of `dns.extra_records_path`: JSON, in the same form.
fn more_records(path: &Path) -> Result<Vec<Record>, ConfigError> {
    #[derive(serde::Deserialize)]
    struct Written {
        name: String,
        #[serde(rename = "type", default)]
        kind: String,
        value: String,
    }
    let text = read(path)?;
    let written: Vec<Written> = serde_json::from_str(&text).map_err(|error| ConfigError::Parse {
        path: path.to_owned(),
        detail: format!("it lists no DNS records: {error}"),
    })?;
    Ok(written.into_iter().map(|Written { name, kind, value }| Record { name, kind, value }).collect())
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn derp(config: &Config, data_dir: &Path, lines: &mut Lines) -> Result<(), ConfigError> {
    let derp = &config.derp;
    lines.set("derp.enabled", derp.embedded);
    if derp.embedded {
        match derp.region_id {
            Some(id @ 1..=65_535) => lines.set("derp.region_id", i64::try_from(id).unwrap_or_default()),
            Some(id) => lines.not("derp.region_id", i64::try_from(id).unwrap_or_default(), "it takes 1 to 65535"),
            None => {}
        }
        lines.some("derp.region_code", derp.region_code.clone());
        lines.some("derp.region_name", derp.region_name.clone());
        match derp.stun_listen.as_deref().map(|text| (text, listen(text))) {
            Some((_, Some(address))) => lines.set("derp.stun_listen", address),
            Some((text, None)) => lines.not("derp.stun_listen", text, "it takes an address and a port"),
            None => {}
        }
        lines.some("derp.ipv4", derp.ipv4.clone());
        lines.some("derp.ipv6", derp.ipv6.clone());
        // Before there was a word on it, everybody could use the relay.
        lines.set("derp.verify_clients", derp.verify_clients.unwrap_or(true));
        if derp.verify_clients.is_none() {
            lines.notices.push(
                "the relay serves nodes of the tailnet only; derp.verify_clients = false lets in everybody".to_owned(),
            );
        }
    }
    lines.set("derp.urls", derp.urls.clone());
    let mut files = Vec::new();
    for (at, path) in (1..).zip(&derp.paths) {
        let json = derp_map::to_json(&read(path)?).map_err(|detail| ConfigError::Parse {
            path: path.clone(),
            detail: format!("it is no relay map: {detail}"),
        })?;
        let name = format!("derp-{at}.json");
        files.push(data_dir.join(&name).display().to_string());
        lines.files.push((name, json));
    }
    lines.set("derp.files", files);
    if !derp.update.is_zero() {
        lines.set("derp.refresh", duration(derp.update));
    }
    Ok(())
}

fn nodes(config: &Config, lines: &mut Lines) {
    let inside = "clients route only the tailnet's own ranges (100.64.0.0/10 and fd7a:115c:a1e0::/48, IPv6 at most /96) here; \
                  nodes keep the addresses that they have";
    if let Some(text) = &config.prefix_v4 {
        match text.parse::<Ipv4Net>() {
            Ok(net) if TAILNET_V4.contains(&net) => lines.set("nodes.prefix_v4", net.trunc().to_string()),
            _ => lines.not("nodes.prefix_v4", text.as_str(), inside),
        }
    }
    if let Some(text) = &config.prefix_v6 {
        match text.parse::<Ipv6Net>() {
            Ok(net) if TAILNET_V6.contains(&net) && net.prefix_len() <= 96 => {
                lines.set("nodes.prefix_v6", net.trunc().to_string());
            }
            _ => lines.not("nodes.prefix_v6", text.as_str(), inside),
        }
    }
    lines.set("nodes.ephemeral_timeout", duration(config.ephemeral));
    lines.some("nodes.key_expiry", config.node_expiry.map(duration));
}

#[cfg(test)]
mod tests;
