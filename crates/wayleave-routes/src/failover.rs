//! Liveness into decisions: what a lost session, a silence, a grace that ran out means for the prefixes of a node.

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::{NodeId, SessionId, Timestamp};

use crate::evidence::{Testimony, Verdict};
use crate::health::{Counts, Liveness};
use crate::reason::Cause;
use crate::table::{Effect, Judgement, RouteTable, Router, Timer};

/// What held of a router before something was found out about it.
#[derive(Clone, Copy, Debug)]
struct Standing {
    up: bool,
    counts: Counts,
}

impl Standing {
    fn of(router: &Router, starting: bool) -> Self {
        Self { up: router.health.is_up(), counts: router.counts(starting) }
    }
}

impl RouteTable {
    pub(crate) fn session_opened(&mut self, node: NodeId, session: SessionId, now: Timestamp, out: &mut Vec<Effect>) {
        let starting = self.is_starting(now);
        let router = self.router(node, now);
        let before = Standing::of(router, starting);
        let Some(lifted) = router.health.opened(session, now) else { return };
        self.judged(node, lifted, before, now, out);
    }

    pub(crate) fn session_lost(
        &mut self,
        node: NodeId,
        session: SessionId,
        cause: Cause,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let starting = self.is_starting(now);
        let Some(router) = self.routers.get_mut(&node) else { return };
        let counts = router.counts(starting);
        if !router.health.lost(session, cause, now, &self.settings) {
            return;
        }
        if router.health.is_doubted() && !router.prefixes.is_empty() {
            out.push(Effect::AskWitnesses(node));
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
        let starting = self.is_starting(now);
        let Some(router) = self.routers.get_mut(&node) else { return };
        let before = Standing::of(router, starting);
        let verdict = router.health.silent(session, cause, now, &self.settings.judging);
        self.judged(node, verdict, before, now, out);
    }

    pub(crate) fn answered(&mut self, node: NodeId, session: SessionId, now: Timestamp, out: &mut Vec<Effect>) {
        let starting = self.is_starting(now);
        let Some(router) = self.routers.get_mut(&node) else { return };
        let before = Standing::of(router, starting);
        if let (true, lifted) = router.health.answered(session) {
            self.judged(node, lifted, before, now, out);
        }
    }

    /// Takes in what was found out about a router. One that is not known any more was deleted: what is told of it is late.
    pub(crate) fn testimony(&mut self, node: NodeId, testimony: Testimony, now: Timestamp, out: &mut Vec<Effect>) {
        let starting = self.is_starting(now);
        let judging = &self.settings.judging;
        let Some(router) = self.routers.get_mut(&node) else { return };
        let before = Standing::of(router, starting);
        match testimony {
            Testimony::Doubted(session) => {
                if router.health.session() == Some(session) && !router.prefixes.is_empty() {
                    out.push(Effect::AskWitnesses(node));
                }
            }
            Testimony::Alive { asked_at } => {
                if router.health.alive(asked_at, &self.settings) {
                    self.health_changed(node, now, out);
                }
            }
            Testimony::Echo { session, answered, due } => {
                let late = judging.is_late(due, now);
                let verdict = router.health.echoed(session, answered, late, now, judging);
                if verdict.is_some() {
                    self.judged(node, verdict, before, now, out);
                }
            }
            Testimony::Probe(round) => {
                let verdict = router.health.probed(round, now, judging);
                if verdict.is_some() {
                    self.judged(node, verdict, before, now, out);
                }
            }
            Testimony::Endpoints(endpoints) => self.endpoints_reported(node, endpoints),
            Testimony::Path(round) => self.path_checked(node, round, now, out),
        }
    }

    pub(crate) fn liveness_over(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let starting = self.is_starting(now);
        let Some(router) = self.routers.get_mut(&node) else { return };
        let before = Standing::of(router, starting);
        let liveness = router.health.liveness();
        if let Some((since, until)) = self.gathering.filter(|(_, until)| *until > now) {
            router.health.wait_for_others(since, until);
        }
        let verdicts = router.health.time_over(now, &self.settings.judging);
        if verdicts.is_empty() && router.health.liveness() == liveness {
            // It was looked at, and that is nothing that anybody is told.
            self.set_timer(node);
        } else {
            self.judged(node, verdicts, before, now, out);
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
        let starting = self.is_starting(now);
        let Some(router) = self.routers.get_mut(&node) else { return };
        let before = Standing::of(router, starting);
        match router.health.give_grace(until) {
            Some(lifted) => self.judged(node, lifted, before, now, out),
            None => self.health_changed(node, now, out),
        }
    }

    pub(crate) fn common_loss(&mut self, node: NodeId, since: Timestamp, now: Timestamp, out: &mut Vec<Effect>) {
        if let Some(router) = self.routers.get_mut(&node) {
            router.health.forgive(since);
            out.push(Effect::FlapsChanged(node));
        }
        self.starting_until = Some(now + self.settings.starting);
        self.give_grace(node, now, out);
    }

    /// These sessions fell silent since then, and it is the server's own side.
    pub(crate) fn common_silence(
        &mut self,
        sessions: BTreeMap<NodeId, SessionId>,
        since: Timestamp,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let until = now + self.settings.starting;
        self.starting_until = Some(until);
        for (node, session) in sessions {
            let Some(router) = self.routers.get_mut(&node) else { continue };
            router.health.forgive(since);
            out.push(Effect::FlapsChanged(node));
            let before = Standing::of(router, true);
            if let Some(lifted) = router.health.excuse_silence(session, until) {
                self.judged(node, lifted, before, now, out);
            }
        }
    }

    /// Whether what happens to routers is the server's own doing: it has just started, or most have just lost it.
    fn is_starting(&self, now: Timestamp) -> bool {
        self.starting_until.is_some_and(|until| now < until)
    }

    /// Primaries that have not come back yet count as up for a while: those of the tailnet, of groups, and of single viewers. All others are
    /// down until they are seen.
    pub(crate) fn started(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.starting_until = Some(now + self.settings.starting);
        let seats = self.seats.values();
        let primaries: BTreeSet<NodeId> =
            seats.flat_map(|seat| seat.carriers.iter().copied().chain([seat.node])).collect();
        for node in primaries {
            self.give_grace(node, now, out);
        }
    }

    /// Tells of verdicts about a node, and of what they come to: it is down now, or up again.
    fn judged(
        &mut self,
        node: NodeId,
        verdicts: impl IntoIterator<Item = Verdict>,
        before: Standing,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        for verdict in verdicts {
            // That a node has not been seen yet is no evidence that anybody waits to be rid of.
            if verdict.cause() != Cause::NotSeen {
                out.push(Effect::Judged(Judgement { node, prefix: None, verdict }));
            }
        }
        match (before.up, router.health.liveness()) {
            (true, Liveness::Down { cause, .. }) => {
                out.push(Effect::NodeDown(node, cause));
                if before.counts == Counts::Yes {
                    let was = router.health.flapping_until().is_some();
                    if router.health.count_down(now, &self.settings) && !was {
                        out.push(Effect::Flapping(node));
                    }
                    out.push(Effect::FlapsChanged(node));
                }
            }
            (false, Liveness::Up | Liveness::Doubted { .. } | Liveness::Grace { .. }) => out.push(Effect::NodeUp(node)),
            (true, Liveness::Up | Liveness::Doubted { .. } | Liveness::Grace { .. })
            | (false, Liveness::Down { .. }) => {}
        }
        if before.up && !self.is_up(node) {
            self.forget_misses_of(node);
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
        self.set_timer(node);
        self.mark_node(node);
        self.tell_of(node, out);
    }

    fn set_timer(&mut self, node: NodeId) {
        match self.routers.get(&node).and_then(|router| router.health.next_deadline()) {
            Some(at) => self.timers.set(Timer::Liveness(node), at),
            None => self.timers.stop(&Timer::Liveness(node)),
        }
    }

    /// What viewers see of this node's routes may have changed: its rank did.
    pub(crate) fn tell_of(&self, node: NodeId, out: &mut Vec<Effect>) {
        if self.routers.get(&node).is_some_and(|router| !router.prefixes.is_empty()) {
            out.push(Effect::RoutesOf(node));
        }
    }

    /// Nodes that advertise something and have a session, which is watched closely therefore.
    pub fn connected_routers(&self) -> impl Iterator<Item = NodeId> {
        let connected = self.routers.iter().filter(|(_, router)| router.health.session().is_some());
        connected.map(|(node, _)| *node).filter(|node| self.rows_of(*node).any(|row| row.advertised))
    }

    /// Whether the key of this node has expired, as the table was told.
    pub fn is_expired(&self, node: NodeId) -> bool {
        self.routers.get(&node).is_some_and(|router| router.facts.expired)
    }

    /// The cause for which a node is down; `None` while it is up or not known.
    pub fn down_cause(&self, node: NodeId) -> Option<Cause> {
        match self.liveness(node)? {
            Liveness::Down { cause, .. } => Some(cause),
            Liveness::Grace { .. } | Liveness::Up | Liveness::Doubted { .. } => None,
        }
    }
}
