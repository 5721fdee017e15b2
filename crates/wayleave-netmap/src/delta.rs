//! What to tell a viewer: everything, or what changed since the snapshot that it was brought to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wayleave_model::{NodeId, Timestamp};
use wayleave_tailnet::{NodeView, Snapshot};
use wayleave_wire::CapabilityVersion;
use wayleave_wire::control::{DerpMap, DnsConfig, MapResponse, Node, PeerChange, SshPolicy, UserProfile};

use crate::cache::{PeerCache, WirePeer};
use crate::dns::dns_of;
use crate::to_wire::{filter_to_wire, profile, profile_of, self_to_wire, ssh_to_wire};
use crate::view::{peers, told_as_peer};

/// What all viewers share, whoever they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// The tailnet's domain, without a dot behind it: the suffix of every node's name.
    pub base_domain: String,
    /// How names are resolved.
    pub dns: Arc<DnsConfig>,
    /// Where the relays are.
    pub derp_map: Arc<DerpMap>,
}

/// Everything that a viewer sees. `None`: the viewer is not in this snapshot.
pub fn full(
    snapshot: &Snapshot,
    shared: &Shared,
    cache: &PeerCache,
    viewer: NodeId,
    now: Timestamp,
) -> Option<MapResponse> {
    let me = snapshot.node(viewer)?;
    let mut profiles = BTreeMap::new();
    let mut all = Vec::with_capacity(snapshot.nodes.len());
    for (_, peer, told) in peers(snapshot, me) {
        add_profile(&mut profiles, peer, snapshot);
        all.push(Arc::clone(&cache.peer(peer, &told, &shared.base_domain).json));
    }
    Some(MapResponse { peers: Some(all), ..around(snapshot, shared, me, profiles, now) })
}

/// A full map but for the peers, whose owners' profiles are given.
pub(crate) fn around(
    snapshot: &Snapshot,
    shared: &Shared,
    me: &NodeView,
    mut profiles: BTreeMap<u64, UserProfile>,
    now: Timestamp,
) -> MapResponse {
    add_profile(&mut profiles, me, snapshot);
    MapResponse {
        node: Some(Box::new(own_node(snapshot, me, &shared.base_domain))),
        derp_map: Some(Arc::clone(&shared.derp_map)),
        dns_config: Some(dns_of(snapshot, shared, me)),
        domain: shared.base_domain.clone(),
        collect_services: Some(false),
        packet_filter: Some(filter_to_wire(&snapshot.policy.filter(me.node.id))),
        ssh_policy: own_ssh(snapshot, me),
        user_profiles: profiles.into_values().collect(),
        control_time: Some(now),
        ..MapResponse::default()
    }
}

/// Everything that a viewer sees, for one that was told of an older snapshot which is too old to compare with.
pub fn full_again(
    base: &Snapshot,
    next: (&Snapshot, &Shared),
    cache: &PeerCache,
    viewer: NodeId,
    now: Timestamp,
) -> Option<MapResponse> {
    let (snapshot, shared) = next;
    let mut map = full(snapshot, shared, cache, viewer, now)?;
    if map.peers.as_ref().is_some_and(Vec::is_empty) {
        // An empty list clears nothing in Go's client (protocol.md 3.2): the peers that it had have to be named.
        let was = base.node(viewer)?;
        map.peers = None;
        map.peers_removed = peers(base, was).map(|(id, ..)| id.get()).collect();
    }
    Some(map)
}

