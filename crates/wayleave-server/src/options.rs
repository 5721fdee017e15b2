//! What a server is started with: plain values. Where they come from is the binary's business.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use wayleave_wire::control::DnsConfig;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where keys, database and socket are. Must exist.
    pub data_dir: PathBuf,
    /// The address at which clients reach the server, without a slash behind it.
    pub server_url: String,
    /// Where clients and browsers are served. `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Where the same is served without TLS while `listen` has it; clients may try port 80 first. `None`: nowhere.
    pub http_listen: Option<SocketAddr>,
    /// Certificate chain and key, as PEM files. `None`: `listen` is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// The socket of the admin API. `None`: none.
    pub socket: Option<PathBuf>,
    /// How names are resolved, but for the tailnet's own part.
    pub dns: DnsOptions,
    /// Relays.
    pub derp: DerpOptions,
    /// What a stranger may cost.
    pub limits: Limits,
    /// How sessions are watched.
    pub probes: Probes,
    /// How evidence is taken from others.
    pub evidence: Evidence,
    /// How much history is kept.
    pub history: HistoryLimits,
    /// How webhooks are called.
    pub webhooks: WebhookOptions,
    /// The file that is the home of the policy. `None`: the database is.
    pub policy_file: Option<PathBuf>,
    /// What the tailnet decides by.
    pub tailnet: wayleave_tailnet::Settings,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How names are resolved.
#[derive(Clone, Debug)]
pub struct DnsOptions {
    /// The suffix of every node's name, without dots at its ends.
    pub base_domain: String,
    /// All of what clients are told.
    pub config: DnsConfig,
}

/// Relays.
#[derive(Clone, Debug)]
pub struct DerpOptions {
    /// The server's own relay. `None`: it has none.
    pub own: Option<OwnDerp>,
    /// Relay maps of others, by address.
    pub urls: Vec<String>,
    /// Relay maps of others, in JSON files.
    pub files: Vec<PathBuf>,
    /// How often `urls` are asked again. 24 h.
    pub refresh: Duration,
}

/// The server's own relay.
#[derive(Clone, Debug)]
pub struct OwnDerp {
    /// 1 to 65535; 900 to 999 are for one's own.
    pub region_id: u32,
    /// A short name.
    pub region_code: String,
    /// A long name.
    pub region_name: String,
    /// Where clients reach it: a name or an address.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// Its address, if clients are not to ask DNS.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// See `ipv4`.
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// The fingerprint of a certificate that no authority signed; `sha256-raw:` and hex.
    pub cert_name: String,
    /// Where STUN is answered. `None`: nowhere.
    pub stun_listen: Option<SocketAddr>,
    /// If that port is taken, another will do: nobody asked for this one. Clients are told which it is.
    pub stun_any_port: bool,
    /// Only nodes of the tailnet may use it.
    pub verify_clients: bool,
}

/// What a stranger may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest body of a request. 1 MiB.
    pub body: usize,
    /// How long a connection may take until it is known whose it is. 10 s.
    pub handshake: Duration,
    /// Connections of which it is not known yet whose they are. 1,024; more wait to be accepted. As many again may be of machines that
    /// have no node yet; more of those are turned away, and machines that have one never are.
    pub unauthenticated: usize,
    /// Clients that are held while they wait for a person to approve them. 1,024; more have to ask again by themselves.
    pub held_logins: usize,
    /// How long a client is held before it has to ask again. 2 min.
    pub hold: Duration,
    /// How long a client may take nothing of a map that waits for it, and how long it may take for each 64 KiB of it. 60 s.
    pub stuck: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1 << 20,
            handshake: Duration::from_secs(10),
            unauthenticated: 1024,
            held_logins: 1024,
            hold: Duration::from_secs(120),
            stuck: Duration::from_secs(60),
        }
    }
}

/// How sessions are watched.
#[derive(Clone, Copy, Debug)]
pub struct Probes {
    /// How often a router is sent a PING. 1 s.
    pub router_every: Duration,
    /// How often anybody else is. 20 s.
    pub other_every: Duration,
    /// How long silence must last. 2 s.
    pub deadline: Duration,
    /// How late the server itself may look before its look counts for nothing. 250 ms.
    pub late: Duration,
    /// How long a connection may be silent before it is closed. 2 min: much later than its node is down, because an answer before
    /// that is recovery.
    pub close_after: Duration,
    /// How often a map session that has nothing to tell gives a sign of life, less up to a sixth. 60 s; clients give up after 120 s.
    pub keep_alive: Duration,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            router_every: Duration::from_secs(1),
            other_every: Duration::from_secs(20),
            deadline: Duration::from_secs(2),
            late: Duration::from_millis(250),
            close_after: Duration::from_secs(120),
            keep_alive: Duration::from_secs(60),
        }
    }
}

/// How evidence is taken. How it is judged is in the tailnet's settings.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// How often a router is asked to answer a request itself. 5 s.
    pub echo_every: Duration,
    /// How often its witnesses are asked to reach it. 2 s.
    pub probe_every: Duration,
    /// How long they have. 1.5 s.
    pub probe_within: Duration,
    /// How many of them are asked. 3.
    pub probe_witnesses: usize,
    /// So many questions a second at most, those about routers that were lost first; where that is too few, routers take turns. 1,000.
    pub probe_budget: u32,
    /// Only nodes with this tag are witnesses. `None`: the server chooses.
    pub witness: Option<wayleave_model::Tag>,
    /// How long a path check has. 1.5 s.
    pub path_within: Duration,
    /// How often the witnesses of a router that was lost are asked. 200 ms.
    pub hold_every: Duration,
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            echo_every: Duration::from_secs(5),
            probe_every: Duration::from_secs(2),
            probe_within: Duration::from_millis(1500),
            probe_witnesses: 3,
            probe_budget: 1000,
            witness: None,
            path_within: Duration::from_millis(1500),
            hold_every: Duration::from_millis(200),
        }
    }
}

/// How webhooks are called.
#[derive(Clone, Copy, Debug)]
pub struct WebhookOptions {
    /// How long a receiver may take to answer. 10 s.
    pub timeout: Duration,
    /// How long after the first failure a call is tried again; each time after that it is twice as long, an hour at most. 5 s.
    pub retry_after: Duration,
    /// How often a call is tried before it is given up. 20: about nine hours.
    pub attempts: u32,
}

impl Default for WebhookOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), retry_after: Duration::from_secs(5), attempts: 20 }
    }
}

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// How old a line may get. 90 days.
    pub max_age: Duration,
    /// How many lines. 100,000.
    pub max_entries: u32,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(90 * 86_400), max_entries: 100_000 }
    }
}
