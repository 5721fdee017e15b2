//! The tests that a policy brings along: what has to be allowed, and what must not be. A policy that fails its own is not set.
//!
//! They are about names, not about machines: a test on a tag holds whether or not a node has it. Where an address belongs to a node, the
//! rules for that node's owner or tags count too.

use std::net::IpAddr;
use std::sync::Arc;

use wayleave_model::{Owner, Tag, UserId};

use crate::compiled::{CompiledPolicy, Standing};
use crate::file::{PolicyFile, SshTest, Test};
use crate::people::Surroundings;
use crate::ports::{ICMP, ICMP_V6, TCP, Traffic, UDP, parse_protocol, port};
use crate::read::split_ports;
use crate::rules::{SshClause, Target, To};
use crate::selector::Selector;
use crate::source::{Fault, Span, Text};
use crate::ssh::SshAccess;

/// A test that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// `tests` or `sshTests`.
    pub section: &'static str,
    /// Which of the section's, from 0.
    pub index: usize,
    /// Its source, as it is written.
    pub src: String,
    /// What does not hold; none if it passed. Places are those in the file that the test stands in.
    pub faults: Vec<Fault>,
}

fn words(text: Option<&Text>) -> String {
    text.map(|text| text.text.clone()).unwrap_or_default()
}

/// One end of a test.
#[derive(Clone, Debug)]
pub(crate) enum Party {
    User(UserId),
    Tag(Tag),
    Address(IpAddr, Option<Owner>),
    /// Whoever asks.
    Anybody,
}

impl CompiledPolicy {
    /// Runs the policy's tests. Every one that fails is a fault.
    pub fn run_tests(&self, around: &Surroundings) -> Vec<Fault> {
        let all = self.run_tests_of(&self.rules.file, around);
        let told = |test: TestRun| {
            let place = format!("test(s) failed: {}[{}]: ", test.section, test.index);
            test.faults.into_iter().map(move |fault| Fault { message: format!("{place}{}", fault.message), ..fault })
        };
        all.into_iter().flat_map(told).collect()
    }

    /// Runs the tests of a file, which may be another one than the policy's own: what they name is what this policy names so.
    pub fn run_tests_of(&self, file: &PolicyFile, around: &Surroundings) -> Vec<TestRun> {
        let mut all = Vec::new();
        for (index, test) in file.tests.iter().enumerate() {
            let mut faults = Vec::new();
            self.run_test(test, around, &mut |why, at: &Span| faults.push(Fault::new(why, at)));
            all.push(TestRun { section: "tests", index, src: words(test.src.as_ref()), faults });
        }
        for (index, test) in file.ssh_tests.iter().enumerate() {
            let mut faults = Vec::new();
            self.run_ssh_test(test, around, &mut |why, at: &Span| faults.push(Fault::new(why, at)));
            all.push(TestRun { section: "sshTests", index, src: words(test.src.as_ref()), faults });
        }
        all
    }

    fn run_test(&self, test: &Test, around: &Surroundings, fail: &mut dyn FnMut(String, &Span)) {
        let Some(src) = &test.src else { return fail("`src` is missing".to_owned(), &test.at) };
        if test.accept.is_empty() && test.deny.is_empty() {
            return fail("neither `accept` nor `deny` says anything".to_owned(), &test.at);
        }
        let sources = match self.parties(&src.text, around) {
            Ok(sources) => sources,
            Err(why) => return fail(format!("src: {why}"), &src.span),
        };
        let protocols = match &test.protocol {
            None => vec![TCP, UDP],
            Some(text) => match parse_protocol(&text.text) {
                Ok(None) => vec![TCP, UDP],
                Ok(Some(protocol)) => vec![protocol],
                Err(why) => return fail(why, &text.span),
            },
        };
        let wanted = test.accept.iter().map(|text| (text, true)).chain(test.deny.iter().map(|text| (text, false)));
        for (text, accept) in wanted {
            let (targets, port) = match self.test_destination(&text.text, around) {
                Ok(parsed) => parsed,
                Err(why) => {
                    fail(why, &text.span);
                    continue;
                }
            };
            let allowed = |(source, target): (&Party, &Party)| {
                protocols.iter().any(|protocol| self.allows(source, target, *protocol, port))
            };
            if accept {
                let mut pairs = sources.iter().flat_map(|source| targets.iter().map(move |target| (source, target)));
                if !pairs.all(allowed) {
                    fail(format!("{:?} can't reach {:?}, and has to", src.text, text.text), &text.span);
                }
            } else {
                // One machine of the source that reaches one of the destination is enough.
                let (sources, targets) = (self.with_nodes(&sources), self.with_nodes(&targets));
                let mut pairs = sources.iter().flat_map(|source| targets.iter().map(move |target| (source, target)));
                if pairs.any(allowed) {
                    fail(format!("{:?} can reach {:?}, and must not", src.text, text.text), &text.span);
                }
            }
        }
    }

