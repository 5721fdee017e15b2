//! Who carries a prefix: in the tailnet as a whole, and within each group that a grant steers through.
//!
//! A seat is one election with its incumbent. All of them are decided by the same rules ([`crate::election`]), over the same candidates or
//! those of them that are in the group. A change marks its prefixes dirty; one pass decides every seat of a dirty prefix again, in prefix
//! order, and sets the one deadline at which the seat has to be looked at without anything having happened.

use std::collections::BTreeSet;

use wayleave_model::{Approver, NodeId, Prefix, SeatHolder, SeatRow, Spread, Timestamp};

use crate::election::{Candidate, Incumbent, Pending, Presence, elect};
use crate::fall_back;
use crate::health::Liveness;
use crate::reason::{Because, Gone};
use crate::spread;
use crate::steered::{Group, SteeredChange};
use crate::table::{Effect, PrimaryChange, RouteTable, Timer};

/// Who carries a prefix, since when, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The node.
    pub node: NodeId,
    /// Why it got the prefix, or keeps it where that is not plain.
    pub because: Because,
    /// When it got it.
    pub since: Timestamp,
    /// Who takes over later if nothing changes.
    pub pending: Option<Pending>,
    /// The person who moved the prefix to it, if one did.
    pub moved_by: Option<Approver>,
    /// Every candidate was down and none has been steady for long enough since: those who have another way do without the prefix. Only
    /// where `when_down` is `fall_back`.
    pub fallen_back: bool,
    /// When the prefix comes back, if nothing changes.
    pub back_at: Option<Timestamp>,
    /// Those that viewers are spread over; none unless the prefix is spread.
    pub carriers: BTreeSet<NodeId>,
}

impl Seat {
    const fn of(node: NodeId, because: Because, since: Timestamp) -> Self {
        Self {
            node,
            because,
            since,
            pending: None,
            moved_by: None,
            fallen_back: false,
            back_at: None,
            carriers: BTreeSet::new(),
        }
    }

    /// The seat as it was stored.
    fn restored(holder: SeatHolder) -> Self {
        let SeatHolder { node, since, moved_by, fallen_back, carriers } = holder;
        let because = moved_by.clone().map_or(Because::Incumbent, Because::MovedBy);
        Self { moved_by, fallen_back, carriers, ..Self::of(node, because, since) }
    }

    fn row(&self, prefix: Prefix, group: Option<&Group>) -> SeatRow {
        let group = group.map(|group| (**group).clone()).unwrap_or_default();
        let holder = SeatHolder {
            node: self.node,
            since: self.since,
            moved_by: self.moved_by.clone(),
            fallen_back: self.fallen_back,
            carriers: self.carriers.clone(),
        };
        SeatRow { prefix, group, holder }
    }
}

impl RouteTable {
    /// Who carries this prefix.
    pub fn seat(&self, prefix: &Prefix) -> Option<&Seat> {
        self.seats.get(&(*prefix, None))
    }

    /// Who carries this prefix for a group, or for the tailnet as a whole.
    pub fn seat_in(&self, prefix: &Prefix, group: Option<&Group>) -> Option<&Seat> {
        self.seats.get(&(*prefix, group.cloned()))
    }

    /// Every prefix that somebody carries in the tailnet as a whole, with who does.
    pub fn seats(&self) -> impl Iterator<Item = (&Prefix, &Seat)> {
        self.seats.iter().filter(|((_, group), _)| group.is_none()).map(|((prefix, _), seat)| (prefix, seat))
    }

    /// The seats of a prefix: that of the tailnet first, then those of groups.
    pub fn seats_of(&self, prefix: &Prefix) -> impl Iterator<Item = (Option<&Group>, &Seat)> {
        let all = self.seats.range((*prefix, None)..).take_while(move |((of, _), _)| of == prefix);
        all.map(|((_, group), seat)| (group.as_ref(), seat))
    }

    /// Whether a node carries a prefix: as the primary, as that of a group, or as one of several that viewers are spread over.
    pub fn carries(&self, node: NodeId, prefix: &Prefix) -> bool {
        self.seats_of(prefix).any(|(_, seat)| seat.node == node || seat.carriers.contains(&node))
    }

