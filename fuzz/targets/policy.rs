//! A policy text, read, compiled for a small tailnet, and asked everything. Nothing may panic, and what is told of a fault has to be
//! printable.

#![no_main]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use libfuzzer_sys::{Corpus, fuzz_target};
use wayleave_model::{NodeId, Owner, Prefix, Tag, Timestamp, User, UserId, UserRole};
use wayleave_policy::{CompiledPolicy, Domains, People, PolicyError, PolicyFile, Rules, Subject, Surroundings};

fn user(id: u64, name: &str, role: UserRole) -> User {
    User {
        id: UserId::new(id),
        name: name.to_owned(),
        display_name: name.to_owned(),
        email: Some(format!("{name}@example.com")),
        identity: None,
        picture: String::new(),
        role,
        created_at: Timestamp::from_millis(0),
    }
}

fn subject(id: u64, owner: Owner, approved: &[&str]) -> (NodeId, Subject) {
    let addresses: Vec<IpAddr> = [format!("100.64.0.{id}"), format!("fd7a:115c:a1e0::{id}")]
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let approved: BTreeSet<Prefix> = approved.iter().filter_map(|text| text.parse().ok()).collect();
    (NodeId::new(id), Subject { owner, addresses, approved })
}

fn tailnet() -> Vec<(NodeId, Subject)> {
    let tags = |names: &[&str]| Owner::Tags {
        tags: names.iter().filter_map(|name| name.parse::<Tag>().ok()).collect(),
        created_by: None,
    };
    vec![
        subject(1, Owner::User(UserId::new(1)), &[]),
        subject(2, Owner::User(UserId::new(2)), &["10.33.0.0/16"]),
        subject(3, Owner::User(UserId::new(2)), &["0.0.0.0/0", "::/0"]),
        subject(4, tags(&["tag:server"]), &[]),
        subject(5, tags(&["tag:router", "tag:server"]), &["10.33.0.0/16", "fd00::/64"]),
        subject(6, Owner::Nobody, &[]),
    ]
}

fuzz_target!(|text: &str| -> Corpus {
    let around =
        Surroundings { domains: Domains::Only([String::from("example.com")].into()), ..Surroundings::default() };
    let file = match PolicyFile::parse(text, &around) {
        Ok(file) => Arc::new(file),
        Err(error) => {
            assert!(!error.faults.is_empty());
            assert!(!error.to_string().is_empty());
            return Corpus::Keep;
        }
    };
    let people = [user(1, "anna", UserRole::Owner), user(2, "berta", UserRole::Member)];
    let rules = Arc::new(Rules::new(file, Arc::new(People::new(&people))));
    let policy = CompiledPolicy::compile(rules, tailnet());
    let faults = policy.run_tests(&around);
    if !faults.is_empty() {
        assert!(!PolicyError { text: text.into(), faults }.to_string().is_empty());
    }
    for (node, subject) in tailnet() {
        let peers: Vec<NodeId> =
            tailnet().into_iter().map(|(peer, _)| peer).filter(|peer| *peer != node && policy.sees(node, *peer)).collect();
        assert_eq!(policy.peers(node), peers, "who is seen does not depend on how it is asked");
        policy.filter(node);
        policy.attributes(node);
        policy.ssh(node);
        policy.rules().address_pool(&subject.owner);
        for prefix in &subject.approved {
            policy.steering(node, prefix);
            policy.rules().auto_approves(&subject.owner, prefix);
        }
        for (peer, _) in tailnet() {
            assert_eq!(policy.sees(node, peer), policy.sees(peer, node), "sight goes both ways");
            policy.may_exit(node, peer);
        }
    }
    // Taking a node out and in again changes no answer.
    let mut again = policy.clone();
    let (node, subject) = tailnet().swap_remove(4);
    again.put(node, None);
    again.put(node, Some(subject));
    for (node, _) in tailnet() {
        assert_eq!(again.filter(node), policy.filter(node));
        assert_eq!(again.ssh(node), policy.ssh(node));
        assert_eq!(again.peers(node), policy.peers(node));
    }
    Corpus::Keep
});
