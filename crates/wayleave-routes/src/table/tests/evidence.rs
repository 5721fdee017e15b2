//! Evidence that judges a route, and what several kinds of it come to.

use wayleave_model::{Endpoint, EndpointKind};

use super::*;
use crate::evidence::{Kind, Mode, ProbeRound};
use crate::path_check::{PathOutcome, PathRound, Role};

const TARGET: &str = "10.1.0.100";

impl Story {
    fn tells(&mut self, node: u64, testimony: Testimony) {
        self.send(Input::Evidence(NodeId::new(node), testimony));
    }

    /// A router reports these addresses of its own.
    fn reports(&mut self, node: u64, addresses: &[&str]) {
        let endpoint = |address: &&str| Endpoint {
            address: format!("{address}:41641").parse().unwrap(),
            kind: EndpointKind::Local,
        };
        let endpoints: Vec<Endpoint> = addresses.iter().map(endpoint).collect();
        self.tells(node, Testimony::Endpoints(Endpoints::reported(&endpoints)));
    }

    fn checked(&mut self) {
        self.send(Input::PathChecks([(Self::prefix(), TARGET.parse().unwrap())].into()));
    }

    /// A check of whoever carries the prefix is over, two seconds later.
    fn check_later(&mut self, node: u64, outcome: PathOutcome) {
        self.wait(ms(2000));
        self.check(node, Role::Carrier, outcome);
    }

    /// A check that was asked for now is over.
    fn check(&mut self, node: u64, role: Role, outcome: PathOutcome) {
        let round = PathRound {
            prefix: Self::prefix(),
            target: TARGET.parse().unwrap(),
            role,
            asked_at: self.now,
            due: self.now,
            outcome,
        };
        self.tells(node, Testimony::Path(round));
    }

    fn primary_passes(&mut self) {
        self.check(self.primary().unwrap(), Role::Carrier, PathOutcome::Passed);
        self.wait(ms(2_000));
    }

    fn primary_misses(&mut self) {
        self.check(self.primary().unwrap(), Role::Carrier, PathOutcome::Missed);
        self.wait(ms(2_000));
    }

    fn round(&mut self, node: u64, answered: u32, silent: u32) {
        let session = self.table.routers[&NodeId::new(node)].health.session();
        let round = ProbeRound { session, due: self.now, answered, silent };
        self.tells(node, Testimony::Probe(round));
        self.wait(ms(2_000));
    }

    fn standing(&self, node: u64) -> Vec<Cause> {
        self.table.convictions(NodeId::new(node), &Self::prefix()).iter().map(|conviction| conviction.cause).collect()
    }
}

#[test]
fn a_routers_own_address_is_inside_the_prefix_of_its_site() {
    let at =
        |address: &str| Endpoint { address: format!("{address}:41641").parse().unwrap(), kind: EndpointKind::Local };
    let own = Endpoints::reported(&[at("192.0.2.1"), at("192.168.1.1")]);
    let inside = |prefix: &str| own.inside(&prefix.parse().unwrap()).map(|address| address.to_string());
    assert_eq!(inside("192.168.1.0/24").as_deref(), Some("192.168.1.1"));
    let as_clients_see_it = "fd7a:115c:a1e0:b1a:0:7:c0a8:101";
    assert_eq!(inside("fd7a:115c:a1e0:b1a:0:7:c0a8:100/120").as_deref(), Some(as_clients_see_it));
    assert_eq!(inside("fd7a:115c:a1e0:b1a:0:7:c0a8:200/120"), None);
}

#[test]
fn a_router_that_lost_its_address_inside_the_prefix_is_replaced_at_once_and_stands_by_until_it_is_back() {
    let mut story = Story::with_routers(2);
    story.reports(1, &["10.1.0.1", "192.0.2.1"]);
    story.reports(2, &["10.1.0.2", "192.0.2.2"]);
    story.reports(1, &[]);
    assert_eq!(story.primary(), Some(1), "an empty list is no report");
    story.reports(1, &["192.0.2.1"]);
    assert_eq!(story.primary(), Some(2));
    assert_eq!(story.moves, [(Some(1), Some(2), Because::IncumbentSuspect(Cause::EndpointGone))]);
    assert_eq!(story.standing(1), [Cause::EndpointGone]);
    story.reports(1, &["192.0.2.1", "10.1.0.1"]);
    assert_eq!(story.standing(1), []);
    assert_eq!(story.primary(), Some(2), "it does not take it back");
}

