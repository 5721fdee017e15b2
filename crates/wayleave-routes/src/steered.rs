//! Elections among a part of the routers: those with one of the tags that a grant's `via` names (design.md 3).
//!
//! The rules are those of the tailnet's own election, with an incumbent of its own for each group and prefix. A group elects only for the
//! prefixes that somebody reaches through it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wayleave_model::{NodeId, Prefix, Tag};

use crate::election::Candidate;
use crate::reason::Because;
use crate::seats::Seat;
use crate::table::{Effect, RouteTable, Timer};

/// The tags that a grant steers through. A router with any of them is in the group.
pub type Group = Arc<BTreeSet<Tag>>;

/// Who is in a group, and what it elects for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Electorate {
    /// Prefixes that somebody reaches through it.
    pub prefixes: BTreeSet<Prefix>,
    /// Nodes with one of its tags.
    pub members: BTreeSet<NodeId>,
}

/// A prefix moved within a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteeredChange {
    /// Which group.
    pub group: Group,
    /// Which prefix.
    pub prefix: Prefix,
    /// Who had it.
    pub from: Option<NodeId>,
    /// Who has it.
    pub to: Option<NodeId>,
    /// Why.
    pub because: Because,
}

impl RouteTable {
    /// Who carries a prefix for those who reach it through a group.
    pub fn steered_seat(&self, group: &Group, prefix: &Prefix) -> Option<&Seat> {
        self.seat_in(prefix, Some(group))
    }

    /// What this node carries for groups.
    pub fn steered_through(&self, node: NodeId) -> BTreeMap<Group, BTreeSet<Prefix>> {
        let mut all: BTreeMap<Group, BTreeSet<Prefix>> = BTreeMap::new();
        let prefixes = self.routers.get(&node).into_iter().flat_map(|router| router.prefixes.keys());
        for prefix in prefixes {
            for group in self.groups_of(prefix) {
                if self.steered_seat(group, prefix).is_some_and(|seat| seat.node == node) {
                    all.entry(Arc::clone(group)).or_default().insert(*prefix);
                }
            }
        }
        all
    }

    /// The groups that elect for a prefix: somebody's grants steer to it through them.
    pub fn groups_of(&self, prefix: &Prefix) -> impl Iterator<Item = &Group> {
        let all = self.electorates.iter().filter(move |(_, electorate)| electorate.prefixes.contains(prefix));
        all.map(|(group, _)| group)
    }

    /// Whether a node is in a group.
    pub(crate) fn is_member(&self, node: NodeId, group: &Group) -> bool {
        self.electorates.get(group).is_some_and(|electorate| electorate.members.contains(&node))
    }

    /// The candidates of a prefix that are in a group; `None`: all.
    pub fn candidates_in(&self, prefix: &Prefix, group: Option<&Group>) -> Vec<Candidate> {
        let all = self.candidates(prefix).into_iter();
        all.filter(|candidate| group.is_none_or(|group| self.is_member(candidate.node, group))).collect()
    }

    pub(crate) fn put_electorates(&mut self, next: BTreeMap<Group, Electorate>, out: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.electorates, next);
        for (group, electorate) in &self.electorates {
            if before.get(group) != Some(electorate) {
                self.dirty.extend(electorate.prefixes.iter().copied());
                // A seat that was there before its group was known, as after a start, is told of now.
                let seats =
                    electorate.prefixes.iter().filter_map(|prefix| self.seats.get(&(*prefix, Some(group.clone()))));
                out.extend(
                    seats.flat_map(|seat| seat.carriers.iter().copied().chain([seat.node])).map(Effect::RoutesOf),
                );
            }
        }
        // Seats of groups that elect no more go without a successor.
        let electorates = &self.electorates;
        let elects = |prefix: &Prefix, group: &Group| {
            electorates.get(group).is_some_and(|electorate| electorate.prefixes.contains(prefix))
        };
        let ended: Vec<(Prefix, Option<Group>)> = self
            .seats
            .keys()
            .filter(|(prefix, group)| group.as_ref().is_some_and(|group| !elects(prefix, group)))
            .cloned()
            .collect();
        for (prefix, group) in ended {
            self.timers.stop(&Timer::Seat(prefix, group.clone()));
            if let Some(seat) = self.seats.remove(&(prefix, group.clone())) {
                out.push(Effect::RoutesOf(seat.node));
                out.extend(seat.carriers.iter().copied().map(Effect::RoutesOf));
            }
            out.push(Effect::SeatChanged(prefix, group));
        }
    }
}
