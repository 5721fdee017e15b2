//! Headscale's `config.yaml`, of every generation: what it names, and what becomes of each key.
//!
//! Its shape changed with the releases, most of all in 0.23 (`db_type` became `database.type`, `dns_config` became `dns`). A key is looked
//! for under all the names that it ever had. Paths are relative to the file's own folder, and a key that no release had is a fault: where
//! Headscale overlooks a `acl_polcy_path` everybody may reach everything, and nobody should move that over without having seen it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use zeroize::Zeroizing;

use values::{Values, fault};

mod known;
pub(super) mod values;

/// What a configuration says.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file.
    pub path: PathBuf,
    /// The address at which clients reach the server. Clients keep it.
    pub server_url: Option<String>,
    /// Where the server listens.
    pub listen: Option<String>,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The Noise key; none up to 0.16.
    pub noise_key: Option<PathBuf>,
    /// The key of the embedded relay, where that is switched on.
    pub derp_key: Option<PathBuf>,
    /// Where IPv4 addresses come from.
    pub prefix_v4: Option<String>,
    /// Where IPv6 addresses come from.
    pub prefix_v6: Option<String>,
    /// Addresses are given out at random, not in their order.
    pub random_addresses: bool,
    /// Where the data is.
    pub database: Option<Database>,
    /// Where the policy is.
    pub policy: PolicyPlace,
    /// How long an ephemeral node may be gone.
    pub ephemeral: Duration,
    /// How long a node's key lasts (0.29): `None` for ever.
    pub node_expiry: Option<Duration>,
    /// Names.
    pub dns: Dns,
    /// Relays.
    pub derp: Derp,
    /// Login by an identity provider.
    pub oidc: Option<Oidc>,
    /// Clients use a random port. Since 0.29 the policy says so.
    pub randomize_client_port: bool,
    /// `info`, as it is written there.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
    /// Each key that is set, in the order of their names.
    pub keys: Vec<SetKey>,
}

/// A key that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetKey {
    /// Its name, with its sections.
    pub name: String,
    /// What it is set to, for people to see. Secrets are hidden.
    pub shown: String,
    /// What becomes of it.
    pub fate: Fate,
}

/// Where Headscale's data is.
#[derive(Clone)]
pub enum Database {
    /// In a file.
    Sqlite(PathBuf),
    /// In PostgreSQL.
    Postgres {
        /// Name, address or folder of the socket.
        host: String,
        /// The port.
        port: u16,
        /// The database.
        name: String,
        /// Who.
        user: String,
        /// Secret.
        password: Zeroizing<String>,
        /// A word of libpq's: `disable`, `require`, `verify-full`, ...
        ssl: String,
    },
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres { host, port, name, user, password: _, ssl } => {
                write!(f, "Postgres({user}@{host}:{port}/{name}, {ssl})")
            }
        }
    }
}

/// Where the policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPlace {
    /// In this file: YAML by its extension up to 0.22, else HuJSON.
    File(PathBuf),
    /// In the database.
    Database,
    /// Nowhere: everybody may reach everything.
    Nowhere,
}

/// Names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Clients resolve the names of nodes themselves.
    pub magic_dns: bool,
    /// The suffix of names.
    pub base_domain: Option<String>,
    /// Resolvers for everything.
    pub nameservers: Vec<String>,
    /// Resolvers by suffix.
    pub split: BTreeMap<String, Vec<String>>,
    /// Search domains.
    pub search: Vec<String>,
    /// The resolvers replace a client's own; otherwise they are for clients that have none.
    pub override_local: bool,
    /// Names have the user in them: `host.user.domain`.
    pub names_contain_user: bool,
    /// Names with addresses of their own.
    pub extra_records: Vec<Record>,
    /// The file that holds more of these.
    pub extra_records_path: Option<PathBuf>,
}

/// A name with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name.
    pub name: String,
    /// `A`, `AAAA`, or what else there stands.
    pub kind: String,
    /// The address.
    pub value: String,
}