    /// A test is about one port: no range, no list, no `*` (Tailscale's documentation of `tests`). 0 stands for protocols without ports.
    fn test_destination(&self, text: &str, around: &Surroundings) -> Result<(Vec<Party>, u16), String> {
        let (target, written) = split_ports(text.trim())?;
        let port = port(written).ok_or_else(|| format!("{text:?}: a test is about one port, by its number"))?;
        Ok((self.parties(target, around)?, port))
    }

    /// Whom or what a test is about: a user, a group, a tag, an address, or a host that is one (Tailscale's documentation of `tests`).
    ///
    /// # Errors
    ///
    /// It is none of them, or names nobody.
    pub(crate) fn parties(&self, text: &str, around: &Surroundings) -> Result<Vec<Party>, String> {
        let rules = &self.rules;
        let selector = rules.file.names.selector(text, around)?;
        let parties: Vec<Party> = match &selector {
            Selector::User(_) | Selector::Group(_) => rules.users_of(&selector).into_iter().map(Party::User).collect(),
            Selector::Tag(tag) => vec![Party::Tag(tag.clone())],
            Selector::Addresses(prefix) => {
                let net = prefix.net();
                if net.prefix_len() != net.max_prefix_len() {
                    return Err(format!("{text:?} is more than one address; a test is about one"));
                }
                vec![self.party_at(prefix.network())]
            }
            Selector::Any
            | Selector::Everywhere
            | Selector::Domain(_)
            | Selector::Role(_)
            | Selector::Member
            | Selector::Tagged
            | Selector::Shared
            | Selector::SameUser
            | Selector::Internet => {
                return Err(format!(
                    "{text:?} is nobody in particular; name a user, a group, a tag, a host or an address"
                ));
            }
        };
        if parties.is_empty() { Err(format!("{text:?} names nobody")) } else { Ok(parties) }
    }

    fn party_at(&self, address: IpAddr) -> Party {
        let owner = self.nodes.values().find(|standing| standing.subject.addresses.contains(&address));
        Party::Address(address, owner.map(|standing| standing.subject.owner.clone()))
    }

    /// These parties, and each address of the nodes that are theirs.
    fn with_nodes(&self, parties: &[Party]) -> Vec<Party> {
        let mut all = parties.to_vec();
        for party in parties {
            for standing in self.nodes_of(party) {
                let owner = Some(standing.subject.owner.clone());
                all.extend(standing.subject.addresses.iter().map(|address| Party::Address(*address, owner.clone())));
            }
        }
        all
    }

    fn nodes_of<'a>(&'a self, party: &'a Party) -> impl Iterator<Item = &'a Standing> {
        self.nodes.values().map(Arc::as_ref).filter(move |standing| match (party, &standing.subject.owner) {
            (Party::User(user), Owner::User(own)) => user == own,
            (Party::Tag(tag), Owner::Tags { tags, .. }) => tags.contains(tag),
            _other => false,
        })
    }

    /// What a client's packet filter would say (the client's `wgengine/filter`): where any packet may go, pings may; protocols with ports
    /// need theirs; addresses of two families never meet.
    fn allows(&self, source: &Party, target: &Party, protocol: u16, port: u16) -> bool {
        if let (Party::Address(from, _), Party::Address(to, _)) = (source, target)
            && from.is_ipv4() != to.is_ipv4()
        {
            return false;
        }
        let is_ping = matches!(protocol, ICMP | ICMP_V6);
        let lets_through = |traffic: &Traffic| {
            let named = traffic.protocol == Some(protocol);
            let usual = traffic.protocol.is_none() && matches!(protocol, TCP | UDP);
            is_ping || ((named || usual) && traffic.ports.iter().any(|ports| ports.contains(port)))
        };
        self.rules.clauses.iter().any(|clause| {
            let mut src = self.rules.source_lists[clause.sources].iter();
            let concerned = |to: &Target| to.traffic.iter().any(lets_through) && self.is_target(to.to, source, target);
            src.any(|at| self.is_party(&self.rules.selectors[*at], source)) && clause.dst.iter().any(concerned)
        })
    }

