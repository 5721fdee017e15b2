//! The table of routes: rows, routers, primaries, and the deadlines that belong to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use wayleave_model::{
    Approver, FlapRow, NodeId, Prefix, PrefixOverrides, PrefixRow, PrefixSettings, Route, RouteId, SeatRow, SessionId,
    Timers, Timestamp,
};

use crate::election::Rank;
use crate::endpoint::Endpoints;
use crate::evidence::{Judging, Testimony, Verdict};
use crate::health::{Counts, Health, Liveness};
use crate::reason::{Because, Cause};
use crate::seats::Seat;
use crate::steered::{Electorate, Group, SteeredChange};
use crate::suspicion::Suspicion;

/// Times and counts that the table decides by. All are configuration; the defaults are those of design.md 3 and 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a lost stream may take to come back before its node is down. 500 ms.
    pub lost_after: Duration,
    /// What holds for a prefix of which nobody says anything else.
    pub defaults: PrefixSettings,
    /// What holds for single prefixes, below what a person sets for them and above every default. Nothing is frozen here.
    pub prefixes: BTreeMap<Prefix, PrefixOverrides>,
    /// How long a candidate must be steady before a prefix that has fallen back comes back. 30 s.
    pub back_after: Duration,
    /// How long primaries that have not come back yet count as up after a start or a common loss. 30 s.
    pub starting: Duration,
    /// How long a withdrawn route keeps its approval. 2 s.
    pub withdraw_grace: Duration,
    /// That many convictions within `flap_down_window` make a node flapping. 3.
    pub flap_downs: usize,
    /// 10 min.
    pub flap_down_window: Duration,
    /// That many lost sessions within `flap_loss_window` make a node flapping. 5.
    pub flap_losses: usize,
    /// 1 min.
    pub flap_loss_window: Duration,
    /// How long after the last of these a node still counts as flapping. 10 min.
    pub flap_hold: Duration,
    /// How evidence is judged.
    pub judging: Judging,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lost_after: Duration::from_millis(500),
            defaults: PrefixSettings::default(),
            prefixes: BTreeMap::new(),
            back_after: Duration::from_secs(30),
            starting: Duration::from_secs(30),
            withdraw_grace: Duration::from_secs(2),
            flap_downs: 3,
            flap_down_window: Duration::from_secs(600),
            flap_losses: 5,
            flap_loss_window: Duration::from_secs(60),
            flap_hold: Duration::from_secs(600),
            judging: Judging::default(),
        }
    }
}

/// What the table needs to know of a node beside its liveness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its key has expired.
    pub expired: bool,
    /// Others can reach it: a home relay or an endpoint of it is known. What is not known yet counts as known.
    pub reachable: bool,
    /// A person took it out of service.
    pub drained: bool,
}

