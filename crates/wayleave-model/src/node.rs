//! Nodes: what is stored of them, and what they report of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{AuthKeyId, DiscoKey, GivenName, MachineKey, NodeId, NodeKey, Prefix, Tag, Timestamp, UserId};

/// A registered client. These are the facts that survive a restart; whether it is online is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Given out once, never reused: clients cache by it.
    pub id: NodeId,
    /// The machine that it registered from. `None` only after an import that had none: bound on first contact.
    pub machine_key: Option<MachineKey>,
    /// Its WireGuard key. It rotates.
    pub node_key: NodeKey,
    /// Its discovery key, as last reported; kept so that a restart of the server cuts no path.
    pub disco_key: Option<DiscoKey>,
    /// Whose it is.
    pub owner: Owner,
    /// The unique name that it has in DNS.
    pub given_name: GivenName,
    /// A person chose `given_name`, so it no longer follows the host's name.
    pub renamed: bool,
    /// Its addresses in the tailnet.
    pub addresses: Addresses,
    /// How it came in.
    pub register_method: RegisterMethod,
    /// The pre-auth key that it came in with, if it was one; the key may be gone.
    pub auth_key: Option<AuthKeyId>,
    /// It is deleted when it has been gone for a while.
    pub ephemeral: bool,
    /// When its key expires. `None`: never.
    pub expires_at: Option<Timestamp>,
    /// When it registered first.
    pub created_at: Timestamp,
    /// When its map session was last seen to end; `None` before that.
    pub last_seen: Option<Timestamp>,
    /// A person took it out of service: none of its routes is chosen while another can serve.
    pub drained: bool,
    /// Capability version of its client (protocol.md 0.4), as last reported.
    pub capability: u16,
    /// What it last reported of itself.
    pub hostinfo: Hostinfo,
    /// Where it can be reached directly, as last reported.
    pub endpoints: Vec<Endpoint>,
    /// Its home relay region; kept when a report holds none (protocol.md 2.2). 0: not known yet.
    pub home_derp: u32,
    /// From where it chooses among routers that are spread by region.
    pub vantage: Vantage,
}

/// From where a node chooses among routers that are spread by region. It follows what the node reports only once its home has been stable,
/// so that no measurement by itself moves a viewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vantage {
    /// Where its home has been stable.
    pub place: Place,
    /// Where it was when its home settled elsewhere while a prefix was frozen, or (`None`) all were: the place that counts for what is frozen,
    /// until it is frozen no more.
    pub held: BTreeMap<Option<Prefix>, Place>,
}

impl Vantage {
    /// The place that counts for a prefix.
    pub fn towards(&self, prefix: &Prefix) -> &Place {
        let held = || self.held.get(&Some(*prefix)).or_else(|| self.held.get(&None));
        if self.held.is_empty() { &self.place } else { held().unwrap_or(&self.place) }
    }
}

/// A place among relay regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The home relay region. 0: none yet.
    pub region: u32,
    /// Round trips to relay regions, in microseconds, as they had been measured then.
    pub latency: BTreeMap<u32, u64>,
}

impl Place {
    /// What a node reports, as a place to choose from. Of several ways to one region the shortest counts.
    pub fn reported(home: u32, net_info: Option<&NetInfo>) -> Self {
        let mut latency: BTreeMap<u32, u64> = BTreeMap::new();
        for (label, micros) in net_info.into_iter().flat_map(|info| &info.derp_latency) {
            // The labels are `900-v4`, `900-v6` (protocol.md 2.2).
            let Some(region) = label.split('-').next().and_then(|text| text.parse().ok()) else { continue };
            let known = latency.entry(region).or_insert(*micros);
            *known = (*known).min(*micros);
        }
        Self { region: home, latency }
    }
}

/// Whose a node is: a user's, or nobody's but its tags'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This user's.
    User(UserId),
    /// Its tags'; the user who brought it in is remembered.
    Tags {
        /// At least one.
        tags: BTreeSet<Tag>,
        /// Who brought it in, where that is known.
        created_by: Option<UserId>,
    },
    /// Nobody's: an import of a node whose owner was gone.
    Nobody,
}

