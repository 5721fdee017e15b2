//! Who gains and who loses between two pictures of a tailnet: before and after a change, or as it is and as it would be.
//!
//! It is told from the viewers' side, in what they can use: peers, with ports; prefixes and parts of them, with the router and ports; and
//! exits. A router that is not online, or broken, carries nothing. What a viewer reaches through a wider prefix before and a narrower one after, or the
//! other way, it has not gained or lost: it reaches it through another router.
//!
//! Nodes that the policy does not tell apart, before and after, and that use the same routers for prefixes that are spread or have fallen
//! back, are worked out as one; only routers have, for their own prefixes, an answer of their own. So the cost is that of classes and
//! prefixes, not of pairs of nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wayleave_model::{NodeId, Prefix, Tag, UserId};
use wayleave_policy::{Access, Places, PortSet, Steering};
use wayleave_tailnet::{Choices, NodeView, Snapshot};

use crate::view::chosen;

mod words;

pub use words::Names;

/// What some viewers, all of them alike, gain and lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Whom it concerns, in the order of their ids.
    pub viewers: Vec<NodeId>,
    /// What it is.
    pub change: Change,
}

/// What a viewer gains and loses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// What it could not reach.
    pub gains: Vec<Gain>,
    /// What it can't reach any more.
    pub loses: Vec<Gain>,
    /// What it reaches through another router.
    pub moves: Vec<Move>,
}

/// Something that a viewer can use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gain {
    /// What.
    pub what: What,
    /// On which protocols and ports. Empty for a place that may send to the viewer, and gets answers only; and for an exit.
    pub ports: PortSet,
}

/// What a viewer can use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// These nodes themselves.
    Peers(Vec<NodeId>),
    /// Those of these nodes that belong to somebody else than the viewer.
    PeersOfOthers(Vec<NodeId>),
    /// The other nodes of the same user.
    OwnNodes,
    /// A prefix, or a part of one, through a router.
    Prefix(Prefix, NodeId),
    /// The internet through an exit.
    Exit(NodeId),
}

/// A prefix that is reached through another router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    /// Which.
    pub prefix: Prefix,
    /// Through whom before.
    pub from: NodeId,
    /// Through whom after.
    pub to: NodeId,
}

/// Who gains and who loses. Viewers that gain and lose the same are told together; those that do neither are left out. `broken` are the
/// routes, before and after, through which nobody gets although their routers are online.
pub fn difference(before: &Snapshot, after: &Snapshot, broken: [&BTreeSet<(NodeId, Prefix)>; 2]) -> Vec<Difference> {
    let (old, new) = (Side::new(before, broken[0]), Side::new(after, broken[1]));
    let mut viewers: BTreeMap<(Pair, [Used; 2]), Vec<NodeId>> = BTreeMap::new();
    let mut peers: BTreeMap<Pair, Vec<NodeId>> = BTreeMap::new();
    let everybody: BTreeSet<NodeId> = before.nodes.keys().chain(after.nodes.keys()).copied().collect();
    for id in everybody {
        let pair = (old.viewer_class(id), new.viewer_class(id));
        viewers.entry((pair, [old.used_by(id), new.used_by(id)])).or_default().push(id);
        peers.entry((before.policy.class_of(id), after.policy.class_of(id))).or_default().push(id);
    }
    let mut changes: BTreeMap<Change, Vec<NodeId>> = BTreeMap::new();
    for ((pair, _), members) in &viewers {
        let Some(first) = members.first().copied() else { continue };
        let nodes = peer_changes(&old, &new, *pair, first, members, &peers);
        let routes = [(&old, pair.0), (&new, pair.1)].map(|(side, class)| class.map(|_| side.routes_of(first)));
        let differ = differing(&routes);
        let exits = [(&old, pair.0), (&new, pair.1)].map(|(side, class)| side.exits_of(class.map(|_| first)));
        let common = std::cell::OnceCell::new();
        let common = || {
            common.get_or_init(|| {
                let mut change = nodes.clone();
                route_changes(&mut change, [&old, &new], &routes, None, &differ);
                exit_changes(&mut change, &exits);
                change
            })
        };
        for viewer in members {
            let change = of_router(common(), [&old, &new], &routes, *viewer).unwrap_or_else(|| common().clone());
            changes.entry(change).or_default().push(*viewer);
        }
    }
    let told = changes.into_iter().filter(|(change, _)| !change.is_empty());
    let mut all: Vec<Difference> = told
        .map(|(change, mut viewers)| {
            viewers.sort_unstable();
            Difference { viewers, change }
        })
        .collect();
    all.sort_by(|a, b| a.viewers.cmp(&b.viewers));
    all
}

