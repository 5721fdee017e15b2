//! What a policy costs: `cargo xtask bench policy` runs it once for each size, each in a process of its own, and makes the table.
//!
//! `bench_policy NODES classes|self` prints one line for each step: its name, how many milliseconds it took, how many answers it gave,
//! and how many KiB the process holds after it.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock; what it measures does not")]
#![allow(clippy::unwrap_used, reason = "its input is its own")]

#[path = "../benches/made/mod.rs"]
mod made;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use made::{RULES, policy, prefixes, subjects, users};
use wayleave_model::NodeId;
use wayleave_policy::{CompiledPolicy, People, PolicyFile, Rules, Surroundings};

fn main() {
    let mut args = std::env::args().skip(1);
    let nodes: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let own = args.next().as_deref() == Some("self");
    let users = users(nodes, own);
    let subjects = subjects(nodes, own);

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
    let prefixes = prefixes();
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
