//! What a client says of itself, from the wire into the model (protocol.md 2.2).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use wayleave_model::{Endpoint, EndpointKind, Hostinfo, NetInfo, Prefix, Service};

use super::lenient::{self, ReadError};

/// How many prefixes, tags, services and endpoints of one client are read. A client that sends more is broken or hostile; app
/// connectors send some hundreds.
const MOST_PREFIXES: usize = 4096;
const MOST_SERVICES: usize = 256;
const MOST_ENDPOINTS: usize = 64;
const MOST_TAGS: usize = 64;
/// Longest text of a field that is kept.
const LONGEST: usize = 256;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireHostinfo {
    #[serde(rename = "ipnversion")]
    ipn_version: String,
    os: String,
    #[serde(rename = "osversion")]
    os_version: String,
    app: String,
    hostname: String,
    #[serde(rename = "shieldsup")]
    shields_up: bool,
    #[serde(rename = "shareenode")]
    sharee_node: bool,
    #[serde(rename = "nologsnosupport")]
    no_logs_no_support: bool,
    #[serde(rename = "routableips")]
    routable_ips: Vec<String>,
    #[serde(rename = "requesttags")]
    request_tags: Vec<String>,
    services: Vec<WireServiceIn>,
    #[serde(rename = "netinfo")]
    net_info: Option<WireNetInfo>,
    #[serde(rename = "sshhostkeys")]
    ssh_host_keys: Vec<String>,
    userspace: Option<bool>,
    #[serde(rename = "appconnector")]
    app_connector: Option<bool>,
    #[serde(rename = "peerrelay")]
    peer_relay: bool,
    #[serde(rename = "exitnodeid")]
    exit_node_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireServiceIn {
    proto: String,
    port: u16,
    description: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireNetInfo {
    #[serde(rename = "preferredderp")]
    preferred_derp: i64,
    #[serde(rename = "workingudp")]
    working_udp: Option<bool>,
    #[serde(rename = "derplatency")]
    derp_latency: BTreeMap<String, f64>,
}

/// Reads what a client says of itself, by itself: other servers keep it as it came.
///
/// # Errors
///
/// It is not the JSON of this protocol.
pub fn read_hostinfo(json: &[u8]) -> Result<Hostinfo, ReadError> {
    let info: WireHostinfo = lenient::read(json)?;
    Ok(info.into_model(&[]))
}

fn short(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

impl WireHostinfo {
    /// Into the model: prefixes masked, sorted and each once; what can't be read left out.
    pub(super) fn into_model(self, debug_flags: &[String]) -> Hostinfo {
        let Self {
            ipn_version,
            os,
            os_version,
            app,
            hostname,
            shields_up,
            sharee_node,
            no_logs_no_support,
            routable_ips,
            request_tags,
            services,
            net_info,
            ssh_host_keys,
            userspace,
            app_connector,
            peer_relay,
            exit_node_id,
        } = self;
        let prefix = |text: &String| text.parse::<ipnet::IpNet>().ok().map(Prefix::containing);
        let services = services.into_iter().take(MOST_SERVICES).map(|WireServiceIn { proto, port, description }| {
            Service { proto: short(proto), port, description: short(description) }
        });
        Hostinfo {
            hostname: short(hostname),
            os: short(os),
            os_version: short(os_version),
            client_version: short(ipn_version),
            app: short(app),
            routable_ips: routable_ips.iter().take(MOST_PREFIXES).filter_map(prefix).collect(),
            request_tags: request_tags.iter().take(MOST_TAGS).filter_map(|tag| tag.parse().ok()).collect(),
            services: services.collect(),
            ssh_host_keys: ssh_host_keys.into_iter().take(16).collect(),
            shields_up,
            sharee_node,
            no_logs_no_support,
            userspace,
            app_connector: app_connector.unwrap_or(false),
            peer_relay,
            exit_node_id: short(exit_node_id),
            debug_flags: debug_flags.iter().take(32).cloned().map(short).collect::<BTreeSet<_>>(),
            net_info: net_info.map(|WireNetInfo { preferred_derp, working_udp, derp_latency }| NetInfo {
                preferred_derp: u32::try_from(preferred_derp).unwrap_or(0),
                working_udp,
                derp_latency: derp_latency.into_iter().take(1024).map(|(label, s)| (label, micros(s))).collect(),
            }),
        }
    }
}

/// Seconds into microseconds; what is no time is none.
fn micros(seconds: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(seconds)
        .map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// The two parallel lists of a map request, less what no peer could use: link-local IPv6 addresses, and ones with zones.
pub(super) fn endpoints(addresses: &[String], kinds: &[i64]) -> Vec<Endpoint> {
    let kinds = kinds.iter().copied().chain(std::iter::repeat(0));
    addresses
        .iter()
        .zip(kinds)
        .filter_map(|(text, kind)| {
            let address: SocketAddr = text.parse().ok()?;
            let link_local = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
            let kind = match kind {
                1 => EndpointKind::Local,
                2 => EndpointKind::Stun,
                3 => EndpointKind::Portmapped,
                4 => EndpointKind::Stun4LocalPort,
                5 => EndpointKind::Explicit,
                _ => EndpointKind::Unknown,
            };
            (!link_local).then_some(Endpoint { address, kind })
        })
        .take(MOST_ENDPOINTS)
        .collect()
}
