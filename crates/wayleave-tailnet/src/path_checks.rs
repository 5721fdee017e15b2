//! Path checks: how one is set and taken back, and which targets prove nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use wayleave_model::{Approver, NodeId, PathCheck, Prefix, Timestamp, WitnessChoice, duration, via6};
use wayleave_routes::Input;

use crate::command::{Outcome, Refusal};
use crate::history::HistoryEvent;
use crate::plan::{Draft, Plan, Write};
use crate::plan_prefixes::no_route;
use crate::tailnet::{Effect, Tailnet};

/// A check to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPathCheck {
    /// Of which prefix; one that it has is replaced.
    pub prefix: Prefix,
    /// The address behind its routers.
    pub target: IpAddr,
    /// How often; 1 s to 1 h.
    pub every: Duration,
    /// Who looks. `None`: the server chooses.
    pub witness: Option<WitnessChoice>,
    /// Whether routers that stand by are checked too.
    pub standby: bool,
    /// Who sets it.
    pub by: Approver,
}

/// Why an address can't be the target of a path check: it would answer, or not, for other reasons than the prefix's routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFault {
    /// Exits are never elected.
    Exit,
    /// It is not behind the routers of the prefix.
    Outside,
    /// The router answers for itself.
    Candidate(NodeId),
    /// Clients reach it through the routers of another prefix.
    LongerRoute(Prefix),
}

impl TargetFault {
    /// What a person is told: it names nodes and sites as people know them.
    pub fn words(self, tailnet: &Tailnet) -> String {
        match self {
            Self::Exit => {
                "an exit is never elected, so there is nothing to check: each client chooses its own".to_owned()
            }
            Self::Outside => "it is not inside the prefix".to_owned(),
            Self::Candidate(node) => format!(
                "it is an address of {}, a router of the prefix, which answers for itself whatever is behind it",
                tailnet.name_of(node)
            ),
            Self::LongerRoute(longer) => {
                format!("clients reach it through the longer route {}", tailnet.sites().show(&longer))
            }
        }
    }
}

impl Tailnet {
    /// All path checks, by prefix.
    pub fn path_checks(&self) -> impl Iterator<Item = &PathCheck> {
        self.path_checks.values()
    }

    /// The path check of a prefix.
    pub fn path_check(&self, prefix: &Prefix) -> Option<&PathCheck> {
        self.path_checks.get(prefix)
    }

    /// Why an address proves nothing about the routers of a prefix, as things are; `None`: it does.
    pub fn target_fault(&self, prefix: &Prefix, target: IpAddr) -> Option<TargetFault> {
        if prefix.is_exit() {
            return Some(TargetFault::Exit);
        }
        if !prefix.contains(target) {
            return Some(TargetFault::Outside);
        }
        let own = |node: &NodeId| {
            let node = self.registry.node(*node);
            node.is_some_and(|node| {
                let mut own = node.endpoints.iter().map(|endpoint| endpoint.address.ip());
                own.any(|own| via6::address_through(prefix, own) == Some(target))
            })
        };
        if let Some(node) = self.routes.holders(prefix).find(own) {
            return Some(TargetFault::Candidate(node));
        }
        let host = Prefix::host(target);
        let mut longer = (prefix.bits() + 1..=host.bits()).filter_map(|bits| host.widened(bits));
        let used = |longer: &Prefix| {
            let rows = self.routes.holders(longer).filter_map(|node| self.routes.row_of(node, longer));
            rows.into_iter().any(|row| row.enabled && row.advertised)
        };
        longer.find(used).map(TargetFault::LongerRoute)
    }

    pub(crate) fn plan_set_path_check(&self, mut draft: Draft, check: NewPathCheck) -> Result<Plan, Refusal> {
        let NewPathCheck { prefix, target, every, witness, standby, by } = check;
        no_route(prefix)?;
        if let Some(fault) = self.target_fault(&prefix, target) {
            let (target, prefix) = (self.sites.show_address(target), self.sites.show(&prefix));
            return Err(Refusal::CheckTarget { target, prefix, fault: fault.words(self) });
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&every) {
            return Err(Refusal::CheckPeriod);
        }
        if standby && prefix == Prefix::host(target) {
            return Err(Refusal::CheckStandbyOfHost(prefix));
        }
        if let Some(WitnessChoice::Node(node)) = witness {
            self.existing(node)?;
        }
        let check = PathCheck { prefix, target, every, witness, standby, set_at: draft.now, set_by: by };
        let words = self.check_words(&check);
        if self.path_checks.get(&prefix).is_none_or(|before| self.check_words(before) != words) {
            draft.history(Some(prefix), None, HistoryEvent::CheckSet(words, check.set_by.clone()));
        }
        draft.write(Write::PathCheck(check));
        Ok(draft.done(Outcome::Done))
    }

    /// What a check asks for, as history tells it: `10.1.2.3 every 2s, by tag:witness, standbys too`.
    pub(crate) fn check_words(&self, check: &PathCheck) -> String {
        let PathCheck { prefix: _, target, every, witness, standby, set_at: _, set_by: _ } = check;
        let by = match witness {
            None => String::new(),
            Some(WitnessChoice::Tag(tag)) => format!(", by {tag}"),
            Some(WitnessChoice::Node(node)) => format!(", by {}", self.name_of(*node)),
        };
        let standby = if *standby { ", standbys too" } else { "" };
        format!("{} every {}{by}{standby}", self.sites.show_address(*target), duration::words(*every))
    }

    pub(crate) fn plan_remove_path_check(
        &self,
        mut draft: Draft,
        prefix: Prefix,
        by: Approver,
    ) -> Result<Plan, Refusal> {
        if !self.path_checks.contains_key(&prefix) {
            return Err(Refusal::NoCheck(prefix));
        }
        draft.write(Write::DeletePathCheck(prefix));
        draft.history(Some(prefix), None, HistoryEvent::CheckRemoved(by));
        Ok(draft.done(Outcome::Done))
    }

    /// Tells the route table what is checked.
    pub(crate) fn checks_changed(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.route_input(Input::PathChecks(self.check_targets()), now, out);
    }

    /// What is checked behind the routers of each prefix.
    pub(crate) fn check_targets(&self) -> BTreeMap<Prefix, IpAddr> {
        self.path_checks.values().map(|check| (check.prefix, check.target)).collect()
    }
}
