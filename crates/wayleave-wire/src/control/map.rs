//! `/machine/map` (protocol.md 2.2, 3).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wayleave_model::{DiscoKey, Endpoint, Hostinfo, NodeKey, Prefix, Timestamp};

use super::hostinfo::{self, WireHostinfo};
use super::lenient::{self, ReadError};
use super::node::{Node, PeerChange};

/// A client asks for its map, or reports, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Capability version.
    pub version: u16,
    /// Bodies are to be compressed. Go's client always wants it, the Rust client never.
    pub zstd: bool,
    /// Who asks.
    pub node_key: Option<NodeKey>,
    /// Its discovery key.
    pub disco_key: Option<DiscoKey>,
    /// It wants a stream of maps. Such a request is read-only.
    pub stream: bool,
    /// It wants no peers: a report only.
    pub omit_peers: bool,
    /// What it says of itself; `None` where it said nothing.
    pub hostinfo: Option<Hostinfo>,
    /// Where it can be reached directly.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wire {
    version: i64,
    compress: String,
    #[serde(rename = "nodekey")]
    node_key: String,
    #[serde(rename = "discokey")]
    disco_key: String,
    stream: bool,
    #[serde(rename = "omitpeers")]
    omit_peers: bool,
    hostinfo: Option<WireHostinfo>,
    endpoints: Vec<String>,
    #[serde(rename = "endpointtypes")]
    endpoint_types: Vec<i64>,
    #[serde(rename = "debugflags")]
    debug_flags: Vec<String>,
}

impl MapRequest {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// It is not JSON, or a field has another type than the protocol gives it.
    pub fn from_wire(json: &[u8]) -> Result<Self, ReadError> {
        let wire: Wire = lenient::read(json)?;
        Ok(Self {
            version: u16::try_from(wire.version).unwrap_or(0),
            zstd: wire.compress == "zstd",
            node_key: lenient::key(&wire.node_key, NodeKey::is_zero),
            disco_key: lenient::key(&wire.disco_key, DiscoKey::is_zero),
            stream: wire.stream,
            omit_peers: wire.omit_peers,
            hostinfo: wire.hostinfo.map(|hostinfo| hostinfo.into_model(&wire.debug_flags)),
            endpoints: hostinfo::endpoints(&wire.endpoints, &wire.endpoint_types),
        })
    }
}

/// One frame of a map stream. A field that is absent is unchanged.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MapResponse {
    /// Nothing but a sign of life.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_alive: bool,
    /// Something that the client is to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_request: Option<PingRequest>,
    /// The viewer itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Box<Node>>,
    /// Where the relays are.
    #[serde(rename = "DERPMap", skip_serializing_if = "Option::is_none")]
    pub derp_map: Option<Arc<DerpMap>>,
    /// All peers. An empty list is for the first frame only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Arc<RawValue>>>,
    /// Peers that are new, or changed as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers_changed: Vec<Arc<RawValue>>,
    /// Peers that are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers_removed: Vec<u64>,
    /// Peers of which a part changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers_changed_patch: Vec<PeerChange>,
    /// How names are resolved; replaces all that was there.
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<Arc<DnsConfig>>,
    /// The tailnet's name, as users are shown it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Whether the client is to report its listening ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collect_services: Option<bool>,
    /// Who may send to this viewer and what is behind it. An empty list blocks everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_filter: Option<Arc<[FilterRule]>>,
    /// Who may open shells on it; absent: as before.
    #[serde(rename = "SSHPolicy", skip_serializing_if = "Option::is_none")]
    pub ssh_policy: Option<Box<SshPolicy>>,
    /// Profiles of users that nodes refer to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_profiles: Vec<UserProfile>,
    /// Messages to show to the user, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub display_messages: BTreeMap<String, DisplayMessage>,
    /// The server's time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_time: Option<Timestamp>,
}

/// Puts a body into the frame of a map stream: its length, little-endian, and the body.
pub fn map_frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a map stays far below 4 GiB");
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend(length.to_le_bytes());
    out.extend(body);
    out
}

/// A user, as peers are told of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserProfile {
    /// The id that nodes refer to.
    #[serde(rename = "ID")]
    pub id: u64,
    /// The name to log in with.
    pub login_name: String,
    /// What clients show.
    pub display_name: String,
    /// The address of a picture; empty: none.
    #[serde(rename = "ProfilePicURL", skip_serializing_if = "String::is_empty")]
    pub profile_pic_url: String,
}