/// What a store has of routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The rows that are not marked deleted.
    pub rows: Vec<Route>,
    /// What was set for prefixes.
    pub overrides: Vec<PrefixRow>,
    /// How often nodes were lost.
    pub flaps: Vec<FlapRow>,
    /// Who carried what.
    pub seats: Vec<SeatRow>,
    /// What is checked behind the routers of a prefix.
    pub path_checks: BTreeMap<Prefix, IpAddr>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// This is what a store has. Nothing is decided before [`Input::Started`].
    Restored(Restored),
    /// What is set for a prefix, or for all, changed.
    Overrides(PrefixRow),
    /// A person moved a prefix to a node.
    Moved(Prefix, NodeId, Approver),
    /// These rows were committed: new ones, changed ones, and deleted ones, which leave the table.
    Rows(Vec<Route>),
    /// A node is there, with these facts, or its facts changed.
    Node(NodeId, NodeFacts),
    /// A node was deleted. Its rows leave with [`Input::Rows`].
    NodeDeleted(NodeId),
    /// A node advertises exactly these prefixes now. Rows that it has not are the caller's to make.
    Advertised(NodeId, BTreeSet<Prefix>),
    /// A node opened a map stream.
    SessionOpened(NodeId, SessionId),
    /// A map stream ended, by this cause, and was not replaced before.
    SessionLost(NodeId, SessionId, Cause),
    /// A session is silent, by this evidence.
    Silent(NodeId, SessionId, Cause),
    /// A silent session has been heard again.
    Answered(NodeId, SessionId),
    /// So many lost their sessions since then that it may turn out to be the server's side: nobody who was lost in that time is convicted of
    /// it before `until`.
    LossesGather {
        /// When the first was lost.
        since: Timestamp,
        /// Until when more are waited for.
        until: Timestamp,
    },
    /// These nodes lost their sessions since then, together with so many others that it is the server's side.
    CommonLoss(BTreeSet<NodeId>, Timestamp),
    /// These sessions fell silent since then, together with so many others that it is the server's side.
    CommonSilence(BTreeMap<NodeId, SessionId>, Timestamp),
    /// Something was found out about a node.
    Evidence(NodeId, Testimony),
    /// These prefixes have path checks with these targets, and no others do.
    PathChecks(BTreeMap<Prefix, IpAddr>),
    /// These groups elect for these prefixes, and no others do.
    Electorates(BTreeMap<Group, Electorate>),
    /// The server started: rows, primaries and nodes are as they were; nobody has a session yet.
    Started,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A prefix went from one node to another, to nobody, or was given out first.
    PrimaryChanged(PrimaryChange),
    /// A prefix moved within a group that a grant steers through.
    SteeredChanged(SteeredChange),
    /// A conviction was made, written down, or lifted.
    Judged(Judgement),
    /// A node that has routes was lost, or seems so: its witnesses are to be asked at once, and for as long as it is doubted.
    AskWitnesses(NodeId),
    /// A node is down: the first conviction that counts stands.
    NodeDown(NodeId, Cause),
    /// A node that was down is up.
    NodeUp(NodeId),
    /// A node became flapping.
    Flapping(NodeId),
    /// A row changed without a commit; to be written behind.
    RowChanged(RouteId),
    /// A node stopped, or began again, to advertise the prefix of a row that it has.
    AdvertisedChanged(RouteId),
    /// Who carries a prefix, or what is remembered of that, changed; to be written behind.
    SeatChanged(Prefix, Option<Group>),
    /// How often a node was lost changed; to be written behind.
    FlapsChanged(NodeId),
    /// A prefix was withdrawn from those who have a wider one to use, or came back.
    FellBack {
        /// Which.
        prefix: Prefix,
        /// For those who reach it through this group; `None`: for all others.
        group: Option<Group>,
        /// It was withdrawn.
        fallen_back: bool,
    },
    /// The grace after the withdrawal of this route is over: to be disabled by a commit.
    WithdrawalDue(RouteId),
    /// What viewers see of this node's routes changed.
    RoutesOf(NodeId),
}

/// A prefix moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryChange {
    /// Which.
    pub prefix: Prefix,
    /// Who had it.
    pub from: Option<NodeId>,
    /// Who has it.
    pub to: Option<NodeId>,
    /// Why.
    pub because: Because,
}

/// What changed of what stands against a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whom it concerns.
    pub node: NodeId,
    /// The prefix that it is suspect for; `None`: it concerns the node as a whole.
    pub prefix: Option<Prefix>,
    /// What changed.
    pub verdict: Verdict,
}

/// One deadline for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The time of a doubt, or of a grace, is over.
    Liveness(NodeId),
    /// Ten quiet minutes are over.
    Flapping(NodeId),
    /// A seat, the tailnet's or a group's, has to be looked at: somebody has waited long enough.
    Seat(Prefix, Option<Group>),
    /// A freeze is over: of one prefix, or of all.
    Thaw(Option<Prefix>),
    /// The grace after a withdrawal is over.
    Withdrawn(RouteId),
}

/// What the table keeps for a node.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) facts: NodeFacts,
    pub(crate) health: Health,
    pub(crate) prefixes: BTreeMap<Prefix, RouteId>,
    /// What it last reported; empty until it did.
    pub(crate) endpoints: Endpoints,
    /// What is known against its routes, each by itself.
    pub(crate) suspicions: BTreeMap<Prefix, Suspicion>,
}

