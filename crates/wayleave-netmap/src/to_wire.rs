//! Views into the wire's shapes. The only file that knows both.

use std::collections::BTreeMap;
use std::sync::Arc;

use wayleave_model::{Hostinfo, Owner, Prefix, Service, User, UserId};
use wayleave_policy::{FilterRule as Rule, Sources, SshRule};
use wayleave_tailnet::{NodeView, Snapshot};
use wayleave_wire::control::{
    CapGrant, DstPort, FilterRule, Node, PeerHostinfo, PortRange, SshAction, SshPolicy, SshPrincipal,
    SshRule as WireSshRule, UserProfile, WireService,
};

use crate::view::Told;

/// The user that tagged nodes, which belong to nobody, are shown under. Above any id that is given out. Headscale shows them under the
/// same number since 0.28, and clients keep it in their profiles; one that came from there sees no change.
pub const TAGGED_DEVICES: u64 = 2_147_455_555;

fn user_of(owner: &Owner) -> u64 {
    owner.user().map_or(TAGGED_DEVICES, |user| user.get())
}

/// A peer, as a viewer is told of it.
pub(crate) fn peer_to_wire(view: &NodeView, told: &Told, base_domain: &str) -> Node {
    let mut wire = node(view, told.routes.iter().copied(), told.primary.iter().copied(), base_domain);
    if told.suggested_exit {
        wire.cap_map.insert(SUGGESTED_EXIT.to_owned(), no_values());
    }
    if told.no_ipv4 {
        without_ipv4(&mut wire);
    }
    wire
}

/// The viewer, as it is told of itself: with the routes that it stands by for.
pub(crate) fn self_to_wire(
    view: &NodeView,
    attributes: &BTreeMap<String, Arc<serde_json::Value>>,
    has_ssh: bool,
    base_domain: &str,
) -> Node {
    let mut wire = node(view, view.approved.iter().copied(), view.primary.iter().copied(), base_domain);
    wire.cap_map = attributes.iter().map(|(name, value)| (name.clone(), as_list(value))).collect();
    for name in ["https://tailscale.com/cap/file-sharing"].into_iter().chain(has_ssh.then_some(MAY_SSH)) {
        wire.cap_map.entry(name.to_owned()).or_insert_with(no_values);
    }
    if attributes.contains_key(NO_IPV4) {
        without_ipv4(&mut wire);
    }
    wire
}

/// A node with this attribute runs its SSH server.
const MAY_SSH: &str = "https://tailscale.com/cap/ssh";
/// A node with this attribute has no IPv4 address, as far as it and others are told; what it leads to stays.
pub(crate) const NO_IPV4: &str = "disable-ipv4";
/// Others are told of this attribute of an exit: clients offer it where somebody asks for a suggestion.
pub(crate) const SUGGESTED_EXIT: &str = "suggest-exit-node";

fn no_values() -> Arc<serde_json::Value> {
    Arc::new(serde_json::Value::Array(Vec::new()))
}

/// A flag has no values; the official Rust client reads no `null` here.
fn as_list(value: &Arc<serde_json::Value>) -> Arc<serde_json::Value> {
    if value.is_null() { no_values() } else { Arc::clone(value) }
}

fn without_ipv4(wire: &mut Node) {
    let own = wire.addresses.iter().copied().find(|address| address.network().is_ipv4());
    wire.addresses.retain(|address| Some(*address) != own);
    wire.allowed_ips.retain(|prefix| Some(*prefix) != own);
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
        stable_id: stored.id.to_string(),
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
    profile_of_user(owner.user(), snapshot)
}

/// The profile of a user; `None`: of what is tagged.
pub(crate) fn profile_of_user(user: Option<UserId>, snapshot: &Snapshot) -> UserProfile {
    match user.and_then(|id| snapshot.users.get(&id)) {
        Some(user) => profile(user),
        None => UserProfile {
            id: user.map_or(TAGGED_DEVICES, UserId::get),
            login_name: "tagged-devices".to_owned(),
            display_name: "Tagged Devices".to_owned(),
            profile_pic_url: String::new(),
        },
    }
}

pub(crate) fn profile(user: &User) -> UserProfile {
    UserProfile {
        id: user.id.get(),
        login_name: user.login_name().to_owned(),
        display_name: user.shown_name().to_owned(),
        profile_pic_url: user.picture.clone(),
    }
}

/// A node's packet filter.
pub fn filter_to_wire(rules: &[Rule]) -> Arc<[FilterRule]> {
    let empty = |sources: &Sources| FilterRule {
        src_ips: Arc::clone(sources),
        dst_ports: Vec::new(),
        ip_proto: Vec::new(),
        cap_grant: Vec::new(),
    };
    rules
        .iter()
        .map(|rule| match rule {
            Rule::Packets { sources, protocol, destinations } => FilterRule {
                dst_ports: destinations
                    .iter()
                    .map(|(ip, ports)| DstPort {
                        ip: ip.clone(),
                        ports: PortRange { first: ports.first, last: ports.last },
                    })
                    .collect(),
                ip_proto: protocol.iter().copied().collect(),
                ..empty(sources)
            },
            Rule::Capabilities { sources, destinations, capabilities } => FilterRule {
                cap_grant: vec![CapGrant {
                    dsts: destinations.clone(),
                    cap_map: capabilities.0.iter().map(|(name, value)| (name.clone(), Arc::clone(value))).collect(),
                }],
                ..empty(sources)
            },
        })
        .collect()
}

/// A node's rules for shells. `check_url` is where a client asks about a connection that a person has to approve.
pub fn ssh_to_wire(rules: &[SshRule], check_url: &str) -> SshPolicy {
    let rules = rules.iter().map(|rule| WireSshRule {
        principals: rule.principals.iter().map(|address| SshPrincipal { node_ip: *address }).collect(),
        ssh_users: rule.users.clone(),
        accept_env: rule.accept_env.clone(),
        action: match rule.check {
            None => SshAction::accepted(),
            Some(_) => SshAction { hold_and_delegate: check_url.to_owned(), ..SshAction::default() },
        },
    });
    SshPolicy { rules: rules.collect() }
}