/// Something that the client is to do (protocol.md 6.3). Two fields are always sent: the Rust client needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PingRequest {
    /// Where the answer goes; unlike every other request's.
    #[serde(rename = "URL")]
    pub url: String,
    /// The answer comes through Noise.
    #[serde(rename = "URLIsNoise")]
    pub url_is_noise: bool,
    /// The client logs it.
    #[serde(rename = "Log", skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
    /// What is to be done; empty for an answer only.
    #[serde(rename = "Types")]
    pub types: String,
    /// Whom to ping.
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// A request for the client itself, base64 of HTTP/1.
    #[serde(rename = "Payload", skip_serializing_if = "String::is_empty")]
    pub payload: String,
}

/// What came of a ping of a peer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PingResponse {
    /// `TSMP`, `ICMP`, `disco` or `peerapi`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who was pinged.
    pub ip: String,
    /// The name of the node to which the client routes that address.
    #[serde(rename = "nodename")]
    pub node_name: String,
    /// What went wrong at once. Time-outs are never told.
    pub err: String,
    /// The round trip.
    #[serde(rename = "latencyseconds")]
    pub latency_seconds: f64,
}

impl PingResponse {
    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// It is not JSON, or a field has another type than the protocol gives it.
    pub fn from_wire(json: &[u8]) -> Result<Self, ReadError> {
        lenient::read(json)
    }
}

/// One rule of a packet filter (protocol.md 3.5): who may send where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterRule {
    /// Addresses, prefixes, ranges `a-b`, or `*`.
    #[serde(rename = "SrcIPs")]
    pub src_ips: Arc<[String]>,
    /// Where to, for a rule about packets.
    #[serde(rename = "DstPorts", skip_serializing_if = "Vec::is_empty")]
    pub dst_ports: Vec<DstPort>,
    /// IP protocols; empty for TCP, UDP and both ICMPs.
    #[serde(rename = "IPProto", skip_serializing_if = "Vec::is_empty")]
    pub ip_proto: Vec<u16>,
    /// What else it grants, for a rule about capabilities.
    #[serde(rename = "CapGrant", skip_serializing_if = "Vec::is_empty")]
    pub cap_grant: Vec<CapGrant>,
}

/// A destination and its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DstPort {
    /// An address, a prefix, a range, or `*`.
    #[serde(rename = "IP")]
    pub ip: String,
    /// The ports.
    pub ports: PortRange,
}

/// Ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// Capabilities that a rule grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CapGrant {
    /// At which destinations.
    pub dsts: Vec<Prefix>,
    /// Which, each with its values.
    pub cap_map: BTreeMap<String, Arc<serde_json::Value>>,
}

/// Who may open a shell on a node, and as whom (protocol.md 3.10).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SshPolicy {
    /// In order: the first that fits decides.
    pub rules: Vec<SshRule>,
}

/// A rule about shells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SshRule {
    /// Who.
    pub principals: Vec<SshPrincipal>,
    /// As whom: asked name to local name. `=` is the same name; an empty one is none.
    pub ssh_users: BTreeMap<String, String>,
    /// What then.
    pub action: SshAction,
    /// Environment variables that may be sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accept_env: Vec<String>,
}

/// A source of shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SshPrincipal {
    /// By its address in the tailnet.
    #[serde(rename = "nodeIP")]
    pub node_ip: IpAddr,
}

/// What becomes of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SshAction {
    /// Shown to the user.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// It is refused.
    #[serde(skip_serializing_if = "is_false")]
    pub reject: bool,
    /// It is let in.
    #[serde(skip_serializing_if = "is_false")]
    pub accept: bool,
    /// The agent may be forwarded.
    #[serde(skip_serializing_if = "is_false")]
    pub allow_agent_forwarding: bool,
    /// Ports may be forwarded from the client's side.
    #[serde(skip_serializing_if = "is_false")]
    pub allow_local_port_forwarding: bool,
    /// Ports may be forwarded from the server's side.
    #[serde(skip_serializing_if = "is_false")]
    pub allow_remote_port_forwarding: bool,
    /// Where the client asks what to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hold_and_delegate: String,
}