/// What changed for a viewer from one snapshot to a newer one. `None`: nothing. The viewer must be in both, and the newer one must
/// remember the way from the older; where either does not hold, [`full()`] is the answer.
pub fn delta(
    base: (&Snapshot, &Shared),
    next: (&Snapshot, &Shared),
    changed: &BTreeSet<NodeId>,
    cache: &PeerCache,
    viewer: NodeId,
    now: Timestamp,
) -> Option<MapResponse> {
    let (old, new) = (base.0, next.0);
    let (was, is) = (old.node(viewer)?, new.node(viewer)?);
    let more: BTreeSet<NodeId>;
    // Other rules: the answers about anybody may have changed. And so may all that this viewer is told, where it is another viewer now.
    let same_rules = new.policy_version == old.policy_version;
    let changed = if !same_rules || is_another(old, was, new, is) {
        more = everybody(old, new, viewer);
        &more
    } else if was.node.vantage != is.node.vantage {
        // It chooses from another place.
        let spread = new.nodes.values().filter(|node| !node.choices.is_empty()).map(|node| node.node.id);
        more = changed.iter().copied().chain(spread).collect();
        &more
    } else {
        changed
    };
    let steps = peer_steps(base, next, changed, cache, (was, is));
    with_steps(base, next, &steps, viewer, now)
}

/// Whether a viewer became another one to those who make its map: by what a rule says of it, or by what it carries itself.
pub(crate) fn is_another(old: &Snapshot, was: &NodeView, new: &Snapshot, is: &NodeView) -> bool {
    carries_other(was, is) || old.policy.class_of(was.node.id) != new.policy.class_of(is.node.id)
}

/// Whether a viewer is somebody else's, or came to carry other prefixes, or none.
pub(crate) fn carries_other(was: &NodeView, is: &NodeView) -> bool {
    was.expired != is.expired
        || was.approved != is.approved
        || was.primary != is.primary
        || was.node.owner != is.node.owner
}

/// Everybody whom a viewer saw or sees.
pub(crate) fn everybody(old: &Snapshot, new: &Snapshot, viewer: NodeId) -> BTreeSet<NodeId> {
    old.policy.peers(viewer).into_iter().chain(new.policy.peers(viewer)).collect()
}

/// How a peer changed for a viewer.
#[derive(Debug)]
pub(crate) enum PeerStep {
    /// It is gone from the map.
    Gone,
    /// Fields that can be told apart.
    Patch(Box<PeerChange>),
    /// It is new on the map, or changed in other ways.
    Whole(Arc<WirePeer>, Arc<NodeView>),
}

/// How peers changed for a viewer, as it was and as it is, by their ids. Of the viewer itself it says what others who see the same are
/// told of it.
pub(crate) fn peer_steps(
    (old, old_shared): (&Snapshot, &Shared),
    (new, shared): (&Snapshot, &Shared),
    changed: &BTreeSet<NodeId>,
    cache: &PeerCache,
    (was, is): (&NodeView, &NodeView),
) -> Vec<(NodeId, PeerStep)> {
    let step = |id: &NodeId| {
        let (before, after) = (old.node(*id), new.node(*id));
        let told_before = before.and_then(|peer| told_as_peer(old, was, peer).map(|told| (peer, told)));
        let told_after = after.and_then(|peer| told_as_peer(new, is, peer).map(|told| (peer, told)));
        match (told_before, told_after) {
            (None, None) => None,
            (Some(_), None) => Some(PeerStep::Gone),
            (None, Some((peer, told))) => {
                Some(PeerStep::Whole(cache.peer(peer, &told, &shared.base_domain), Arc::clone(peer)))
            }
            (Some((before, old_told)), Some((after, new_told)))
                if Arc::ptr_eq(before, after)
                    && old_told == new_told
                    && old_shared.base_domain == shared.base_domain =>
            {
                None
            }
            (Some((before, old_told)), Some((after, new_told))) => {
                let before = cache.peer(before, &old_told, &old_shared.base_domain);
                let peer = cache.peer(after, &new_told, &shared.base_domain);
                match difference(&before.node, &peer.node) {
                    Difference::None => None,
                    Difference::Patch(patch) => Some(PeerStep::Patch(patch)),
                    Difference::Whole => Some(PeerStep::Whole(peer, Arc::clone(after))),
                }
            }
        }
    };
    changed.iter().filter_map(|id| Some((*id, step(id)?))).collect()
}