/// The classes of a node before and after; `None`: it is not there, or, as a viewer, sees nothing.
type Pair = (Option<u32>, Option<u32>);

/// Whom a viewer uses for each prefix that is spread or has fallen back.
type Used = Vec<Option<NodeId>>;

/// The change of a router, where its own prefixes make it another than that of its class. What the class gains or loses of a prefix that
/// the router carries itself does not count for it; but if there is more, it is told with its class.
fn of_router(common: &Change, sides: [&Side<'_>; 2], routes: &[Option<Routes>; 2], viewer: NodeId) -> Option<Change> {
    let own: BTreeSet<Prefix> = sides.into_iter().flat_map(|side| side.own_of(viewer)).collect();
    let is_exit = sides.iter().any(|side| side.exits.contains(&viewer));
    if own.is_empty() && !is_exit {
        return None;
    }
    let carries =
        |side: &Side<'_>, prefix: &Prefix| side.view(viewer).is_some_and(|view| view.primary.contains(prefix));
    let (carried, other): (BTreeSet<Prefix>, BTreeSet<Prefix>) =
        own.iter().partition(|prefix| sides.iter().all(|side| carries(side, prefix)));
    let mut its = Change::default();
    route_changes(&mut its, sides, routes, Some(viewer), &other);
    let own_exit = || common.gains.iter().chain(&common.loses).any(|gain| gain.what == What::Exit(viewer));
    if common.within(&other) == its && !(is_exit && own_exit()) {
        return common.is_all_inside(&carried).then(Change::default);
    }
    let mut change = common.but_for(&own, viewer);
    change.gains.extend(its.gains);
    change.loses.extend(its.loses);
    change.moves.extend(its.moves);
    Some(change)
}

impl Change {
    /// Whether nothing is gained, lost or moved.
    pub const fn is_empty(&self) -> bool {
        self.gains.is_empty() && self.loses.is_empty() && self.moves.is_empty()
    }

    fn within(&self, prefixes: &BTreeSet<Prefix>) -> Self {
        self.only(|what| matches!(what, Some(place) if is_inside(place, prefixes)))
    }

    fn is_all_inside(&self, prefixes: &BTreeSet<Prefix>) -> bool {
        let inside = |gain: &Gain| gain.what.prefix().is_some_and(|place| is_inside(place, prefixes));
        self.gains.iter().all(inside)
            && self.loses.iter().all(inside)
            && self.moves.iter().all(|moved| is_inside(&moved.prefix, prefixes))
    }

    fn but_for(&self, prefixes: &BTreeSet<Prefix>, exit: NodeId) -> Self {
        let mut rest = self.only(|what| !matches!(what, Some(place) if is_inside(place, prefixes)));
        let other = |gain: &Gain| gain.what != What::Exit(exit);
        rest.gains.retain(other);
        rest.loses.retain(other);
        rest
    }

    fn only(&self, wanted: impl Fn(Option<&Prefix>) -> bool) -> Self {
        let gains = |all: &[Gain]| all.iter().filter(|gain| wanted(gain.what.prefix())).cloned().collect();
        let moves = self.moves.iter().filter(|moved| wanted(Some(&moved.prefix))).copied();
        Self { gains: gains(&self.gains), loses: gains(&self.loses), moves: moves.collect() }
    }
}

impl What {
    const fn prefix(&self) -> Option<&Prefix> {
        match self {
            Self::Prefix(prefix, _) => Some(prefix),
            Self::Peers(_) | Self::PeersOfOthers(_) | Self::OwnNodes | Self::Exit(_) => None,
        }
    }
}

fn is_inside(place: &Prefix, prefixes: &BTreeSet<Prefix>) -> bool {
    prefixes.iter().any(|prefix| prefix.covers(place))
}

/// Who carries a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Carrier {
    node: NodeId,
    up: bool,
}

