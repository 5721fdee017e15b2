//! What one answer of a policy costs, with 200 rules about fifty tags and three sizes of tailnets.

#![allow(clippy::unwrap_used, reason = "its input is its own")]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod made;

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use made::{RULES, policy, prefixes, subjects, users};
use wayleave_model::NodeId;
use wayleave_policy::{CompiledPolicy, People, PolicyFile, Rules, Surroundings};

const SIZES: [u64; 3] = [100, 1_000, 10_000];
/// The nodes that are asked about. The viewer has a tag, the other one another.
const VIEWER: NodeId = NodeId::new(7);
const OTHER: NodeId = NodeId::new(42);

fn main() {
    println!(
        "policy: {RULES} rules about fifty tags, in a tailnet of so many nodes that all have one. `sees` is one pair, `peers` the list"
    );
    println!(
        "        for one viewer (an item is a peer), `filter`, `route`, `attributes` and `shells` one answer for one node;"
    );
    println!(
        "        `changed` takes a node out and brings it back, and then makes a filter anew; `read` is the text, `compile` all nodes"
    );
    println!("        (an item is a node). Half as many people as nodes, and autogroup:self: `filter_self`.");
    divan::main();
}

fn rules(nodes: u64, own: bool) -> Arc<Rules> {
    let file = PolicyFile::parse(&policy(own), &Surroundings::default()).unwrap();
    Arc::new(Rules::new(Arc::new(file), Arc::new(People::new(&users(nodes, own)))))
}

fn compiled(nodes: u64, own: bool) -> CompiledPolicy {
    CompiledPolicy::compile(rules(nodes, own), subjects(nodes, own))
}

#[divan::bench]
fn read(bencher: Bencher<'_, '_>) {
    let text = policy(false);
    bencher.bench(|| PolicyFile::parse(black_box(&text), &Surroundings::default()).unwrap());
}

#[divan::bench(args = SIZES, max_time = 2)]
fn compile(bencher: Bencher<'_, '_>, nodes: u64) {
    let rules = rules(nodes, false);
    bencher
        .counter(ItemsCount::new(nodes))
        .with_inputs(|| subjects(nodes, false))
        .bench_values(|subjects| CompiledPolicy::compile(Arc::clone(&rules), subjects));
}

#[divan::bench(args = SIZES)]
fn sees(bencher: Bencher<'_, '_>, nodes: u64) {
    let policy = compiled(nodes, false);
    bencher.bench(|| black_box(&policy).sees(black_box(VIEWER), black_box(OTHER)));
}

#[divan::bench(args = SIZES)]
fn peers(bencher: Bencher<'_, '_>, nodes: u64) {
    let policy = compiled(nodes, false);
    let seen = policy.peers(VIEWER).len();
    assert!(seen > 0, "the viewer sees somebody");
    bencher.counter(ItemsCount::new(seen)).bench(|| black_box(&policy).peers(VIEWER));
}

#[divan::bench(args = SIZES)]
fn filter(bencher: Bencher<'_, '_>, nodes: u64) {
    let policy = compiled(nodes, false);
    assert!(!policy.filter(VIEWER).is_empty(), "somebody may reach the node");
    bencher.bench(|| black_box(&policy).filter(VIEWER));
}

#[divan::bench(args = SIZES)]
fn filter_self(bencher: Bencher<'_, '_>, nodes: u64) {
    let policy = compiled(nodes, true);
    assert!(!policy.filter(VIEWER).is_empty(), "its owner may reach the node");
    bencher.bench(|| black_box(&policy).filter(VIEWER));
}

#[divan::bench(args = SIZES, sample_size = 1000)]
fn route(bencher: Bencher<'_, '_>, nodes: u64) {
    let policy = compiled(nodes, false);
    let prefix = prefixes()[0];
    bencher.bench(|| black_box(&policy).steering(VIEWER, black_box(&prefix)));
}

#[divan::bench(args = SIZES)]
fn attributes(bencher: Bencher<'_, '_>, nodes: u64) {
    let policy = compiled(nodes, false);
    assert!(!policy.attributes(VIEWER).is_empty(), "the node has an attribute");
    bencher.bench(|| black_box(&policy).attributes(VIEWER));
}

#[divan::bench(args = SIZES)]
fn shells(bencher: Bencher<'_, '_>, nodes: u64) {
    let policy = compiled(nodes, false);
    assert!(!policy.ssh(VIEWER).is_empty(), "a rule lets somebody in");
    bencher.bench(|| black_box(&policy).ssh(VIEWER));
}

#[divan::bench(args = SIZES)]
fn changed(bencher: Bencher<'_, '_>, nodes: u64) {
    let policy = compiled(nodes, false);
    let (id, subject) = subjects(nodes, false).swap_remove(9);
    bencher.with_inputs(|| (policy.clone(), subject.clone())).bench_values(|(mut policy, subject)| {
        policy.put(id, None);
        policy.put(id, Some(subject));
        black_box(policy.filter(VIEWER));
        policy
    });
}
