//! Who is on a viewer's map, and with which routes (design.md 5).

use std::collections::BTreeSet;
use std::sync::Arc;

use wayleave_model::{NodeId, Prefix};
use wayleave_tailnet::{NodeView, Snapshot};

/// What a viewer is told of a peer's routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// The routes that the peer serves to this viewer, exits among them.
    pub routes: BTreeSet<Prefix>,
    /// Those of them that the peer is primary for.
    pub primary: BTreeSet<Prefix>,
}

/// What a viewer is told of a peer's routes; `None` if the peer is not on its map.
pub fn told(snapshot: &Snapshot, viewer: &NodeView, peer: &NodeView) -> Option<Told> {
    let (viewer_id, peer_id) = (viewer.node.id, peer.node.id);
    if viewer_id == peer_id || viewer.expired || !snapshot.policy.sees(viewer_id, peer_id) {
        return None;
    }
    let primary = peer.primary.clone();
    let mut routes = primary.clone();
    // Both halves of an exit, or neither: a client takes a peer with one half for no exit at all (protocol.md 4.4).
    let exit = [Prefix::EXIT_V4, Prefix::EXIT_V6];
    if exit.iter().all(|half| peer.approved.contains(half)) && !takes_every_route(viewer) {
        routes.extend(exit);
    }
    Some(Told { routes, primary })
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
    snapshot.nodes.iter().filter_map(move |(id, peer)| told(snapshot, viewer, peer).map(|told| (*id, peer, told)))
}
