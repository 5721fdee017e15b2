//! A policy with the nodes that are there: an immutable value that answers, and from which the next one is made when a node changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use fixedbitset::FixedBitSet;
use imbl::{OrdMap, OrdSet};
use ipnet::Ipv4Net;
use wayleave_model::{NodeId, Owner, Prefix, TAILNET_V4, TAILNET_V6, Tag, UserId};

use crate::class::{Class, ClassKey};
use crate::filter::{FilterRule, Inhabitants, Listed, fill_in};
use crate::rules::{Index, Rules};
use crate::selector::{Selector, listed};
use crate::ssh::SshRule;
use crate::steering::{Exits, Steering};

/// A node, as far as a policy asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Whose it is.
    pub owner: Owner,
    /// Its own addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// What it advertises and is approved for.
    pub approved: BTreeSet<Prefix>,
}

/// A node and what follows for it.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) subject: Subject,
    pub(crate) class: Arc<Class>,
}

impl Standing {
    /// Whose it is; `None` for what is tagged or nobody's.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.subject.owner.user().filter(|_| self.class.key.is_owned)
    }
}

/// A policy that is ready to answer.
#[derive(Clone, Debug)]
pub struct CompiledPolicy {
    pub(crate) rules: Arc<Rules>,
    pub(crate) nodes: OrdMap<NodeId, Arc<Standing>>,
    classes: OrdMap<ClassKey, Arc<Class>>,
    /// The classes that have nodes, by their numbers, and those nodes.
    pub(crate) by_class: OrdMap<u32, (Arc<Class>, OrdSet<NodeId>)>,
    /// Prefixes that are approved for somebody and are no exit, with for how many.
    approved: OrdMap<Prefix, usize>,
    pub(crate) by_user: OrdMap<UserId, OrdSet<NodeId>>,
    /// For each selector that matches nodes by whose they are: the nodes.
    pub(crate) members: Vec<OrdMap<NodeId, Arc<[String]>>>,
    /// What each list of sources stands for, worked out when it is first asked for.
    sources: Vec<Arc<OnceLock<Listed>>>,
    /// For each rule about shells: what it is for a tagged destination, worked out when it is first asked for.
    pub(crate) shells: Vec<Arc<OnceLock<Arc<[SshRule]>>>>,
}

