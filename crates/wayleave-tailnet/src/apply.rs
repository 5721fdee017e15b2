//! Applies what happened. This file dispatches; the rules are in the machines that it calls.

use std::collections::BTreeSet;
use std::sync::Arc;

use wayleave_model::{Node, NodeId, Prefix, SessionId, Timestamp};
use wayleave_policy::{CompiledPolicy, Subject};
use wayleave_routes::{
    Cause, Conviction, Effect as RouteEffect, Endpoints, Input, Judgement, Kind, Mode, NodeFacts, Restored, Testimony,
    approval,
};

use crate::command::Command;
use crate::enrolment::wanted_name;
use crate::history::{HistoryEntry, HistoryEvent};
use crate::liveness::{Due as PresenceDue, Ended, Ending, Loss, Offline};
use crate::snapshot::NodeView;
use crate::tailnet::{Due, Effect, Event, Loaded, Report, Tailnet};

impl Tailnet {
    /// Takes in what happened at `now` and says what follows. It cannot fail.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Committed(committed) => self.committed(*committed, now, &mut out),
            Event::Started => {
                self.timers.set(Due::StartIsOver, now + self.settings.routes.starting);
                self.route_input(Input::Started, now, &mut out);
                self.look_at_holds(now, &mut out);
            }
            Event::SessionOpened(node, session) => self.session_opened(node, session, now, &mut out),
            Event::SessionEnded(node, session, ending) => self.session_ended(node, session, ending, now, &mut out),
            Event::Silent(node, session, cause) => self.silent(node, session, cause, now, &mut out),
            Event::Answered(node, session) => {
                if self.liveness.session(node) == Some(session) {
                    self.silences.forget(node);
                }
                self.route_input(Input::Answered(node, session), now, &mut out);
            }
            Event::Evidence(node, testimony) => {
                if let Testimony::Doubted(session) = testimony {
                    self.unheard(node, session, now);
                }
                self.route_input(Input::Evidence(node, testimony), now, &mut out);
            }
            Event::Reported(node, report) => self.reported(node, *report, now, &mut out),
            Event::Lend(loan) => self.lend(loan, now),
            Event::TakeBack(prefix) => self.take_back(&prefix),
            Event::Busy => self.liveness.busy(now),
            Event::Guarded(guarded) => {
                self.guarded = guarded;
                self.guards_changed(now, &mut out);
            }
        }
        self.elect_groups(now, &mut out);
        self.look_at_standings(now, &mut out);
        self.look_at_loans();
        #[cfg(debug_assertions)]
        for effect in &out {
            // The eighth invariant of design.md 6.
            if let Effect::NodeGone(node) = effect {
                assert!(self.routes.rows_of(node.id).next().is_none(), "a deleted node has rows: {node:?}");
            }
        }
        out
    }

    /// Does what is due at `now`.
    pub fn handle_deadline(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut out = Vec::new();
        let effects = self.routes.handle_deadline(now);
        self.route_effects(effects, now, &mut out);
        while let Some(due) = self.liveness.pop_due(now) {
            match due {
                PresenceDue::Offline(node) => self.show_offline(node, now, &mut out),
                PresenceDue::Ephemeral(node) => out.push(Effect::Propose(Command::DeleteEphemeral { node })),
            }
        }
        while let Some(due) = self.timers.pop_due(now) {
            match due {
                Due::KeyExpires(node) => self.facts_changed(node, now, &mut out),
                Due::KeyWarning(node) => self.key_warning(node, now, &mut out),
                Due::HomeStable(node) => self.home_stable(node, now, &mut out),
                Due::Thaw => self.look_at_holds(now, &mut out),
                Due::StartIsOver => self.start_is_over(),
                Due::Logins => self.forget_old_logins(now),
                Due::LoanEnds(prefix) => self.take_back(&prefix),
            }
        }
        out.extend(self.ssh_checks.handle_deadline(now).into_iter().map(Effect::SshCheckSettled));
        self.elect_groups(now, &mut out);
        self.look_at_standings(now, &mut out);
        self.look_at_loans();
        out
    }

    pub(crate) fn load(&mut self, loaded: Loaded, now: Timestamp) {
        let Loaded {
            users,
            nodes,
            routes,
            gone,
            auth_keys,
            api_keys,
            policy: _,
            prefixes: overrides,
            flaps,
            seats,
            down,
            sites: _,
            site_hosts: _,
            sequences: _,
            path_checks,
            imported: _,
        } = loaded;
        users.into_iter().for_each(|user| self.registry.put_user(user));
        auth_keys.into_iter().for_each(|key| self.registry.put_auth_key(key));
        api_keys.into_iter().for_each(|key| self.registry.put_api_key(key));
        gone.into_iter().for_each(|(node, name)| self.registry.put_gone(node, name));
        let mut out = Vec::new();
        for node in nodes {
            let (id, ephemeral) = (node.id, node.ephemeral);
            if node.last_seen.is_none() {
                self.liveness.was_online(id, now, &self.settings);
            }
            if ephemeral {
                self.liveness.await_ephemeral(id, now + self.settings.ephemeral_timeout);
            }
            self.registry.put_node(node);
            self.home_loaded(id, now);
            self.facts_changed(id, now, &mut out);
        }
        self.path_checks = path_checks.into_iter().map(|check| (check.prefix, check)).collect();
        let path_checks = self.check_targets();
        let restored = Restored { rows: routes, overrides, flaps, seats, path_checks };
        self.route_input(Input::Restored(restored), now, &mut out);
        self.look_at_homes();
        // A warning that fell due while the server was down is given now.
        let all: Vec<NodeId> = self.registry.nodes().map(|node| node.id).collect();
        all.into_iter().for_each(|id| self.await_key_warning(id, now, true));
        self.load_standings(down);
    }

    fn show_offline(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(Offline { not_since }) = self.liveness.show_offline(node, now, &self.settings) else { return };
        self.touched.insert(node);
        // One that was online when the server stopped, and has not come back: the next start need not wait for it.
        if let Some(row) = self.registry.node_mut(node)
            && row.last_seen.is_none()
        {
            row.last_seen = not_since;
            out.push(Effect::NodeRow(node));
        }
    }

    fn session_opened(&mut self, node: NodeId, session: SessionId, now: Timestamp, out: &mut Vec<Effect>) {
        if self.registry.node(node).is_none() || !self.liveness.opened(node, session) {
            return;
        }
        self.silences.forget(node);
        self.standings.is_back(node);
        self.touched.insert(node);
        if let Some(row) = self.registry.node_mut(node)
            && row.last_seen.take().is_some()
        {
            out.push(Effect::NodeRow(node));
        }
        self.route_input(Input::SessionOpened(node, session), now, out);
    }

    fn session_ended(
        &mut self,
        node: NodeId,
        session: SessionId,
        ending: Ending,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let Ended::Newest(loss) = self.liveness.ended(node, session, ending, now, &self.settings) else { return };
        self.silences.forget(node);
        self.touched.insert(node);
        if let Some(row) = self.registry.node_mut(node) {
            row.last_seen = Some(now);
            out.push(Effect::NodeRow(node));
            if row.ephemeral {
                self.liveness.await_ephemeral(node, now + self.settings.ephemeral_timeout);
            }
        }
        if let Ending::Lost(cause) = ending {
            self.route_input(Input::SessionLost(node, session, cause), now, out);
        }
        let since = now - self.settings.common_loss_window;
        match loss {
            Loss::Single => {}
            Loss::Gathering { since, until } => self.route_input(Input::LossesGather { since, until }, now, out),
            Loss::Common(nodes) => {
                out.push(Effect::CommonLoss(nodes.clone()));
                self.route_input(Input::CommonLoss(nodes, since), now, out);
            }
            Loss::OneMore => self.route_input(Input::CommonLoss(BTreeSet::from([node]), since), now, out),
        }
    }

    /// The newest session of a node has not been heard for some time.
    fn unheard(&mut self, node: NodeId, session: SessionId, now: Timestamp) {
        let acts = self.settings.routes.judging.mode(Kind::Ping) == Mode::Act;
        if acts && self.liveness.session(node) == Some(session) {
            self.silences.unheard(node, session, now);
        }
    }

    fn silent(&mut self, node: NodeId, session: SessionId, cause: Cause, now: Timestamp, out: &mut Vec<Effect>) {
        self.unheard(node, session, now);
        let common = self.silences.common(node, &self.settings, self.routes.connected_routers());
        if !common.is_empty() {
            out.push(Effect::CommonLoss(common.keys().copied().collect()));
            let since = now - self.settings.common_loss_window;
            self.route_input(Input::CommonSilence(common, since), now, out);
        }
        self.route_input(Input::Silent(node, session, cause), now, out);
    }

    fn reported(&mut self, id: NodeId, report: Report, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(row) = self.registry.node(id) else { return };
        let Report { capability, disco_key, endpoints, hostinfo } = report;
        let mut next = Node { capability, endpoints, disco_key: disco_key.or(row.disco_key), ..row.clone() };
        let mut advertised = None;
        if let Some(mut hostinfo) = hostinfo {
            // A report before the first check of the network has none, and must not undo what an earlier one said (protocol.md 2.2).
            if let Some(net) = &hostinfo.net_info {
                if net.preferred_derp != 0 {
                    next.home_derp = net.preferred_derp;
                }
            } else {
                hostinfo.net_info = row.hostinfo.net_info.clone();
            }
            if !row.renamed && row.hostinfo.hostname != hostinfo.hostname {
                next.given_name = self.registry.free_name(wanted_name(&hostinfo.hostname), Some(id));
            }
            advertised = Some(hostinfo.routable_ips.clone());
            next.hostinfo = hostinfo;
        }
        if next != *row {
            let before = row.home_derp;
            if row.endpoints != next.endpoints {
                // It may have taken a target's address.
                self.loans.stale = true;
                self.standings.network_touched(id);
            }
            self.registry.put_node(next);
            self.touched.insert(id);
            out.push(Effect::NodeRow(id));
            self.facts_changed(id, now, out);
            self.home_reported(id, before, now);
        }
        let Some(prefixes) = advertised else { return };
        self.route_input(Input::Advertised(id, prefixes.clone()), now, out);
        let unknown = |prefix| self.routes.row_of(id, prefix).is_none_or(approval::wants_auto_approval);
        if prefixes.iter().any(unknown) {
            out.push(Effect::Propose(Command::Advertise { node: id, prefixes }));
        }
    }

    /// Tells the route table what it needs to know of a node, and sets the deadline of its key.
    pub(crate) fn facts_changed(&mut self, id: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(node) = self.registry.node(id) else { return };
        let expired = node.expires_at.is_some_and(|at| at <= now);
        match node.expires_at.filter(|at| *at > now) {
            Some(at) => self.timers.set(Due::KeyExpires(id), at),
            None => self.timers.stop(&Due::KeyExpires(id)),
        }
        // What is not known yet counts as known: a node that has not reported since it registered is not unreachable.
        let reported = node.disco_key.is_some();
        let reachable = !reported || node.home_derp != 0 || !node.endpoints.is_empty();
        let facts = NodeFacts { expired, reachable, drained: node.drained };
        let endpoints = Endpoints::reported(&node.endpoints);
        self.await_key_warning(id, now, false);
        self.touched.insert(id);
        self.route_input(Input::Node(id, facts), now, out);
        self.route_input(Input::Evidence(id, Testimony::Endpoints(endpoints)), now, out);
    }

    /// Sets the deadline of the next warning that a key ends. `missed`: also of one that should have been given before.
    fn await_key_warning(&mut self, id: NodeId, now: Timestamp, missed: bool) {
        let expires_at = self.registry.node(id).and_then(|node| node.expires_at).filter(|at| *at > now);
        let due = expires_at.and_then(|at| {
            let all = || self.settings.key_warnings.iter().map(|before| at - *before);
            let overdue = missed && all().any(|due| due <= now);
            if overdue { Some(now) } else { all().filter(|due| *due > now).min() }
        });
        match due {
            Some(at) => self.timers.set(Due::KeyWarning(id), at),
            None => self.timers.stop(&Due::KeyWarning(id)),
        }
    }

    fn key_warning(&mut self, id: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let expires_at = self.registry.node(id).and_then(|node| node.expires_at).filter(|at| *at > now);
        if let Some(at) = expires_at
            && self.routes.rows_of(id).any(|row| row.advertised)
        {
            out.push(Effect::KeyExpires { node: id, at });
            let event = HistoryEvent::KeyExpires(at);
            out.push(Effect::History(HistoryEntry::new(now, None, Some(id), event)));
        }
        self.await_key_warning(id, now, false);
    }

    fn forget_old_logins(&mut self, now: Timestamp) {
        let timeout = self.settings.login_timeout;
        self.logins.retain(|_, login| now.since(login.since) < timeout);
        if let Some(next) = self.logins.values().map(|login| login.since).min() {
            self.timers.set(Due::Logins, next + timeout);
        }
    }

    pub(crate) fn route_input(&mut self, input: Input, now: Timestamp, out: &mut Vec<Effect>) {
        // What is found out about a primary changes nothing that others see, and may end a loan.
        self.loans.stale |= matches!(input, Input::Evidence(_, Testimony::Path(_)));
        let effects = self.routes.handle(input, now);
        self.route_effects(effects, now, out);
    }

    fn route_effects(&mut self, effects: Vec<RouteEffect>, now: Timestamp, out: &mut Vec<Effect>) {
        self.loans.stale |= !effects.is_empty();
        for effect in effects {
            match effect {
                RouteEffect::PrimaryChanged(change) => {
                    self.standings.prefix_touched(change.prefix);
                    let event = HistoryEvent::PrimaryChanged {
                        from: change.from,
                        to: change.to,
                        because: change.because.clone(),
                    };
                    let entry = HistoryEntry::new(now, Some(change.prefix), change.to, event);
                    let evidence = self.evidence_against(change.from, &change.prefix);
                    out.push(Effect::History(HistoryEntry { evidence, ..entry }));
                    out.push(Effect::PrimaryChanged(change));
                }
                RouteEffect::Judged(judgement) => {
                    if let Some(prefix) = judgement.prefix {
                        self.standings.prefix_touched(prefix);
                    }
                    self.note_judgement(judgement, now, out);
                    out.push(Effect::Judged(judgement));
                }
                RouteEffect::AskWitnesses(node) => out.push(Effect::AskWitnesses(node)),
                RouteEffect::NodeDown(node, cause) => {
                    self.touch_prefixes_of(node);
                    out.push(Effect::NodeDown(node, cause));
                }
                RouteEffect::NodeUp(node) => {
                    self.touch_prefixes_of(node);
                    out.push(Effect::NodeUp(node));
                }
                RouteEffect::Flapping(node) => out.push(Effect::Flapping(node)),
                RouteEffect::AdvertisedChanged(id) => {
                    self.note_advertised(id, now, out);
                    self.note_pending(id, now, out);
                }
                RouteEffect::RowChanged(id) => {
                    if let Some(row) = self.routes.row(id) {
                        self.standings.prefix_touched(row.prefix);
                        self.standings.network_touched(row.node);
                    }
                    out.push(Effect::RouteRow(id));
                }
                RouteEffect::WithdrawalDue(route) => out.push(Effect::Propose(Command::DisableWithdrawn { route })),
                RouteEffect::SeatChanged(prefix, group) => out.push(Effect::SeatRow(prefix, group)),
                RouteEffect::FlapsChanged(node) => out.push(Effect::FlapRow(node)),
                RouteEffect::FellBack { prefix, group, fallen_back } => {
                    let event = if fallen_back { HistoryEvent::FellBack } else { HistoryEvent::CameBack };
                    let event = event(group.clone());
                    out.push(Effect::History(HistoryEntry::new(now, Some(prefix), None, event)));
                    out.push(Effect::FellBack { prefix, group, fallen_back });
                }
                RouteEffect::SteeredChanged(change) => {
                    self.standings.prefix_touched(change.prefix);
                    let event = HistoryEvent::GroupPrimaryChanged {
                        group: change.group.clone(),
                        from: change.from,
                        to: change.to,
                        because: change.because.clone(),
                    };
                    let entry = HistoryEntry::new(now, Some(change.prefix), change.to, event);
                    let evidence = self.evidence_against(change.from, &change.prefix);
                    out.push(Effect::History(HistoryEntry { evidence, ..entry }));
                    out.push(Effect::SteeredChanged(change));
                }
                RouteEffect::RoutesOf(node) => {
                    self.touch_prefixes_of(node);
                    self.touched.insert(node);
                }
            }
        }
    }

    /// What stands against a router as one of a prefix.
    fn evidence_against(&self, node: Option<NodeId>, prefix: &Prefix) -> Vec<Conviction> {
        node.map(|node| self.routes.convictions(node, prefix)).unwrap_or_default()
    }

    /// What stands against routers is history; what other nodes are accused of is nobody's business but the log's.
    fn note_judgement(&self, judgement: Judgement, now: Timestamp, out: &mut Vec<Effect>) {
        let Judgement { node, prefix, verdict } = judgement;
        if self.routes.rows_of(node).next().is_some() {
            let event = HistoryEvent::Judged(verdict);
            out.push(Effect::History(HistoryEntry::new(now, prefix, Some(node), event)));
        }
    }

    /// Makes the views of touched nodes anew, and the policy's answers where something that they stand on has changed.
    pub(crate) fn refresh(&mut self) {
        let rules_changed = std::mem::take(&mut self.rules_stale);
        if self.touched.is_empty() && !self.users_touched && !self.sites_touched && !rules_changed {
            return;
        }
        if std::mem::take(&mut self.sites_touched) {
            self.snapshot.sites = Arc::clone(&self.sites);
        }
        if std::mem::take(&mut self.users_touched) {
            self.snapshot.users = self.registry.users().map(|user| (user.id, Arc::new(user.clone()))).collect();
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(self.concerned(&touched));
        let mut changed = BTreeSet::new();
        let mut policy = Arc::clone(&self.snapshot.policy);
        for id in touched {
            let view = self.registry.node(id).map(|node| self.view(node));
            let old = self.snapshot.node(id);
            if old.map(|old| &**old) == view.as_ref() {
                continue;
            }
            changed.insert(id);
            let subject_now = view.as_ref().map(subject);
            // That a node comes or goes online is nothing to the rules; readers see that by the answers' being the same ones.
            if !rules_changed && old.map(|old| subject(old)) != subject_now {
                Arc::make_mut(&mut policy).put(id, subject_now);
            }
            match view {
                Some(view) => self.snapshot.put(view),
                None => self.snapshot.remove(id),
            }
        }
        if rules_changed {
            let subjects = self.snapshot.nodes.iter().map(|(id, view)| (*id, subject(view)));
            policy = Arc::new(CompiledPolicy::compile(Arc::clone(&self.rules), subjects));
            self.snapshot.policy_version += 1;
        }
        self.snapshot.policy = policy;
        // The rules' answers about those who are led are new: the next step looks at them.
        self.loans.stale |= rules_changed || self.loans.concern(&changed);
        self.snapshot.step(changed);
    }

    fn view(&self, node: &Node) -> NodeView {
        let facts_expired = self.routes.is_expired(node.id);
        let approved = self.approved_of(node, facts_expired);
        let rows = || self.routes.rows_of(node.id);
        NodeView {
            online: self.liveness.is_online(node.id),
            expired: facts_expired,
            session: self.liveness.session(node.id),
            primary: rows()
                .filter(|row| row.is_primary && approved.contains(&row.prefix))
                .map(|row| row.prefix)
                .collect(),
            steered: self.routes.steered_through(node.id),
            choices: rows().filter_map(|row| Some((row.prefix, Arc::new(self.choices(&row.prefix)?)))).collect(),
            lent: self.lent_at(node.id),
            is_router: rows().any(|row| row.advertised),
            approved,
            node: node.clone(),
        }
    }
}

/// A node as the policy looks at it.
fn subject(view: &NodeView) -> Subject {
    Subject {
        owner: view.node.owner.clone(),
        addresses: view.node.addresses.iter().collect(),
        approved: view.approved.clone(),
    }
}
