//! What a commit changes, and what its node reported while it was under way.
//!
//! A commit says what people and the tailnet itself decided. What nodes report is theirs to say: it holds as it was last reported, also where it
//! was planned from an older report.

use std::collections::BTreeSet;
use std::sync::Arc;

use wayleave_model::{Node, NodeId, Route, RouteId, Timestamp};
use wayleave_routes::{Input, approval};

use crate::command::Command;
use crate::history::{HistoryEntry, HistoryEvent};
use crate::plan::{Committed, LoginChange, Write};
use crate::tailnet::{Due, Effect, Tailnet};

impl Tailnet {
    pub(crate) fn committed(&mut self, committed: Committed, now: Timestamp, out: &mut Vec<Effect>) {
        self.loans.stale = true;
        let mut rows = Vec::new();
        let mut gone = Vec::new();
        let mut moves = Vec::new();
        let mut people_changed = false;
        let mut checks_changed = false;
        let mut file = None;
        let mut sites = Vec::new();
        for write in committed.0.writes() {
            match write.clone() {
                Write::User(user) => {
                    self.registry.put_user(user);
                    self.users_touched = true;
                    people_changed = true;
                }
                Write::DeleteUser(user) => {
                    self.registry.remove_user(user);
                    self.users_touched = true;
                    people_changed = true;
                }
                Write::Node(node) => self.put_node(*node, now, out),
                Write::DeleteNode(node) => gone.push(node),
                Write::Route(row) => rows.push(row),
                Write::PathCheck(check) => {
                    self.path_checks.insert(check.prefix, check);
                    checks_changed = true;
                }
                Write::DeletePathCheck(prefix) => {
                    self.path_checks.remove(&prefix);
                    checks_changed = true;
                }
                Write::AuthKey(key) => self.registry.put_auth_key(key),
                Write::DeleteAuthKey(key) => self.registry.remove_auth_key(key),
                Write::ApiKey(key) => self.registry.put_api_key(key),
                Write::DeleteApiKey(key) => self.registry.remove_api_key(key),
                Write::Policy(policy) => {
                    out.push(Effect::PolicyChanged(policy.row.revision));
                    self.policy_row = Some(policy.row);
                    file = Some(policy.file);
                }
                Write::Prefix(row) => {
                    self.route_input(Input::Overrides(row), now, out);
                    self.look_at_homes();
                    self.look_at_holds(now, out);
                }
                Write::Moved { prefix, to, by, at: _ } => moves.push((prefix, to, by)),
                Write::Site(change) => sites.push(change),
                Write::Sequences(sequences) => self.sequences = sequences,
                Write::History(_) => {}
            }
        }
        if people_changed || file.is_some() {
            let file = file.unwrap_or_else(|| Arc::clone(self.rules.file()));
            self.rules_changed(file);
        }
        self.put_sites(sites);
        self.put_rows(rows, now, out);
        for (prefix, to, by) in moves {
            self.route_input(Input::Moved(prefix, to, by), now, out);
        }
        if checks_changed {
            self.checks_changed(now, out);
        }
        for node in gone {
            self.remove_node(node, now, out);
        }
        let settled = committed.0.ssh_checks.into_iter().filter_map(|change| self.ssh_checks.apply(change, now));
        out.extend(settled.map(Effect::SshCheckSettled));
        for change in committed.0.logins {
            match change {
                LoginChange::Wait(login) => {
                    self.timers.set(Due::Logins, now + self.settings.login_timeout);
                    self.logins.insert(login.token().clone(), *login);
                }
                LoginChange::Forget(token) => {
                    self.logins.remove(&token);
                    out.push(Effect::LoginSettled(token));
                }
            }
        }
    }