impl CompiledPolicy {
    /// A policy for a tailnet without nodes.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self {
            nodes: OrdMap::new(),
            classes: OrdMap::new(),
            by_class: OrdMap::new(),
            approved: OrdMap::new(),
            by_user: OrdMap::new(),
            members: vec![OrdMap::new(); rules.selectors.len()],
            sources: rules.source_lists.iter().map(|_| Arc::default()).collect(),
            shells: rules.ssh.iter().map(|_| Arc::default()).collect(),
            rules,
        }
    }

    /// A policy for these nodes.
    pub fn compile(rules: Arc<Rules>, nodes: impl IntoIterator<Item = (NodeId, Subject)>) -> Self {
        let mut policy = Self::new(rules);
        for (id, subject) in nodes {
            policy.put(id, Some(subject));
        }
        policy
    }

    /// What is written, and who the people are.
    pub const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Takes in that a node came, changed or went. Costs what the node itself needs; what the others got stays worked out.
    pub fn put(&mut self, id: NodeId, subject: Option<Subject>) {
        if let Some(old) = self.nodes.get(&id) {
            if subject.as_ref() == Some(&old.subject) {
                return;
            }
            let old = Arc::clone(old);
            self.take_out(id, &old);
            // One that is as much to every selector as it was, and is where it was, leaves the lists as they are, but for those that have
            // routes in them.
            let is_listed_alike = |new: &Standing| {
                new.subject.owner == old.subject.owner
                    && new.subject.addresses == old.subject.addresses
                    && new.class.key.matches == old.class.key.matches
            };
            let new = subject.map(|subject| self.bring_in(id, subject));
            match new {
                Some(new) if is_listed_alike(&new) => {
                    let none = FixedBitSet::new();
                    self.forget_sources(&none, old.class.key.is_router || new.class.key.is_router);
                }
                new => {
                    for standing in [Some(old), new].into_iter().flatten() {
                        self.forget_sources(&standing.class.key.matches, standing.class.key.is_router);
                    }
                }
            }
        } else if let Some(subject) = subject {
            let new = self.bring_in(id, subject);
            self.forget_sources(&new.class.key.matches, new.class.key.is_router);
        }
    }

    /// The lists that it is in now are forgotten by whoever calls.
    fn bring_in(&mut self, id: NodeId, subject: Subject) -> Arc<Standing> {
        let key = ClassKey::new(&self.rules, &subject.owner, &subject.addresses, &subject.approved);
        let class = match self.classes.get(&key) {
            Some(class) => Arc::clone(class),
            None => {
                let number = u32::try_from(self.classes.len()).unwrap_or(u32::MAX);
                let class = Arc::new(Class::new(number, key.clone(), &self.rules));
                self.classes.insert(key, Arc::clone(&class));
                class
            }
        };
        self.by_class.entry(class.id).or_insert_with(|| (Arc::clone(&class), OrdSet::new())).1.insert(id);
        for prefix in subject.approved.iter().filter(|prefix| !prefix.is_exit()) {
            *self.approved.entry(*prefix).or_insert(0) += 1;
        }
        if let Owner::User(user) = &subject.owner {
            self.by_user.entry(*user).or_default().insert(id);
        }
        let addresses: Arc<[String]> = subject.addresses.iter().map(IpAddr::to_string).collect();
        for at in class.key.matches.ones().filter(|at| self.rules.is_owner_selector(*at)) {
            self.members[at].insert(id, Arc::clone(&addresses));
        }
        let standing = Arc::new(Standing { subject, class });
        self.nodes.insert(id, Arc::clone(&standing));
        standing
    }

    /// The lists that it was in are forgotten by whoever calls.
    fn take_out(&mut self, id: NodeId, old: &Standing) {
        for prefix in old.subject.approved.iter().filter(|prefix| !prefix.is_exit()) {
            match self.approved.get(prefix) {
                Some(count) if *count > 1 => drop(self.approved.insert(*prefix, count - 1)),
                _ => drop(self.approved.remove(prefix)),
            }
        }
        if let Owner::User(user) = &old.subject.owner
            && let Some(own) = self.by_user.get_mut(user)
        {
            own.remove(&id);
            if own.is_empty() {
                self.by_user.remove(user);
            }
        }
        if let Some((_, members)) = self.by_class.get_mut(&old.class.id) {
            members.remove(&id);
            if members.is_empty() {
                self.by_class.remove(&old.class.id);
            }
        }
        for at in old.class.key.matches.ones().filter(|at| self.rules.is_owner_selector(*at)) {
            self.members[at].remove(&id);
        }
        self.nodes.remove(&id);
    }

    /// Lists that stand for something else now are worked out anew when they are asked for.
    fn forget_sources(&mut self, matches: &FixedBitSet, routes: bool) {
        for (list, sources) in self.rules.source_lists.iter().zip(&mut self.sources) {
            let stale = list.iter().any(|at| match &self.rules.selectors[*at] {
                Selector::Any => routes,
                Selector::Addresses(_) | Selector::Everywhere => false,
                Selector::User(_)
                | Selector::Domain(_)
                | Selector::Group(_)
                | Selector::Tag(_)
                | Selector::Member
                | Selector::Tagged
                | Selector::Role(_)
                | Selector::Shared
                | Selector::SameUser
                | Selector::Internet => matches.contains(*at),
            });
            if stale {
                *sources = Arc::default();
            }
        }
        for (clause, shells) in self.rules.ssh.iter().zip(&mut self.shells) {
            if !clause.src_bits.is_disjoint(matches) {
                *shells = Arc::default();
            }
        }
    }

    fn class(&self, node: NodeId) -> Option<&Arc<Class>> {
        self.nodes.get(&node).map(|standing| &standing.class)
    }

    /// The number of the node's class: nodes of one class are treated alike but for what is their own user's. Numbers hold as long as the
    /// rules do.
    pub fn class_of(&self, node: NodeId) -> Option<u32> {
        self.class(node).map(|class| class.id)
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.classes.len()
    }

    /// Whether the packet filter lets everybody everywhere, whoever is there.
    pub fn is_accept_all(&self) -> bool {
        self.rules.allows_everything()
    }

    /// Through whom a viewer reaches a prefix that is no exit.
    pub fn steering(&self, viewer: NodeId, prefix: &Prefix) -> Steering {
        self.class(viewer).map_or(Steering::Nowhere, |class| class.steering(&self.rules, prefix))
    }

    /// Whether a viewer may go out through an exit.
    pub fn may_exit(&self, viewer: NodeId, exit: NodeId) -> bool {
        let (Some(class), Some(exit)) = (self.class(viewer), self.nodes.get(&exit)) else { return false };
        match class.exits(&self.rules) {
            Exits::All => true,
            Exits::None => false,
            Exits::Via(tags) => {
                matches!(&exit.subject.owner, Owner::Tags { tags: own, .. } if own.iter().any(|tag| tags.contains(tag)))
            }
        }
    }

    /// Whether a viewer may send anything through an exit to a place: whether the exit's packet filter lets it to some address there. Whether
    /// the viewer is told of the exit at all is [`Self::may_exit`].
    pub fn leads_out_to(&self, viewer: NodeId, exit: NodeId, place: &Prefix) -> bool {
        let (Some(class), Some(exit)) = (self.class(viewer), self.class(exit)) else { return false };
        class.leads_out_to(&self.rules, exit, place)
    }

    /// The tag groups that some node reaches some approved prefix through, with those prefixes: each is an election of its own.
    pub fn steered(&self) -> BTreeMap<Arc<BTreeSet<Tag>>, BTreeSet<Prefix>> {
        let mut all: BTreeMap<_, BTreeSet<Prefix>> = BTreeMap::new();
        for (class, _) in self.by_class.values().filter(|(class, _)| class.is_steered(&self.rules)) {
            for prefix in self.approved.keys() {
                if let Steering::Via(tags) = class.steering(&self.rules, prefix) {
                    all.entry(tags).or_default().insert(*prefix);
                }
            }
        }
        all
    }

    /// The attributes of a node, each with its value: a list, or null.
    pub fn attributes(&self, node: NodeId) -> Arc<BTreeMap<String, Arc<serde_json::Value>>> {
        self.class(node).map(|class| Arc::clone(class.attributes(&self.rules))).unwrap_or_default()
    }

    /// The packet filter of a node, reduced to what concerns it. Two nodes' rules share their sources.
    pub fn filter(&self, node: NodeId) -> Vec<FilterRule> {
        let Some(standing) = self.nodes.get(&node) else { return Vec::new() };
        let there = There { policy: self, user: standing.user() };
        fill_in(standing.class.template(&self.rules), &standing.subject.addresses, &there)
    }

    /// Whether `*` as a source stands for this address.
    pub(crate) fn is_any_source(&self, address: &IpAddr) -> bool {
        let in_tailnet = match address {
            IpAddr::V4(address) => TAILNET_V4.contains(address) && !SET_ASIDE.contains(address),
            IpAddr::V6(address) => TAILNET_V6.contains(address),
        };
        in_tailnet || self.approved.keys().any(|prefix| prefix.contains(*address))
    }

    fn list_of(&self, list: Index) -> Listed {
        let made = self.sources[list].get_or_init(|| {
            let mut all: BTreeSet<String> = BTreeSet::new();
            for at in &self.rules.source_lists[list] {
                match &self.rules.selectors[*at] {
                    Selector::Any => {
                        all.extend(TAILNET.iter().map(|range| (*range).to_owned()));
                        all.extend(self.approved.keys().map(listed));
                    }
                    Selector::Everywhere => drop(all.insert("*".to_owned())),
                    Selector::Addresses(prefix) => drop(all.insert(listed(prefix))),
                    Selector::User(_)
                    | Selector::Domain(_)
                    | Selector::Group(_)
                    | Selector::Tag(_)
                    | Selector::Member
                    | Selector::Tagged
                    | Selector::Role(_)
                    | Selector::Shared
                    | Selector::SameUser
                    | Selector::Internet => all.extend(self.members[*at].values().flat_map(|own| own.iter().cloned())),
                }
            }
            Listed::new(all)
        });
        made.clone()
    }
}