impl SshAction {
    /// It is let in, with all that a shell can do.
    pub fn accepted() -> Self {
        Self {
            accept: true,
            allow_agent_forwarding: true,
            allow_local_port_forwarding: true,
            allow_remote_port_forwarding: true,
            ..Self::default()
        }
    }

    /// It is refused, with these words for the user.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self { reject: true, message: message.into(), ..Self::default() }
    }
}

const fn is_false(value: &bool) -> bool {
    !*value
}

/// Relays, by region (protocol.md 3.8).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DerpMap {
    /// By region id, as decimal text in JSON.
    #[serde(rename = "Regions", default)]
    pub regions: BTreeMap<u32, DerpRegion>,
    /// Tools that look at it add no regions of their own. Lower camel on the wire.
    #[serde(rename = "omitDefaultRegions", default)]
    pub omit_default_regions: bool,
}

/// A region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DerpRegion {
    /// The id: 1 to 65535; 900 to 999 are for one's own.
    #[serde(rename = "RegionID")]
    pub region_id: u32,
    /// A short name.
    pub region_code: String,
    /// A long name.
    pub region_name: String,
    /// Not to be chosen as home.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub avoid: bool,
    /// Neither measured nor chosen as home.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_measure_no_home: bool,
    /// The relays, the preferred one first.
    pub nodes: Vec<DerpNode>,
}

/// A relay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DerpNode {
    /// Unique.
    #[serde(rename = "Name")]
    pub name: String,
    /// The region that it is in.
    #[serde(rename = "RegionID")]
    pub region_id: u32,
    /// Where it is; a name or an address.
    #[serde(rename = "HostName")]
    pub host_name: String,
    /// The name in its certificate, or `sha256-raw:` and a fingerprint.
    #[serde(rename = "CertName", skip_serializing_if = "String::is_empty")]
    pub cert_name: String,
    /// Its address, to skip DNS; `none` switches the family off.
    #[serde(rename = "IPv4", skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// See `ipv4`.
    #[serde(rename = "IPv6", skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
    /// 0: 3478; -1: no STUN.
    #[serde(rename = "STUNPort", skip_serializing_if = "is_zero")]
    pub stun_port: i32,
    /// It relays nothing.
    #[serde(rename = "STUNOnly", skip_serializing_if = "std::ops::Not::not")]
    pub stun_only: bool,
    /// 0: 443.
    #[serde(rename = "DERPPort", skip_serializing_if = "is_zero")]
    pub derp_port: i32,
    /// Its certificate is not verified.
    #[serde(rename = "InsecureForTests", skip_serializing_if = "std::ops::Not::not")]
    pub insecure_for_tests: bool,
    /// Where its STUN is, in tests; permits loopback too.
    #[serde(rename = "STUNTestIP", skip_serializing_if = "String::is_empty")]
    pub stun_test_ip: String,
    /// Its port 80 may be asked whether a portal is in the way.
    #[serde(rename = "CanPort80", skip_serializing_if = "std::ops::Not::not")]
    pub can_port_80: bool,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// How names are resolved (protocol.md 8.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsConfig {
    /// Resolvers for everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<Resolver>,
    /// Resolvers for clients that can't tell their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback_resolvers: Vec<Resolver>,
    /// Resolvers by suffix; an empty list is answered by the client itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, Vec<Resolver>>,
    /// Search domains, the tailnet's own first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// `MagicDNS` is on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub proxied: bool,
    /// Names with addresses of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_records: Vec<DnsRecord>,
}

/// A resolver: an address, an address and a port, or the URL of a known provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Resolver {
    /// Where.
    pub addr: String,
}

/// A name with an address of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsRecord {
    /// The whole name.
    pub name: String,
    /// `A` or `AAAA`; empty: told from the value.
    #[serde(rename = "Type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The address.
    pub value: String,
}

/// A message that a client shows to its user (protocol.md 3.11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DisplayMessage {
    /// A few words.
    pub title: String,
    /// All of it.
    pub text: String,
    /// `high`, `medium` or `low`.
    pub severity: String,
    /// Traffic suffers by it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub impacts_connectivity: bool,
}

/// What the server knows of newer clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClientVersion {
    /// The client runs the newest.
    pub running_latest: bool,
}