    pub(crate) fn is_target(&self, to: To, source: &Party, target: &Party) -> bool {
        match to {
            To::Any => true,
            To::Nodes(at) => self.is_party(&self.rules.selectors[at], target),
            To::Addresses(at, _) => self.is_party(&self.rules.selectors[at], target),
            To::SameUser => user_of(source).is_some() && user_of(source) == user_of(target),
            To::Internet => match target {
                Party::Address(address, _) => crate::filter::internet().any(|prefix| prefix.contains(*address)),
                Party::User(_) | Party::Tag(_) | Party::Anybody => false,
            },
        }
    }

    /// Whether a selector of a rule names this party.
    pub(crate) fn is_party(&self, selector: &Selector, party: &Party) -> bool {
        match selector {
            Selector::Everywhere => true,
            Selector::Any => match party {
                Party::Address(_, Some(_)) | Party::User(_) | Party::Tag(_) | Party::Anybody => true,
                Party::Address(address, None) => self.is_any_source(address),
            },
            Selector::Addresses(prefix) => match party {
                Party::Address(address, _) => prefix.contains(*address),
                Party::User(_) | Party::Tag(_) => {
                    let mut own = self.nodes_of(party).peekable();
                    let inside =
                        |standing: &Standing| standing.subject.addresses.iter().any(|own| prefix.contains(*own));
                    own.peek().is_some() && own.all(inside)
                }
                Party::Anybody => false,
            },
            Selector::Tag(tag) => match party {
                Party::Tag(own) => own == tag,
                Party::Address(_, Some(Owner::Tags { tags, .. })) => tags.contains(tag),
                Party::Address(..) | Party::User(_) | Party::Anybody => false,
            },
            Selector::Tagged => matches!(party, Party::Tag(_) | Party::Address(_, Some(Owner::Tags { .. }))),
            Selector::Member => user_of(party).is_some(),
            Selector::User(_) | Selector::Group(_) | Selector::Domain(_) | Selector::Role(_) => {
                user_of(party).is_some_and(|user| self.rules.users_of(selector).contains(&user))
            }
            Selector::Shared | Selector::SameUser | Selector::Internet => false,
        }
    }

    fn run_ssh_test(&self, test: &SshTest, around: &Surroundings, fail: &mut dyn FnMut(String, &Span)) {
        let Some(src) = &test.src else { return fail("`src` is missing".to_owned(), &test.at) };
        if test.accept.is_empty() && test.check.is_empty() && test.deny.is_empty() {
            return fail("none of `accept`, `check` and `deny` says anything".to_owned(), &test.at);
        }
        let sources = match self.parties(&src.text, around) {
            Ok(sources) => sources,
            Err(why) => return fail(format!("src: {why}"), &src.span),
        };
        if test.dst.is_empty() {
            return fail("`dst` is missing".to_owned(), &test.at);
        }
        let mut targets = Vec::new();
        for text in &test.dst {
            match self.parties(&text.text, around) {
                Ok(parties) => targets.extend(parties),
                Err(why) => fail(format!("dst: {why}"), &text.span),
            }
        }
        let wanted = [(&test.accept, "let in"), (&test.check, "asked about"), (&test.deny, "refused")];
        let users = wanted.iter().flat_map(|(texts, word)| texts.iter().map(move |text: &Text| (text, *word)));
        for (user, word) in users {
            let holds = sources.iter().flat_map(|source| targets.iter().map(move |target| (source, target))).all(
                |(source, target)| match self.ssh_of(source, target, user.text.trim()) {
                    SshAccess::Accepted => word == "let in",
                    SshAccess::Check(_) => word == "asked about",
                    SshAccess::Denied => word == "refused",
                },
            );
            if !holds {
                fail(format!("{:?} as {:?} has to be {word}, and is not", src.text, user.text), &user.span);
            }
        }
    }

    fn ssh_of(&self, source: &Party, target: &Party, name: &str) -> SshAccess {
        let fits = |(_, clause): &(usize, &SshClause)| {
            let from = self.rules.ssh_selectors(clause).any(|selector| self.is_party(selector, source));
            let there = clause.rule.dst.iter().any(|dst| {
                let own = *dst == Selector::SameUser && self.is_target(To::SameUser, source, target);
                own || self.is_party(dst, target)
            });
            from && there && self.rules.ssh_allows(clause, user_of(source), name)
        };
        let found = self.rules.ssh_in_order().find(fits);
        found.map_or(SshAccess::Denied, |(_, clause)| clause.rule.check.map_or(SshAccess::Accepted, SshAccess::Check))
    }
}

const fn user_of(party: &Party) -> Option<UserId> {
    match party {
        Party::User(user) | Party::Address(_, Some(Owner::User(user))) => Some(*user),
        Party::Tag(_) | Party::Address(..) | Party::Anybody => None,
    }
}
