//! What one viewer has of one prefix, and why: the words behind `routes explain --from`.

use std::collections::BTreeSet;
use std::sync::Arc;

use wayleave_model::{NodeId, Prefix, Tag};
use wayleave_tailnet::{ChosenBecause, Snapshot};

use crate::view::{Way, instead, told, way};

/// What a viewer has of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It uses this router.
    Through {
        /// Which.
        router: NodeId,
        /// The tags of the group that its grants steer it through, if they do.
        group: Option<Arc<BTreeSet<Tag>>>,
        /// Why that one.
        because: ChosenBecause,
    },
    /// It carries the prefix itself.
    Itself,
    /// The prefix has fallen back, and it uses this wider one.
    Instead(Prefix),
    /// It may use the prefix, and nobody carries it, or nobody of its group does.
    Nobody {
        /// The tags of the group that its grants steer it through, if they do.
        group: Option<Arc<BTreeSet<Tag>>>,
    },
    /// The policy does not let it.
    NotAllowed,
    /// Its own key has expired, or it is not there: it is told of nothing.
    Expired,
}

/// What a viewer has of a prefix that is no exit. It is read from what the viewer is told, so the two can't disagree.
pub fn reach(snapshot: &Snapshot, viewer: NodeId, prefix: &Prefix) -> Reach {
    let Some(me) = snapshot.node(viewer).filter(|me| !me.expired) else { return Reach::Expired };
    let group = match way(snapshot, me, prefix) {
        Way::Tailnet => None,
        Way::Group(group) => Some(group),
        Way::Nowhere => return Reach::NotAllowed,
    };
    let offers = snapshot.nodes.values().find_map(|node| node.choices.get(prefix));
    let offer = offers.and_then(|choices| choices.of(group.as_ref()));
    let tells = |peer: &&Arc<_>| told(snapshot, me, peer).is_some_and(|told| told.primary.contains(prefix));
    if let Some(peer) = snapshot.nodes.values().find(tells) {
        let because = offer.map_or(ChosenBecause::Primary, |offer| offer.choose(prefix, &me.node).because);
        return Reach::Through { router: peer.node.id, group, because };
    }
    let shares = offer.is_some_and(|offer| offer.field.carriers.iter().any(|carrier| carrier.node == viewer));
    if me.primary.contains(prefix) || shares {
        return Reach::Itself;
    }
    match offer.and_then(|offer| instead(snapshot, me, offer)) {
        Some(wide) => Reach::Instead(wide),
        None => Reach::Nobody { group },
    }
}

/// The exit that a client says it has chosen. The client chooses it itself: the server elects none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChosenExit {
    /// It names none: it has chosen none, or is older than 1.86 and does not tell.
    None,
    /// This one, which it may use.
    Usable(NodeId),
    /// This one, which it is not told of as an exit.
    Barred(NodeId),
    /// One that is not there, by the id that it knows it by.
    Unknown(String),
}

/// The exits that a viewer may use, and the one that it has chosen. They are read from what the viewer is told.
pub fn exits(snapshot: &Snapshot, viewer: NodeId) -> (BTreeSet<NodeId>, ChosenExit) {
    let Some(me) = snapshot.node(viewer) else { return (BTreeSet::new(), ChosenExit::None) };
    let serves = snapshot.nodes.values().filter(|node| node.approved.contains(&Prefix::EXIT_V4));
    let tells = |peer: &&Arc<_>| told(snapshot, me, peer).is_some_and(|told| told.routes.contains(&Prefix::EXIT_V4));
    let usable: BTreeSet<NodeId> = serves.filter(tells).map(|peer| peer.node.id).collect();
    let named = &me.node.hostinfo.exit_node_id;
    // The stable id that clients know a node by is its id as text.
    let chosen = match named.parse::<NodeId>().ok().filter(|id| snapshot.node(*id).is_some()) {
        _ if named.is_empty() => ChosenExit::None,
        Some(id) if usable.contains(&id) => ChosenExit::Usable(id),
        Some(id) => ChosenExit::Barred(id),
        None => ChosenExit::Unknown(named.clone()),
    };
    (usable, chosen)
}

/// The viewers that may use some route of a node that is no exit, whether they are connected or not.
pub fn viewers_of(snapshot: &Snapshot, router: NodeId) -> BTreeSet<NodeId> {
    let Some(carries) = snapshot.node(router) else { return BTreeSet::new() };
    let subnets: Vec<&Prefix> = carries.approved.iter().filter(|prefix| !prefix.is_exit()).collect();
    let may = |viewer: NodeId| {
        let Some(me) = snapshot.node(viewer).filter(|me| !me.expired && viewer != router) else { return false };
        subnets.iter().any(|prefix| !matches!(way(snapshot, me, prefix), Way::Nowhere))
    };
    snapshot.nodes.keys().copied().filter(|viewer| may(*viewer)).collect()
}