    /// All that carry a prefix, the primary first.
    pub fn carriers(&self, prefix: &Prefix) -> Vec<NodeId> {
        let primary = self.seat(prefix).map(|seat| seat.node);
        let all = self.seats_of(prefix).flat_map(|(_, seat)| seat.carriers.iter().copied().chain([seat.node]));
        let others: BTreeSet<NodeId> = all.filter(|node| Some(*node) != primary).collect();
        primary.into_iter().chain(others).collect()
    }

    /// Whether a node carried a prefix then, as far as is known of the past.
    pub(crate) fn carried(&self, node: NodeId, prefix: &Prefix, at: Timestamp) -> bool {
        self.seats_of(prefix).any(
            |(_, seat)| {
                if seat.node == node { seat.since <= at } else { seat.carriers.contains(&node) }
            },
        )
    }

    /// What has to be remembered of a seat. `None`: there is no such seat.
    pub fn seat_row(&self, prefix: &Prefix, group: Option<&Group>) -> Option<SeatRow> {
        Some(self.seat_in(prefix, group)?.row(*prefix, group))
    }

    /// Takes a seat as it was stored. It is decided again once the server has started.
    pub(crate) fn restore_seat(&mut self, row: SeatRow) {
        let group = (!row.group.is_empty()).then(|| Group::new(row.group));
        self.seats.insert((row.prefix, group), Seat::restored(row.holder));
    }

    /// Takes a row that was stored as primary. What else was remembered of its seat is kept if it is the same node's.
    pub(crate) fn restore_primary(&mut self, node: NodeId, prefix: Prefix, since: Timestamp) {
        let seat = self.seats.entry((prefix, None)).or_insert_with(|| Seat::of(node, Because::Incumbent, since));
        if seat.node != node {
            *seat = Seat::of(node, Because::Incumbent, since);
        }
    }

    /// Puts a prefix where a person wants it. Says nothing if the node can't have it any more.
    pub(crate) fn move_to(&mut self, prefix: Prefix, to: NodeId, by: Approver, now: Timestamp, out: &mut Vec<Effect>) {
        // Whoever asked has stored who is primary; if it is another by now, that has to be stored again.
        let holders: Vec<NodeId> = self.holders(&prefix).collect();
        let rows = holders.iter().filter_map(|node| self.row_of(*node, &prefix)).map(|row| Effect::RowChanged(row.id));
        out.extend(rows.collect::<Vec<_>>());
        if !self.candidates(&prefix).iter().any(|c| c.node == to) {
            return;
        }
        let because = Because::MovedBy(by.clone());
        self.put_seat(prefix, None, Some((to, because)), now, out);
        if let Some(seat) = self.seats.get_mut(&(prefix, None)) {
            seat.moved_by = Some(by);
            seat.because = seat.moved_by.clone().map_or(Because::Incumbent, Because::MovedBy);
        }
        out.push(Effect::SeatChanged(prefix, None));
        self.mark(prefix);
    }

    /// A person has said anew who is preferred: that the prefix was moved before counts no more.
    pub(crate) fn end_move(&mut self, prefix: Prefix, out: &mut Vec<Effect>) {
        if self.seats.get_mut(&(prefix, None)).is_some_and(|seat| seat.moved_by.take().is_some()) {
            out.push(Effect::SeatChanged(prefix, None));
        }
    }

