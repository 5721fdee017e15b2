//! What must always hold (design.md 6), over random histories of a whole tailnet: each invariant is a function of its own, named after what
//! it says, in `properties.rs`. Beside them runs a second election, written apart from the code and as simple as it can be (`reference.rs`).
//!
//! How many histories: the variable `HISTORIES`, else a few. `HISTORY_SEED` runs one again. A history that fails is made as short as it can
//! be before it is shown.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a history has no use for is passed over")]
#![allow(clippy::disallowed_methods, reason = "how many histories, and which, comes from outside")]
#![allow(clippy::print_stdout, reason = "the count is what a person runs it for")]

mod chance;
mod properties;
mod reference;
mod steps;
mod viewer;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use steps::Step;
use world::World;

/// Events of one history.
const EVENTS: usize = 200;
/// Whoever asks for a million sees how far it is.
const SAID_EVERY: u64 = 50_000;
/// Histories where nobody says how many: enough to notice, few enough for a build without optimisation.
const FEW: u64 = 60;

#[test]
fn invariants_hold_over_random_histories() {
    let read = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    if let Some(seed) = read("HISTORY_SEED") {
        return run(&steps::history(seed, EVENTS), seed);
    }
    let count = read("HISTORIES").unwrap_or(FEW);
    let first = read("HISTORIES_FROM").unwrap_or(0);
    let (began, next) = (Instant::now(), AtomicU64::new(first));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let failed = std::thread::scope(|scope| {
        let work = || loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return None;
            }
            let done = seed - first;
            if done > 0 && done.is_multiple_of(SAID_EVERY) {
                println!("{done} of {count} after {:.0?}", began.elapsed());
            }
            let history = steps::history(seed, EVENTS);
            if fails(&history, seed) {
                next.store(first + count, Ordering::Relaxed);
                return Some((seed, history));
            }
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter().filter_map(|thread| thread.join().unwrap()).min_by_key(|(seed, _)| *seed)
    });
    if let Some((seed, history)) = failed {
        let short = shorten(history, seed);
        println!("history {seed} fails; as short as it can be:");
        short.iter().for_each(|step| println!("    {step:?}"));
        run(&short, seed);
        unreachable!("it failed before");
    }
    println!("{count} histories of {EVENTS} events: every invariant held");
}

fn run(history: &[Step], seed: u64) {
    let mut world = World::new(seed);
    for step in history {
        world.take(step);
        properties::hold(&mut world, step);
    }
    properties::hold_at_the_end(&mut world, history, seed);
}

fn fails(history: &[Step], seed: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(history, seed))).is_err()
}

/// Leaves out whatever can be left out while it still fails.
fn shorten(mut history: Vec<Step>, seed: u64) -> Vec<Step> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut part = history.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < history.len() {
            let mut without = history.clone();
            without.drain(at..(at + part).min(history.len()));
            if fails(&without, seed) {
                history = without;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    std::panic::set_hook(quiet);
    history
}
