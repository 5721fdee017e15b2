//! A policy that knows the people: every name is a number, and what does not depend on the nodes is worked out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use wayleave_model::{Owner, Prefix, Tag, UserId};

use crate::file::{Grant, PolicyFile, SshRule};
use crate::people::People;
use crate::ports::{Ports, Traffic};
use crate::selector::Selector;

/// The number of a selector, or of a list of them.
pub(crate) type Index = usize;

/// A policy file and the people that it speaks of.
#[derive(Debug)]
pub struct Rules {
    pub(crate) file: Arc<PolicyFile>,
    pub(crate) people: Arc<People>,
    /// Every selector that is used, once.
    pub(crate) selectors: Vec<Selector>,
    /// Those that are addresses.
    pub(crate) addresses: Vec<(Index, Prefix)>,
    by_tag: BTreeMap<Tag, FixedBitSet>,
    by_user: BTreeMap<UserId, FixedBitSet>,
    every_node: FixedBitSet,
    every_member: FixedBitSet,
    every_tagged: FixedBitSet,
    /// Every list of sources that is used, once.
    pub(crate) source_lists: Vec<Vec<Index>>,
    pub(crate) clauses: Vec<Clause>,
    pub(crate) ssh: Vec<SshClause>,
    pub(crate) attribute_targets: Vec<FixedBitSet>,
}

/// A grant.
#[derive(Clone, Debug)]
pub(crate) struct Clause {
    /// The list of its sources.
    pub(crate) sources: Index,
    pub(crate) src: FixedBitSet,
    pub(crate) dst: Vec<Target>,
    /// The list of its destinations, as sources of what goes the other way.
    pub(crate) destinations: Index,
    pub(crate) dst_bits: FixedBitSet,
    pub(crate) app: Vec<(String, Arc<serde_json::Value>)>,
    /// The capabilities that destinations get towards the sources.
    pub(crate) reverse: Vec<&'static str>,
    /// Selectors of the tags that it steers through; `None`: it does not steer.
    pub(crate) via: Option<Via>,
}

/// Through whom a grant steers.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    pub(crate) tags: Arc<BTreeSet<Tag>>,
    pub(crate) bits: FixedBitSet,
}

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) to: To,
    pub(crate) traffic: Arc<[Traffic]>,
}

/// What a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Everything.
    Any,
    /// Nodes that match this selector.
    Nodes(Index),
    /// These addresses, whoever has them or leads to them.
    Addresses(Index, Prefix),
    /// The same user's nodes.
    SameUser,
    /// What an exit leads to.
    Internet,
}

#[derive(Clone, Debug)]
pub(crate) struct SshClause {
    pub(crate) rule: SshRule,
    pub(crate) src: Vec<Index>,
    pub(crate) src_bits: FixedBitSet,
    pub(crate) dst_bits: FixedBitSet,
    pub(crate) same_user: bool,
}

/// Capabilities that come in pairs: who may be reached so gets the other one towards the source (conformance cases grant-a6, grant-k11).
const PAIRED: [(&str, &str); 2] = [
    ("tailscale.com/cap/drive", "tailscale.com/cap/drive-sharer"),
    ("tailscale.com/cap/relay", "tailscale.com/cap/relay-target"),
];

impl Rules {
    /// Brings a policy and people together.
    pub fn new(file: Arc<PolicyFile>, people: Arc<People>) -> Self {
        let mut build = Build::default();
        let everything = [everything()];
        let grants: &[Grant] = file.grants.as_deref().unwrap_or(&everything);
        let clauses: Vec<_> =
            grants.iter().filter(|grant| !grant.conditional).map(|grant| build.grant(grant)).collect();
        let ssh: Vec<_> = file.ssh.iter().map(|rule| build.ssh(rule)).collect();
        let targets: Vec<Vec<Index>> = file.node_attributes.iter().map(|entry| build.list(&entry.target)).collect();
        let Build { selectors, lists, .. } = build;
        let count = selectors.len();
        let bits = |indices: &[Index]| bits_of(indices, count);
        let mut rules = Self {
            addresses: selectors
                .iter()
                .enumerate()
                .filter_map(
                    |(at, selector)| {
                        if let Selector::Addresses(prefix) = selector { Some((at, *prefix)) } else { None }
                    },
                )
                .collect(),
            by_tag: BTreeMap::new(),
            by_user: BTreeMap::new(),
            every_node: FixedBitSet::with_capacity(count),
            every_member: FixedBitSet::with_capacity(count),
            every_tagged: FixedBitSet::with_capacity(count),
            clauses: clauses.into_iter().map(|draft| draft.finish(&lists, &bits)).collect(),
            ssh: ssh
                .into_iter()
                .map(|(rule, src, dst)| SshClause {
                    same_user: rule.dst.contains(&Selector::SameUser),
                    src_bits: bits(&src),
                    dst_bits: bits(&dst),
                    rule,
                    src,
                })
                .collect(),
            attribute_targets: targets.iter().map(|target| bits(target)).collect(),
            source_lists: lists,
            selectors,
            file,
            people,
        };
        rules.index();
        rules
    }