/// A prefix as a class of viewers reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reached {
    carrier: Carrier,
    places: BTreeMap<Prefix, PortSet>,
}

/// What the viewers of one class reach of places.
struct Routes {
    reached: BTreeMap<Prefix, Reached>,
    /// What they may send to, also where nobody carries it.
    places: Places,
}

/// A picture, by prefix.
struct Side<'a> {
    snapshot: &'a Snapshot,
    primary: BTreeMap<Prefix, Carrier>,
    steered: BTreeMap<Arc<BTreeSet<Tag>>, BTreeMap<Prefix, Carrier>>,
    /// What viewers choose from, where not all of them use the primary.
    choices: BTreeMap<Prefix, &'a Choices>,
    prefixes: BTreeSet<Prefix>,
    exits: Vec<NodeId>,
    broken: &'a BTreeSet<(NodeId, Prefix)>,
}

impl<'a> Side<'a> {
    fn new(snapshot: &'a Snapshot, broken: &'a BTreeSet<(NodeId, Prefix)>) -> Self {
        let mut side = Self {
            snapshot,
            primary: BTreeMap::new(),
            steered: BTreeMap::new(),
            choices: BTreeMap::new(),
            prefixes: BTreeSet::new(),
            exits: Vec::new(),
            broken,
        };
        for (id, view) in &snapshot.nodes {
            for prefix in view.primary.iter().filter(|prefix| view.approved.contains(prefix)) {
                side.primary.insert(*prefix, side.carrier(view, prefix));
                side.prefixes.insert(*prefix);
            }
            for (group, prefixes) in &view.steered {
                for prefix in prefixes.iter().filter(|prefix| view.approved.contains(prefix)) {
                    let carrier = side.carrier(view, prefix);
                    side.steered.entry(Arc::clone(group)).or_default().insert(*prefix, carrier);
                    side.prefixes.insert(*prefix);
                }
            }
            for (prefix, choices) in view.choices.iter().filter(|(prefix, _)| view.approved.contains(*prefix)) {
                side.choices.entry(*prefix).or_insert(choices);
                side.prefixes.insert(*prefix);
            }
            let leads_out = |half: &Prefix| view.approved.contains(half) && side.carrier(view, half).up;
            if [Prefix::EXIT_V4, Prefix::EXIT_V6].iter().all(leads_out) {
                side.exits.push(*id);
            }
        }
        side
    }

    fn carrier(&self, view: &NodeView, prefix: &Prefix) -> Carrier {
        let node = view.node.id;
        Carrier { node, up: view.online && !self.broken.contains(&(node, *prefix)) }
    }

    fn view(&self, id: NodeId) -> Option<&NodeView> {
        self.snapshot.node(id).map(|view| &**view)
    }

    /// The class of a viewer. One whose key has expired sees nothing.
    fn viewer_class(&self, id: NodeId) -> Option<u32> {
        self.view(id).filter(|view| !view.expired).and_then(|_| self.snapshot.policy.class_of(id))
    }

    fn used_by(&self, viewer: NodeId) -> Used {
        self.choices.iter().map(|(prefix, choices)| self.choice(viewer, prefix, choices)).collect()
    }

    fn choice(&self, viewer: NodeId, prefix: &Prefix, choices: &Choices) -> Option<NodeId> {
        chosen(self.snapshot, self.view(viewer)?, prefix, choices).map(|choice| choice.node)
    }

    /// Whether a node is one of those who share a prefix.
    fn shares(&self, node: NodeId, prefix: &Prefix) -> bool {
        let tailnet = self.choices.get(prefix).and_then(|choices| choices.of(None));
        tailnet.is_some_and(|offer| offer.field.carriers.iter().any(|carrier| carrier.node == node))
    }

    fn routes_of(&self, viewer: NodeId) -> Routes {
        let policy = &self.snapshot.policy;
        let places = policy.places(viewer);
        let carried = self.prefixes.iter().filter_map(|prefix| {
            let carrier = match (self.choices.get(prefix), policy.steering(viewer, prefix)) {
                (_, Steering::Nowhere) => None,
                (Some(choices), _) => {
                    let node = self.choice(viewer, prefix, choices)?;
                    self.view(node).map(|view| self.carrier(view, prefix))
                }
                (None, Steering::Primary) => self.primary.get(prefix).copied(),
                (None, Steering::Via(group)) => {
                    self.steered.get(&group).and_then(|carried| carried.get(prefix)).copied()
                }
            };
            Some((*prefix, Reached { carrier: carrier?, places: places.within(prefix) }))
        });
        Routes { reached: carried.collect(), places }
    }