#[test]
fn when_both_lost_their_address_nothing_moves_and_the_first_that_has_one_again_takes_over() {
    let mut story = Story::with_routers(2);
    story.reports(1, &["10.1.0.1"]);
    story.reports(2, &["10.1.0.2"]);
    story.reports(1, &["192.0.2.1"]);
    story.reports(2, &["192.0.2.2"]);
    story.wait(ms(600_000));
    assert_eq!(story.primary(), Some(2));
    assert_eq!(story.moves.len(), 1, "no flapping between two that are no better than each other");
    story.reports(1, &["10.1.0.1"]);
    assert_eq!(story.primary(), Some(1));
    assert_eq!(story.moves.last(), Some(&(Some(2), Some(1), Because::IncumbentSuspect(Cause::EndpointGone))));
}

#[test]
fn the_only_router_and_one_whose_standby_is_no_better_are_not_convicted() {
    let mut story = Story::with_routers(1);
    story.reports(1, &["10.1.0.1"]);
    story.reports(1, &["192.0.2.1"]);
    assert_eq!(story.standing(1), []);
    assert_eq!(story.primary(), Some(1));

    // A standby that never had an address inside the prefix is better: it reaches the prefix another way.
    story.joins(2);
    story.approved(2);
    assert_eq!(story.primary(), Some(2), "convicted as soon as somebody better is there");

    let mut story = Story::with_routers(2);
    story.reports(1, &["10.1.0.1"]);
    story.lost(2);
    story.wait(ms(600));
    story.reports(1, &["192.0.2.1"]);
    assert_eq!(story.primary(), Some(1), "the other one is down");
    story.up(2);
    assert_eq!(story.primary(), Some(2));
}

#[test]
fn a_flapping_router_that_has_an_address_is_better_than_one_whose_address_is_gone() {
    let mut story = Story::with_routers(2);
    story.reports(1, &["10.1.0.1"]);
    for _ in 0..5 {
        story.lost(2);
        story.wait(ms(200));
        story.up(2);
    }
    assert_eq!(story.table.rank(NodeId::new(2)), Some(Rank::Flapping));
    story.reports(1, &["192.0.2.1"]);
    assert_eq!(story.primary(), Some(2));
}

#[test]
fn that_a_router_had_an_address_outlives_a_restart() {
    let mut story = Story::with_routers(2);
    story.reports(1, &["10.1.0.1"]);
    let rows: Vec<Route> = story.table.rows().cloned().collect();
    assert!(rows[0].had_endpoint && !rows[1].had_endpoint);
    let mut again = Story::new();
    again.send(Input::Rows(rows));
    again.send(Input::Started);
    again.up(1);
    again.up(2);
    assert_eq!(again.primary(), Some(1), "what is not reported yet is not gone");
    again.reports(1, &["192.0.2.1"]);
    assert_eq!(again.primary(), Some(2));
}

#[test]
fn s15_a_router_whose_leg_is_dead_is_replaced_after_two_misses() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.primary_passes();
    story.primary_misses();
    assert_eq!(story.primary(), Some(1), "one miss is none");
    story.check(1, Role::Carrier, PathOutcome::Missed);
    assert_eq!(story.primary(), Some(2));
    assert_eq!(story.moves, [(Some(1), Some(2), Because::IncumbentSuspect(Cause::PathCheckMissed))]);
    assert_eq!(story.state(1), "standby");
    story.primary_passes();
    assert_eq!(story.standing(1), [Cause::PathCheckMissed], "it stands until it passes itself");
    story.check(1, Role::Standby, PathOutcome::Passed);
    assert_eq!(story.standing(1), []);
}

