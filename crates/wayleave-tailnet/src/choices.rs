//! What viewers choose from, where not all of them use the primary: a prefix that is spread over several routers, or one that has fallen
//! back. A picture of the tailnet holds it with every router of the prefix, so that a change of any of them is a change of all.

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::{Node, NodeId, Prefix, Spread};
use wayleave_routes::spread::{self, Carrier, Choice, ChosenBecause, Field};
use wayleave_routes::{Group, Seat};

use crate::tailnet::Tailnet;

/// What viewers of one prefix choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Those who reach it through the tailnet's own election.
    pub tailnet: Option<Offer>,
    /// Those who reach it through a group.
    pub groups: BTreeMap<Group, Offer>,
}

/// What viewers choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The routers.
    pub field: Field,
    /// The prefix has fallen back: who may use one of these, and its router is up, is not told of it.
    pub covers: Option<Vec<Cover>>,
}

/// A subnet prefix that holds one that has fallen back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// Which.
    pub prefix: Prefix,
    /// Its primary is up.
    pub is_up: bool,
    /// The groups whose own router for it is up.
    pub groups: BTreeSet<Group>,
}

impl Choices {
    /// What those choose from who reach the prefix through this group; `None`: through the tailnet's own election.
    pub fn of(&self, group: Option<&Group>) -> Option<&Offer> {
        match group {
            Some(group) => self.groups.get(group),
            None => self.tailnet.as_ref(),
        }
    }
}

impl Offer {
    /// Whom a viewer uses.
    pub fn choose(&self, prefix: &Prefix, viewer: &Node) -> Choice {
        let from = |place| spread::choose(&self.field, prefix, viewer.id, place);
        let (held, place) = (viewer.vantage.towards(prefix), &viewer.vantage.place);
        let usual = from(place);
        if std::ptr::eq(held, place) {
            return usual;
        }
        let choice = from(held);
        if choice.node == usual.node { usual } else { Choice { because: ChosenBecause::Frozen, ..choice } }
    }
}

impl Tailnet {
    /// What viewers of a prefix choose from. `None`: they all use the primary, of the tailnet or of their group.
    pub(crate) fn choices(&self, prefix: &Prefix) -> Option<Choices> {
        let spread = self.routes.prefix_settings(prefix).spread;
        let fallen = self.routes.seats_of(prefix).any(|(_, seat)| seat.fallen_back);
        if spread == Spread::Single && !fallen {
            return None;
        }
        let mut choices = Choices::default();
        for (group, seat) in self.routes.seats_of(prefix) {
            let offer = self.offer(prefix, spread, seat);
            match group {
                Some(group) => drop(choices.groups.insert(group.clone(), offer)),
                None => choices.tailnet = Some(offer),
            }
        }
        Some(choices)
    }

    fn offer(&self, prefix: &Prefix, spread: Spread, seat: &Seat) -> Offer {
        let carrier = |node: &NodeId| Carrier {
            node: *node,
            region: self.registry.node(*node).map_or(0, |node| node.vantage.towards(prefix).region),
            priority: self.routes.row_of(*node, prefix).map_or(0, |row| row.priority),
        };
        let field = Field { spread, primary: seat.node, carriers: seat.carriers.iter().map(carrier).collect() };
        Offer { field, covers: seat.fallen_back.then(|| self.covers(prefix)) }
    }

    fn covers(&self, prefix: &Prefix) -> Vec<Cover> {
        let wider = self.routes.prefixes().filter(|wide| *wide != prefix && !wide.is_exit() && wide.covers(prefix));
        let cover = |wide: &Prefix| {
            let up = |seat: &Seat| self.routes.is_up(seat.node);
            let seats = || self.routes.seats_of(wide).filter(|(_, seat)| up(seat));
            Cover {
                prefix: *wide,
                is_up: seats().any(|(group, _)| group.is_none()),
                groups: seats().filter_map(|(group, _)| group.cloned()).collect(),
            }
        };
        wider.map(cover).filter(|cover| cover.is_up || !cover.groups.is_empty()).collect()
    }

    /// Nodes whose view stands on something of these nodes: routers that share a prefix with them, and those of prefixes that have fallen
    /// back, whose viewers ask who else is up.
    pub(crate) fn concerned(&self, touched: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut all = BTreeSet::new();
        if self.routes.uses_spread() {
            let prefixes: BTreeSet<Prefix> = touched
                .iter()
                .flat_map(|node| self.routes.rows_of(*node))
                .map(|row| row.prefix)
                .filter(|prefix| self.routes.prefix_settings(prefix).spread != Spread::Single)
                .collect();
            all.extend(prefixes.iter().flat_map(|prefix| self.routes.holders(prefix)));
        }
        all.extend(self.routes.fallen_back().iter().flat_map(|prefix| self.routes.holders(prefix)));
        all
    }
}