    fn exits_of(&self, viewer: Option<NodeId>) -> BTreeSet<NodeId> {
        let Some(viewer) = viewer else { return BTreeSet::new() };
        self.exits.iter().copied().filter(|exit| self.snapshot.policy.may_exit(viewer, *exit)).collect()
    }

    /// Prefixes for which a node has an answer of its own.
    fn own_of(&self, node: NodeId) -> impl Iterator<Item = Prefix> {
        self.view(node).into_iter().flat_map(|view| view.approved.iter().copied().filter(|prefix| !prefix.is_exit()))
    }

    /// How a viewer reaches a place: through the longest prefix that it is told of and that holds the place.
    fn at(&self, routes: Option<&Routes>, viewer: Option<NodeId>, place: &Prefix) -> Option<At> {
        let routes = routes?;
        let own = viewer.and_then(|viewer| self.view(viewer));
        let wider = (1..=place.bits()).rev().filter_map(|bits| place.widened(bits));
        let longest = wider.filter(|prefix| self.prefixes.contains(prefix));
        for prefix in longest {
            if own.is_some_and(|own| own.primary.contains(&prefix) || self.shares(own.node.id, &prefix)) {
                return Some(At::Itself);
            }
            let (carrier, places) = match routes.reached.get(&prefix) {
                Some(reached) => (reached.carrier, None),
                // A router that stands by is told of the primary, also where it may not reach the prefix.
                None if own.is_some_and(|own| own.approved.contains(&prefix)) => match self.primary.get(&prefix) {
                    Some(carrier) => (*carrier, Some(routes.places.within(&prefix))),
                    None => continue,
                },
                None => continue,
            };
            let places = places.as_ref().or_else(|| routes.reached.get(&prefix).map(|reached| &reached.places));
            let mut ports = PortSet::default();
            for (part, open) in places.into_iter().flatten() {
                if part.covers(place) {
                    ports.extend(open);
                }
            }
            return Some(At::Through(carrier, ports));
        }
        None
    }
}

/// How a viewer reaches a place.
enum At {
    /// It is the router.
    Itself,
    Through(Carrier, PortSet),
}

/// What is to be looked at for viewers that carry nothing themselves.
fn differing(routes: &[Option<Routes>; 2]) -> BTreeSet<Prefix> {
    let none = BTreeMap::new();
    let [before, after] = [0, 1].map(|at| routes[at].as_ref().map_or(&none, |routes| &routes.reached));
    let all = before.keys().chain(after.keys());
    all.filter(|prefix| before.get(prefix) != after.get(prefix)).copied().collect()
}