/// Relays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derp {
    /// The server runs one.
    pub embedded: bool,
    /// Its region.
    pub region_id: Option<u64>,
    /// Short name of its region.
    pub region_code: Option<String>,
    /// Long name of its region.
    pub region_name: Option<String>,
    /// Where it answers STUN.
    pub stun_listen: Option<String>,
    /// Its address.
    pub ipv4: Option<String>,
    /// Its address.
    pub ipv6: Option<String>,
    /// Only nodes of the tailnet may use it (0.27).
    pub verify_clients: Option<bool>,
    /// Clients are told of it.
    pub in_map: bool,
    /// Relay maps by address.
    pub urls: Vec<String>,
    /// Relay maps in files (YAML).
    pub paths: Vec<PathBuf>,
    /// These are read again.
    pub auto_update: bool,
    /// How often.
    pub update: Duration,
}

/// Login by an identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oidc {
    /// Who.
    pub issuer: String,
    /// How long a login lasts; `None`: not said.
    pub expiry: Option<Duration>,
    /// Users are named without their domain (to 0.25).
    pub strip_email_domain: bool,
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// This key of ours says the same.
    Key(&'static str),
    /// It was taken in by the import itself, and is no setting any more.
    TakenIn(&'static str),
    /// It says what holds here without being said.
    Usual,
    /// There is no counterpart; what to do.
    Lost(&'static str),
}

/// A configuration can't be read. No text holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read {}: run this as a user who may, or copy the file to where you may", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no configuration.
    #[error("{} is no configuration of Headscale: {detail}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why, with the place where that is known.
        detail: String,
    },
    /// A value is not of its key's kind.
    #[error("in Headscale's configuration `{key}` is {found}, and {expected}")]
    Value {
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What it takes.
        expected: String,
    },
    /// Keys that no release had.
    #[error("{}: no release of Headscale has the keys {}: correct or remove them in a copy of the file; Headscale overlooked them", path.display(), keys.join(", "))]
    Unknown {
        /// Which file.
        path: PathBuf,
        /// They, each with the nearest that there is.
        keys: Vec<String>,
    },
}

pub(super) fn is_secret(key: &str) -> bool {
    ["secret", "pass", "token"].iter().any(|word| key.contains(word)) && !key.ends_with("_path")
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// The file can't be read, is no configuration, or has keys or values that no release had.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })
            .map(Zeroizing::new)?;
        Self::parse(path, &text)
    }

    /// Reads the text of a configuration that lies there.
    ///
    /// # Errors
    ///
    /// As [`Config::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let values = Values::read(path, text)?;
        let unknown = known::unknown(values.keys());
        if !unknown.is_empty() {
            return Err(ConfigError::Unknown { path: path.to_owned(), keys: unknown });
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let at = |text: String| folder.join(text);
        let v = &values;
        let noise_key = v.text("noise.private_key_path")?.map(at);
        let legacy_key = v.text("private_key_path")?.map(at);
        let derp = derp(v, folder)?;
        let own_derp_key = v.text("derp.server.private_key_path")?.map(at);
        let derp_key = if derp.embedded { own_derp_key.or(legacy_key) } else { None };
        let (prefix_v4, prefix_v6) = prefixes(v)?;
        let tls = v.text("tls_cert_path")?.zip(v.text("tls_key_path")?).map(|(cert, key)| (at(cert), at(key)));
        let ephemeral = match v.duration("node.ephemeral.inactivity_timeout")? {
            Some(timeout) => Some(timeout),
            None => v.duration("ephemeral_node_inactivity_timeout")?,
        };
        let log_level = first(v, ["log.level", "log_level"])?;
        let mut config = Self {
            path: path.to_owned(),
            server_url: v.text("server_url")?,
            listen: v.text("listen_addr")?,
            tls,
            noise_key,
            derp_key,
            prefix_v4,
            prefix_v6,
            random_addresses: v.text("prefixes.allocation")?.as_deref() == Some("random"),
            database: database(v, folder)?,
            policy: policy(v, folder)?,
            ephemeral: ephemeral.unwrap_or(Duration::from_secs(120)),
            node_expiry: v.duration("node.expiry")?.filter(|expiry| !expiry.is_zero()),
            dns: dns(v, folder)?,
            derp,
            oidc: oidc(v)?,
            randomize_client_port: v.flag("randomize_client_port")?.unwrap_or(false),
            log_level: log_level.unwrap_or_else(|| "info".to_owned()),
            log_format: v.text("log.format")?.unwrap_or_else(|| "text".to_owned()),
            keys: Vec::new(),
        };
        let shown = |key: &str| if is_secret(key) { "(hidden)".to_owned() } else { values.shown(key) };
        let set = |key: &str| SetKey { name: key.to_owned(), shown: shown(key), fate: known::fate(key, &config) };
        config.keys = values.keys().map(set).collect();
        Ok(config)
    }
}