impl Owner {
    /// The user whose node it is; `None` for a tagged node.
    pub const fn user(&self) -> Option<UserId> {
        match self {
            Self::User(user) => Some(*user),
            Self::Tags { .. } | Self::Nobody => None,
        }
    }

    /// The tags; none for a user's node.
    pub fn tags(&self) -> impl Iterator<Item = &Tag> {
        match self {
            Self::Tags { tags, .. } => Some(tags.iter()),
            Self::User(_) | Self::Nobody => None,
        }
        .into_iter()
        .flatten()
    }

    /// Whether it bears this tag.
    pub fn has_tag(&self, tag: &Tag) -> bool {
        self.tags().any(|t| t == tag)
    }
}

/// How a node came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterMethod {
    /// With a pre-auth key.
    AuthKey,
    /// A person approved it at the command line or over the API.
    Interactive,
    /// By logging in with an identity provider.
    Oidc,
    /// It came with an import.
    Import,
}

/// A node's own addresses: one of each family, as a rule (protocol.md 0.3); an import may bring only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// In 100.64.0.0/10.
    pub v4: Option<Ipv4Addr>,
    /// In fd7a:115c:a1e0::/48.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The addresses, IPv4 first: some clients insist on that order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// The addresses as /32 and /128, IPv4 first.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + use<> {
        self.iter().map(Prefix::host)
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.iter().any(|own| own == address)
    }
}

/// Where a node can be reached directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address and UDP port.
    pub address: SocketAddr,
    /// How the client came to know it.
    pub kind: EndpointKind,
}

/// How a client came to know an endpoint of its own (`tailcfg.EndpointType`, protocol.md 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointKind {
    /// 0, or a number that this program does not know.
    Unknown,
    /// 1: an address of one of its own interfaces.
    Local,
    /// 2: as a STUN server saw it.
    Stun,
    /// 3: a mapping that it asked its gateway for.
    Portmapped,
    /// 4: the address that STUN saw with the local port.
    Stun4LocalPort,
    /// 5: given by hand.
    Explicit,
}

/// What a client reports of itself, as far as the server has a use for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hostinfo {
    /// What the machine calls itself.
    pub hostname: String,
    /// `linux`, `windows`, `macOS`, ...
    pub os: String,
    /// Version of the system.
    pub os_version: String,
    /// Version of the client.
    pub client_version: String,
    /// Name of the program that embeds the client; the official Rust client names itself here.
    pub app: String,
    /// The prefixes that it advertises, host bits cleared, sorted, each once.
    pub routable_ips: BTreeSet<Prefix>,
    /// The tags that it asks for.
    pub request_tags: BTreeSet<Tag>,
    /// Services that peers may need to know of (peer API).
    pub services: Vec<Service>,
    /// SSH host keys, for peers that use the client's SSH.
    pub ssh_host_keys: Vec<String>,
    /// It blocks incoming connections itself.
    pub shields_up: bool,
    /// It was shared in from elsewhere.
    pub sharee_node: bool,
    /// It wants no log support; passed through for display.
    pub no_logs_no_support: bool,
    /// It routes without the kernel (user-space networking), if it said so.
    pub userspace: Option<bool>,
    /// It is an app connector.
    pub app_connector: bool,
    /// It runs a relay for its peers.
    pub peer_relay: bool,
    /// The exit node that it uses, as a stable id; empty for none.
    pub exit_node_id: String,
    /// Warnings that it gave about itself, such as `warn-ip-forwarding-off`.
    pub debug_flags: BTreeSet<String>,
    /// What it found out about its network. `None` before the first check.
    pub net_info: Option<NetInfo>,
}

/// A service that a node offers to its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `tcp`, `udp`, `peerapi4`, `peerapi6`, `peerapi-dns-proxy`.
    pub proto: String,
    /// The port.
    pub port: u16,
    /// A word on it.
    pub description: String,
}

/// What a client found out about its network, as far as the server has a use for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetInfo {
    /// Home relay region; 0: not known.
    pub preferred_derp: u32,
    /// UDP gets out at all.
    pub working_udp: Option<bool>,
    /// Round trips to relay regions, in microseconds, by the client's own label such as `900-v4`.
    pub derp_latency: BTreeMap<String, u64>,
}