fn route_changes(
    change: &mut Change,
    [old, new]: [&Side<'_>; 2],
    routes: &[Option<Routes>; 2],
    viewer: Option<NodeId>,
    concerned: &BTreeSet<Prefix>,
) {
    let mut places: BTreeSet<Prefix> = BTreeSet::new();
    for prefix in concerned {
        let parts = routes.iter().flatten().flat_map(|routes| routes.places.within(prefix).into_keys());
        places.extend(parts);
        places.insert(*prefix);
    }
    for place in places {
        let before = old.at(routes[0].as_ref(), viewer, &place);
        let after = new.at(routes[1].as_ref(), viewer, &place);
        compare(change, place, before, after);
    }
}

fn compare(change: &mut Change, place: Prefix, before: Option<At>, after: Option<At>) {
    let (before, after) = match (before, after) {
        (Some(At::Itself), _) | (_, Some(At::Itself)) => return,
        (before, after) => (through(before), through(after)),
    };
    let gain = |(carrier, ports): (Carrier, PortSet)| Gain { what: What::Prefix(place, carrier.node), ports };
    match (before, after) {
        (None, None) => {}
        (None, Some(after)) => change.gains.push(gain(after)),
        (Some(before), None) => change.loses.push(gain(before)),
        (Some((was, had)), Some((is, has))) => {
            if was.node != is.node && !(had.is_empty() && has.is_empty()) {
                change.moves.push(Move { prefix: place, from: was.node, to: is.node });
            }
            let (more, less) = (has.without(&had), had.without(&has));
            if !more.is_empty() {
                change.gains.push(gain((is, more)));
            }
            if !less.is_empty() {
                change.loses.push(gain((was, less)));
            }
        }
    }
}

/// A router that is not online carries nothing.
fn through(at: Option<At>) -> Option<(Carrier, PortSet)> {
    match at {
        Some(At::Through(carrier, ports)) if carrier.up => Some((carrier, ports)),
        Some(At::Through(..) | At::Itself) | None => None,
    }
}

fn exit_changes(change: &mut Change, [before, after]: &[BTreeSet<NodeId>; 2]) {
    let exit = |id: &NodeId| Gain { what: What::Exit(*id), ports: PortSet::default() };
    change.gains.extend(after.difference(before).map(exit));
    change.loses.extend(before.difference(after).map(exit));
}

/// What a class of viewers gains and loses of nodes themselves.
fn peer_changes(
    old: &Side<'_>,
    new: &Side<'_>,
    viewers: Pair,
    first: NodeId,
    members: &[NodeId],
    peers: &BTreeMap<Pair, Vec<NodeId>>,
) -> Change {
    let access = |side: &Side<'_>, viewers: Option<u32>, peer: NodeId| {
        viewers.map(|_| side.snapshot.policy.access(first, peer)).unwrap_or_default()
    };
    let mut gains: BTreeMap<(bool, PortSet), Vec<NodeId>> = BTreeMap::new();
    let mut loses = gains.clone();
    let [mut own_more, mut own_less] = [PortSet::default(), PortSet::default()];
    let user = common_user([old, new], members);
    for nodes in peers.values() {
        let Some(peer) = nodes.first() else { continue };
        let (before, after) = (access(old, viewers.0, *peer), access(new, viewers.1, *peer));
        let (more, less) = both_ways(&before.always, &after.always);
        let (own_before, own_after) = (with_own(&before), with_own(&after));
        let own = both_ways(&own_before, &own_after);
        // Nodes of the same user are told apart where they are treated otherwise.
        let apart = own != (more.clone(), less.clone());
        if apart {
            own_more.extend(&own.0);
            own_less.extend(&own.1);
        }
        let of_others = |node: &NodeId| !apart || user.is_none() || user != common_user([old, new], &[*node]);
        let others = nodes.iter().copied().filter(|node| members != [*node] && of_others(node));
        let others: Vec<NodeId> = others.collect();
        for (ports, all) in [(more, &mut gains), (less, &mut loses)] {
            if !ports.is_empty() && !others.is_empty() {
                all.entry((apart, ports)).or_default().extend(&others);
            }
        }
    }
    let told = |all: BTreeMap<(bool, PortSet), Vec<NodeId>>, own: PortSet| {
        let mut told: Vec<Gain> = all
            .into_iter()
            .map(|((apart, ports), mut nodes)| {
                nodes.sort_unstable();
                // Of one user's nodes, that user's were left out.
                let what = if apart && user.is_none() { What::PeersOfOthers(nodes) } else { What::Peers(nodes) };
                Gain { what, ports }
            })
            .collect();
        if !own.is_empty() {
            told.push(Gain { what: What::OwnNodes, ports: own });
        }
        told
    };
    Change { gains: told(gains, own_more), loses: told(loses, own_less), moves: Vec::new() }
}

/// What comes and what goes.
fn both_ways(before: &PortSet, after: &PortSet) -> (PortSet, PortSet) {
    (after.without(before), before.without(after))
}

fn with_own(access: &Access) -> PortSet {
    let mut all = access.always.clone();
    all.extend(&access.same_user);
    all
}

/// The user whom all of these nodes belong to.
fn common_user(sides: [&Side<'_>; 2], nodes: &[NodeId]) -> Option<UserId> {
    let user =
        |node: &NodeId| sides.iter().rev().find_map(|side| side.view(*node)).and_then(|view| view.node.owner.user());
    let first = user(nodes.first()?)?;
    nodes.iter().all(|node| user(node) == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests;
