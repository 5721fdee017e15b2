//! What a policy costs: `cargo xtask bench policy` runs it once for each size, each in a process of its own, and makes the table.
//!
//! `bench_policy NODES classes|self` prints one line for each step: its name, how many milliseconds it took, how many answers it gave,
//! and how many KiB the process holds after it.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock; what it measures does not")]
#![allow(clippy::unwrap_used, reason = "its input is its own")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use wayleave_model::{NodeId, Owner, Prefix, Tag, Timestamp, User, UserId, UserRole};
use wayleave_policy::{CompiledPolicy, People, PolicyFile, Rules, Subject, Surroundings};

/// Nodes differ in one of these tags.
const CLASSES: u64 = 50;
const RULES: u64 = 200;
/// Of so many nodes one is a router, for a prefix that some others lead to as well.
const ROUTERS: u64 = 100;

fn main() {
    let mut args = std::env::args().skip(1);
    let nodes: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let own = args.next().as_deref() == Some("self");
    // With `self`, nine nodes of ten are somebody's, and there are half as many users as nodes.
    let users: Vec<User> = (1..=nodes / 2).filter(|_| own).map(user).collect();
    let subjects: Vec<(NodeId, Subject)> = (1..=nodes).map(|id| (NodeId::new(id), subject(id, own))).collect();

    let mut steps = Steps { last: Instant::now() };
    let text = policy(own);
    let file = PolicyFile::parse(&text, &Surroundings::default()).unwrap();
    steps.done("read", 1);
    let rules = Arc::new(Rules::new(Arc::new(file), Arc::new(People::new(&users))));
    steps.done("rules", RULES);
    let mut policy = CompiledPolicy::compile(rules, subjects.iter().cloned());
    steps.done("compile", nodes);
    let ids: Vec<NodeId> = subjects.iter().map(|(id, _)| *id).collect();

    let seen: usize = ids.iter().map(|id| policy.seen_by_class(*id)).sum();
    steps.done("sight by class", nodes);
    black_box(seen);
    let listed: usize = ids.iter().map(|id| policy.peers(*id).len()).sum();
    steps.done("peers, listed", listed as u64);
    let filters: Vec<_> = ids.iter().map(|id| policy.filter(*id)).collect();
    steps.done("filters, all held", nodes);
    drop(filters);
    let prefixes: Vec<Prefix> = (0..ROUTERS / 10).map(prefix).collect();
    for id in &ids {
        for prefix in &prefixes {
            black_box(policy.steering(*id, prefix));
        }
    }
    black_box(policy.steered());
    steps.done("routes", nodes * prefixes.len() as u64);
    let attributes: Vec<_> = ids.iter().map(|id| policy.attributes(*id)).collect();
    steps.done("attributes", nodes);
    drop(attributes);
    let shells: Vec<_> = ids.iter().map(|id| policy.ssh(*id)).collect();
    steps.done("shells, all held", nodes);
    drop(shells);
    // A node goes and comes back with another route; the one after it asks for its filter.
    for at in 0..100 {
        let (id, subject) = &subjects[at * subjects.len() / 100];
        let mut next = policy.clone();
        next.put(*id, None);
        black_box(next.filter(ids[(at * subjects.len() / 100 + 1) % ids.len()]));
        next.put(*id, Some(subject.clone()));
        policy = next;
    }
    steps.done("100 changes", 200);
    println!("classes\t0\t{}\t0", policy.classes());
}

struct Steps {
    last: Instant,
}

impl Steps {
    fn done(&mut self, step: &str, answers: u64) {
        let took = self.last.elapsed().as_secs_f64() * 1000.0;
        let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        println!("{step}\t{took:.3}\t{answers}\t{}", pages * 4);
        self.last = Instant::now();
    }
}

fn user(id: u64) -> User {
    User {
        id: UserId::new(id),
        name: format!("user{id}"),
        display_name: String::new(),
        email: Some(format!("user{id}@example.com")),
        identity: None,
        picture: String::new(),
        role: UserRole::Member,
        created_at: Timestamp::from_millis(0),
    }
}

fn prefix(number: u64) -> Prefix {
    format!("10.{number}.0.0/16").parse().unwrap()
}

fn subject(id: u64, own: bool) -> Subject {
    let addresses: Vec<IpAddr> = vec![
        format!("100.{}.{}.{}", 64 + id / 65_536, id / 256 % 256, id % 256).parse().unwrap(),
        format!("fd7a:115c:a1e0::{id:x}").parse().unwrap(),
    ];
    let owner = if own && !id.is_multiple_of(10) {
        Owner::User(UserId::new(id.div_ceil(2)))
    } else {
        let tag = if own { id / 10 } else { id } % CLASSES;
        Owner::Tags { tags: [format!("tag:t{tag}").parse::<Tag>().unwrap()].into(), created_by: None }
    };
    let approved =
        if id.is_multiple_of(ROUTERS) { [prefix(id / ROUTERS % (ROUTERS / 10))].into() } else { BTreeSet::new() };
    Subject { owner, addresses, approved }
}

fn policy(own: bool) -> String {
    let mut text = String::from("{\"tagOwners\": {");
    for tag in 0..CLASSES {
        write!(text, "\"tag:t{tag}\": [],").unwrap();
    }
    text.push_str("}, \"grants\": [");
    if own {
        text.push_str("{\"src\": [\"autogroup:member\"], \"dst\": [\"autogroup:self\"], \"ip\": [\"*\"]},");
        text.push_str("{\"src\": [\"autogroup:member\"], \"dst\": [\"tag:t1\"], \"ip\": [\"443\"]},");
    }
    for rule in 0..RULES {
        let (src, dst) = (rule % CLASSES, (rule * 7 + rule / CLASSES) % CLASSES);
        let what = match rule % 10 {
            0 => format!("\"dst\": [\"10.{}.0.0/16\"], \"ip\": [\"*\"]", rule / 10 % (ROUTERS / 10)),
            1 => format!(
                "\"dst\": [\"10.{}.0.0/16\"], \"ip\": [\"*\"], \"via\": [\"tag:t0\"]",
                rule / 10 % (ROUTERS / 10)
            ),
            2 => format!("\"dst\": [\"tag:t{dst}\"], \"app\": {{\"example.com/cap/x\": [{{\"rule\": {rule}}}]}}"),
            _ => format!("\"dst\": [\"tag:t{dst}\"], \"ip\": [\"tcp:{}\"]", 1000 + rule),
        };
        write!(text, "{{\"src\": [\"tag:t{src}\"], {what}}},").unwrap();
    }
    text.push_str("], \"nodeAttrs\": [");
    for entry in 0..10 {
        write!(text, "{{\"target\": [\"tag:t{entry}\"], \"attr\": [\"randomize-client-port\"]}},").unwrap();
    }
    text.push_str("], \"ssh\": [");
    for rule in 0..20 {
        let (src, dst) = (rule, (rule * 3 + 1) % CLASSES);
        write!(
            text,
            "{{\"action\": \"accept\", \"src\": [\"tag:t{src}\"], \"dst\": [\"tag:t{dst}\"], \"users\": [\"root\"]}},"
        )
        .unwrap();
    }
    if own {
        text.push_str("{\"action\": \"check\", \"src\": [\"autogroup:member\"], \"dst\": [\"autogroup:self\"], \"users\": [\"root\"]},");
    }
    text.push_str("]}");
    text
}
