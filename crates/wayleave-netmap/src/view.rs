//! Who is on a viewer's map, and with which routes (design.md 5).

use std::collections::BTreeSet;
use std::sync::Arc;

use wayleave_model::{NodeId, Prefix};
use wayleave_policy::Steering;
use wayleave_tailnet::{NodeView, Snapshot};

use crate::to_wire::{NO_IPV4, SUGGESTED_EXIT};

/// What a viewer is told of a peer's routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// The routes that the peer serves to this viewer, exits among them.
    pub routes: BTreeSet<Prefix>,
    /// Those of them that the peer is primary for.
    pub primary: BTreeSet<Prefix>,
    /// It is an exit that clients are to offer where a suggestion is asked for.
    pub suggested_exit: bool,
    /// It is to be reached by its IPv6 address only.
    pub no_ipv4: bool,
}

/// What a viewer is told of a peer's routes; `None` if the peer is not on its map.
pub fn told(snapshot: &Snapshot, viewer: &NodeView, peer: &NodeView) -> Option<Told> {
    let (viewer_id, peer_id) = (viewer.node.id, peer.node.id);
    if viewer_id == peer_id || viewer.expired || !snapshot.policy.sees(viewer_id, peer_id) {
        return None;
    }
    let primary: BTreeSet<Prefix> = subnets(snapshot, viewer, peer).collect();
    let mut routes = primary.clone();
    // Both halves of an exit, or neither: a client takes a peer with one half for no exit at all (protocol.md 4.4).
    let exit = [Prefix::EXIT_V4, Prefix::EXIT_V6];
    let is_exit =
        || exit.iter().all(|half| peer.approved.contains(half)) && snapshot.policy.may_exit(viewer_id, peer_id);
    if !takes_every_route(viewer) && is_exit() {
        routes.extend(exit);
    }
    let attributes = snapshot.policy.attributes(peer_id);
    let suggested_exit = routes.contains(&Prefix::EXIT_V4) && attributes.contains_key(SUGGESTED_EXIT);
    let no_ipv4 = attributes.contains_key(NO_IPV4) && peer.node.addresses.v6.is_some();
    Some(Told { routes, primary, suggested_exit, no_ipv4 })
}

/// The prefixes that a viewer reaches through a peer.
///
/// It reaches a prefix through its primary, or through the one that carries it within the group that the viewer's grants steer through. A
/// router that stands by for a prefix is told of it at the primary, also where it may not reach it. The primary never sees its own
/// prefix elsewhere.
fn subnets(snapshot: &Snapshot, viewer: &NodeView, peer: &NodeView) -> impl Iterator<Item = Prefix> {
    let own = peer.approved.iter().copied().filter(|prefix| !prefix.is_exit() && !viewer.primary.contains(prefix));
    own.filter(|prefix| match snapshot.policy.steering(viewer.node.id, prefix) {
        Steering::Primary => peer.primary.contains(prefix),
        _ if viewer.approved.contains(prefix) => peer.primary.contains(prefix),
        Steering::Via(group) => peer.steered.get(&group).is_some_and(|carried| carried.contains(prefix)),
        Steering::Nowhere => false,
    })
}

/// The official Rust client has no switch for exits: a default route of any peer would become its own (protocol.md 13).
fn takes_every_route(viewer: &NodeView) -> bool {
    viewer.node.hostinfo.app.starts_with("tailscale-rs") || viewer.node.hostinfo.client_version.contains("tailscale-rs")
}

/// All peers of a viewer, in the order of their ids.
pub fn peers<'a>(
    snapshot: &'a Snapshot,
    viewer: &'a NodeView,
) -> impl Iterator<Item = (NodeId, &'a Arc<NodeView>, Told)> + 'a {
    snapshot.policy.peers(viewer.node.id).into_iter().filter_map(move |id| {
        let peer = snapshot.nodes.get(&id)?;
        told(snapshot, viewer, peer).map(|told| (id, peer, told))
    })
}
