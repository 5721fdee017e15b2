//! Which router a viewer reaches a prefix through.
//!
//! A viewer uses a prefix if it may reach an address in it, or such an address may reach it. It then uses the primary of the tailnet. If it
//! may reach it by grants with `via` only, it uses the one that carries the prefix among the nodes with one of their tags. An ordinary grant
//! beats `via`, whichever comes first; of several grants with `via` the tags are put together, so that the order of a policy is of no
//! account and a prefix is on one peer.

use std::collections::BTreeSet;
use std::sync::Arc;

use wayleave_model::{Prefix, Tag};

use crate::class::Class;
use crate::filter::internet;
use crate::rules::{Clause, Rules, To};
use crate::selector::Selector;

/// Through whom a viewer reaches a prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Steering {
    /// Through whoever is primary for the tailnet.
    Primary,
    /// Through whoever carries it among the nodes with one of these tags.
    Via(Arc<BTreeSet<Tag>>),
    /// Not at all.
    Nowhere,
}

/// Through which exits a viewer may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exits {
    /// Any.
    All,
    /// Those with one of these tags.
    Via(BTreeSet<Tag>),
    /// None.
    None,
}

/// Where the members of a class may go, and from where they may be reached, as far as it is not about nodes.
#[derive(Debug)]
pub(crate) struct Reach {
    everywhere: bool,
    prefixes: BTreeSet<Prefix>,
    via_everywhere: BTreeSet<Tag>,
    via: BTreeSet<(Prefix, Arc<BTreeSet<Tag>>)>,
    pub(crate) exits: Exits,
}

impl Reach {
    fn new(class: &Class, rules: &Rules) -> Self {
        let mut reach = Self {
            everywhere: false,
            prefixes: BTreeSet::new(),
            via_everywhere: BTreeSet::new(),
            via: BTreeSet::new(),
            exits: Exits::None,
        };
        let mut exits_via = BTreeSet::new();
        for clause in class.from.ones().map(|at| &rules.clauses[at]) {
            for target in &clause.dst {
                reach.add(clause, target.to);
                let leads_out = matches!(target.to, To::Any | To::Internet) && !target.traffic.is_empty();
                match &clause.via {
                    _ if !leads_out => {}
                    None => reach.exits = Exits::All,
                    Some(via) => exits_via.extend(via.tags.iter().cloned()),
                }
            }
        }
        if reach.exits == Exits::None && !exits_via.is_empty() {
            reach.exits = Exits::Via(exits_via);
        }
        // The way back: what may reach the class.
        for clause in class.to.ones().map(|at| &rules.clauses[at]).filter(|clause| clause.via.is_none()) {
            for source in &rules.source_lists[clause.sources] {
                match &rules.selectors[*source] {
                    Selector::Any | Selector::Everywhere => reach.everywhere = true,
                    Selector::Addresses(prefix) => drop(reach.prefixes.insert(*prefix)),
                    Selector::User(_)
                    | Selector::Domain(_)
                    | Selector::Group(_)
                    | Selector::Tag(_)
                    | Selector::Member
                    | Selector::Tagged
                    | Selector::Role(_)
                    | Selector::Shared
                    | Selector::SameUser
                    | Selector::Internet => {}
                }
            }
        }
        reach
    }

    fn add(&mut self, clause: &Clause, to: To) {
        match (to, &clause.via) {
            (To::Any, None) => self.everywhere = true,
            (To::Any, Some(via)) => self.via_everywhere.extend(via.tags.iter().cloned()),
            (To::Addresses(_, prefix), None) => drop(self.prefixes.insert(prefix)),
            (To::Addresses(_, prefix), Some(via)) => drop(self.via.insert((prefix, Arc::clone(&via.tags)))),
            (To::Nodes(_) | To::SameUser | To::Internet, _) => {}
        }
    }

    fn steering(&self, prefix: &Prefix) -> Steering {
        if self.everywhere || self.prefixes.iter().any(|reached| reached.overlaps(prefix)) {
            return Steering::Primary;
        }
        let mut groups = self.via.iter().filter(|(reached, _)| reached.overlaps(prefix)).map(|(_, tags)| tags);
        let Some(first) = groups.next() else {
            let tags = &self.via_everywhere;
            return if tags.is_empty() { Steering::Nowhere } else { Steering::Via(Arc::new(tags.clone())) };
        };
        let mut all = self.via_everywhere.clone();
        all.extend(groups.flat_map(|tags| tags.iter().cloned()));
        if all.is_subset(first) {
            return Steering::Via(Arc::clone(first));
        }
        all.extend(first.iter().cloned());
        Steering::Via(Arc::new(all))
    }
}

impl Class {
    fn reach(&self, rules: &Rules) -> &Reach {
        self.reach.get_or_init(|| Reach::new(self, rules))
    }

    pub(crate) fn steering(&self, rules: &Rules, prefix: &Prefix) -> Steering {
        self.reach(rules).steering(prefix)
    }

    pub(crate) fn exits<'a>(&'a self, rules: &Rules) -> &'a Exits {
        &self.reach(rules).exits
    }

    /// Whether some address of a place is one that nodes of an exit's class let its nodes send to.
    pub(crate) fn leads_out_to(&self, rules: &Rules, exit: &Self, place: &Prefix) -> bool {
        let holds = |to| match to {
            To::Any => true,
            To::Internet => internet().any(|outside| outside.overlaps(place)),
            To::Addresses(_, prefix) => prefix.overlaps(place),
            To::Nodes(_) | To::SameUser => false,
        };
        self.from.ones().map(|at| &rules.clauses[at]).any(|clause| {
            let mut targets = clause.dst.iter().filter(|target| !target.traffic.is_empty());
            targets.any(|target| holds(target.to) && exit.is_at(clause, target.to))
        })
    }

    /// Whether it reaches anything through grants that steer.
    pub(crate) fn is_steered(&self, rules: &Rules) -> bool {
        let reach = self.reach(rules);
        !reach.via.is_empty() || !reach.via_everywhere.is_empty()
    }
}
