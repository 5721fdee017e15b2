//! Liveness into decisions: what a lost session, a silence, a grace that ran out means for the prefixes of a node.

use std::collections::BTreeSet;

use wayleave_model::{NodeId, Prefix, SessionId, Timestamp};

use crate::election::Rank;
use crate::health::{Counts, Liveness};
use crate::reason::Cause;
use crate::table::{Effect, RouteTable, Timer};

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
            self.tell_of(node, out);
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
            out.push(Effect::FlapsChanged(node));
        }
        self.health_changed(node, now, out);
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
            self.health_changed(node, now, out);
        }
    }

    pub(crate) fn liveness_over(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        let in_grace = matches!(router.health.liveness(), Liveness::Grace { .. });
        let Some(cause) = router.health.time_over(now) else { return };
        if in_grace {
            out.push(Effect::NodeDown(node, cause));
            self.health_changed(node, now, out);
        } else {
            self.convicted(node, cause, now, out);
        }
    }

    pub(crate) fn flapping_over(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        router.health.stop_flapping();
        out.push(Effect::FlapsChanged(node));
        self.health_changed(node, now, out);
    }

    pub(crate) fn give_grace(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let until = now + self.settings.starting;
        let Some(router) = self.routers.get_mut(&node) else { return };
        router.health.give_grace(until);
        if matches!(router.health.liveness(), Liveness::Grace { .. }) {
            self.timers.set(Timer::Liveness(node), until);
        }
        self.health_changed(node, now, out);
    }

    pub(crate) fn common_loss(&mut self, node: NodeId, since: Timestamp, now: Timestamp, out: &mut Vec<Effect>) {
        if let Some(router) = self.routers.get_mut(&node) {
            router.health.forgive(since);
            out.push(Effect::FlapsChanged(node));
        }
        self.give_grace(node, now, out);
    }

    /// Primaries that have not come back yet count as up for a while: those of the tailnet, of groups, and of single viewers. All others are
    /// down until they are seen.
    pub(crate) fn started(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let seats = self.seats.values();
        let primaries: BTreeSet<NodeId> =
            seats.flat_map(|seat| seat.carriers.iter().copied().chain([seat.node])).collect();
        for node in primaries {
            self.give_grace(node, now, out);
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
            out.push(Effect::FlapsChanged(node));
        }
        self.health_changed(node, now, out);
    }

    fn health_changed(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        router.health.settle(router.facts.drained, now);
        match router.health.flapping_until() {
            Some(until) => self.timers.set(Timer::Flapping(node), until),
            None => self.timers.stop(&Timer::Flapping(node)),
        }
        self.mark_node(node);
        self.tell_of(node, out);
    }

    /// What viewers see of this node's routes may have changed: its rank did.
    fn tell_of(&self, node: NodeId, out: &mut Vec<Effect>) {
        if self.routers.get(&node).is_some_and(|router| !router.prefixes.is_empty()) {
            out.push(Effect::RoutesOf(node));
        }
    }

    /// How good a node is for a prefix now. `None`: it is not known.
    pub fn rank_for(&self, node: NodeId, _prefix: &Prefix) -> Option<Rank> {
        self.rank(node)
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
