//! Elections among a part of the routers: those with one of the tags that a grant's `via` names (design.md 3).
//!
//! The rules are those of the tailnet's own election, with an incumbent of its own for each group and prefix. A group elects only for the
//! prefixes that somebody reaches through it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wayleave_model::{NodeId, Prefix, Tag, Timestamp};

use crate::election::{Candidate, Incumbent, elect};
use crate::reason::{Because, Gone};
use crate::table::{Effect, RouteTable, Seat, Timer};

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
        self.steered_seats.get(&(*prefix, Arc::clone(group)))
    }

    /// What this node carries for groups.
    pub fn steered_through(&self, node: NodeId) -> BTreeMap<Group, BTreeSet<Prefix>> {
        let mut all: BTreeMap<Group, BTreeSet<Prefix>> = BTreeMap::new();
        let prefixes = self.routers.get(&node).into_iter().flat_map(|router| router.prefixes.keys());
        for prefix in prefixes {
            let groups = self.electorates.iter().filter(|(_, electorate)| electorate.prefixes.contains(prefix));
            for group in groups.map(|(group, _)| group) {
                if self.steered_seat(group, prefix).is_some_and(|seat| seat.node == node) {
                    all.entry(Arc::clone(group)).or_default().insert(*prefix);
                }
            }
        }
        all
    }

    pub(crate) fn put_electorates(&mut self, next: BTreeMap<Group, Electorate>, out: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.electorates, next);
        for (group, electorate) in &self.electorates {
            if before.get(group) != Some(electorate) {
                self.dirty.extend(electorate.prefixes.iter().copied());
            }
        }
        // Seats of groups that elect no more go without a successor.
        let electorates = &self.electorates;
        self.steered_seats.retain(|(prefix, group), seat| {
            let stays = electorates.get(group).is_some_and(|electorate| electorate.prefixes.contains(prefix));
            if !stays {
                self.timers.stop(&Timer::SteeredFailback(*prefix, Arc::clone(group)));
                out.push(Effect::RoutesOf(seat.node));
            }
            stays
        });
    }

    /// Decides a dirty prefix within every group that elects for it.
    pub(crate) fn decide_steered(&mut self, prefix: Prefix, now: Timestamp, out: &mut Vec<Effect>) {
        if self.electorates.is_empty() {
            return;
        }
        let all = self.candidates(&prefix);
        let groups = self.electorates.iter().filter(|(_, electorate)| electorate.prefixes.contains(&prefix));
        let groups: Vec<(Group, Vec<Candidate>)> = groups
            .map(|(group, electorate)| {
                let members = all.iter().filter(|candidate| electorate.members.contains(&candidate.node));
                (Arc::clone(group), members.copied().collect())
            })
            .collect();
        for (group, candidates) in groups {
            self.seat_steered(prefix, &group, &candidates, now, out);
        }
    }

    fn seat_steered(
        &mut self,
        prefix: Prefix,
        group: &Group,
        candidates: &[Candidate],
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let key = (prefix, Arc::clone(group));
        let incumbent = match self.steered_seats.get(&key) {
            None => Incumbent::None,
            Some(seat) if candidates.iter().any(|candidate| candidate.node == seat.node) => Incumbent::Node(seat.node),
            Some(seat) => {
                Incumbent::Gone(seat.node, self.why_no_candidate(seat.node, &prefix).unwrap_or(Gone::LeftGroup))
            }
        };
        let decision = elect(incumbent, candidates, self.settings.failback_after, now);
        let timer = Timer::SteeredFailback(prefix, Arc::clone(group));
        match decision.pending {
            Some(pending) => self.timers.set(timer, pending.at),
            None => self.timers.stop(&timer),
        }
        let (from, to) = (incumbent.node(), decision.primary.map(|primary| primary.node));
        if from == to {
            if let Some(seat) = self.steered_seats.get_mut(&key) {
                seat.pending = decision.pending;
            }
            return;
        }
        let because = decision.primary.map_or(Because::NoCandidate, |primary| primary.because);
        match to {
            Some(node) => {
                let seat = Seat { node, because, since: now, pending: decision.pending };
                self.steered_seats.insert(key, seat);
            }
            None => drop(self.steered_seats.remove(&key)),
        }
        out.extend([from, to].into_iter().flatten().map(Effect::RoutesOf));
        out.push(Effect::SteeredChanged(SteeredChange { group: Arc::clone(group), prefix, from, to, because }));
    }
}