    fn index(&mut self) {
        let count = self.selectors.len();
        let empty = || FixedBitSet::with_capacity(count);
        for (at, selector) in self.selectors.iter().enumerate() {
            let users: Vec<UserId> = match selector {
                Selector::Any | Selector::Everywhere => {
                    self.every_node.insert(at);
                    continue;
                }
                Selector::Member => {
                    self.every_member.insert(at);
                    continue;
                }
                Selector::Tagged => {
                    self.every_tagged.insert(at);
                    continue;
                }
                Selector::Tag(tag) => {
                    self.by_tag.entry(tag.clone()).or_insert_with(empty).insert(at);
                    continue;
                }
                Selector::Addresses(_) | Selector::Shared | Selector::SameUser | Selector::Internet => continue,
                Selector::User(_) | Selector::Group(_) | Selector::Domain(_) | Selector::Role(_) => {
                    self.users_of(selector)
                }
            };
            for user in users {
                self.by_user.entry(user).or_insert_with(empty).insert(at);
            }
        }
    }

    /// The users that a selector names; none for one that names no users.
    pub(crate) fn users_of(&self, selector: &Selector) -> Vec<UserId> {
        users_of(selector, &self.file, &self.people)
    }

    /// The selectors that a node matches by whose it is.
    pub(crate) fn matches_owner(&self, owner: &Owner) -> FixedBitSet {
        let mut bits = self.every_node.clone();
        bits.grow(self.selectors.len());
        match owner {
            Owner::User(user) => {
                bits.union_with(&self.every_member);
                if let Some(own) = self.by_user.get(user) {
                    bits.union_with(own);
                }
            }
            Owner::Tags { tags, .. } => {
                bits.union_with(&self.every_tagged);
                for own in tags.iter().filter_map(|tag| self.by_tag.get(tag)) {
                    bits.union_with(own);
                }
            }
            Owner::Nobody => {}
        }
        bits
    }

    /// What is written.
    pub const fn file(&self) -> &Arc<PolicyFile> {
        &self.file
    }

    /// Who the people are.
    pub const fn people(&self) -> &Arc<People> {
        &self.people
    }

    /// Whether any route is approved without a person.
    pub fn approves_anything(&self) -> bool {
        !self.file.auto_approvers.routes.is_empty() || !self.file.auto_approvers.exit_node.is_empty()
    }

    /// Whether nothing is written that would restrict anybody.
    pub fn allows_everything(&self) -> bool {
        self.file.grants.is_none()
    }

    /// The tag groups that grants steer through.
    pub fn steered(&self) -> BTreeSet<Arc<BTreeSet<Tag>>> {
        self.clauses.iter().filter_map(|clause| clause.via.as_ref()).map(|via| Arc::clone(&via.tags)).collect()
    }
}

/// The users that a selector names.
pub(crate) fn users_of(selector: &Selector, file: &PolicyFile, people: &People) -> Vec<UserId> {
    match selector {
        Selector::User(login) => people.named(login).collect(),
        Selector::Group(group) => {
            let members = file.names.groups.get(group).map(Vec::as_slice).unwrap_or_default();
            members.iter().flat_map(|login| people.named(login)).collect()
        }
        Selector::Domain(domain) => people.of_domain(domain).collect(),
        Selector::Role(role) => people.of_role(*role).collect(),
        Selector::Member => people.all().collect(),
        Selector::Any
        | Selector::Everywhere
        | Selector::Tag(_)
        | Selector::Tagged
        | Selector::Shared
        | Selector::SameUser
        | Selector::Internet
        | Selector::Addresses(_) => Vec::new(),
    }
}

