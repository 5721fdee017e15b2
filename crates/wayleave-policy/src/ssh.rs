//! Who may open a shell where, and as whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use wayleave_model::{NodeId, UserId};

use crate::compiled::CompiledPolicy;
use crate::file::{CheckPeriod, SshUser};
use crate::rules::{Rules, SshClause};
use crate::selector::Selector;

/// A rule for one node that runs an SSH server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshRule {
    /// The addresses that connections may come from.
    pub principals: Arc<[IpAddr]>,
    /// As whom: the name that is asked for, and the local one; `*` for any, `=` for the same, empty for none.
    pub users: BTreeMap<String, String>,
    /// A person has to approve, and for how long that holds; `None`: nobody has to.
    pub check: Option<CheckPeriod>,
    /// Environment variables that the client may send; with `*` and `?` as in file names.
    pub accept_env: Vec<String>,
}

/// What a policy says of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SshAccess {
    /// No rule lets it in.
    Denied,
    /// It is let in.
    Accepted,
    /// A person has to approve it.
    Check(CheckPeriod),
}

impl CompiledPolicy {
    /// The rules for a node as the destination, in the order in which clients have to look at them: those that ask a person first, since
    /// the first that fits decides.
    pub fn ssh(&self, node: NodeId) -> Vec<SshRule> {
        let Some(standing) = self.nodes.get(&node) else { return Vec::new() };
        let user = standing.user();
        let mut rules = Vec::new();
        for (at, clause) in self.rules.ssh_in_order() {
            // What a destination adds of its own is among the sources already.
            if !standing.class.key.matches.is_disjoint(&clause.dst_bits) {
                let shared = self.shells[at].get_or_init(|| {
                    let mut rules = Vec::new();
                    self.rules_of(clause, &self.ssh_sources(clause), &mut rules);
                    rules.into()
                });
                rules.extend(shared.iter().cloned());
                continue;
            }
            let mut sources = BTreeSet::new();
            // Where the local name depends on who it is, the hosted control plane lets sources in on their own machines too (conformance
            // cases ssh-d3 to ssh-d12, ssh-e5).
            let own_name = clause.rule.users.iter().any(|user| matches!(user, SshUser::LocalPart(_)));
            if own_name && self.is_ssh_source(node, clause) {
                sources.insert(node);
            }
            let at_home = clause.same_user || (own_name && self.is_ssh_source(node, clause));
            if let (true, Some(user)) = (at_home, user) {
                let own = self.by_user.get(&user).into_iter().flatten();
                sources.extend(own.copied().filter(|node| self.is_ssh_source(*node, clause)));
            }
            self.rules_of(clause, &sources, &mut rules);
        }
        rules
    }

    /// Whether the policy has any rule about shells for this node.
    pub fn has_ssh(&self, node: NodeId) -> bool {
        !self.rules.ssh.is_empty() && !self.ssh(node).is_empty()
    }

    /// What the policy says of a connection from one node to another as this local user.
    pub fn ssh_access(&self, from: NodeId, to: NodeId, name: &str) -> SshAccess {
        let (Some(source), Some(target)) = (self.nodes.get(&from), self.nodes.get(&to)) else {
            return SshAccess::Denied;
        };
        let (source_user, target_user) = (source.user(), target.user());
        for (_, clause) in self.rules.ssh_in_order() {
            let there = !target.class.key.matches.is_disjoint(&clause.dst_bits);
            let own_name = clause.rule.users.iter().any(|user| matches!(user, SshUser::LocalPart(_)));
            let own = (clause.same_user || own_name) && source_user.is_some() && source_user == target_user;
            let own = own && (clause.same_user || self.is_ssh_source(to, clause));
            if (there || own) && self.is_ssh_source(from, clause) && self.rules.ssh_allows(clause, source_user, name) {
                return clause.rule.check.map_or(SshAccess::Accepted, SshAccess::Check);
            }
        }
        SshAccess::Denied
    }

    fn is_ssh_source(&self, node: NodeId, clause: &SshClause) -> bool {
        self.nodes.get(&node).is_some_and(|standing| !standing.class.key.matches.is_disjoint(&clause.src_bits))
    }

    fn ssh_sources(&self, clause: &SshClause) -> BTreeSet<NodeId> {
        let named = clause.src.iter().all(|at| self.rules.is_owner_selector(*at));
        if named {
            clause.src.iter().flat_map(|at| self.members[*at].keys().copied()).collect()
        } else {
            self.nodes.keys().copied().filter(|node| self.is_ssh_source(*node, clause)).collect()
        }
    }

    /// One rule for all sources, or one for each user where the local name depends on who it is.
    fn rules_of(&self, clause: &SshClause, sources: &BTreeSet<NodeId>, out: &mut Vec<SshRule>) {
        let domains = clause.rule.users.iter().filter_map(|user| match user {
            SshUser::LocalPart(domain) => Some(domain.as_str()),
            SshUser::NonRoot | SshUser::Name(_) => None,
        });
        let domains: Vec<&str> = domains.collect();
        let mut groups: BTreeMap<Option<UserId>, Vec<IpAddr>> = BTreeMap::new();
        for standing in sources.iter().filter_map(|node| self.nodes.get(node)) {
            let user = standing.user().filter(|_| !domains.is_empty());
            groups.entry(user).or_default().extend(&standing.subject.addresses);
        }
        let mut rule = |principals: &Arc<[IpAddr]>, users: BTreeMap<String, String>| {
            let accept_env = clause.rule.accept_env.clone();
            out.push(SshRule { principals: Arc::clone(principals), users, check: clause.rule.check, accept_env });
        };
        for (user, principals) in groups {
            let principals: Arc<[IpAddr]> = principals.into();
            rule(&principals, plain_users(&clause.rule.users));
            for domain in &domains {
                if let Some(local) = user.and_then(|user| self.rules.people.local_part(user, domain)) {
                    rule(&principals, [(local.to_owned(), local.to_owned())].into());
                }
            }
        }
    }
}

/// As whom, for what does not depend on who it is. Root is always said: a name that nobody gave must not be had by `*`.
fn plain_users(users: &[SshUser]) -> BTreeMap<String, String> {
    let mut map = BTreeMap::from([("root".to_owned(), String::new())]);
    for user in users {
        match user {
            SshUser::NonRoot => drop(map.insert("*".to_owned(), "=".to_owned())),
            SshUser::Name(name) => drop(map.insert(name.clone(), name.clone())),
            SshUser::LocalPart(_) => {}
        }
    }
    map
}

impl Rules {
    /// The rules about shells with their places in the list, those that ask a person first.
    pub(crate) fn ssh_in_order(&self) -> impl Iterator<Item = (usize, &SshClause)> {
        let of =
            |asks: bool| self.ssh.iter().enumerate().filter(move |(_, clause)| clause.rule.check.is_some() == asks);
        of(true).chain(of(false))
    }

    /// Whether a rule lets a source's user in under this local name.
    pub(crate) fn ssh_allows(&self, clause: &SshClause, source: Option<UserId>, name: &str) -> bool {
        clause.rule.users.iter().any(|user| match user {
            SshUser::NonRoot => name != "root",
            SshUser::Name(own) => own == name,
            SshUser::LocalPart(domain) => source.is_some_and(|user| self.people.local_part(user, domain) == Some(name)),
        })
    }

    /// Whether any rule about shells names this selector's kind of source or destination.
    pub(crate) fn ssh_selectors<'a>(&'a self, clause: &'a SshClause) -> impl Iterator<Item = &'a Selector> {
        clause.src.iter().map(|at| &self.selectors[*at])
    }
}