    /// A commit says nothing of what a node advertises by now: what it last reported does, also for a row that is new. What a report could
    /// not ask for while the commit was under way is asked for now.
    fn put_rows(&mut self, rows: Vec<Route>, now: Timestamp, out: &mut Vec<Effect>) {
        let mut overtaken = Vec::new();
        let mut as_reported = Vec::with_capacity(rows.len());
        for row in rows {
            self.standings.prefix_touched(row.prefix);
            self.standings.network_touched(row.node);
            let reported = self.registry.node(row.node).map(|node| node.hostinfo.routable_ips.contains(&row.prefix));
            let advertised = reported.unwrap_or(row.advertised);
            if row.deleted_at.is_some() || advertised == row.advertised {
                as_reported.push(row);
                continue;
            }
            let is_new = self.routes.row(row.id).is_none();
            overtaken.push((row.id, row.node, is_new));
            let was_advertised = row.was_advertised || advertised;
            as_reported.push(Route { advertised, was_advertised, updated_at: now, ..row });
        }
        self.route_input(Input::Rows(as_reported), now, out);
        let mut ask = BTreeSet::new();
        for (id, node, is_new) in overtaken {
            // The commit stored what was so before.
            out.push(Effect::RouteRow(id));
            if is_new {
                self.note_advertised(id, now, out);
            }
            if self.routes.row(id).is_some_and(approval::wants_auto_approval) {
                ask.insert(node);
                self.note_pending(id, now, out);
            }
        }
        ask.into_iter().for_each(|node| self.ask_again(node, out));
    }

    /// A commit says nothing of what a node reports by now: the registry's own row does.
    fn put_node(&mut self, node: Node, now: Timestamp, out: &mut Vec<Effect>) {
        let id = node.id;
        let merged = match self.registry.node(id).cloned() {
            None => node,
            Some(own) => Node {
                disco_key: if own.node_key == node.node_key { own.disco_key } else { node.disco_key },
                hostinfo: own.hostinfo,
                endpoints: own.endpoints,
                home_derp: own.home_derp,
                capability: own.capability,
                last_seen: own.last_seen,
                vantage: own.vantage,
                ..node
            },
        };
        if self.registry.node(id).is_some_and(|own| own.owner != merged.owner) {
            // Nodes of one owner, or with the same tags, look like one site.
            self.standings.network_touched(id);
        }
        let advertises = merged.hostinfo.routable_ips.clone();
        let is_new = self.registry.node(id).is_none();
        let ephemeral = merged.ephemeral;
        self.registry.put_node(merged);
        self.touched.insert(id);
        self.facts_changed(id, now, out);
        if ephemeral && !self.liveness.has_session(id) {
            self.liveness.await_ephemeral(id, now + self.settings.ephemeral_timeout);
        }
        if is_new && !advertises.is_empty() {
            out.push(Effect::Propose(Command::Advertise { node: id, prefixes: advertises }));
        } else if !is_new {
            // Other tags or another owner: auto-approvers are asked again (design.md 2).
            self.ask_again(id, out);
        }
    }

    /// Has auto-approvers asked again about what a node advertises.
    pub(crate) fn ask_again(&self, node: NodeId, out: &mut Vec<Effect>) {
        let prefixes: BTreeSet<_> =
            self.routes.rows_of(node).filter(|row| approval::wants_auto_approval(row)).map(|row| row.prefix).collect();
        if !prefixes.is_empty() && self.rules.approves_anything() {
            out.push(Effect::Propose(Command::Advertise { node, prefixes }));
        }
    }

    fn remove_node(&mut self, id: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        self.route_input(Input::NodeDeleted(id), now, out);
        self.liveness.removed(id);
        self.silences.forget(id);
        out.extend(self.ssh_checks.node_removed(id).into_iter().map(Effect::SshCheckSettled));
        self.timers.stop(&Due::KeyExpires(id));
        self.timers.stop(&Due::KeyWarning(id));
        self.timers.stop(&Due::HomeStable(id));
        self.homes.forget(id);
        self.touched.insert(id);
        if let Some(node) = self.registry.remove_node(id) {
            out.push(Effect::NodeGone(Box::new(node)));
        }
    }

    /// That a node stopped advertising a prefix, or advertises it again, is history.
    pub(crate) fn note_advertised(&self, id: RouteId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(Route { node, prefix, advertised, .. }) = self.routes.row(id).cloned() else { return };
        let event = if advertised { HistoryEvent::Advertised } else { HistoryEvent::Withdrawn };
        out.push(Effect::History(HistoryEntry::new(now, Some(prefix), Some(node), event)));
    }

    /// So is that one which is advertised again waits for a person.
    pub(crate) fn note_pending(&self, id: RouteId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(row) = self.routes.row(id).filter(|row| approval::wants_auto_approval(row)) else { return };
        let owner = self.registry.node(row.node).map(|node| &node.owner);
        if owner.is_none_or(|owner| self.approver_of(&self.rules, owner, row).is_none()) {
            let entry = HistoryEntry::new(now, Some(row.prefix), Some(row.node), HistoryEvent::Pending);
            out.push(Effect::History(entry));
        }
    }
}

#[cfg(test)]
mod tests;
