//! What a decision costs: the election itself, and a table of routes that loses the primary of ten prefixes.

#![allow(clippy::unwrap_used, reason = "its input is its own")]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::hint::black_box;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use wayleave_model::{Approver, NodeId, Prefix, RouteId, SessionId, Timestamp};
use wayleave_routes::{
    Candidate, Cause, Effect, Incumbent, Input, NodeFacts, Presence, Rank, RouteTable, Settings, Terms, approval, elect,
};

/// So many prefixes go from one router to the next.
const MOVED: usize = 10;
const START: Timestamp = Timestamp::from_millis(1_000_000);

fn main() {
    println!("election: `candidates` elects one prefix anew after its primary went down.");
    println!(
        "          `lost` is a table of so many routers, two for each {MOVED} prefixes, when the 500 ms after a loss"
    );
    println!("          are over: {MOVED} prefixes move (an item is a prefix).");
    divan::main();
}

#[divan::bench(args = [2, 10, 100])]
fn candidates(bencher: Bencher<'_, '_>, candidates: u64) {
    let rank = |node| if node == 1 { Rank::Down(Cause::ConnectionClosed) } else { Rank::Steady };
    let all: Vec<Candidate> = (1..=candidates)
        .map(|node| Candidate {
            node: NodeId::new(node),
            rank: rank(node),
            priority: 0,
            steady_since: (node > 1).then_some(START),
            presence: Presence::Here,
        })
        .collect();
    let elected = |all: &[Candidate]| elect(Incumbent::Node(NodeId::new(1)), all, Terms::default(), START);
    assert_eq!(elected(&all).primary.map(|primary| primary.node), Some(NodeId::new(2)), "the next one takes over");
    bencher.bench(|| elected(black_box(&all)));
}

#[divan::bench(args = [100, 1_000, 10_000], max_time = 2)]
fn lost(bencher: Bencher<'_, '_>, routers: u64) {
    let (table, due) = about_to_fail_over(routers);
    let moved = table.clone().handle_deadline(due);
    let moved = moved.iter().filter(|effect| matches!(effect, Effect::PrimaryChanged(_))).count();
    assert_eq!(moved, MOVED, "each prefix of the lost router moves");
    bencher
        .counter(ItemsCount::new(MOVED))
        .with_inputs(|| table.clone())
        .bench_refs(|table| table.handle_deadline(black_box(due)));
}

/// A table whose first router was lost, and when that is decided.
fn about_to_fail_over(routers: u64) -> (RouteTable, Timestamp) {
    let mut table = RouteTable::new(Settings::default());
    for node in 1..=routers {
        let id = NodeId::new(node);
        table.handle(Input::Node(id, NodeFacts { reachable: true, ..NodeFacts::default() }), START);
        let rows: Vec<_> = (0..MOVED as u64)
            .map(|at| {
                let route = RouteId::new(node * MOVED as u64 + at);
                let row = approval::appeared(route, id, prefix((node - 1) / 2 * MOVED as u64 + at), START);
                approval::approve(&row, Approver::Cli, START).unwrap()
            })
            .collect();
        table.handle(Input::Advertised(id, rows.iter().map(|row| row.prefix).collect()), START);
        table.handle(Input::Rows(rows), START);
        table.handle(Input::SessionOpened(id, SessionId::new(node)), START);
    }
    let later = START + Duration::from_secs(60);
    table.handle_deadline(later);
    table.handle(Input::SessionLost(NodeId::new(1), SessionId::new(1), Cause::ConnectionClosed), later);
    let due = later + Settings::default().lost_after;
    (table, due)
}

fn prefix(number: u64) -> Prefix {
    format!("10.{}.{}.0/24", number / 256, number % 256).parse().unwrap()
}
