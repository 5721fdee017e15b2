//! What people, nodes and auto-approvers do to routes. The rules are in `wayleave_routes::approval`; this file asks them.

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::{Approver, NodeId, Owner, Prefix, Route, RouteId};
use wayleave_policy::Rules;
use wayleave_routes::approval;

use crate::command::{ApproveMode, Outcome, Refusal};
use crate::history::HistoryEvent;
use crate::plan::{Draft, Plan};
use crate::tailnet::Tailnet;

/// One decision covers both halves of an exit (design.md 1).
fn with_both_halves(prefixes: &BTreeSet<Prefix>) -> BTreeSet<Prefix> {
    let mut all = prefixes.clone();
    if prefixes.iter().any(Prefix::is_exit) {
        all.extend([Prefix::EXIT_V4, Prefix::EXIT_V6]);
    }
    all
}

impl Tailnet {
    pub(crate) fn plan_approve_routes(
        &self,
        mut draft: Draft,
        node: NodeId,
        prefixes: &BTreeSet<Prefix>,
        mode: ApproveMode,
        by: &Approver,
    ) -> Result<Plan, Refusal> {
        self.existing(node)?;
        let wanted = with_both_halves(prefixes);
        let mut changed = Vec::new();
        let now = draft.now;
        for prefix in &wanted {
            let known = self.routes.row_of(node, prefix).cloned();
            let row = known.unwrap_or_else(|| approval::planned(draft.next_route(), node, *prefix, now));
            let next = approval::approve(&row, by.clone(), now)
                .map_err(|reason| Refusal::InvalidPrefix { prefix: *prefix, reason })?;
            changed.push(next.id);
            // One whose node has just stopped advertising it would lose its approval: a person who says yes now says it in advance.
            let ends = !row.advertised && self.routes.ends_with_withdrawal(&row);
            if !row.enabled || ends {
                draft.route(next, Some(HistoryEvent::Approved(by.clone())));
            }
        }
        if mode == ApproveMode::Replace {
            for row in self.routes.rows_of(node).filter(|row| row.enabled && !wanted.contains(&row.prefix)) {
                changed.push(row.id);
                draft.route(approval::refuse(row, by.clone(), now), Some(HistoryEvent::Disabled(by.clone())));
            }
        }
        Ok(draft.done(Outcome::Routes(changed)))
    }

    pub(crate) fn plan_disable_routes(
        &self,
        mut draft: Draft,
        node: NodeId,
        prefixes: &BTreeSet<Prefix>,
        by: &Approver,
    ) -> Result<Plan, Refusal> {
        self.existing(node)?;
        let mut changed = Vec::new();
        let now = draft.now;
        for prefix in with_both_halves(prefixes) {
            let Some(row) = self.routes.row_of(node, &prefix) else {
                if prefix.is_exit() && !prefixes.contains(&prefix) {
                    continue;
                }
                return Err(self.no_route(node, &prefix));
            };
            changed.push(row.id);
            if row.enabled || !approval::refused_by_person(row) {
                draft.route(approval::refuse(row, by.clone(), now), Some(HistoryEvent::Disabled(by.clone())));
            }
        }
        Ok(draft.done(Outcome::Routes(changed)))
    }

    pub(crate) fn plan_advertise(
        &self,
        mut draft: Draft,
        node: NodeId,
        prefixes: &BTreeSet<Prefix>,
    ) -> Result<Plan, Refusal> {
        self.existing(node)?;
        let rows = self.draft_advertised(&mut draft, node, prefixes);
        for row in rows.into_values() {
            draft.write(crate::plan::Write::Route(row));
        }
        Ok(draft.done(Outcome::Done))
    }

    /// The rows that change because a node advertises these prefixes: new ones, and ones that an auto-approver says yes to.
    /// History is drafted; the rows are returned.
    pub(crate) fn draft_advertised(
        &self,
        draft: &mut Draft,
        node: NodeId,
        prefixes: &BTreeSet<Prefix>,
    ) -> BTreeMap<Prefix, Route> {
        let now = draft.now;
        let mut changed = BTreeMap::new();
        let mut count = self.routes.rows_of(node).count();
        let registered = self.registry.node(node);
        let owner = registered.map(|node| &node.owner);
        // It may have stopped since it was asked about.
        let still = |prefix: &&Prefix| registered.is_some_and(|node| node.hostinfo.routable_ips.contains(prefix));
        for prefix in prefixes.iter().filter(still) {
            let known = self.routes.row_of(node, prefix);
            if known.is_none() {
                if count >= self.settings.max_routes_per_node {
                    continue;
                }
                count += 1;
                draft.history(Some(*prefix), Some(node), HistoryEvent::Advertised);
            }
            let row = match known {
                Some(row) => Route { advertised: true, was_advertised: true, ..row.clone() },
                None => approval::appeared(draft.next_route(), node, *prefix, now),
            };
            let approved = owner.and_then(|owner| self.auto_approved(draft, &self.rules, owner, &row));
            if known.is_none() && approved.is_none() && prefix.invalid().is_none() {
                draft.history(Some(*prefix), Some(node), HistoryEvent::Pending);
            }
            let next = approved.unwrap_or(row);
            if known != Some(&next) {
                changed.insert(*prefix, next);
            }
        }
        changed
    }

    /// The row as an auto-approver leaves it, if one says yes. History is drafted.
    pub(crate) fn auto_approved(&self, draft: &mut Draft, rules: &Rules, owner: &Owner, row: &Route) -> Option<Route> {
        let by = self.approver_of(rules, owner, row)?;
        let approved = approval::approve(row, by.clone(), draft.now).ok()?;
        draft.history(Some(row.prefix), Some(row.node), HistoryEvent::Approved(by));
        Some(approved)
    }

    /// The auto-approver that says yes to a row, if one is to be asked and does.
    pub(crate) fn approver_of(&self, rules: &Rules, owner: &Owner, row: &Route) -> Option<Approver> {
        // Only a person may send what clients need before anything else through a router.
        if !approval::wants_auto_approval(row) || self.guarded(&row.prefix).is_some() {
            return None;
        }
        Some(Approver::Auto(rules.auto_approves(owner, &row.prefix)?))
    }

    pub(crate) fn plan_disable_withdrawn(&self, mut draft: Draft, id: RouteId) -> Plan {
        let row = self.routes.row(id).filter(|row| self.routes.ends_with_withdrawal(row));
        let row = row.and_then(|row| approval::disable_withdrawn(row, draft.now));
        if let Some(row) = row {
            draft.route(row, Some(HistoryEvent::Disabled(Approver::Withdrawn)));
        }
        draft.done(Outcome::Done)
    }

    pub(crate) fn no_route(&self, node: NodeId, prefix: &Prefix) -> Refusal {
        let has: Vec<String> = self.routes.rows_of(node).map(|row| self.sites.show(&row.prefix)).collect();
        let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
        Refusal::NoRoute { node: self.name_of(node), prefix: self.sites.show(prefix), has }
    }
}
