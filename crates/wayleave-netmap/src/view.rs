//! Who is on a viewer's map, and with which routes (design.md 5).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use wayleave_model::{NodeId, Prefix, Tag};
use wayleave_policy::Steering;
use wayleave_tailnet::{Choice, Choices, Cover, NodeView, Offer, Snapshot};

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
    if viewer.node.id == peer.node.id { None } else { told_as_peer(snapshot, viewer, peer) }
}

/// What a viewer is told of a peer's routes; of itself, what another one that sees the same would be told.
pub(crate) fn told_as_peer(snapshot: &Snapshot, viewer: &NodeView, peer: &NodeView) -> Option<Told> {
    if viewer.expired || !snapshot.policy.sees(viewer.node.id, peer.node.id) {
        return None;
    }
    Some(told_as_seen(snapshot, viewer, peer))
}

/// What a viewer is told of the routes of a peer that is on its map, or would be if it were not itself.
pub(crate) fn told_as_seen(snapshot: &Snapshot, viewer: &NodeView, peer: &NodeView) -> Told {
    let (viewer_id, peer_id) = (viewer.node.id, peer.node.id);
    let primary: BTreeSet<Prefix> = subnets(snapshot, viewer, peer).collect();
    let mut routes = primary.clone();
    routes.extend(lent(snapshot, viewer, peer));
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
    Told { routes, primary, suggested_exit, no_ipv4 }
}

/// The prefixes that a viewer reaches through a peer.
///
/// It reaches a prefix through its primary, or through the one that carries it within the group that the viewer's grants steer through. A
/// router that stands by for a prefix is told of it at the primary, also where it may not reach it. The primary never sees its own
/// prefix elsewhere, nor does one that shares it.
fn subnets(snapshot: &Snapshot, viewer: &NodeView, peer: &NodeView) -> impl Iterator<Item = Prefix> {
    let own = peer.approved.iter().copied().filter(|prefix| !prefix.is_exit() && !viewer.primary.contains(prefix));
    own.filter(|prefix| leads(snapshot, viewer, prefix, peer))
}

/// Whether it is this router that a viewer comes to a prefix through.
fn leads(snapshot: &Snapshot, viewer: &NodeView, prefix: &Prefix, router: &NodeView) -> bool {
    match router.choices.get(prefix) {
        Some(choices) => chosen(snapshot, viewer, prefix, choices).is_some_and(|choice| choice.node == router.node.id),
        None => match way(snapshot, viewer, prefix) {
            Way::Tailnet => router.primary.contains(prefix),
            Way::Group(group) => router.steered.get(&group).is_some_and(|carried| carried.contains(prefix)),
            Way::Nowhere => false,
        },
    }
}

/// The address by which others know a node: the first that they are told of.
pub fn told_address(snapshot: &Snapshot, node: &NodeView) -> Option<IpAddr> {
    let no_ipv4 = node.node.addresses.v6.is_some() && snapshot.policy.attributes(node.node.id).contains_key(NO_IPV4);
    node.node.addresses.iter().find(|address| address.is_ipv6() || !no_ipv4)
}

/// Whether a viewer reaches a prefix that is no exit, and goes through this router: what [`told`] says of it, of one prefix only.
pub fn goes_through(snapshot: &Snapshot, viewer: &NodeView, prefix: &Prefix, router: &NodeView) -> bool {
    viewer.node.id != router.node.id
        && !viewer.expired
        && snapshot.policy.sees(viewer.node.id, router.node.id)
        && router.approved.contains(prefix)
        && !viewer.primary.contains(prefix)
        && leads(snapshot, viewer, prefix, router)
}

/// The hosts that are lent to a viewer at a peer, so that it looks behind it. The peer is primary for none of them.
fn lent(snapshot: &Snapshot, viewer: &NodeView, peer: &NodeView) -> impl Iterator<Item = Prefix> {
    let to_it = peer.lent.iter().filter(|(_, witness)| **witness == viewer.node.id).map(|(host, _)| *host);
    to_it.filter(|host| snapshot.policy.steering(viewer.node.id, host) == Steering::Primary)
}

/// Through which election a viewer comes to a prefix.
pub(crate) enum Way {
    /// The tailnet's own.
    Tailnet,
    /// That of a group that its grants steer through.
    Group(Arc<BTreeSet<Tag>>),
    /// None: it does not.
    Nowhere,
}

pub(crate) fn way(snapshot: &Snapshot, viewer: &NodeView, prefix: &Prefix) -> Way {
    match snapshot.policy.steering(viewer.node.id, prefix) {
        Steering::Primary => Way::Tailnet,
        _ if viewer.approved.contains(prefix) => Way::Tailnet,
        Steering::Via(group) => Way::Group(group),
        Steering::Nowhere => Way::Nowhere,
    }
}

/// Whom a viewer uses for a prefix that is spread, or has fallen back. `None`: nobody.
pub(crate) fn chosen(snapshot: &Snapshot, viewer: &NodeView, prefix: &Prefix, choices: &Choices) -> Option<Choice> {
    let offer = match way(snapshot, viewer, prefix) {
        Way::Tailnet => choices.of(None),
        Way::Group(group) => choices.of(Some(&group)),
        Way::Nowhere => None,
    }?;
    let shares = offer.field.carriers.iter().any(|carrier| carrier.node == viewer.node.id);
    if shares || instead(snapshot, viewer, offer).is_some() {
        return None;
    }
    Some(offer.choose(prefix, &viewer.node))
}

/// The wider prefix that a viewer uses instead of one that has fallen back.
pub(crate) fn instead(snapshot: &Snapshot, viewer: &NodeView, offer: &Offer) -> Option<Prefix> {
    let usable = |cover: &&Cover| match way(snapshot, viewer, &cover.prefix) {
        Way::Tailnet => cover.is_up,
        Way::Group(group) => cover.groups.contains(&group),
        Way::Nowhere => false,
    };
    let all = offer.covers.iter().flatten().filter(usable).map(|cover| cover.prefix);
    all.max_by_key(Prefix::bits)
}

/// The official Rust client has no switch for exits: a default route of any peer would become its own (protocol.md 13).
pub(crate) fn takes_every_route(viewer: &NodeView) -> bool {
    viewer.node.hostinfo.app.starts_with("tailscale-rs") || viewer.node.hostinfo.client_version.contains("tailscale-rs")
}

/// Whether what a viewer is told of others depends on more than its class: its own prefixes come into it, or it is told nothing.
pub(crate) fn is_its_own(viewer: &NodeView) -> bool {
    viewer.expired || !viewer.approved.is_empty() || !viewer.primary.is_empty()
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
