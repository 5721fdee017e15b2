//! The shapes of JSON columns. They are the database's own: what a node reports may grow without a migration, and a row that
//! was written before a field was known reads as if the node had not said anything of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use wayleave_model::{Endpoint, EndpointKind, Hostinfo, NetInfo, Place, Prefix, Service, Tag, Vantage};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HostinfoJson {
    hostname: String,
    os: String,
    os_version: String,
    client_version: String,
    app: String,
    routable_ips: BTreeSet<Prefix>,
    request_tags: BTreeSet<Tag>,
    services: Vec<ServiceJson>,
    ssh_host_keys: Vec<String>,
    shields_up: bool,
    sharee_node: bool,
    no_logs_no_support: bool,
    userspace: Option<bool>,
    app_connector: bool,
    peer_relay: bool,
    exit_node_id: String,
    debug_flags: BTreeSet<String>,
    net_info: Option<NetInfoJson>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ServiceJson {
    proto: String,
    port: u16,
    #[serde(default)]
    description: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct NetInfoJson {
    preferred_derp: u32,
    working_udp: Option<bool>,
    derp_latency: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndpointJson {
    address: SocketAddr,
    kind: u8,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct VantageJson {
    region: u32,
    latency: BTreeMap<u32, u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held: Vec<HeldJson>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeldJson {
    /// `None`: all prefixes.
    prefix: Option<Prefix>,
    region: u32,
    latency: BTreeMap<u32, u64>,
}

impl VantageJson {
    pub(crate) fn from_model(vantage: &Vantage) -> Self {
        let Vantage { place: Place { region, latency }, held } = vantage.clone();
        let held = held.into_iter().map(|(prefix, Place { region, latency })| HeldJson { prefix, region, latency });
        Self { region, latency, held: held.collect() }
    }

    pub(crate) fn into_model(self) -> Vantage {
        let Self { region, latency, held } = self;
        let held = held.into_iter().map(|HeldJson { prefix, region, latency }| (prefix, Place { region, latency }));
        Vantage { place: Place { region, latency }, held: held.collect() }
    }
}

impl HostinfoJson {
    pub(crate) fn from_model(hostinfo: &Hostinfo) -> Self {
        let Hostinfo {
            hostname,
            os,
            os_version,
            client_version,
            app,
            routable_ips,
            request_tags,
            services,
            ssh_host_keys,
            shields_up,
            sharee_node,
            no_logs_no_support,
            userspace,
            app_connector,
            peer_relay,
            exit_node_id,
            debug_flags,
            net_info,
        } = hostinfo.clone();
        let services = services
            .into_iter()
            .map(|Service { proto, port, description }| ServiceJson { proto, port, description })
            .collect();
        let net_info = net_info.map(|NetInfo { preferred_derp, working_udp, derp_latency }| NetInfoJson {
            preferred_derp,
            working_udp,
            derp_latency,
        });
        Self {
            hostname,
            os,
            os_version,
            client_version,
            app,
            routable_ips,
            request_tags,
            services,
            ssh_host_keys,
            shields_up,
            sharee_node,
            no_logs_no_support,
            userspace,
            app_connector,
            peer_relay,
            exit_node_id,
            debug_flags,
            net_info,
        }
    }

    pub(crate) fn into_model(self) -> Hostinfo {
        let Self {
            hostname,
            os,
            os_version,
            client_version,
            app,
            routable_ips,
            request_tags,
            services,
            ssh_host_keys,
            shields_up,
            sharee_node,
            no_logs_no_support,
            userspace,
            app_connector,
            peer_relay,
            exit_node_id,
            debug_flags,
            net_info,
        } = self;
        let services = services
            .into_iter()
            .map(|ServiceJson { proto, port, description }| Service { proto, port, description })
            .collect();
        let net_info = net_info.map(|NetInfoJson { preferred_derp, working_udp, derp_latency }| NetInfo {
            preferred_derp,
            working_udp,
            derp_latency,
        });
        Hostinfo {
            hostname,
            os,
            os_version,
            client_version,
            app,
            routable_ips,
            request_tags,
            services,
            ssh_host_keys,
            shields_up,
            sharee_node,
            no_logs_no_support,
            userspace,
            app_connector,
            peer_relay,
            exit_node_id,
            debug_flags,
            net_info,
        }
    }
}

impl EndpointJson {
    pub(crate) const fn from_model(endpoint: Endpoint) -> Self {
        let kind = match endpoint.kind {
            EndpointKind::Unknown => 0,
            EndpointKind::Local => 1,
            EndpointKind::Stun => 2,
            EndpointKind::Portmapped => 3,
            EndpointKind::Stun4LocalPort => 4,
            EndpointKind::Explicit => 5,
        };
        Self { address: endpoint.address, kind }
    }

    pub(crate) const fn into_model(self) -> Endpoint {
        let kind = match self.kind {
            1 => EndpointKind::Local,
            2 => EndpointKind::Stun,
            3 => EndpointKind::Portmapped,
            4 => EndpointKind::Stun4LocalPort,
            5 => EndpointKind::Explicit,
            _ => EndpointKind::Unknown,
        };
        Endpoint { address: self.address, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_held_reads_as_it_was_written_and_older_rows_hold_none() {
        let place = |region| Place { region, latency: [(region, 1500)].into() };
        let prefix: Prefix = "10.1.0.0/16".parse().unwrap();
        let vantage = Vantage { place: place(901), held: [(None, place(900)), (Some(prefix), place(902))].into() };
        let text = serde_json::to_string(&VantageJson::from_model(&vantage)).unwrap();
        assert_eq!(serde_json::from_str::<VantageJson>(&text).unwrap().into_model(), vantage);
        let older: VantageJson = serde_json::from_str(r#"{"region":901,"latency":{"901":1500}}"#).unwrap();
        assert_eq!(older.into_model(), Vantage { place: place(901), ..Vantage::default() });
    }
}