#[test]
fn s15_when_the_target_is_down_nothing_moves() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.primary_passes();
    for _ in 0..100 {
        story.check(1, Role::Carrier, PathOutcome::Spared);
        story.wait(ms(2_000));
    }
    assert_eq!(story.moves, [], "something else behind it answers: the target is down");
    // Also where nothing else can be asked, but the standby is checked and fails as well.
    let mut story = Story::with_routers(2);
    story.checked();
    story.primary_passes();
    story.check(2, Role::Standby, PathOutcome::Missed);
    story.check(2, Role::Standby, PathOutcome::Missed);
    for _ in 0..100 {
        story.primary_misses();
    }
    assert_eq!(story.moves, []);
    assert_eq!((story.standing(1), story.standing(2)), (vec![], vec![]), "nobody is convicted while nobody passes");
}

#[test]
fn a_standby_whose_leg_is_dead_is_convicted_while_the_target_answers_through_the_primary() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.primary_passes();
    story.check(2, Role::Standby, PathOutcome::Passed);
    for _ in 0..2 {
        assert_eq!(story.standing(2), []);
        story.primary_passes();
        story.check(2, Role::Standby, PathOutcome::Missed);
    }
    assert_eq!(story.standing(2), [], "whether the target was there for the last miss is not known yet");
    story.primary_passes();
    assert_eq!(story.standing(2), [Cause::PathCheckMissed]);
    // It is not chosen when the primary fails, and that convicts nobody.
    for _ in 0..10 {
        story.primary_misses();
        story.check(2, Role::Standby, PathOutcome::Missed);
    }
    assert_eq!((story.primary(), story.standing(1)), (Some(1), vec![]));
    // It is seen to pass: the primary is convicted in the same step.
    story.check(2, Role::Standby, PathOutcome::Passed);
    assert_eq!((story.primary(), story.standing(2)), (Some(2), vec![]));
    assert_eq!(story.moves.len(), 1);
}

#[test]
fn a_target_that_is_down_for_a_while_convicts_no_standby() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.primary_passes();
    story.check(2, Role::Standby, PathOutcome::Passed);
    story.primary_passes();
    // The standby is asked first, and twice before the primary is.
    story.check(2, Role::Standby, PathOutcome::Missed);
    story.wait(ms(100));
    story.check(2, Role::Standby, PathOutcome::Missed);
    for _ in 0..5 {
        story.primary_misses();
        story.check(2, Role::Standby, PathOutcome::Missed);
    }
    // It is back, and the primary is asked first; then it is gone again, only for the standby.
    story.primary_passes();
    assert_eq!(story.standing(2), []);
    story.check(2, Role::Standby, PathOutcome::Missed);
    story.primary_passes();
    assert_eq!(story.standing(2), [], "one miss since the target is back");
    story.check(2, Role::Standby, PathOutcome::Missed);
    story.primary_passes();
    assert_eq!(story.standing(2), [Cause::PathCheckMissed]);
    assert_eq!(story.moves, []);
}

#[test]
fn a_standby_that_missed_since_the_primary_did_is_asked_again_before_it_counts_as_better() {
    for (again, primary) in [(PathOutcome::Missed, 1), (PathOutcome::Passed, 2)] {
        let mut story = Story::with_routers(2);
        story.checked();
        story.primary_passes();
        story.check(2, Role::Standby, PathOutcome::Passed);
        story.primary_misses();
        story.check(2, Role::Standby, PathOutcome::Missed);
        story.primary_misses();
        story.primary_misses();
        assert_eq!(story.primary(), Some(1), "the target may be down");
        story.check(2, Role::Standby, again);
        assert_eq!(story.primary(), Some(primary), "{again:?}");
    }
    // A miss from before is an old one.
    let mut story = Story::with_routers(2);
    story.checked();
    story.check(2, Role::Standby, PathOutcome::Missed);
    story.wait(ms(1_000));
    story.primary_passes();
    story.primary_misses();
    story.primary_misses();
    assert_eq!(story.primary(), Some(2));
}

