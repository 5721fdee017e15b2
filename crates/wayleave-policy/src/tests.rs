//! The tests that a policy brings along: what has to be allowed, and what must not be. A policy that fails its own is not set.
//!
//! They are about names, not about machines: a test on a tag holds whether or not a node has it. Where an address belongs to a node, the
//! rules for that node's owner or tags count too.

use std::net::IpAddr;

use wayleave_model::{Owner, Tag, UserId};

use crate::compiled::CompiledPolicy;
use crate::file::{PolicyFile, SshTest, Test};
use crate::people::Surroundings;
use crate::ports::{Ports, TCP, UDP, parse_ports, parse_protocol};
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
    /// The source's own devices.
    SameUser,
    Internet,
    Everything,
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
        let sources = match self.parties(&src.text, around, Side::Source) {
            Ok(sources) => sources,
            Err(why) => return fail(format!("src: {why}"), &src.span),
        };
        let protocols = match &test.protocol {
            None => vec![TCP, UDP],
            Some(text) if text.text.is_empty() => vec![TCP, UDP],
            Some(text) => match parse_protocol(&text.text) {
                Ok(protocol) => vec![protocol],
                Err(why) => return fail(why, &text.span),
            },
        };
        let wanted = test.accept.iter().map(|text| (text, true)).chain(test.deny.iter().map(|text| (text, false)));
        for (text, accept) in wanted {
            let (targets, ports) = match self.test_destination(&text.text, around) {
                Ok(parsed) => parsed,
                Err(why) => {
                    fail(why, &text.span);
                    continue;
                }
            };
            let allowed = |source: &Party, target: &Party, port: Ports| {
                protocols.iter().any(|protocol| self.allows(source, target, *protocol, port))
            };
            let mut cases = sources.iter().flat_map(|source| {
                let ports = &ports;
                targets.iter().flat_map(move |target| ports.iter().map(move |port| (source, target, *port)))
            });
            if accept && !cases.clone().all(|(source, target, port)| allowed(source, target, port)) {
                fail(format!("{:?} can't reach {:?}, and has to", src.text, text.text), &text.span);
            } else if !accept && cases.any(|(source, target, port)| allowed(source, target, port)) {
                fail(format!("{:?} can reach {:?}, and must not", src.text, text.text), &text.span);
            }
        }
    }

    fn test_destination(&self, text: &str, around: &Surroundings) -> Result<(Vec<Party>, Vec<Ports>), String> {
        let (target, ports) = split_ports(text.trim())?;
        let ports = parse_ports(ports).map_err(|why| format!("{text:?}: {why}"))?;
        Ok((self.parties(target, around, Side::Destination)?, ports))
    }

    pub(crate) fn parties(&self, text: &str, around: &Surroundings, side: Side) -> Result<Vec<Party>, String> {
        let rules = &self.rules;
        let selector = rules.file.names.selector(text, around)?;
        let parties: Vec<Party> = match &selector {
            Selector::Any | Selector::Everywhere if side == Side::Destination => vec![Party::Everything],
            Selector::Any | Selector::Everywhere => {
                let tags = rules.file.names.tag_owners.keys().cloned().map(Party::Tag);
                rules.people.all().map(Party::User).chain(tags).collect()
            }
            Selector::User(_) | Selector::Group(_) | Selector::Domain(_) | Selector::Role(_) | Selector::Member => {
                rules.users_of(&selector).into_iter().map(Party::User).collect()
            }
            Selector::Tag(tag) => vec![Party::Tag(tag.clone())],
            Selector::Tagged => rules.file.names.tag_owners.keys().cloned().map(Party::Tag).collect(),
            Selector::SameUser if side == Side::Destination => vec![Party::SameUser],
            Selector::Internet if side == Side::Destination => vec![Party::Internet],
            Selector::SameUser | Selector::Internet => return Err(format!("{text:?} can't be a source")),
            Selector::Addresses(prefix) => {
                let net = prefix.net();
                if net.prefix_len() != net.max_prefix_len() {
                    return Err(format!("{text:?} is more than one address; a test is about one"));
                }
                let address = prefix.network();
                let owner = self.nodes.values().find(|standing| standing.subject.addresses.contains(&address));
                vec![Party::Address(address, owner.map(|standing| standing.subject.owner.clone()))]
            }
        };
        if parties.is_empty() { Err(format!("{text:?} names nobody")) } else { Ok(parties) }
    }

    fn allows(&self, source: &Party, target: &Party, protocol: u16, ports: Ports) -> bool {
        self.rules.clauses.iter().any(|clause| {
            let mut src = self.rules.source_lists[clause.sources].iter();
            let concerned = |to: &Target| {
                let passes = to.traffic.iter().any(|traffic| {
                    let usual = traffic.protocol.is_none() && [1, TCP, UDP, 58].contains(&protocol);
                    (usual || traffic.protocol == Some(protocol)) && traffic.ports.iter().any(|own| own.covers(ports))
                });
                passes && self.is_target(to.to, source, target)
            };
            src.any(|at| self.is_party(&self.rules.selectors[*at], source)) && clause.dst.iter().any(concerned)
        })
    }

    pub(crate) fn is_target(&self, to: To, source: &Party, target: &Party) -> bool {
        match to {
            To::Any => true,
            To::Nodes(at) => self.is_party(&self.rules.selectors[at], target),
            To::Addresses(at, _) => self.is_party(&self.rules.selectors[at], target),
            To::SameUser => match (user_of(source), target) {
                (Some(_), Party::SameUser) => true,
                (Some(own), other) => user_of(other) == Some(own),
                (None, _) => false,
            },
            To::Internet => match target {
                Party::Internet => true,
                Party::Address(address, _) => crate::filter::internet().any(|prefix| prefix.contains(*address)),
                Party::User(_) | Party::Tag(_) | Party::SameUser | Party::Everything => false,
            },
        }
    }

    /// Whether a selector of a rule names this party.
    pub(crate) fn is_party(&self, selector: &Selector, party: &Party) -> bool {
        match selector {
            Selector::Any | Selector::Everywhere => !matches!(party, Party::Everything),
            Selector::Addresses(prefix) => match party {
                Party::Address(address, _) => prefix.contains(*address),
                Party::User(_) | Party::Tag(_) => self.all_inside(party, |address| prefix.contains(*address)),
                Party::SameUser | Party::Internet | Party::Everything => false,
            },
            Selector::Tag(tag) => match party {
                Party::Tag(own) => own == tag,
                Party::Address(_, Some(Owner::Tags { tags, .. })) => tags.contains(tag),
                Party::Address(..) | Party::User(_) | Party::SameUser | Party::Internet | Party::Everything => false,
            },
            Selector::Tagged => matches!(party, Party::Tag(_) | Party::Address(_, Some(Owner::Tags { .. }))),
            Selector::Member => user_of(party).is_some(),
            Selector::User(_) | Selector::Group(_) | Selector::Domain(_) | Selector::Role(_) => {
                user_of(party).is_some_and(|user| self.rules.users_of(selector).contains(&user))
            }
            Selector::SameUser | Selector::Internet => false,
        }
    }

    /// Whether a party has nodes, and each of them an address that fits.
    fn all_inside(&self, party: &Party, fits: impl Fn(&IpAddr) -> bool) -> bool {
        let mut own = self
            .nodes
            .values()
            .filter(|standing| match (party, &standing.subject.owner) {
                (Party::User(user), Owner::User(own)) => user == own,
                (Party::Tag(tag), Owner::Tags { tags, .. }) => tags.contains(tag),
                _other => false,
            })
            .peekable();
        own.peek().is_some() && own.all(|standing| standing.subject.addresses.iter().any(&fits))
    }

    fn run_ssh_test(&self, test: &SshTest, around: &Surroundings, fail: &mut dyn FnMut(String, &Span)) {
        let Some(src) = &test.src else { return fail("`src` is missing".to_owned(), &test.at) };
        if test.accept.is_empty() && test.check.is_empty() && test.deny.is_empty() {
            return fail("none of `accept`, `check` and `deny` says anything".to_owned(), &test.at);
        }
        let sources = match self.parties(&src.text, around, Side::Source) {
            Ok(sources) => sources,
            Err(why) => return fail(format!("src: {why}"), &src.span),
        };
        if test.dst.is_empty() {
            return fail("`dst` is missing".to_owned(), &test.at);
        }
        let mut targets = Vec::new();
        for text in &test.dst {
            match self.parties(&text.text, around, Side::Destination) {
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
        let fits = |clause: &&SshClause| {
            let from = self.rules.ssh_selectors(clause).any(|selector| self.is_party(selector, source));
            let there = clause.rule.dst.iter().any(|dst| {
                let own = *dst == Selector::SameUser && self.is_target(To::SameUser, source, target);
                own || self.is_party(dst, target)
            });
            from && there && self.rules.ssh_allows(clause, user_of(source), name)
        };
        let found = self.rules.ssh_in_order().find(fits);
        found.map_or(SshAccess::Denied, |clause| clause.rule.check.map_or(SshAccess::Accepted, SshAccess::Check))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

const fn user_of(party: &Party) -> Option<UserId> {
    match party {
        Party::User(user) | Party::Address(_, Some(Owner::User(user))) => Some(*user),
        Party::Tag(_) | Party::Address(..) | Party::SameUser | Party::Internet | Party::Everything => None,
    }
}