/// What a viewer is told if its peers changed like this. What the steps say of itself it is not told.
pub(crate) fn with_steps(
    base: (&Snapshot, &Shared),
    next: (&Snapshot, &Shared),
    steps: &[(NodeId, PeerStep)],
    viewer: NodeId,
    now: Timestamp,
) -> Option<MapResponse> {
    let ((old, old_shared), (new, shared)) = (base, next);
    let (was, is) = (old.node(viewer)?, new.node(viewer)?);
    let mut out = MapResponse::default();
    let mut profiles = BTreeMap::new();
    for (id, step) in steps.iter().filter(|(id, _)| *id != viewer) {
        match step {
            PeerStep::Gone => out.peers_removed.push(id.get()),
            PeerStep::Patch(patch) => out.peers_changed_patch.push((**patch).clone()),
            PeerStep::Whole(peer, view) => {
                out.peers_changed.push(Arc::clone(&peer.json));
                add_profile(&mut profiles, view, new);
            }
        }
    }
    let same_policy = Arc::ptr_eq(&old.policy, &new.policy);
    if let Some(node) = self_step(base, next, was, is) {
        out.node = Some(Box::new(node));
        add_profile(&mut profiles, is, new);
    }
    if !new.users.ptr_eq(&old.users) {
        for (id, user) in new.users.iter() {
            if old.users.get(id).is_some_and(|old| old != user) {
                profiles.insert(id.get(), profile(user));
            }
        }
    }
    out.user_profiles = profiles.into_values().collect();
    if !same_policy {
        let filter = new.policy.filter(viewer);
        if old.policy.filter(viewer) != filter {
            out.packet_filter = Some(filter_to_wire(&filter));
        }
        let ssh = own_ssh(new, is);
        if own_ssh(old, was) != ssh {
            out.ssh_policy = Some(ssh.unwrap_or_default());
        }
    }
    // Names follow from the sites, the rules, and who the viewer is to them.
    let same_rules = new.policy_version == old.policy_version && !is_another(old, was, new, is);
    let same_names = same_rules && Arc::ptr_eq(&old.sites, &new.sites) && shared.dns == old_shared.dns;
    if !same_names {
        let dns = dns_of(new, shared, is);
        if dns != dns_of(old, old_shared, was) {
            out.dns_config = Some(dns);
        }
    }
    if shared.derp_map != old_shared.derp_map {
        out.derp_map = Some(Arc::clone(&shared.derp_map));
    }
    if is_empty(&out) {
        return None;
    }
    let peers_come_or_go = !out.peers_changed.is_empty() || !out.peers_removed.is_empty();
    if peers_come_or_go && CapabilityVersion(is.node.capability).loses_incremental_peers() {
        out.domain = shared.base_domain.clone();
    }
    out.control_time = Some(now);
    Some(out)
}

/// The viewer as it is told of itself, if that is to be told.
pub(crate) fn self_step(
    (old, old_shared): (&Snapshot, &Shared),
    (new, shared): (&Snapshot, &Shared),
    was: &Arc<NodeView>,
    is: &Arc<NodeView>,
) -> Option<Node> {
    if Arc::ptr_eq(was, is) && Arc::ptr_eq(&old.policy, &new.policy) {
        return None;
    }
    let (before, after) = (own_node(old, was, &old_shared.base_domain), own_node(new, is, &shared.base_domain));
    (!same_self(&before, &after)).then_some(after)
}

/// The viewer as it is told of itself.
fn own_node(snapshot: &Snapshot, me: &NodeView, base_domain: &str) -> Node {
    let id = me.node.id;
    self_to_wire(me, &snapshot.policy.attributes(id), snapshot.policy.has_ssh(id), base_domain)
}

/// Who may open shells on the viewer, if any rule says so.
pub(crate) fn own_ssh(snapshot: &Snapshot, me: &NodeView) -> Option<Box<SshPolicy>> {
    let rules = snapshot.policy.ssh(me.node.id);
    (!rules.is_empty()).then(|| Box::new(ssh_to_wire(&rules, SSH_CHECK)))
}

