//! Classes: nodes that no rule tells apart.
//!
//! What a policy says of a node follows from which selectors it matches, by whose it is and by its addresses, and which address selectors
//! its approved prefixes touch. Nodes that agree in that are one class; what is worked out for one is worked out for all. There are as
//! many as a policy can tell apart, however many nodes there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use fixedbitset::FixedBitSet;
use wayleave_model::{Owner, Prefix};

use crate::filter::Template;
use crate::rules::{Clause, Rules, To};
use crate::steering::Reach;

/// What tells classes apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassKey {
    /// Selectors that match the node itself.
    pub(crate) matches: FixedBitSet,
    /// Address selectors that touch an approved prefix of it which is no exit.
    pub(crate) leads_to: FixedBitSet,
    /// It has an approved prefix that is no exit.
    pub(crate) is_router: bool,
    /// It is an approved exit.
    pub(crate) is_exit: bool,
    /// It belongs to a user.
    pub(crate) is_owned: bool,
}

/// Nodes that no rule tells apart.
#[derive(Debug)]
pub struct Class {
    /// Which of the policy's classes.
    pub(crate) id: u32,
    pub(crate) key: ClassKey,
    /// Clauses that it is a source of.
    pub(crate) from: FixedBitSet,
    /// Clauses that it is a destination of, other than as the same user's node.
    pub(crate) to: FixedBitSet,
    /// It is a source of a clause towards the same user's nodes.
    pub(crate) to_own: bool,
    pub(crate) template: OnceLock<Arc<[Template]>>,
    pub(crate) reach: OnceLock<Reach>,
    attributes: OnceLock<Arc<BTreeMap<String, Arc<serde_json::Value>>>>,
}

impl ClassKey {
    pub(crate) fn new(rules: &Rules, owner: &Owner, own: &[IpAddr], approved: &BTreeSet<Prefix>) -> Self {
        let mut matches = rules.matches_owner(owner);
        let mut leads_to = FixedBitSet::with_capacity(rules.selectors.len());
        for (at, prefix) in &rules.addresses {
            if own.iter().any(|address| prefix.contains(*address)) {
                matches.insert(*at);
            }
            if approved.iter().any(|route| !route.is_exit() && route.overlaps(prefix)) {
                leads_to.insert(*at);
            }
        }
        Self {
            matches,
            leads_to,
            is_router: approved.iter().any(|route| !route.is_exit()),
            is_exit: [Prefix::EXIT_V4, Prefix::EXIT_V6].iter().all(|half| approved.contains(half)),
            is_owned: matches!(owner, Owner::User(_)),
        }
    }

    /// Whether the node, or what it leads to, is among these.
    fn touches(&self, bits: &FixedBitSet) -> bool {
        !self.matches.is_disjoint(bits) || !self.leads_to.is_disjoint(bits)
    }

    /// Whether a clause that steers goes through this node to this place.
    pub(crate) fn carries(&self, clause: &Clause, to: To) -> bool {
        let through = clause.via.as_ref().is_some_and(|via| !self.matches.is_disjoint(&via.bits));
        through
            && match to {
                To::Any => self.is_router || self.is_exit,
                To::Addresses(at, _) => self.leads_to.contains(at),
                To::Internet => self.is_exit,
                To::Nodes(_) | To::SameUser => false,
            }
    }

    fn is_destination(&self, clause: &Clause) -> bool {
        if clause.via.is_some() {
            return clause.dst.iter().any(|target| self.carries(clause, target.to));
        }
        self.touches(&clause.dst_bits) || (self.is_exit && clause.dst.iter().any(|target| target.to == To::Internet))
    }
}

impl Class {
    pub(crate) fn new(id: u32, key: ClassKey, rules: &Rules) -> Self {
        let count = rules.clauses.len();
        let (mut from, mut to, mut to_own) =
            (FixedBitSet::with_capacity(count), FixedBitSet::with_capacity(count), false);
        for (at, clause) in rules.clauses.iter().enumerate() {
            if key.touches(&clause.src) {
                from.insert(at);
                to_own |= key.is_owned && clause.dst.iter().any(|target| target.to == To::SameUser);
            }
            if key.is_destination(clause) {
                to.insert(at);
            }
        }
        Self {
            id,
            key,
            from,
            to,
            to_own,
            template: OnceLock::new(),
            reach: OnceLock::new(),
            attributes: OnceLock::new(),
        }
    }

    /// Whether a rule connects the two, in either direction.
    pub(crate) fn connects(&self, other: &Self) -> bool {
        !self.from.is_disjoint(&other.to) || !other.from.is_disjoint(&self.to)
    }

    /// The attributes of its nodes.
    pub(crate) fn attributes(&self, rules: &Rules) -> &Arc<BTreeMap<String, Arc<serde_json::Value>>> {
        self.attributes.get_or_init(|| Arc::new(crate::attributes::of_class(rules, &self.key)))
    }
}
