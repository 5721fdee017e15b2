//! Views into the wire's shapes. The only file that knows both.

use std::collections::BTreeMap;
use std::sync::Arc;

use wayleave_model::{Hostinfo, Owner, Prefix, Service, User};
use wayleave_tailnet::{NodeView, Snapshot};
use wayleave_wire::control::{DstPort, FilterRule, Node, PeerHostinfo, PortRange, UserProfile, WireService};

use crate::view::Told;

/// The user that tagged nodes, which belong to nobody, are shown under. Above any id that is given out.
pub const TAGGED_DEVICES: u64 = 1 << 52;

fn user_of(owner: &Owner) -> u64 {
    owner.user().map_or(TAGGED_DEVICES, |user| user.get())
}

/// A peer, as a viewer is told of it.
pub(crate) fn peer_to_wire(view: &NodeView, told: &Told, base_domain: &str) -> Node {
    node(view, told.routes.iter().copied(), told.primary.iter().copied(), base_domain)
}

/// The viewer, as it is told of itself: with the routes that it stands by for.
pub(crate) fn self_to_wire(view: &NodeView, base_domain: &str) -> Node {
    let mut wire = node(view, view.approved.iter().copied(), view.primary.iter().copied(), base_domain);
    wire.cap_map =
        ["https://tailscale.com/cap/file-sharing"].into_iter().map(|cap| (cap.to_owned(), Vec::new())).collect();
    wire
}

fn node(
    view: &NodeView,
    routes: impl Iterator<Item = Prefix>,
    primary: impl Iterator<Item = Prefix>,
    base_domain: &str,
) -> Node {
    let stored = &view.node;
    let addresses: Vec<Prefix> = stored.addresses.prefixes().collect();
    Node {
        id: stored.id.get(),
        stable_id: format!("n{}", stored.id),
        name: format!("{}.{base_domain}.", stored.given_name),
        user: user_of(&stored.owner),
        key: stored.node_key,
        key_expiry: stored.expires_at,
        machine: stored.machine_key,
        disco_key: stored.disco_key,
        allowed_ips: addresses.iter().copied().chain(routes).collect(),
        addresses,
        endpoints: stored.endpoints.iter().map(|endpoint| endpoint.address).collect(),
        derp: if stored.home_derp == 0 { String::new() } else { format!("127.3.3.40:{}", stored.home_derp) },
        home_derp: stored.home_derp,
        hostinfo: hostinfo(&stored.hostinfo),
        created: stored.created_at,
        cap: stored.capability,
        tags: stored.owner.tags().cloned().collect(),
        primary_routes: primary.collect(),
        last_seen: if view.online { None } else { stored.last_seen },
        online: view.online,
        machine_authorized: true,
        cap_map: BTreeMap::new(),
        expired: view.expired,
    }
}

fn hostinfo(hostinfo: &Hostinfo) -> PeerHostinfo {
    let service = |Service { proto, port, description }: &Service| WireService {
        proto: proto.clone(),
        port: *port,
        description: description.clone(),
    };
    PeerHostinfo {
        os: hostinfo.os.clone(),
        hostname: hostinfo.hostname.clone(),
        services: hostinfo.services.iter().map(service).collect(),
        app: hostinfo.app.clone(),
        ssh_host_keys: hostinfo.ssh_host_keys.clone(),
        sharee_node: hostinfo.sharee_node,
    }
}

/// The profile of a node's owner, to be told no later than the node itself.
pub fn profile_of(owner: &Owner, snapshot: &Snapshot) -> UserProfile {
    match owner.user().and_then(|id| snapshot.users.get(&id)) {
        Some(user) => profile(user),
        None => UserProfile {
            id: user_of(owner),
            login_name: "tagged-devices".to_owned(),
            display_name: "Tagged Devices".to_owned(),
        },
    }
}

pub(crate) fn profile(user: &User) -> UserProfile {
    UserProfile {
        id: user.id.get(),
        login_name: user.login_name().to_owned(),
        display_name: user.shown_name().to_owned(),
    }
}

/// The filter under which everything is allowed: anybody to anywhere, the subnets behind a router and the internet behind an exit
/// among it.
pub(crate) fn accept_all() -> Arc<[FilterRule]> {
    let everywhere = DstPort { ip: "*".to_owned(), ports: PortRange { first: 0, last: u16::MAX } };
    Arc::from([FilterRule {
        src_ips: vec!["*".to_owned()],
        dst_ports: vec![everywhere],
        ip_proto: Vec::new(),
        cap_grant: Vec::new(),
    }])
}