/// Where clients ask about a connection that a person has to approve. The host is of no account: they ask over their connection to this
/// server (protocol.md 3.10).
pub const SSH_CHECK: &str = "https://unused/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER";

fn add_profile(profiles: &mut BTreeMap<u64, UserProfile>, view: &NodeView, snapshot: &Snapshot) {
    let profile = profile_of(&view.node.owner, snapshot);
    profiles.insert(profile.id, profile);
}

fn is_empty(out: &MapResponse) -> bool {
    out.node.is_none()
        && out.peers_changed.is_empty()
        && out.peers_removed.is_empty()
        && out.peers_changed_patch.is_empty()
        && out.user_profiles.is_empty()
        && out.dns_config.is_none()
        && out.derp_map.is_none()
        && out.packet_filter.is_none()
        && out.ssh_policy.is_none()
}

/// Whether a viewer has nothing to learn about itself. What it reported itself it knows: endpoints and discovery key are not sent
/// back, since a self node makes the client rebuild all it has (protocol.md 3.4).
fn same_self(before: &Node, after: &Node) -> bool {
    let plain = |node: &Node| Node {
        endpoints: Vec::new(),
        disco_key: None,
        home_derp: 0,
        derp: String::new(),
        hostinfo: Default::default(),
        online: true,
        last_seen: None,
        cap: 0,
        ..node.clone()
    };
    plain(before) == plain(after)
}

enum Difference {
    None,
    Patch(Box<PeerChange>),
    Whole,
}

/// Whether nothing changed but what a patch can tell.
fn same_but_for_patches(before: &Node, after: &Node) -> bool {
    // Each field is named, so that a new one is thought of. Not compared as a copy with the others put in: a storm compares millions.
    let Node {
        id,
        stable_id,
        name,
        user,
        key,
        key_expiry,
        machine,
        disco_key: _,
        addresses,
        allowed_ips,
        endpoints: _,
        derp: _,
        home_derp: _,
        hostinfo,
        created,
        cap,
        tags,
        primary_routes,
        last_seen: _,
        online: _,
        machine_authorized,
        cap_map,
        expired,
    } = before;
    *id == after.id
        && *stable_id == after.stable_id
        && *name == after.name
        && *user == after.user
        && *key == after.key
        && *key_expiry == after.key_expiry
        && *machine == after.machine
        && *addresses == after.addresses
        && *allowed_ips == after.allowed_ips
        && *hostinfo == after.hostinfo
        && *created == after.created
        && *cap == after.cap
        && *tags == after.tags
        && *primary_routes == after.primary_routes
        && *machine_authorized == after.machine_authorized
        && *cap_map == after.cap_map
        && *expired == after.expired
}

/// What tells a client how a peer changed: nothing, the fields that can be told apart (protocol.md 3.3), or the whole node.
fn difference(before: &Node, after: &Node) -> Difference {
    // A home relay can't be taken back by a patch, and a discovery key together with an old last-seen is thrown away by clients.
    let untold = after.home_derp == 0 && before.home_derp != 0;
    let new_key = after.disco_key != before.disco_key;
    if !same_but_for_patches(before, after) || untold || (new_key && (after.disco_key.is_none() || !after.online)) {
        return Difference::Whole;
    }
    let mut patch = PeerChange { node_id: after.id, ..PeerChange::default() };
    if after.online != before.online {
        patch.online = Some(after.online);
    }
    if after.last_seen != before.last_seen {
        patch.last_seen = after.last_seen;
    }
    if after.endpoints != before.endpoints {
        patch.endpoints = Some(after.endpoints.clone());
    }
    if after.home_derp != before.home_derp {
        patch.derp_region = after.home_derp;
    }
    if new_key {
        patch.disco_key = after.disco_key;
    }
    if patch == (PeerChange { node_id: after.id, ..PeerChange::default() }) {
        Difference::None
    } else {
        Difference::Patch(Box::new(patch))
    }
}

#[cfg(test)]
mod tests;