    /// Decides every dirty prefix again, in prefix order.
    pub(crate) fn decide(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        #[cfg(debug_assertions)]
        let before = out.len();
        while let Some(prefix) = self.dirty.pop_first() {
            self.judge_endpoints(prefix, now, out);
            self.judge_paths(prefix, now, out);
            let candidates = self.candidates(&prefix);
            self.decide_seat(prefix, None, &candidates, now, out);
            let groups = self.electorates.iter().filter(|(_, electorate)| electorate.prefixes.contains(&prefix));
            let groups: Vec<(Group, Vec<Candidate>)> = groups
                .map(|(group, electorate)| {
                    let members = candidates.iter().filter(|candidate| electorate.members.contains(&candidate.node));
                    (group.clone(), members.copied().collect())
                })
                .collect();
            for (group, members) in groups {
                self.decide_seat(prefix, Some(&group), &members, now, out);
            }
            #[cfg(debug_assertions)]
            if let Some(broken) = self.broken_at(&prefix, now) {
                panic!("{prefix}: {broken}");
            }
        }
        #[cfg(debug_assertions)]
        for effect in &out[before..] {
            if let Effect::PrimaryChanged(PrimaryChange { prefix, from, to, because })
            | Effect::SteeredChanged(SteeredChange { prefix, from, to, because, .. }) = effect
                && !crate::invariants::moves(because, from.is_some(), to.is_some())
            {
                panic!("{prefix} moved: {because}");
            }
        }
    }

    fn decide_seat(
        &mut self,
        prefix: Prefix,
        group: Option<&Group>,
        candidates: &[Candidate],
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let key = (prefix, group.cloned());
        let before = self.seats.get(&key).cloned();
        let incumbent = self.incumbent(&prefix, group, before.as_ref(), candidates);
        let terms = self.terms(&prefix, before.as_ref(), now);
        let decision = elect(incumbent, candidates, terms, now);
        let primary = decision.primary.map(|primary| (primary.node, primary.because));
        self.put_seat(prefix, group, primary, now, out);
        let wants = self.prefix_settings(&prefix);
        let up = |node: NodeId| matches!(self.liveness(node), Some(Liveness::Up | Liveness::Doubted { .. }));
        let (fallen_back, back_at) = fall_back::judge(
            wants.when_down,
            before.as_ref().is_some_and(|seat| seat.fallen_back),
            terms.frozen,
            candidates,
            self.settings.back_after,
            up,
            now,
        );
        let carried = before.as_ref().map(|seat| &seat.carriers);
        let (carriers, joins_at) = spread::carriers(wants.spread, carried, terms, candidates, now);
        let carried: BTreeSet<NodeId> =
            before.iter().flat_map(|seat| seat.carriers.iter().copied().chain([seat.node])).collect();
        let timer = Timer::Seat(prefix, group.cloned());
        let Some(seat) = self.seats.get_mut(&key) else {
            self.timers.stop(&timer);
            return self.forget_misses_for(&prefix, carried);
        };
        seat.pending = decision.pending;
        seat.back_at = back_at;
        seat.fallen_back = fallen_back;
        seat.carriers = carriers;
        match decision.pending.map(|pending| pending.at).into_iter().chain(back_at).chain(joins_at).min() {
            Some(at) => self.timers.set(timer, at),
            None => self.timers.stop(&timer),
        }
        let spread_anew = before.as_ref().is_some_and(|before| before.carriers != seat.carriers);
        self.forget_misses_for(&prefix, carried);
        let Some(before) = before else { return };
        let fell = before.fallen_back != fallen_back;
        if fell || spread_anew {
            out.push(Effect::SeatChanged(prefix, group.cloned()));
            self.tell_holders(&prefix, out);
        }
        if fell {
            out.push(Effect::FellBack { prefix, group: group.cloned(), fallen_back });
        }
    }