#[test]
fn s15_two_dead_legs_do_not_flap() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.primary_passes();
    for _ in 0..500 {
        story.primary_misses();
    }
    assert_eq!(story.moves.len(), 1, "one try of the other: {:?}", story.moves);
    assert_eq!(story.primary(), Some(2));
    assert_eq!(story.standing(2), [], "it was never seen to pass");
    story.primary_passes();
    assert_eq!(story.primary(), Some(2));
    // Now it passed once; but the other one is known to be no better.
    for _ in 0..500 {
        story.primary_misses();
    }
    assert_eq!(story.primary(), Some(2));
    // The other one is seen to pass: this one is convicted in the same step.
    story.check(1, Role::Standby, PathOutcome::Passed);
    assert_eq!(story.primary(), Some(1));
}

#[test]
fn a_check_convicts_only_what_it_has_seen_pass() {
    let mut story = Story::with_routers(2);
    story.checked();
    for _ in 0..10 {
        story.primary_misses();
    }
    assert_eq!(story.moves, []);
}

#[test]
fn s30_late_and_stale_checks_change_nothing() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.primary_passes();
    let round = PathRound {
        prefix: Story::prefix(),
        target: TARGET.parse().unwrap(),
        role: Role::Carrier,
        asked_at: story.now - ms(3_000),
        due: story.now - ms(1_500),
        outcome: PathOutcome::Missed,
    };
    for _ in 0..5 {
        story.tells(1, Testimony::Path(round));
    }
    assert_eq!(story.primary(), Some(1), "the server was late");
    let other_target = PathRound { target: "10.1.0.7".parse().unwrap(), due: story.now, ..round };
    let not_primary = PathRound { due: story.now, ..round };
    for _ in 0..5 {
        story.tells(1, Testimony::Path(other_target));
        story.tells(2, Testimony::Path(not_primary));
    }
    assert_eq!(story.primary(), Some(1));
    story.primary_misses();
    story.primary_misses();
    assert_eq!(story.primary(), Some(2));
    story.wait(ms(10));
    let asked_before_the_move = PathRound { asked_at: story.now - ms(2_100), due: story.now, ..round };
    let passed = PathRound { outcome: PathOutcome::Passed, ..asked_before_the_move };
    story.tells(2, Testimony::Path(passed));
    assert!(!story.table.path_record(NodeId::new(2), &Story::prefix()).passed, "that went through the other one");
}

#[test]
fn a_check_that_is_taken_back_has_convicted_nobody() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.primary_passes();
    story.primary_misses();
    story.primary_misses();
    assert_eq!(story.standing(1), [Cause::PathCheckMissed]);
    story.send(Input::PathChecks(BTreeMap::new()));
    assert_eq!(story.standing(1), []);
    story.primary_misses();
    assert_eq!(story.primary(), Some(2));
}

#[test]
fn a_suspect_router_is_suspect_for_its_prefix_only_and_counts_as_steady_from_its_acquittal_on() {
    let mut story = Story::with_routers(2);
    let other: Prefix = "10.2.0.0/16".parse().unwrap();
    story.reports(1, &["10.1.0.1"]);
    story.reports(1, &["192.0.2.1"]);
    let node = NodeId::new(1);
    assert_eq!(story.table.rank_for(node, &Story::prefix()), Some(Rank::Suspect(Cause::EndpointGone)));
    assert_eq!(story.table.rank_for(node, &other), Some(Rank::Steady));
    story.wait(ms(30_000));
    story.reports(1, &["10.1.0.1"]);
    let candidate = story.table.candidates(&Story::prefix())[0];
    assert_eq!((candidate.rank, candidate.steady_since), (Rank::Steady, Some(story.now)));
}

#[test]
fn witnesses_convict_a_router_whose_control_is_fine_and_acquit_it() {
    let mut story = Story::with_routers(2);
    story.round(1, 3, 0);
    story.round(1, 1, 2);
    assert_eq!(story.primary(), Some(1));
    story.round(1, 0, 3);
    assert_eq!(story.primary(), Some(2));
    assert_eq!(story.moves, [(Some(1), Some(2), Because::IncumbentDown(Cause::WitnessesSilent))]);
    assert_eq!(story.state(1), "offline");
    story.round(1, 2, 1);
    assert_eq!(story.state(1), "standby");
}

