use std::time::Duration;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const TERMS: Terms = Terms { failback: Failback::After(MINUTE), frozen: false, moved: false };
const SUSPECT: Rank = Rank::Suspect(Cause::EndpointGone);
const DOWN: Rank = Rank::Down(Cause::ConnectionClosed);

fn candidate(node: u64, rank: Rank) -> Candidate {
    let steady_since = (rank == Rank::Steady).then_some(Timestamp::from_millis(0));
    Candidate { node: NodeId::new(node), rank, priority: 0, steady_since, presence: Presence::Here }
}

fn preferred(node: u64, rank: Rank, priority: i32) -> Candidate {
    Candidate { priority, ..candidate(node, rank) }
}

fn had(node: u64) -> Incumbent {
    Incumbent::Node(NodeId::new(node))
}

#[track_caller]
fn expect(incumbent: Incumbent, candidates: &[Candidate], node: u64, because: Because) {
    let decision = elect(incumbent, candidates, TERMS, NOW);
    assert_eq!(decision.primary, Some(Primary { node: NodeId::new(node), because }));
}

#[test]
fn s20_one_candidate_is_primary_whatever_its_rank() {
    for rank in [Rank::Steady, Rank::Flapping, Rank::Drained, SUSPECT, DOWN] {
        expect(Incumbent::None, &[candidate(1, rank)], 1, Because::OnlyCandidate);
    }
}

#[test]
fn s20_of_equals_the_one_that_joined_first_is_chosen() {
    expect(Incumbent::None, &[candidate(2, Rank::Steady), candidate(1, Rank::Steady)], 1, Because::JoinedFirst);
}

#[test]
fn nobody_without_candidates() {
    assert_eq!(elect(had(1), &[], TERMS, NOW), Decision { primary: None, pending: None });
}

#[test]
fn s21_a_returned_node_does_not_take_over() {
    expect(had(2), &[candidate(1, Rank::Steady), candidate(2, Rank::Steady)], 2, Because::Incumbent);
}

#[test]
fn an_incumbent_that_ranks_low_is_replaced_at_once_with_the_reason() {
    for (rank, because) in [
        (DOWN, Because::IncumbentDown(Cause::ConnectionClosed)),
        (SUSPECT, Because::IncumbentSuspect(Cause::EndpointGone)),
        (Rank::Drained, Because::IncumbentDrained),
    ] {
        expect(had(1), &[candidate(1, rank), candidate(2, Rank::Steady)], 2, because.clone());
        expect(had(1), &[candidate(1, rank), candidate(2, Rank::Flapping)], 2, because);
    }
}

#[test]
fn s22_all_down_keeps_the_last_known() {
    let all = [candidate(1, DOWN), candidate(2, Rank::Down(Cause::PingUnanswered)), candidate(3, DOWN)];
    expect(had(2), &all, 2, Because::LastKnown);
}

#[test]
fn a_down_incumbent_gives_way_to_a_suspect_one_and_not_the_other_way_round() {
    let all = [candidate(1, SUSPECT), candidate(2, DOWN)];
    expect(had(2), &all, 1, Because::IncumbentDown(Cause::ConnectionClosed));
    expect(had(1), &all, 1, Because::LastKnown);
}

#[test]
fn an_incumbent_that_is_no_candidate_is_replaced_even_by_one_that_is_down() {
    let incumbent = Incumbent::Gone(NodeId::new(1), Gone::Disabled);
    expect(incumbent, &[candidate(2, DOWN), candidate(3, DOWN)], 2, Because::IncumbentGone(Gone::Disabled));
}

#[test]
fn priority_decides_among_equals_and_never_beats_rank() {
    let all = [preferred(1, Rank::Steady, 0), preferred(2, Rank::Steady, 5), preferred(3, Rank::Flapping, 9)];
    expect(Incumbent::None, &all, 2, Because::HigherPriority);
}

#[test]
fn a_preferred_one_waits_until_it_has_been_steady_for_long_enough() {
    let since = NOW - Duration::from_secs(10);
    let fresh = Candidate { steady_since: Some(since), ..preferred(2, Rank::Steady, 5) };
    let all = [candidate(1, Rank::Steady), fresh];
    let decision = elect(had(1), &all, TERMS, NOW);
    assert_eq!(decision.primary, Some(Primary { node: NodeId::new(1), because: Because::Incumbent }));
    assert_eq!(decision.pending, Some(Pending { node: NodeId::new(2), at: since + MINUTE }));
    let later = elect(had(1), &all, TERMS, since + MINUTE);
    assert_eq!(later.primary, Some(Primary { node: NodeId::new(2), because: Because::HigherPriority }));
}

#[test]
fn whoever_is_preferred_still_more_is_awaited_after_a_takeover() {
    let late = Candidate { steady_since: Some(NOW), ..preferred(3, Rank::Steady, 1) };
    let all = [preferred(5, Rank::Steady, -1), candidate(2, Rank::Steady), late];
    let decision = elect(had(5), &all, TERMS, NOW);
    let primary = Primary { node: NodeId::new(2), because: Because::HigherPriority };
    let pending = Pending { node: NodeId::new(3), at: NOW + MINUTE };
    assert_eq!(decision, Decision { primary: Some(primary), pending: Some(pending) });
}

#[test]
fn failback_never_means_never() {
    let all = [candidate(1, Rank::Flapping), preferred(2, Rank::Steady, 5)];
    let decision = elect(had(1), &all, Terms { failback: Failback::Never, ..TERMS }, NOW);
    assert_eq!(decision.primary.map(|p| p.node), Some(NodeId::new(1)));
    assert_eq!(decision.pending, None);
}

#[test]
fn s32_a_flapping_primary_keeps_the_prefix_until_a_steady_one_has_waited() {
    let fresh = Candidate { steady_since: Some(NOW), ..candidate(2, Rank::Steady) };
    expect(had(1), &[candidate(1, Rank::Flapping), fresh], 1, Because::Incumbent);
    expect(had(1), &[candidate(1, Rank::Flapping), candidate(2, Rank::Steady)], 2, Because::IncumbentFlapping);
}

#[test]
fn a_frozen_prefix_stays_where_it_is_and_one_on_nobody_is_given_out() {
    let frozen = Terms { frozen: true, ..TERMS };
    for rank in [Rank::Steady, Rank::Flapping, Rank::Drained, SUSPECT, DOWN] {
        let decision = elect(had(1), &[candidate(1, rank), preferred(2, Rank::Steady, 9)], frozen, NOW);
        assert_eq!(decision.primary, Some(Primary { node: NodeId::new(1), because: Because::Frozen }));
        assert_eq!(decision.pending, None);
    }
    let gone = elect(Incumbent::Gone(NodeId::new(1), Gone::Deleted), &[candidate(2, Rank::Steady)], frozen, NOW);
    assert_eq!(gone.primary.map(|primary| primary.node), Some(NodeId::new(2)));
}

#[test]
fn one_that_a_person_moved_stays_in_spite_of_priorities_until_it_falls() {
    let moved = Terms { moved: true, ..TERMS };
    let decide = |rank| elect(had(1), &[candidate(1, rank), preferred(2, Rank::Steady, 9)], moved, NOW);
    assert_eq!(decide(Rank::Steady).primary.unwrap().because, Because::Incumbent);
    assert_eq!(decide(Rank::Flapping).primary.unwrap().because, Because::IncumbentFlapping);
    assert_eq!(decide(Rank::Drained).primary.unwrap().because, Because::IncumbentDrained);
}
