//! Liveness into decisions: what a lost session, a silence, a grace that ran out means for the prefixes of a node.

use std::collections::BTreeSet;

use wayleave_model::{NodeId, Prefix, SessionId, Timestamp};

use crate::election::{Candidate, Decision, Incumbent, elect};
use crate::health::{Counts, Liveness};
use crate::reason::{Because, Cause, Gone};
use crate::table::{Effect, PrimaryChange, RouteTable, Seat, Timer};

impl RouteTable {
    pub(crate) fn session_opened(&mut self, node: NodeId, session: SessionId, now: Timestamp, out: &mut Vec<Effect>) {
        let router = self.router(node, now);
        let was_up = router.health.is_up();
        if !router.health.opened(session) {
            return;
        }
        router.health.settle(router.facts.drained, now);
        self.timers.stop(&Timer::Liveness(node));
        self.mark_node(node);
        if !was_up {
            out.push(Effect::NodeUp(node));
        }
    }

    pub(crate) fn session_lost(
        &mut self,
        node: NodeId,
        session: SessionId,
        cause: Cause,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let counts = self.counts(node);
        let Some(router) = self.routers.get_mut(&node) else { return };
        if !router.health.lost(session, cause, now) {
            return;
        }
        if matches!(router.health.liveness(), Liveness::Lost { .. }) {
            self.timers.set(Timer::Liveness(node), now + self.settings.lost_after);
        }
        if counts == Counts::Yes {
            let was = router.health.flapping_until().is_some();
            if router.health.count_loss(now, &self.settings) && !was {
                out.push(Effect::Flapping(node));
            }
        }
        self.health_changed(node, now);
    }

    pub(crate) fn silent(
        &mut self,
        node: NodeId,
        session: SessionId,
        cause: Cause,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        if router.health.silent(session, cause, now) {
            self.convicted(node, cause, now, out);
        }
    }

    pub(crate) fn answered(&mut self, node: NodeId, session: SessionId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        if router.health.answered(session) {
            out.push(Effect::NodeUp(node));
            self.health_changed(node, now);
        }
    }

    pub(crate) fn liveness_over(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        let in_grace = matches!(router.health.liveness(), Liveness::Grace { .. });
        let Some(cause) = router.health.time_over(now) else { return };
        if in_grace {
            out.push(Effect::NodeDown(node, cause));
            self.health_changed(node, now);
        } else {
            self.convicted(node, cause, now, out);
        }
    }

    pub(crate) fn flapping_over(&mut self, node: NodeId, now: Timestamp) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        router.health.stop_flapping();
        self.health_changed(node, now);
    }

    pub(crate) fn give_grace(&mut self, node: NodeId, now: Timestamp) {
        let until = now + self.settings.starting;
        let Some(router) = self.routers.get_mut(&node) else { return };
        router.health.give_grace(until);
        if matches!(router.health.liveness(), Liveness::Grace { .. }) {
            self.timers.set(Timer::Liveness(node), until);
        }
        self.health_changed(node, now);
    }

    /// Primaries that have not come back yet count as up for a while; all others are down until they are seen.
    pub(crate) fn started(&mut self, now: Timestamp) {
        let primaries: BTreeSet<NodeId> = self.seats.values().map(|seat| seat.node).collect();
        for node in primaries {
            self.give_grace(node, now);
        }
    }

    fn convicted(&mut self, node: NodeId, cause: Cause, now: Timestamp, out: &mut Vec<Effect>) {
        out.push(Effect::NodeDown(node, cause));
        let counts = self.counts(node);
        let Some(router) = self.routers.get_mut(&node) else { return };
        if counts == Counts::Yes {
            let was = router.health.flapping_until().is_some();
            if router.health.count_down(now, &self.settings) && !was {
                out.push(Effect::Flapping(node));
            }
        }
        self.health_changed(node, now);
    }

    fn health_changed(&mut self, node: NodeId, now: Timestamp) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        router.health.settle(router.facts.drained, now);
        match router.health.flapping_until() {
            Some(until) => self.timers.set(Timer::Flapping(node), until),
            None => self.timers.stop(&Timer::Flapping(node)),
        }
        self.mark_node(node);
    }

    /// Decides every dirty prefix again, in prefix order.
    pub(crate) fn decide(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        while let Some(prefix) = self.dirty.pop_first() {
            let candidates = self.candidates(&prefix);
            let incumbent = self.incumbent(&prefix, &candidates);
            let decision = elect(incumbent, &candidates, self.settings.failback_after, now);
            self.seat_primary(prefix, incumbent.node(), decision, now, out);
            self.decide_steered(prefix, now, out);
        }
    }

    /// The candidates for a prefix, in the order of joining.
    pub fn candidates(&self, prefix: &Prefix) -> Vec<Candidate> {
        self.holders(prefix)
            .filter(|node| self.why_no_candidate(*node, prefix).is_none())
            .filter_map(|node| {
                let router = self.routers.get(&node)?;
                let row = self.row_of(node, prefix)?;
                Some(Candidate {
                    node,
                    rank: router.health.rank(router.facts.drained),
                    priority: row.priority,
                    steady_since: router.health.steady_since(),
                })
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

    fn incumbent(&self, prefix: &Prefix, candidates: &[Candidate]) -> Incumbent {
        match self.seats.get(prefix) {
            None => Incumbent::None,
            Some(seat) if candidates.iter().any(|c| c.node == seat.node) => Incumbent::Node(seat.node),
            Some(seat) => {
                let gone = self.why_no_candidate(seat.node, prefix).unwrap_or(Gone::Deleted);
                Incumbent::Gone(seat.node, gone)
            }
        }
    }

    fn seat_primary(
        &mut self,
        prefix: Prefix,
        from: Option<NodeId>,
        decision: Decision,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        match decision.pending {
            Some(pending) => self.timers.set(Timer::Failback(prefix), pending.at),
            None => self.timers.stop(&Timer::Failback(prefix)),
        }
        let to = decision.primary.map(|primary| primary.node);
        let because = decision.primary.map_or(Because::NoCandidate, |primary| primary.because);
        if from == to {
            if let Some(seat) = self.seats.get_mut(&prefix) {
                seat.pending = decision.pending;
                if because == Because::LastKnown || seat.because == Because::LastKnown {
                    seat.because = because;
                }
            }
            return;
        }
        for (node, is_primary) in [(from, false), (to, true)] {
            let Some(node) = node else { continue };
            let id = self.routers.get(&node).and_then(|router| router.prefixes.get(&prefix)).copied();
            if let Some(row) = id.and_then(|id| self.rows.get_mut(&id)) {
                row.is_primary = is_primary;
                row.updated_at = now;
                out.push(Effect::RowChanged(row.id));
            }
            out.push(Effect::RoutesOf(node));
        }
        match to {
            Some(node) => self.seats.insert(prefix, Seat { node, because, since: now, pending: decision.pending }),
            None => self.seats.remove(&prefix),
        };
        out.push(Effect::PrimaryChanged(PrimaryChange { prefix, from, to, because }));
    }

    /// Whether the key of this node has expired, as the table was told.
    pub fn is_expired(&self, node: NodeId) -> bool {
        self.routers.get(&node).is_some_and(|router| router.facts.expired)
    }

    /// The cause for which a node is down; `None` while it is up or not known.
    pub fn down_cause(&self, node: NodeId) -> Option<Cause> {
        match self.liveness(node)? {
            Liveness::Down { cause, .. } => Some(cause),
            Liveness::Grace { .. } | Liveness::Up | Liveness::Lost { .. } => None,
        }
    }
}