#[test]
fn s23_a_router_that_answers_again_without_a_new_session_takes_over_from_one_that_went_down() {
    let mut story = Story::with_routers(2);
    story.round(1, 1, 0);
    story.round(1, 0, 1);
    story.round(1, 0, 1);
    assert_eq!(story.primary(), Some(2));
    story.lost(2);
    story.wait(ms(600));
    assert_eq!(story.primary(), Some(2), "nobody is any better");
    story.round(1, 1, 0);
    assert_eq!(story.primary(), Some(1));
}

#[test]
fn s24_one_router_that_flaps_delays_no_verdict_about_another() {
    let mut story = Story::with_routers(3);
    for _ in 0..4 {
        story.lost(3);
        story.wait(ms(300));
        story.up(3);
        story.wait(ms(700));
    }
    story.lost(1);
    story.lost(3);
    story.wait(ms(500));
    assert_eq!(story.primary(), Some(2));
    story.up(3);
    assert_eq!(story.table.rank(NodeId::new(3)), Some(Rank::Flapping), "and is itself judged");
}

#[test]
fn s25_what_is_told_late_of_nodes_that_are_gone_or_have_no_routes_changes_nothing() {
    let mut story = Story::with_routers(2);
    let old = story.table.routers[&NodeId::new(1)].health.session();
    story.up(1);
    let stale = ProbeRound { session: old, due: story.now, answered: 0, silent: 3 };
    for _ in 0..5 {
        story.tells(1, Testimony::Probe(stale));
        story.tells(1, Testimony::Echo { session: old.unwrap(), answered: false, due: story.now });
        story.tells(77, Testimony::Probe(stale));
        story.tells(77, Testimony::Endpoints(Endpoints::default()));
    }
    assert_eq!((story.primary(), story.standing(1)), (Some(1), vec![]));
    assert_eq!(story.table.liveness(NodeId::new(77)), None, "what is told of a stranger makes no router");
    let row = story.table.row(RouteId::new(2)).unwrap().clone();
    story.send(Input::Rows(vec![Route { deleted_at: Some(story.now), ..row }]));
    story.send(Input::NodeDeleted(NodeId::new(2)));
    story.tells(2, Testimony::Probe(stale));
    assert_eq!(story.table.liveness(NodeId::new(2)), None);
}

#[test]
fn s10_a_router_without_control_keeps_its_prefix_while_witnesses_reach_it_and_for_thirty_seconds_at_most() {
    let mut story = Story::with_routers(2);
    let lost_at = story.now;
    story.lost(1);
    for _ in 0..149 {
        story.wait(ms(200));
        story.tells(1, Testimony::Alive { asked_at: story.now - ms(10) });
        assert_eq!(story.primary(), Some(1), "{:?} after the loss", story.now.since(lost_at));
    }
    story.wait(ms(199));
    assert_eq!(story.primary(), Some(1));
    story.wait(ms(1));
    assert_eq!(story.primary(), Some(2));
    // One that comes back in time loses nothing; one whose witnesses fall silent goes at once.
    let mut story = Story::with_routers(2);
    story.lost(1);
    story.wait(ms(400));
    story.tells(1, Testimony::Alive { asked_at: story.now });
    story.wait(ms(800));
    story.up(1);
    story.wait(ms(60_000));
    assert_eq!(story.moves, []);
    story.lost(1);
    story.wait(ms(400));
    story.tells(1, Testimony::Alive { asked_at: story.now });
    story.wait(ms(900));
    assert_eq!(story.primary(), Some(2));
}

#[test]
fn evidence_that_is_observed_is_told_and_moves_nothing() {
    let mut story = Story::with_routers(2);
    story.table.settings.judging.modes = [(Kind::Endpoint, Mode::Observe)].into();
    story.reports(1, &["10.1.0.1"]);
    story.reports(1, &["192.0.2.1"]);
    assert_eq!(story.standing(1), [Cause::EndpointGone]);
    assert_eq!((story.primary(), story.moves.len()), (Some(1), 0));
}