fn everything() -> Grant {
    let traffic = Arc::from([Traffic { protocol: None, ports: vec![Ports::ALL] }]);
    Grant {
        src: vec![Selector::Any],
        dst: vec![crate::file::Destination { target: Selector::Any, traffic }],
        app: Vec::new(),
        via: Vec::new(),
        conditional: false,
        at: 0..0,
    }
}

fn bits_of(indices: &[Index], count: usize) -> FixedBitSet {
    let mut bits = FixedBitSet::with_capacity(count);
    bits.extend(indices.iter().copied());
    bits
}

/// Numbers for selectors and lists, given out as they come up.
#[derive(Default)]
struct Build {
    selectors: Vec<Selector>,
    numbers: BTreeMap<Selector, Index>,
    lists: Vec<Vec<Index>>,
    list_numbers: BTreeMap<Vec<Index>, Index>,
}

struct ClauseDraft {
    sources: Index,
    dst: Vec<Target>,
    destinations: Index,
    app: Vec<(String, Arc<serde_json::Value>)>,
    via: Option<(Arc<BTreeSet<Tag>>, Vec<Index>)>,
}

impl ClauseDraft {
    fn finish(self, lists: &[Vec<Index>], bits: &dyn Fn(&[Index]) -> FixedBitSet) -> Clause {
        let reverse = PAIRED.iter().filter(|(name, _)| self.app.iter().any(|(app, _)| app == name));
        Clause {
            src: bits(&lists[self.sources]),
            dst_bits: bits(&lists[self.destinations]),
            reverse: reverse.map(|(_, other)| *other).collect(),
            sources: self.sources,
            dst: self.dst,
            destinations: self.destinations,
            app: self.app,
            via: self.via.map(|(tags, indices)| Via { tags, bits: bits(&indices) }),
        }
    }
}

impl Build {
    fn number(&mut self, selector: &Selector) -> Index {
        if let Some(at) = self.numbers.get(selector) {
            return *at;
        }
        let at = self.selectors.len();
        self.selectors.push(selector.clone());
        self.numbers.insert(selector.clone(), at);
        at
    }

    /// The numbers of these selectors, each once, in order.
    fn list(&mut self, selectors: &[Selector]) -> Vec<Index> {
        let all: BTreeSet<Index> = selectors.iter().map(|selector| self.number(selector)).collect();
        all.into_iter().collect()
    }

    fn list_number(&mut self, selectors: &[Selector]) -> Index {
        let list = self.list(selectors);
        if let Some(at) = self.list_numbers.get(&list) {
            return *at;
        }
        let at = self.lists.len();
        self.lists.push(list.clone());
        self.list_numbers.insert(list, at);
        at
    }

    fn grant(&mut self, grant: &Grant) -> ClauseDraft {
        let places = |selector: &Selector| !matches!(selector, Selector::SameUser | Selector::Internet);
        let dst: Vec<Target> = grant
            .dst
            .iter()
            .map(|destination| {
                let to = match &destination.target {
                    Selector::Any | Selector::Everywhere => To::Any,
                    Selector::SameUser => To::SameUser,
                    Selector::Internet => To::Internet,
                    Selector::Addresses(prefix) => To::Addresses(self.number(&destination.target), *prefix),
                    nodes @ (Selector::User(_)
                    | Selector::Domain(_)
                    | Selector::Group(_)
                    | Selector::Tag(_)
                    | Selector::Member
                    | Selector::Tagged
                    | Selector::Shared
                    | Selector::Role(_)) => To::Nodes(self.number(nodes)),
                };
                Target { to, traffic: Arc::clone(&destination.traffic) }
            })
            .collect();
        let destinations: Vec<Selector> =
            grant.dst.iter().map(|dst| dst.target.clone()).filter(|selector| places(selector)).collect();
        let via = (!grant.via.is_empty()).then(|| {
            let tags: Vec<Selector> = grant.via.iter().cloned().map(Selector::Tag).collect();
            (Arc::new(grant.via.iter().cloned().collect()), self.list(&tags))
        });
        ClauseDraft {
            sources: self.list_number(&grant.src),
            dst,
            destinations: self.list_number(&destinations),
            app: grant.app.clone(),
            via,
        }
    }

    fn ssh(&mut self, rule: &SshRule) -> (SshRule, Vec<Index>, Vec<Index>) {
        let dst: Vec<Selector> = rule.dst.iter().filter(|dst| **dst != Selector::SameUser).cloned().collect();
        (rule.clone(), self.list(&rule.src), self.list(&dst))
    }
}