/// Routes, routers and primaries of one tailnet. See the crate's text.
#[derive(Clone, Debug)]
pub struct RouteTable {
    pub(crate) settings: Settings,
    /// Live rows only.
    pub(crate) rows: BTreeMap<RouteId, Route>,
    pub(crate) routers: BTreeMap<NodeId, Router>,
    /// For each prefix that is no exit: the nodes that have a row for it.
    pub(crate) holders: BTreeMap<Prefix, BTreeSet<NodeId>>,
    /// Who carries what, in the tailnet as a whole and within groups. The former agrees with `is_primary` of the rows after every call.
    pub(crate) seats: BTreeMap<(Prefix, Option<Group>), Seat>,
    /// The groups that elect on their own.
    pub(crate) electorates: BTreeMap<Group, Electorate>,
    /// What a person set, for one prefix or for all. None of them is empty.
    pub(crate) overrides: BTreeMap<Option<Prefix>, PrefixOverrides>,
    /// What is checked behind the routers of a prefix.
    pub(crate) path_checks: BTreeMap<Prefix, IpAddr>,
    /// Prefixes to be decided again before the call returns.
    pub(crate) dirty: BTreeSet<Prefix>,
    pub(crate) timers: Timers<Timer>,
    /// Withdrawn routes whose grace is over, until it is durable that they are not enabled any more.
    pub(crate) disabling: BTreeSet<RouteId>,
    /// Losses of late that may turn out to be the server's side: when the first was, and until when more are waited for.
    pub(crate) gathering: Option<(Timestamp, Timestamp)>,
    /// The server started, or most lost it by its own fault: until when what happens to routers is not held against them.
    pub(crate) starting_until: Option<Timestamp>,
}