#[test]
fn what_path_checks_found_out_survives_a_restart() {
    let mut story = Story::with_routers(2);
    story.checked();
    let row = approval::approve(story.table.row(RouteId::new(1)).unwrap(), Approver::Cli, story.now).unwrap();
    story.send(Input::Rows(vec![Route { priority: 10, ..row }]));
    story.check_later(1, PathOutcome::Passed);
    (0..2).for_each(|_| story.check_later(1, PathOutcome::Missed));
    assert_eq!(story.primary(), Some(2));
    let mut again = story.restarted();
    again.up(1);
    again.up(2);
    again.wait(Duration::from_secs(120));
    assert_eq!(again.table.rank_for(NodeId::new(1), &Story::prefix()), Some(Rank::Suspect(Cause::PathCheckMissed)));
    assert_eq!(again.moves, [], "its priority gives it nothing while nothing has passed through it");
    // Should it carry the prefix again, and fail again, it is convicted again.
    again.lost(2);
    again.wait(ms(600));
    assert_eq!(again.primary(), Some(1));
    again.check_later(1, PathOutcome::Passed);
    again.up(2);
    (0..2).for_each(|_| again.check_later(1, PathOutcome::Missed));
    assert_eq!(again.primary(), Some(2));
}

#[test]
fn what_a_dead_router_misses_does_not_make_it_suspect_when_it_is_back() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.check_later(1, PathOutcome::Passed);
    // The whole site goes dark: what is missed is no news of its legs.
    story.lost(1);
    story.lost(2);
    story.wait(ms(600));
    (0..3).for_each(|_| story.check_later(1, PathOutcome::Missed));
    story.up(2);
    assert_eq!(story.primary(), Some(2));
    story.up(1);
    story.wait(ms(10_000));
    assert_eq!(story.table.rank_for(NodeId::new(1), &Story::prefix()), Some(Rank::Steady));
}

#[test]
fn a_miss_from_before_a_router_went_down_does_not_count_hours_later() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.check_later(1, PathOutcome::Passed);
    story.check_later(1, PathOutcome::Missed);
    story.lost(1);
    story.wait(ms(600));
    story.up(1);
    story.send(Input::Moved(Story::prefix(), NodeId::new(1), Approver::Cli));
    story.check_later(1, PathOutcome::Missed);
    assert_eq!(story.primary(), Some(1), "that is the first");
    story.check_later(1, PathOutcome::Missed);
    assert_eq!(story.primary(), Some(2));
}

#[test]
fn a_miss_from_before_a_person_moved_the_prefix_away_does_not_count_when_it_is_moved_back() {
    let mut story = Story::with_routers(2);
    story.checked();
    story.check_later(1, PathOutcome::Passed);
    story.check_later(1, PathOutcome::Missed);
    for to in [2, 1] {
        story.wait(ms(5000));
        story.send(Input::Moved(Story::prefix(), NodeId::new(to), Approver::Cli));
    }
    story.check_later(1, PathOutcome::Missed);
    assert_eq!(story.primary(), Some(1));
}

#[test]
fn a_person_who_approves_anew_trusts_a_router_of_a_site_that_was_rebuilt() {
    let mut story = Story::with_routers(2);
    story.reports(1, &["10.1.0.5"]);
    story.reports(1, &["192.0.2.1"]);
    assert_eq!(story.table.rank_for(NodeId::new(1), &Story::prefix()), Some(Rank::Suspect(Cause::EndpointGone)));
    story.disabled(1);
    story.approved(1);
    assert_eq!(story.table.rank_for(NodeId::new(1), &Story::prefix()), Some(Rank::Steady));
    story.reports(1, &["192.0.2.2"]);
    assert_eq!(story.table.rank_for(NodeId::new(1), &Story::prefix()), Some(Rank::Steady));
}
