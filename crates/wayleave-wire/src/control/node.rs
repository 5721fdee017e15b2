//! Nodes as clients are told of them (protocol.md 4), and changes of them (3.3).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;
use std::sync::Arc;
use wayleave_model::{DiscoKey, MachineKey, NodeKey, Prefix, Tag, Timestamp};

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A node: the viewer itself, or one of its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// Stable for the node's life, never reused.
    #[serde(rename = "ID")]
    pub id: u64,
    /// Opaque, stable, unique: the id as a decimal number, as Headscale has it, since clients keep their own and their exit node's.
    #[serde(rename = "StableID")]
    pub stable_id: String,
    /// The whole name, with a dot behind it. All after the first label is the suffix of `MagicDNS`.
    pub name: String,
    /// Whose it is; there has to be a profile for it.
    pub user: u64,
    /// The WireGuard key.
    pub key: NodeKey,
    /// When the key expires. Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<Timestamp>,
    /// The machine's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineKey>,
    /// The discovery key. A peer without one and without a home relay is passed over by clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoKey>,
    /// /32 and /128, IPv4 first.
    pub addresses: Vec<Prefix>,
    /// The addresses, and the routes that it serves to this viewer.
    #[serde(rename = "AllowedIPs")]
    pub allowed_ips: Vec<Prefix>,
    /// Where it can be reached directly. Always sent: an absent list means "unchanged" to the client's own comparison.
    pub endpoints: Vec<SocketAddr>,
    /// The home relay as old tools read it: `127.3.3.40:REGION`.
    #[serde(rename = "DERP", skip_serializing_if = "String::is_empty")]
    pub derp: String,
    /// The home relay region; 0 is not sent.
    #[serde(rename = "HomeDERP", skip_serializing_if = "is_zero")]
    pub home_derp: u32,
    /// What peers may know of the host.
    pub hostinfo: PeerHostinfo,
    /// When it registered first.
    pub created: Timestamp,
    /// Its capability version.
    pub cap: u16,
    /// Its tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// The routes that it is primary for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub primary_routes: Vec<Prefix>,
    /// When it was last online; only while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Always sent: a client does not see it appear later (protocol.md 3.3).
    pub online: bool,
    /// The device is approved.
    pub machine_authorized: bool,
    /// Capabilities, each with its values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cap_map: BTreeMap<String, Arc<serde_json::Value>>,
    /// Its key has expired: the peer is not configured at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
}

/// What peers may know of a host. The prefixes that it advertises are not among it: they are told as routes, to whom they concern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PeerHostinfo {
    /// The system.
    #[serde(rename = "OS", skip_serializing_if = "String::is_empty")]
    pub os: String,
    /// What it calls itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Services of the peer API, by which peers find it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<WireService>,
    /// The program that embeds the client.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app: String,
    /// SSH host keys. Lower camel on the wire, unlike its neighbours.
    #[serde(rename = "sshHostKeys", skip_serializing_if = "Vec::is_empty")]
    pub ssh_host_keys: Vec<String>,
    /// It was shared in.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sharee_node: bool,
}

/// A service of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct WireService {
    /// The protocol.
    pub proto: String,
    /// The port.
    pub port: u16,
    /// A word on it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A change of a peer that needs no whole node. Routes can't be told this way (protocol.md 3.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PeerChange {
    /// Which peer.
    #[serde(rename = "NodeID")]
    pub node_id: u64,
    /// Its new home relay region; 0: unchanged.
    #[serde(rename = "DERPRegion", skip_serializing_if = "is_zero")]
    pub derp_region: u32,
    /// Its endpoints. An empty list empties; absent is unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<SocketAddr>>,
    /// Its new WireGuard key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<NodeKey>,
    /// Its new discovery key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoKey>,
    /// Whether it is online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// When it was last online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// When its key expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<Timestamp>,
}