impl RouteTable {
    /// An empty table.
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            rows: BTreeMap::new(),
            routers: BTreeMap::new(),
            holders: BTreeMap::new(),
            seats: BTreeMap::new(),
            electorates: BTreeMap::new(),
            overrides: BTreeMap::new(),
            path_checks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            timers: Timers::new(),
            disabling: BTreeSet::new(),
            gathering: None,
            starting_until: None,
        }
    }

    /// Takes in what happened at `now` and says what follows.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Effect> {
        let mut out = Vec::new();
        match input {
            Input::Restored(restored) => {
                self.restore(restored, now, &mut out);
                return out;
            }
            Input::Overrides(row) => self.put_overrides(row, now, &mut out),
            Input::Moved(prefix, to, by) => self.move_to(prefix, to, by, now, &mut out),
            Input::Rows(rows) => rows.into_iter().for_each(|row| self.put_row(row, now, &mut out)),
            Input::Node(node, facts) => self.put_node(node, facts, now, &mut out),
            Input::NodeDeleted(node) => self.remove_node(node, &mut out),
            Input::Advertised(node, prefixes) => self.advertised(node, &prefixes, now, &mut out),
            Input::SessionOpened(node, session) => self.session_opened(node, session, now, &mut out),
            Input::SessionLost(node, session, cause) => self.session_lost(node, session, cause, now, &mut out),
            Input::Silent(node, session, cause) => self.silent(node, session, cause, now, &mut out),
            Input::Answered(node, session) => self.answered(node, session, now, &mut out),
            Input::LossesGather { since, until } => self.gathering = Some((since, until)),
            Input::CommonLoss(nodes, since) => {
                nodes.into_iter().for_each(|node| self.common_loss(node, since, now, &mut out));
            }
            Input::CommonSilence(sessions, since) => self.common_silence(sessions, since, now, &mut out),
            Input::Evidence(node, testimony) => self.testimony(node, testimony, now, &mut out),
            Input::PathChecks(checks) => self.put_path_checks(checks, now, &mut out),
            Input::Electorates(electorates) => self.put_electorates(electorates, &mut out),
            Input::Started => self.started(now, &mut out),
        }
        self.decide(now, &mut out);
        out
    }

    /// Does what is due at `now`.
    pub fn handle_deadline(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut out = Vec::new();
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Liveness(node) => self.liveness_over(node, now, &mut out),
                Timer::Flapping(node) => self.flapping_over(node, now, &mut out),
                Timer::Seat(prefix, _) => drop(self.dirty.insert(prefix)),
                Timer::Thaw(prefix) => self.mark_under(prefix),
                Timer::Withdrawn(route) => {
                    self.disabling.insert(route);
                    out.push(Effect::WithdrawalDue(route));
                }
            }
        }
        self.decide(now, &mut out);
        out
    }

    /// When [`Self::handle_deadline`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// All live rows, by id.
    pub fn rows(&self) -> impl Iterator<Item = &Route> {
        self.rows.values()
    }

    /// The live row with this id.
    pub fn row(&self, id: RouteId) -> Option<&Route> {
        self.rows.get(&id)
    }

    /// The live row of this node for this prefix.
    pub fn row_of(&self, node: NodeId, prefix: &Prefix) -> Option<&Route> {
        self.rows.get(self.routers.get(&node)?.prefixes.get(prefix)?)
    }

    pub(crate) fn row_mut(&mut self, node: NodeId, prefix: &Prefix) -> Option<&mut Route> {
        self.rows.get_mut(self.routers.get(&node)?.prefixes.get(prefix)?)
    }

    /// The live rows of this node, in prefix order.
    pub fn rows_of(&self, node: NodeId) -> impl Iterator<Item = &Route> {
        let ids = self.routers.get(&node).into_iter().flat_map(|router| router.prefixes.values());
        ids.filter_map(|id| self.rows.get(id))
    }

    /// Every prefix that is no exit and that somebody has a live row for.
    pub fn prefixes(&self) -> impl Iterator<Item = &Prefix> {
        self.holders.keys()
    }

    /// Whether this node counts as up.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.routers.get(&node).is_some_and(|router| router.health.is_up())
    }

    /// Nodes that have a live row for this prefix, in the order of joining.
    pub fn holders(&self, prefix: &Prefix) -> impl Iterator<Item = NodeId> {
        self.holders.get(prefix).into_iter().flatten().copied()
    }

    /// How often this node was lost of late, to be remembered.
    pub fn flaps(&self, node: NodeId) -> Option<FlapRow> {
        self.routers.get(&node).map(|router| router.health.flaps(node))
    }

    /// What is known of this node's liveness.
    pub fn liveness(&self, node: NodeId) -> Option<Liveness> {
        self.routers.get(&node).map(|router| router.health.liveness())
    }

    /// How good this node is as a router now.
    pub fn rank(&self, node: NodeId) -> Option<Rank> {
        self.routers.get(&node).map(|router| router.health.rank(router.facts.drained))
    }

    fn put_row(&mut self, row: Route, now: Timestamp, out: &mut Vec<Effect>) {
        let Route { id, node, prefix, .. } = row;
        self.mark(prefix);
        out.push(Effect::RoutesOf(node));
        if row.deleted_at.is_some() {
            self.rows.remove(&id);
            self.await_withdrawal(id, None);
            if let Some(router) = self.routers.get_mut(&node) {
                router.prefixes.remove(&prefix);
                router.suspicions.remove(&prefix);
            }
            if let Some(holders) = self.holders.get_mut(&prefix) {
                holders.remove(&node);
                if holders.is_empty() {
                    self.holders.remove(&prefix);
                }
            }
            return;
        }
        self.router(node, now).prefixes.insert(prefix, id);
        if !prefix.is_exit() {
            self.holders.entry(prefix).or_default().insert(node);
        }
        // A commit says nothing of who is primary, of what the node reports by now, nor of what was found out about it: the table's own row
        // does. Only a row that is new to it (a first commit, or one that was loaded) brings its own.
        let own = match self.rows.get(&id) {
            Some(own) => own.clone(),
            None => {
                if row.is_primary && row.enabled && !prefix.is_exit() {
                    self.restore_primary(node, prefix, row.updated_at);
                }
                let is_primary = row.is_primary && self.seat(&prefix).is_some_and(|seat| seat.node == node);
                self.restore_path(&row);
                Route { is_primary, ..row.clone() }
            }
        };
        // It may have been withdrawn while the commit was under way.
        let updated_at = row.updated_at.max(own.updated_at);
        let preferred_anew = row.priority != own.priority;
        let by_person = row.approval.as_ref().is_some_and(|approval| approval.by.is_person());
        let approved_anew = row.enabled && !own.enabled && by_person;
        let Route { is_primary, advertised, had_endpoint, path_passed, path_failed_at, .. } = own;
        let row = Route { is_primary, advertised, had_endpoint, path_passed, path_failed_at, updated_at, ..row };
        // Also after a restart the grace runs from the withdrawal.
        let ends = row.enabled && !advertised && self.ends_with_withdrawal(&row);
        self.await_withdrawal(id, ends.then_some(row.updated_at));
        self.rows.insert(id, row);
        if preferred_anew {
            self.end_move(prefix, out);
        }
        if approved_anew {
            self.trust_again(node, prefix, now, out);
        }
    }

    /// The grace of a withdrawn route runs from then on; `None`: it has none, or not any more.
    pub(crate) fn await_withdrawal(&mut self, id: RouteId, since: Option<Timestamp>) {
        self.disabling.remove(&id);
        match since {
            Some(since) => self.timers.set(Timer::Withdrawn(id), since + self.settings.withdraw_grace),
            None => self.timers.stop(&Timer::Withdrawn(id)),
        }
    }

    fn put_node(&mut self, node: NodeId, facts: NodeFacts, now: Timestamp, out: &mut Vec<Effect>) {
        let router = self.router(node, now);
        if router.facts == facts {
            return;
        }
        let was_out = router.facts.expired || !router.facts.reachable;
        router.facts = facts;
        if was_out && !facts.expired && facts.reachable {
            router.prefixes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|p| router.steady_again(p, now));
        }
        router.health.settle(facts.drained, now);
        self.mark_node(node);
        out.push(Effect::RoutesOf(node));
    }

    fn remove_node(&mut self, node: NodeId, out: &mut Vec<Effect>) {
        self.mark_node(node);
        self.routers.remove(&node);
        out.push(Effect::FlapsChanged(node));
        self.timers.stop(&Timer::Liveness(node));
        self.timers.stop(&Timer::Flapping(node));
    }

    fn advertised(&mut self, node: NodeId, prefixes: &BTreeSet<Prefix>, now: Timestamp, out: &mut Vec<Effect>) {
        let ids: Vec<RouteId> =
            self.routers.get(&node).map(|router| router.prefixes.values().copied().collect()).unwrap_or_default();
        let mut changed = false;
        for id in ids {
            let Some(row) = self.rows.get_mut(&id) else { continue };
            let advertised = prefixes.contains(&row.prefix);
            if row.advertised == advertised {
                continue;
            }
            row.advertised = advertised;
            row.was_advertised |= advertised;
            row.updated_at = now;
            let (prefix, enabled, row) = (row.prefix, row.enabled, row.clone());
            if advertised && let Some(router) = self.routers.get_mut(&node) {
                router.steady_again(prefix, now);
            }
            let ends = !advertised && enabled && self.ends_with_withdrawal(&row);
            self.await_withdrawal(id, ends.then_some(now));
            self.mark(prefix);
            out.push(Effect::RowChanged(id));
            out.push(Effect::AdvertisedChanged(id));
            changed = true;
        }
        if changed {
            out.push(Effect::RoutesOf(node));
        }
    }

    fn restore(&mut self, restored: Restored, now: Timestamp, out: &mut Vec<Effect>) {
        let Restored { rows, overrides, flaps, seats, path_checks } = restored;
        self.path_checks = path_checks;
        overrides.into_iter().for_each(|row| self.put_overrides(row, now, out));
        for row in flaps {
            let node = row.node;
            if let Some(until) = row.until {
                self.timers.set(Timer::Flapping(node), until);
            }
            self.router(node, now).health.restore(row);
        }
        seats.into_iter().for_each(|seat| self.restore_seat(seat));
        let primaries: BTreeSet<Prefix> = rows.iter().filter(|row| row.is_primary).map(|row| row.prefix).collect();
        rows.into_iter().for_each(|row| self.put_row(row, now, out));
        // The rows have the last word on who is primary.
        self.seats.retain(|(prefix, group), _| group.is_some() || primaries.contains(prefix));
    }

    pub(crate) fn router(&mut self, node: NodeId, now: Timestamp) -> &mut Router {
        self.routers.entry(node).or_insert_with(|| Router {
            facts: NodeFacts { reachable: true, ..NodeFacts::default() },
            health: Health::unseen(now),
            prefixes: BTreeMap::new(),
            endpoints: Endpoints::default(),
            suspicions: BTreeMap::new(),
        })
    }

    pub(crate) fn mark(&mut self, prefix: Prefix) {
        if !prefix.is_exit() {
            self.dirty.insert(prefix);
        }
    }

    pub(crate) fn mark_node(&mut self, node: NodeId) {
        if let Some(router) = self.routers.get(&node) {
            self.dirty.extend(router.prefixes.keys().filter(|prefix| !prefix.is_exit()));
        }
    }
}

impl Router {
    /// Whether what happens to it now is held against it: not while it is drained, or the server is starting.
    pub(crate) fn counts(&self, starting: bool) -> Counts {
        let excused = starting || self.facts.drained || matches!(self.health.liveness(), Liveness::Grace { .. });
        if excused { Counts::No } else { Counts::Yes }
    }
}

#[cfg(test)]
mod tests;