/// The addresses of nodes: 100.64.0.0/10 without what is set aside in it, and the IPv6 range (conformance case acl-a02).
const TAILNET: [&str; 3] = ["100.64.0.0-100.115.91.255", "100.115.94.0-100.127.255.255", "fd7a:115c:a1e0::/48"];
/// What is set aside in the range of the tailnet's IPv4 addresses.
const SET_ASIDE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 115, 92, 0), 23);

impl Rules {
    /// Whether a selector matches nodes by whose they are and stands for their addresses.
    pub(crate) fn is_owner_selector(&self, at: Index) -> bool {
        !matches!(self.selectors[at], Selector::Any | Selector::Everywhere | Selector::Addresses(_))
    }
}

struct There<'a> {
    policy: &'a CompiledPolicy,
    user: Option<UserId>,
}

impl Inhabitants for There<'_> {
    fn sources(&self, list: Index) -> Listed {
        self.policy.list_of(list)
    }

    fn same_user(&self, selectors: &FixedBitSet) -> Listed {
        let own = self.user.and_then(|user| self.policy.by_user.get(&user));
        let nodes = own.into_iter().flatten().filter_map(|node| self.policy.nodes.get(node));
        let matching =
            nodes.filter(|standing| selectors.is_empty() || !standing.class.key.matches.is_disjoint(selectors));
        let all: BTreeSet<String> =
            matching.flat_map(|standing| standing.subject.addresses.iter().map(IpAddr::to_string)).collect();
        Listed::new(all)
    }
}
