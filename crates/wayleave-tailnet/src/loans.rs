//! Loans: the way to the target of a path check, through a router that stands by, for one witness and nobody else (design.md 4).
//!
//! Traffic for a prefix goes to its primary, so nobody sees whether another router could carry it. Whoever runs the checks asks for a loan
//! ([`Event::Lend`](crate::Event::Lend)): the witness, and only it, is told of the target as a host route at the standby, and asks for it
//! there. The loan ends when it is taken back, when its time is over, or as soon as something speaks against it, in the same step:
//!
//! - the check is gone, has another target or does not look at standbys; or the target proves nothing any more, so that the host route never
//!   stands beside an enabled one of the same host, or hides a longer one;
//! - the router carries the prefix, is down or drained, or is no candidate;
//! - the witness is not connected, is a router of the prefix itself, or may not reach the target;
//! - for a witness that no person named: the primary missed its own check. Such a loan lasts 2 s, and there is one in a minute, however it
//!   ended.
//!
//! A loan is in nobody's database: none survives a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use wayleave_model::{NodeId, PathCheck, Prefix, Timestamp, WitnessChoice};
use wayleave_policy::Steering;
use wayleave_routes::Rank;

use crate::tailnet::{Due, Tailnet};

/// A loan that is asked for, or that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// The prefix whose check it serves.
    pub prefix: Prefix,
    /// What the check asks for: the host that is lent.
    pub target: IpAddr,
    /// The standby that it leads through.
    pub router: NodeId,
    /// Who is led.
    pub witness: NodeId,
    /// For how long.
    pub term: Term,
}

/// For how long a loan lasts if nothing else ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Until it is taken back. Only for a witness that a person named in the check.
    Open,
    /// For [`Settings::loan_lasts`](crate::Settings::loan_lasts), once in [`Settings::loan_every`](crate::Settings::loan_every).
    Short,
}

/// The loans of a tailnet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loans {
    /// By the prefix of the check. No two have the same target.
    current: BTreeMap<Prefix, (Loan, Timestamp)>,
    /// When the last short loan of a check began. Kept until the next may begin, also when the check is gone.
    short: BTreeMap<Prefix, Timestamp>,
    /// Something happened that may speak against a loan; cleared when they were looked at.
    pub(crate) stale: bool,
}

impl Loans {
    /// Whether one of these nodes lends or borrows.
    pub(crate) fn concern(&self, nodes: &BTreeSet<NodeId>) -> bool {
        self.current.values().any(|(loan, _)| nodes.contains(&loan.router) || nodes.contains(&loan.witness))
    }
}

impl Tailnet {
    /// The loan that serves the check of a prefix, and since when.
    pub fn loan(&self, prefix: &Prefix) -> Option<(Loan, Timestamp)> {
        self.loans.current.get(prefix).copied()
    }

    /// Whether a loan would be given now.
    pub fn may_lend(&self, loan: &Loan, now: Timestamp) -> bool {
        let again =
            self.loans.short.get(&loan.prefix).is_none_or(|began| now.since(*began) >= self.settings.loan_every);
        let in_time = loan.term == Term::Open || again;
        let lent = self.loans.current.values();
        let other = lent.filter(|(other, _)| other.prefix != loan.prefix).any(|(other, _)| other.target == loan.target);
        in_time && !other && self.loan_stands(loan)
    }

    /// What is lent at a router: each host, and to whom.
    pub(crate) fn lent_at(&self, router: NodeId) -> BTreeMap<Prefix, NodeId> {
        let all = self.loans.current.values().map(|(loan, _)| loan).filter(|loan| loan.router == router);
        all.map(|loan| (Prefix::host(loan.target), loan.witness)).collect()
    }

    /// Gives a loan, in place of one that serves the same check; or none, where something speaks against it.
    pub(crate) fn lend(&mut self, loan: Loan, now: Timestamp) {
        let same = self.loan(&loan.prefix).is_some_and(|(current, _)| current == loan);
        if same || !self.may_lend(&loan, now) {
            return;
        }
        self.take_back(&loan.prefix);
        if loan.term == Term::Short {
            let every = self.settings.loan_every;
            self.loans.short.retain(|_, began| now.since(*began) < every);
            self.loans.short.insert(loan.prefix, now);
            self.timers.set(Due::LoanEnds(loan.prefix), now + self.settings.loan_lasts);
        }
        self.loans.current.insert(loan.prefix, (loan, now));
        self.touched.insert(loan.router);
    }

    /// Ends the loan that serves the check of a prefix, if there is one.
    pub(crate) fn take_back(&mut self, prefix: &Prefix) {
        if let Some((loan, _)) = self.loans.current.remove(prefix) {
            self.timers.stop(&Due::LoanEnds(*prefix));
            self.touched.insert(loan.router);
        }
    }

    /// Ends every loan that something speaks against.
    pub(crate) fn look_at_loans(&mut self) {
        let stale = std::mem::take(&mut self.loans.stale);
        if !stale && !self.loans.concern(&self.touched) {
            return;
        }
        let all = self.loans.current.values().map(|(loan, _)| loan);
        let ended: Vec<Prefix> = all.filter(|loan| !self.loan_stands(loan)).map(|loan| loan.prefix).collect();
        ended.iter().for_each(|prefix| self.take_back(prefix));
    }

    fn loan_stands(&self, loan: &Loan) -> bool {
        let Loan { prefix, target, router, witness, term } = loan;
        let checked = self.path_checks.get(prefix).filter(|check| check.standby && check.target == *target);
        let Some(check) = checked.filter(|_| *prefix != Prefix::host(*target)) else { return false };
        let Some(seat) = self.routes.seat(prefix).map(|seat| seat.node).filter(|seat| seat != router) else {
            return false;
        };
        let by_term = match term {
            Term::Open => self.is_named(check, *witness),
            Term::Short => self.routes.path_record(seat, prefix).misses == 0,
        };
        by_term
            && self.target_fault(prefix, *target).is_none()
            && self.stands_by(*router, prefix)
            && self.may_be_led(*witness, loan)
    }

    fn is_named(&self, check: &PathCheck, witness: NodeId) -> bool {
        match &check.witness {
            None => false,
            Some(WitnessChoice::Node(node)) => *node == witness,
            Some(WitnessChoice::Tag(tag)) => self.registry.node(witness).is_some_and(|node| node.owner.has_tag(tag)),
        }
    }

    fn stands_by(&self, router: NodeId, prefix: &Prefix) -> bool {
        let candidates = self.routes.candidates(prefix);
        candidates.iter().filter(|candidate| candidate.node == router).any(|candidate| match candidate.rank {
            Rank::Steady | Rank::Flapping | Rank::Suspect(_) => true,
            Rank::Drained | Rank::Down(_) => false,
        })
    }

    /// The rules are those of the last picture: where they have just changed, the next look comes with the next picture, and until then the
    /// witness is told of the host only if the new ones let it.
    fn may_be_led(&self, witness: NodeId, loan: &Loan) -> bool {
        let policy = &self.snapshot.policy;
        self.liveness.session(witness).is_some()
            && !self.routes.is_expired(witness)
            && witness != loan.router
            && self.routes.row_of(witness, &loan.prefix).is_none()
            && policy.sees(witness, loan.router)
            && policy.steering(witness, &Prefix::host(loan.target)) == Steering::Primary
    }
}

/// How long a loan to a witness that nobody named lasts where the configuration says nothing.
pub(crate) const LASTS: Duration = Duration::from_secs(2);
/// From the beginning of one such loan to that of the next.
pub(crate) const EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