fn first<const N: usize>(v: &Values, names: [&str; N]) -> Result<Option<String>, ConfigError> {
    for name in names {
        if let Some(text) = v.text(name)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn database(v: &Values, folder: &Path) -> Result<Option<Database>, ConfigError> {
    let old = v.has("db_type");
    let Some(kind) = first(v, ["database.type", "db_type"])? else { return Ok(None) };
    let key = |new: &'static str, before: &'static str| if old { before } else { new };
    match kind.as_str() {
        "sqlite" | "sqlite3" => {
            let name = key("database.sqlite.path", "db_path");
            let path = v.text(name)?.ok_or_else(|| fault(name, &Value::Null, "names the database"))?;
            Ok(Some(Database::Sqlite(folder.join(path))))
        }
        "postgres" => {
            let text = |name: &'static str, default: &str| Ok(v.text(name)?.unwrap_or_else(|| default.to_owned()));
            let host = text(key("database.postgres.host", "db_host"), "localhost")?;
            let name = text(key("database.postgres.name", "db_name"), "headscale")?;
            let user = text(key("database.postgres.user", "db_user"), "headscale")?;
            let password = Zeroizing::new(text(key("database.postgres.pass", "db_pass"), "")?);
            // Up to 0.15 there was no word on it, and no TLS.
            let ssl = match text(key("database.postgres.ssl", "db_ssl"), "false")?.as_str() {
                "false" => "disable".to_owned(),
                "true" => "require".to_owned(),
                word => word.to_owned(),
            };
            let name_of_port = key("database.postgres.port", "db_port");
            let port = v.number(name_of_port)?.filter(|port| *port != 0).unwrap_or(5432);
            let port = u16::try_from(port).map_err(|_| fault(name_of_port, &port.into(), "takes a port"))?;
            Ok(Some(Database::Postgres { host, port, name, user, password, ssl }))
        }
        other => Err(fault(key("database.type", "db_type"), &other.into(), "takes sqlite, sqlite3 or postgres")),
    }
}

fn policy(v: &Values, folder: &Path) -> Result<PolicyPlace, ConfigError> {
    let mode = v.text("policy.mode")?;
    let path = first(v, ["policy.path", "acl_policy_path"])?;
    match (mode.as_deref(), path) {
        (Some("database"), _) => Ok(PolicyPlace::Database),
        (None | Some("file"), Some(path)) => Ok(PolicyPlace::File(folder.join(path))),
        (None | Some("file"), None) => Ok(PolicyPlace::Nowhere),
        (Some(other), _) => Err(fault("policy.mode", &other.into(), "takes file or database")),
    }
}

/// The first prefix of each family, of all the keys that ever named some.
fn prefixes(v: &Values) -> Result<(Option<String>, Option<String>), ConfigError> {
    let (mut v4, mut v6) = (v.text("prefixes.v4")?, v.text("prefixes.v6")?);
    let new = v4.is_some() || v6.is_some();
    let mut old = v.list("ip_prefixes")?;
    old.extend(v.text("ip_prefix")?);
    for text in old {
        let family = if text.contains(':') { &mut v6 } else { &mut v4 };
        family.get_or_insert(text);
    }
    if v4.is_none() && !new && v6.is_none() {
        // Up to 0.22 this held where nothing was said.
        v4 = Some("100.64.0.0/10".to_owned());
    }
    Ok((v4, v6))
}

fn dns(v: &Values, folder: &Path) -> Result<Dns, ConfigError> {
    let old = v.has("dns_config") || (!v.has("dns") && v.has("db_type"));
    let name = |new: &'static str, before: &'static str| if old { before } else { new };
    let split_name = name("dns.nameservers.split", "dns_config.restricted_nameservers");
    let mut split = BTreeMap::new();
    if let Some(value) = v.value(split_name).cloned() {
        let wrong = || fault(split_name, &value, "takes suffixes with their lists of addresses");
        for (suffix, resolvers) in value.as_object().ok_or_else(wrong)? {
            let resolvers = resolvers.as_array().ok_or_else(wrong)?.iter().map(|r| r.as_str().map(str::to_owned));
            split.insert(suffix.clone(), resolvers.collect::<Option<Vec<_>>>().ok_or_else(wrong)?);
        }
    }
    let records_name = name("dns.extra_records", "dns_config.extra_records");
    let mut extra_records = Vec::new();
    if let Some(value) = v.value(records_name).cloned() {
        let wrong = || fault(records_name, &value, "takes a list of name, type and value");
        for record in value.as_array().ok_or_else(wrong)? {
            let field = |name: &str| record.get(name).and_then(Value::as_str).map(str::to_owned);
            let (name, value) = field("name").zip(field("value")).ok_or_else(wrong)?;
            let family = || if value.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()) { "AAAA" } else { "A" };
            let kind = field("type").filter(|kind| !kind.is_empty()).unwrap_or_else(|| family().to_owned());
            extra_records.push(Record { name, kind, value });
        }
    }
    let base_domain = v.text(name("dns.base_domain", "dns_config.base_domain"))?;
    Ok(Dns {
        magic_dns: v.flag(name("dns.magic_dns", "dns_config.magic_dns"))?.unwrap_or(!old),
        base_domain: base_domain.or_else(|| old.then(|| "headscale.net".to_owned())),
        nameservers: v.list(name("dns.nameservers.global", "dns_config.nameservers"))?,
        split,
        search: v.list(name("dns.search_domains", "dns_config.domains"))?,
        override_local: v.flag(name("dns.override_local_dns", "dns_config.override_local_dns"))?.unwrap_or(true),
        names_contain_user: v.flag("dns.use_username_in_magic_dns")?.unwrap_or(old),
        extra_records,
        extra_records_path: v.text("dns.extra_records_path")?.map(|path| folder.join(path)),
    })
}

fn derp(v: &Values, folder: &Path) -> Result<Derp, ConfigError> {
    Ok(Derp {
        embedded: v.flag("derp.server.enabled")?.unwrap_or(false),
        region_id: v.number("derp.server.region_id")?,
        region_code: v.text("derp.server.region_code")?,
        region_name: v.text("derp.server.region_name")?,
        stun_listen: v.text("derp.server.stun_listen_addr")?,
        ipv4: v.text("derp.server.ipv4")?,
        ipv6: v.text("derp.server.ipv6")?,
        verify_clients: v.flag("derp.server.verify_clients")?,
        in_map: v.flag("derp.server.automatically_add_embedded_derp_region")?.unwrap_or(true),
        urls: v.list("derp.urls")?,
        paths: v.list("derp.paths")?.into_iter().map(|path| folder.join(path)).collect(),
        auto_update: v.flag("derp.auto_update_enabled")?.unwrap_or(true),
        update: v.duration("derp.update_frequency")?.unwrap_or(Duration::from_secs(3 * 3600)),
    })
}

fn oidc(v: &Values) -> Result<Option<Oidc>, ConfigError> {
    let Some(issuer) = v.text("oidc.issuer")? else { return Ok(None) };
    // From 0.26 on users are never named so.
    let old = v.has("db_type") || v.has("dns_config");
    Ok(Some(Oidc {
        issuer,
        expiry: v.duration("oidc.expiry")?,
        strip_email_domain: first(v, ["oidc.strip_email_domain", "strip_email_domain"])?
            .map_or(old, |text| text == "true"),
    }))
}

#[cfg(test)]
mod tests;