    /// Gives a seat to somebody, or to nobody.
    fn put_seat(
        &mut self,
        prefix: Prefix,
        group: Option<&Group>,
        primary: Option<(NodeId, Because)>,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let key = (prefix, group.cloned());
        let from = self.seats.get(&key).map(|seat| seat.node);
        let to = primary.as_ref().map(|(node, _)| *node);
        let because = primary.map_or(Because::NoCandidate, |(_, because)| because);
        if from == to {
            if let Some(seat) = self.seats.get_mut(&key) {
                let passing = |because: &Because| matches!(because, Because::LastKnown | Because::Frozen);
                // Others may have come since, or gone.
                let plain = |because: &Because| matches!(because, Because::OnlyCandidate | Because::Incumbent);
                if passing(&because) || passing(&seat.because) || (plain(&because) && plain(&seat.because)) {
                    // What a person did outlives what passes.
                    let moved = seat.moved_by.clone().filter(|_| because == Because::Incumbent);
                    seat.because = moved.map_or(because, Because::MovedBy);
                }
            }
            return;
        }
        match to {
            Some(node) => {
                // What is known of the prefix as such outlives who carries it.
                let (fallen_back, carriers) =
                    self.seats.remove(&key).map(|seat| (seat.fallen_back, seat.carriers)).unwrap_or_default();
                let seat = Seat { fallen_back, carriers, ..Seat::of(node, because.clone(), now) };
                self.seats.insert(key, seat);
            }
            None => drop(self.seats.remove(&key)),
        }
        self.forget_misses_for(&prefix, from);
        out.push(Effect::SeatChanged(prefix, group.cloned()));
        out.extend([from, to].into_iter().flatten().map(Effect::RoutesOf));
        if self.prefix_settings(&prefix).spread != Spread::Single {
            self.tell_holders(&prefix, out);
        }
        if let Some(group) = group {
            return out.push(Effect::SteeredChanged(SteeredChange { group: group.clone(), prefix, from, to, because }));
        }
        for (node, is_primary) in [(from, false), (to, true)] {
            let id = node.and_then(|node| self.routers.get(&node)?.prefixes.get(&prefix)).copied();
            if let Some(row) = id.and_then(|id| self.rows.get_mut(&id)) {
                row.is_primary = is_primary;
                row.updated_at = now;
                out.push(Effect::RowChanged(row.id));
            }
        }
        out.push(Effect::PrimaryChanged(PrimaryChange { prefix, from, to, because }));
    }

    /// What viewers see of everybody who has a row for the prefix may have changed.
    pub(crate) fn tell_holders(&self, prefix: &Prefix, out: &mut Vec<Effect>) {
        out.extend(self.holders(prefix).map(Effect::RoutesOf));
    }

    /// The candidates for a prefix, in the order of joining.
    pub fn candidates(&self, prefix: &Prefix) -> Vec<Candidate> {
        self.holders(prefix)
            .filter(|node| self.why_no_candidate(*node, prefix).is_none())
            .filter_map(|node| {
                let router = self.routers.get(&node)?;
                let priority = self.row_of(node, prefix)?.priority;
                let steady_since = router.steady_since_for(prefix);
                let presence = match router.health.liveness() {
                    Liveness::Grace { .. } => Presence::Awaited,
                    Liveness::Doubted { .. } => Presence::Doubted,
                    Liveness::Up | Liveness::Down { .. } => Presence::Here,
                };
                Some(Candidate { node, rank: router.rank_for(prefix), priority, steady_since, presence })
            })
            .collect()
    }

    /// Why a node is no candidate for a prefix. `None`: it is one.
    pub fn why_no_candidate(&self, node: NodeId, prefix: &Prefix) -> Option<Gone> {
        let (Some(router), Some(row)) = (self.routers.get(&node), self.row_of(node, prefix)) else {
            return Some(Gone::Deleted);
        };
        if !row.advertised {
            Some(Gone::Withdrawn)
        } else if !row.enabled || prefix.invalid().is_some() {
            Some(Gone::Disabled)
        } else if router.facts.expired {
            Some(Gone::Expired)
        } else if !router.facts.reachable {
            Some(Gone::Unreachable)
        } else {
            None
        }
    }

    fn incumbent(
        &self,
        prefix: &Prefix,
        group: Option<&Group>,
        seat: Option<&Seat>,
        candidates: &[Candidate],
    ) -> Incumbent {
        match seat {
            None => Incumbent::None,
            Some(seat) if candidates.iter().any(|c| c.node == seat.node) => Incumbent::Node(seat.node),
            Some(seat) => {
                let otherwise = if group.is_some() { Gone::LeftGroup } else { Gone::Deleted };
                Incumbent::Gone(seat.node, self.why_no_candidate(seat.node, prefix).unwrap_or(otherwise))
            }
        }
    }
}
