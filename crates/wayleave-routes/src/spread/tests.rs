use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::reason::Cause;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId::new).collect()
}

fn steady(node: u64, for_seconds: u64) -> Candidate {
    let since = NOW - Duration::from_secs(for_seconds);
    Candidate {
        node: NodeId::new(node),
        rank: Rank::Steady,
        priority: 0,
        steady_since: Some(since),
        presence: Presence::Here,
    }
}

fn down(node: u64) -> Candidate {
    let rank = Rank::Down(Cause::ConnectionClosed);
    Candidate { node: NodeId::new(node), rank, priority: 0, steady_since: None, presence: Presence::Here }
}

fn carrier(node: u64, region: u32, priority: i32) -> Carrier {
    Carrier { node: NodeId::new(node), region, priority }
}

fn by_region(carriers: Vec<Carrier>) -> Field {
    Field { spread: Spread::Region, primary: NodeId::new(1), carriers }
}

fn prefix() -> Prefix {
    "10.1.0.0/16".parse().unwrap()
}

#[test]
fn balanced_one_that_returns_joins_after_failback_after() {
    let share =
        |before: &[u64], all: &[Candidate]| carriers(Spread::Balance, Some(&ids(before)), Terms::default(), all, NOW);
    assert_eq!(share(&[], &[steady(1, 0), steady(2, 0)]), (ids(&[1, 2]), None), "at first all, at once");
    assert_eq!(share(&[1, 2], &[down(1), steady(2, 0)]), (ids(&[2]), None), "one that is down goes at once");
    let joins = Some(NOW + Duration::from_secs(50));
    assert_eq!(share(&[2], &[steady(1, 10), steady(2, 99)]), (ids(&[2]), joins));
    assert_eq!(share(&[2], &[steady(1, 60), steady(2, 99)]), (ids(&[1, 2]), None));
    let never = Terms { failback: Failback::Never, ..Terms::default() };
    let two = ids(&[2]);
    assert_eq!(carriers(Spread::Balance, Some(&two), never, &[steady(1, 999), steady(2, 99)], NOW), (two, None));
}

#[test]
fn by_region_every_steady_router_shares_and_frozen_nobody_joins_or_leaves() {
    let before = ids(&[1, 2]);
    let all = [down(1), steady(2, 9), steady(3, 0)];
    assert_eq!(carriers(Spread::Region, Some(&before), Terms::default(), &all, NOW).0, ids(&[2, 3]));
    let frozen = Terms { frozen: true, ..Terms::default() };
    assert_eq!(carriers(Spread::Region, Some(&before), frozen, &all, NOW).0, ids(&[1, 2]));
    assert_eq!(
        carriers(Spread::Region, Some(&before), frozen, &all[1..], NOW).0,
        ids(&[2]),
        "1 is no candidate any more"
    );
    assert_eq!(
        carriers(Spread::Region, Some(&before), frozen, &all[2..], NOW).0,
        ids(&[3]),
        "neither is any more: it is given out, at once and not at the next event"
    );
    assert_eq!(carriers(Spread::Single, Some(&before), frozen, &all, NOW).0, ids(&[]));
}

#[test]
fn a_viewer_uses_the_router_of_its_home_region_before_priority_else_the_nearest() {
    let field = by_region(vec![carrier(1, 900, 9), carrier(2, 901, 0), carrier(3, 902, 0), carrier(4, 901, 5)]);
    let at = |region, latency: &[(u32, u64)]| {
        let place = Place { region, latency: latency.iter().copied().collect() };
        choose(&field, &prefix(), NodeId::new(77), &place)
    };
    let chose = |node, because| Choice { node: NodeId::new(node), because };
    assert_eq!(at(902, &[]), chose(3, ChosenBecause::HomeRegion(902)));
    assert_eq!(at(901, &[]), chose(4, ChosenBecause::HomeRegion(901)), "of two in one region the preferred one");
    let nearest = ChosenBecause::Nearest { region: 902, micros: 3000 };
    assert_eq!(at(1, &[(900, 9000), (902, 3000), (1, 10)]), chose(3, nearest));
    assert_eq!(at(0, &[(902, 3000)]), chose(1, ChosenBecause::NoHome));
    assert_eq!(at(5, &[]), chose(1, ChosenBecause::NothingMeasured));
}

#[test]
fn without_a_steady_router_everybody_uses_the_primary() {
    for spread in [Spread::Region, Spread::Balance] {
        let field = Field { spread, primary: NodeId::new(1), carriers: Vec::new() };
        let place = Place { region: 900, latency: BTreeMap::new() };
        let choice = choose(&field, &prefix(), NodeId::new(7), &place);
        assert_eq!(choice, Choice { node: NodeId::new(1), because: ChosenBecause::NobodySteady });
    }
}

#[test]
fn balance_shares_evenly_among_the_highest_priority_and_one_that_goes_moves_only_its_own() {
    let field = |nodes: &[u64]| Field {
        spread: Spread::Balance,
        primary: NodeId::new(1),
        carriers: nodes.iter().map(|n| carrier(*n, 0, if *n == 9 { -1 } else { 0 })).collect(),
    };
    let of = |field: &Field| -> Vec<u64> {
        let place = Place::default();
        (100..1100).map(|v| choose(field, &prefix(), NodeId::new(v), &place).node.get()).collect()
    };
    let (three, two) = (of(&field(&[1, 2, 3, 9])), of(&field(&[1, 3, 9])));
    for node in [1, 2, 3] {
        let share = three.iter().filter(|n| **n == node).count();
        assert!((250..420).contains(&share), "{node} is used by {share} of 1000");
    }
    assert!(!three.contains(&9), "a lower priority is used by nobody");
    assert!(three.iter().zip(&two).all(|(before, after)| *before == 2 || before == after));
}

/// Who uses what must not change with a version of this program.
#[test]
fn the_lot_is_the_same_for_ever() {
    let weights: Vec<u64> = (1..=3).map(|router| weight(NodeId::new(7), &prefix(), NodeId::new(router))).collect();
    assert_eq!(weights, WEIGHTS);
}

const WEIGHTS: [u64; 3] = [8_672_341_307_434_214_568, 10_756_923_842_859_755_123, 14_237_108_784_423_889_069];
