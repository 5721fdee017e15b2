use wayleave_model::Approver;

use super::*;
use crate::approval;
use crate::evidence::ProbeRound;
use crate::reason::Gone;

const START: Timestamp = Timestamp::from_millis(1_000_000);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Two routers, ids in the order of joining, and what happens to them, in words.
struct Story {
    table: RouteTable,
    now: Timestamp,
    session: u64,
    sessions: BTreeMap<u64, u64>,
    moves: Vec<(Option<u64>, Option<u64>, Because)>,
}

impl Story {
    fn new() -> Self {
        let table = RouteTable::new(Settings::default());
        Self { table, now: START, session: 0, sessions: BTreeMap::new(), moves: Vec::new() }
    }

    fn with_routers(count: u64) -> Self {
        let mut story = Self::new();
        for node in 1..=count {
            story.joins(node);
            story.approved(node);
        }
        story.moves.clear();
        story
    }

    fn prefix() -> Prefix {
        "10.1.0.0/16".parse().unwrap()
    }

    fn send(&mut self, input: Input) {
        let effects = self.table.handle(input, self.now);
        self.note(effects);
    }

    fn note(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::PrimaryChanged(change) = effect {
                self.moves.push((change.from.map(NodeId::get), change.to.map(NodeId::get), change.because));
            }
        }
    }

    fn joins(&mut self, node: u64) {
        let facts = NodeFacts { reachable: true, ..NodeFacts::default() };
        self.send(Input::Node(NodeId::new(node), facts));
        let row = approval::appeared(RouteId::new(node), NodeId::new(node), Self::prefix(), self.now);
        self.send(Input::Rows(vec![row]));
        self.up(node);
    }

    fn approved(&mut self, node: u64) {
        let row = self.table.row(RouteId::new(node)).unwrap();
        let row = approval::approve(row, Approver::Cli, self.now).unwrap();
        self.send(Input::Rows(vec![row]));
    }

    fn disabled(&mut self, node: u64) {
        let row = approval::refuse(self.table.row(RouteId::new(node)).unwrap(), Approver::Cli, self.now);
        self.send(Input::Rows(vec![row]));
    }

    fn up(&mut self, node: u64) {
        self.session += 1;
        self.sessions.insert(node, self.session);
        self.send(Input::SessionOpened(NodeId::new(node), SessionId::new(self.session)));
    }

    fn lost(&mut self, node: u64) {
        let session = SessionId::new(self.sessions[&node]);
        self.send(Input::SessionLost(NodeId::new(node), session, Cause::ConnectionClosed));
    }

    /// The same table in a server that has just started, with what a store would have of it; nobody is back yet.
    fn restarted(&self) -> Self {
        let table = &self.table;
        let restored = Restored {
            rows: table.rows().cloned().collect(),
            overrides: Vec::new(),
            flaps: table.routers.keys().filter_map(|node| table.flaps(*node)).collect(),
            seats: table.seat_row(&Self::prefix(), None).into_iter().collect(),
            path_checks: table.path_checks.clone(),
        };
        let mut again = Self { now: self.now, session: 100, ..Self::new() };
        for node in table.routers.keys() {
            again.send(Input::Node(*node, NodeFacts { reachable: true, ..NodeFacts::default() }));
        }
        again.send(Input::Restored(restored));
        again.send(Input::Started);
        again
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.table.next_deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            let effects = self.table.handle_deadline(self.now);
            self.note(effects);
        }
        self.now = end;
    }

    fn primary(&self) -> Option<u64> {
        let primary = self.table.seat(&Self::prefix()).map(|seat| seat.node.get());
        let marked: Vec<u64> = self.table.rows().filter(|row| row.is_primary).map(|row| row.node.get()).collect();
        assert_eq!(marked, primary.into_iter().collect::<Vec<_>>(), "rows and seats agree");
        primary
    }

    fn state(&self, node: u64) -> &'static str {
        self.table.state(self.table.row(RouteId::new(node)).unwrap()).word()
    }
}

#[test]
fn a_killed_router_is_replaced_after_half_a_second_with_the_cause() {
    let mut story = Story::with_routers(2);
    story.lost(1);
    story.wait(ms(499));
    assert_eq!(story.primary(), Some(1));
    story.wait(ms(1));
    assert_eq!(story.primary(), Some(2));
    assert_eq!(story.moves, [(Some(1), Some(2), Because::IncumbentDown(Cause::ConnectionClosed))]);
    assert_eq!((story.state(1), story.state(2)), ("offline", "primary"));
}

#[test]
fn a_router_that_reconnects_in_time_keeps_its_prefix() {
    let mut story = Story::with_routers(2);
    story.lost(1);
    story.wait(ms(400));
    story.up(1);
    story.wait(ms(5000));
    assert_eq!(story.moves, []);
}

#[test]
fn s2_the_primary_moves_only_when_it_must() {
    let mut story = Story::with_routers(3);
    assert_eq!(story.primary(), Some(1));
    story.lost(1);
    story.wait(ms(600));
    assert_eq!(story.primary(), Some(2));
    story.lost(2);
    story.wait(ms(600));
    assert_eq!(story.primary(), Some(3));
    story.up(1);
    assert_eq!(story.primary(), Some(3));
    story.up(2);
    assert_eq!(story.primary(), Some(3));
    story.disabled(3);
    assert_eq!(story.primary(), Some(1));
    story.disabled(1);
    assert_eq!(story.primary(), Some(2));
    story.approved(1);
    story.approved(3);
    story.wait(ms(120_000));
    assert_eq!(story.primary(), Some(2));
    assert_eq!(story.moves.last(), Some(&(Some(1), Some(2), Because::IncumbentGone(Gone::Disabled))));
}

#[test]
fn s11_when_all_are_down_the_last_known_stays_and_the_first_back_takes_it() {
    let mut story = Story::with_routers(2);
    story.lost(1);
    story.wait(ms(600));
    story.lost(2);
    story.wait(ms(40_000));
    assert_eq!(story.primary(), Some(2), "the primary does not move to the dead r1");
    assert_eq!(story.state(2), "offline");
    story.up(1);
    assert_eq!(story.primary(), Some(1));
    story.up(2);
    story.wait(ms(1000));
    assert_eq!(story.primary(), Some(1));
}

#[test]
fn s21_without_any_candidate_the_prefix_is_on_nobody() {
    let mut story = Story::with_routers(1);
    story.disabled(1);
    assert_eq!(story.primary(), None);
    assert_eq!(story.moves, [(Some(1), None, Because::NoCandidate)]);
}

#[test]
fn s23_a_silent_router_that_answers_takes_the_prefix_back_from_a_dead_one() {
    let mut story = Story::with_routers(2);
    let session = SessionId::new(story.sessions[&1]);
    story.send(Input::Silent(NodeId::new(1), session, Cause::PingUnanswered));
    assert_eq!(story.primary(), Some(2));
    story.lost(2);
    story.wait(ms(600));
    assert_eq!(story.primary(), Some(2));
    story.send(Input::Answered(NodeId::new(1), session));
    assert_eq!(story.primary(), Some(1), "although it never opened a new session");
}

#[test]
fn s27_the_end_of_an_old_session_that_races_a_new_one_changes_nothing() {
    let mut story = Story::with_routers(2);
    for _ in 0..100 {
        let old = SessionId::new(story.sessions[&1]);
        story.up(1);
        story.send(Input::SessionLost(NodeId::new(1), old, Cause::ConnectionClosed));
        story.wait(ms(700));
        assert_eq!(story.primary(), Some(1));
    }
    assert_eq!(story.moves, []);
}

#[test]
fn s29_an_expired_key_is_no_candidate_until_it_is_renewed() {
    let mut story = Story::with_routers(2);
    let facts = NodeFacts { reachable: true, expired: true, drained: false };
    story.send(Input::Node(NodeId::new(1), facts));
    assert_eq!((story.primary(), story.state(1)), (Some(2), "expired"));
    story.send(Input::Node(NodeId::new(1), NodeFacts { expired: false, ..facts }));
    assert_eq!((story.primary(), story.state(1)), (Some(2), "standby"));
}

#[test]
fn a_withdrawn_route_is_used_no_more_at_once_and_disabled_after_the_grace() {
    let mut story = Story::with_routers(2);
    story.send(Input::Advertised(NodeId::new(1), BTreeSet::new()));
    assert_eq!(story.primary(), Some(2));
    assert_eq!(story.moves, [(Some(1), Some(2), Because::IncumbentGone(Gone::Withdrawn))]);
    let due = story.now + ms(2000);
    assert_eq!(story.table.next_deadline(), Some(due));
    assert_eq!(story.table.handle_deadline(due), [Effect::WithdrawalDue(RouteId::new(1))]);
}

#[test]
fn advertising_again_within_the_grace_keeps_the_approval() {
    let mut story = Story::with_routers(1);
    story.send(Input::Advertised(NodeId::new(1), BTreeSet::new()));
    assert_eq!(story.primary(), None);
    story.wait(ms(1900));
    story.send(Input::Advertised(NodeId::new(1), BTreeSet::from([Story::prefix()])));
    assert_eq!(story.primary(), Some(1));
    assert_eq!(story.table.next_deadline(), None);
}

#[test]
fn s14_a_start_moves_no_primary_until_the_time_to_come_back_is_over() {
    let mut story = Story::with_routers(2);
    let rows: Vec<Route> = story.table.rows().cloned().collect();
    let mut again = Story::new();
    for node in [1, 2] {
        again.send(Input::Node(NodeId::new(node), NodeFacts { reachable: true, ..NodeFacts::default() }));
    }
    again.send(Input::Rows(rows));
    again.send(Input::Started);
    again.session = story.session;
    assert_eq!(again.primary(), Some(1));
    again.up(2);
    again.wait(ms(29_999));
    assert_eq!((again.primary(), again.moves.len()), (Some(1), 0));
    again.wait(ms(1));
    assert_eq!(again.primary(), Some(2));
    assert_eq!(again.moves, [(Some(1), Some(2), Because::IncumbentDown(Cause::NotBack))]);
    story.wait(ms(0));
}

#[test]
fn a_common_loss_moves_nobody() {
    let mut story = Story::with_routers(2);
    story.lost(1);
    story.lost(2);
    let since = story.now - ms(1000);
    story.send(Input::CommonLoss(BTreeSet::from([NodeId::new(1), NodeId::new(2)]), since));
    story.wait(ms(10_000));
    story.up(2);
    story.wait(ms(10_000));
    story.up(1);
    story.wait(ms(60_000));
    assert_eq!(story.moves, []);
}

#[test]
fn who_was_lost_first_is_not_judged_before_the_last_of_so_many_is_known_of() {
    let mut story = Story::with_routers(2);
    let since = story.now;
    story.lost(1);
    for _ in 0..6 {
        story.wait(ms(120));
        let until = (story.now + ms(200)).min(since + ms(1000));
        story.send(Input::LossesGather { since, until });
    }
    assert_eq!((story.primary(), story.now - ms(720)), (Some(1), since), "720 ms after its loss");
    story.wait(ms(199));
    assert_eq!(story.primary(), Some(1));
    story.wait(ms(1));
    assert_eq!(story.primary(), Some(2), "no more came");
    story.up(1);
    story.wait(ms(5000));
    // Who was lost before them is none of them.
    story.lost(2);
    story.wait(ms(1));
    let (since, until) = (story.now, story.now + ms(1000));
    story.send(Input::LossesGather { since, until });
    story.wait(ms(499));
    assert_eq!(story.primary(), Some(1), "500 ms after its loss");
}

#[test]
fn what_witnesses_say_of_a_router_in_its_grace_is_not_held_against_it_later() {
    let mut story = Story::with_routers(2);
    story.wait(ms(10_000));
    for _ in 0..3 {
        story.lost(1);
        let since = story.now - ms(1000);
        story.send(Input::CommonLoss([NodeId::new(1)].into(), since));
        for _ in 0..2 {
            story.wait(ms(2000));
            let round = ProbeRound { session: None, due: story.now, answered: 0, silent: 2 };
            story.send(Input::Evidence(NodeId::new(1), Testimony::Probe(round)));
        }
        assert_eq!(story.primary(), Some(2), "it is down all the same");
        story.up(1);
        let session = Some(SessionId::new(story.session));
        let round = ProbeRound { session, due: story.now, answered: 2, silent: 0 };
        story.send(Input::Evidence(NodeId::new(1), Testimony::Probe(round)));
    }
    assert_eq!(story.table.rank(NodeId::new(1)), Some(Rank::Steady));
}

#[test]
fn exits_are_never_elected() {
    let mut story = Story::new();
    story.joins(1);
    let exit = approval::appeared(RouteId::new(9), NodeId::new(1), Prefix::EXIT_V4, story.now);
    let exit = approval::approve(&exit, Approver::Cli, story.now).unwrap();
    story.send(Input::Rows(vec![exit]));
    assert_eq!(story.table.seats().count(), 0);
    assert_eq!(story.table.state(story.table.row(RouteId::new(9)).unwrap()).word(), "serving");
}

#[test]
fn s32_five_lost_sessions_make_a_standby_unfit_and_a_primary_give_way_after_the_wait() {
    let mut story = Story::with_routers(2);
    for _ in 0..5 {
        story.lost(1);
        story.wait(ms(300));
        story.up(1);
        story.wait(ms(3000));
    }
    assert_eq!(story.table.rank(NodeId::new(1)), Some(Rank::Flapping));
    assert_eq!(story.primary(), Some(1), "until the other has been steady for a minute");
    story.wait(ms(60_000));
    assert_eq!(story.primary(), Some(2));
    assert_eq!(story.moves, [(Some(1), Some(2), Because::IncumbentFlapping)]);
    story.lost(2);
    story.wait(ms(600));
    story.up(2);
    assert_eq!(story.primary(), Some(1), "a flapping one is better than a dead one, and stays");
}

#[test]
fn losses_that_turn_out_to_be_the_servers_own_side_do_not_count() {
    let mut story = Story::with_routers(2);
    for _ in 0..4 {
        story.lost(1);
        story.wait(ms(100));
        story.up(1);
        story.wait(ms(1500));
    }
    story.lost(1);
    assert_eq!(story.table.rank(NodeId::new(1)), Some(Rank::Flapping));
    let now = story.now;
    story.send(Input::CommonLoss([NodeId::new(1)].into(), now - ms(1000)));
    assert_eq!(story.table.rank(NodeId::new(1)), Some(Rank::Steady), "the fifth is forgiven");
}

#[test]
fn s32_flapping_and_who_carries_what_survive_a_restart() {
    let mut story = Story::with_routers(2);
    for _ in 0..5 {
        story.lost(1);
        story.wait(ms(300));
        story.up(1);
    }
    assert_eq!(story.table.rank(NodeId::new(1)), Some(Rank::Flapping));
    let mut again = story.restarted();
    again.up(1);
    again.up(2);
    assert_eq!(again.table.rank(NodeId::new(1)), Some(Rank::Flapping));
    assert_eq!((again.primary(), again.moves.len()), (Some(1), 0), "the warm-up moves nothing");
    again.wait(Duration::from_secs(60));
    assert_eq!(again.primary(), Some(2), "a steady one takes over once it has waited");
}
mod evidence;
mod explained;

#[test]
fn what_happens_to_anybody_while_the_server_starts_is_not_held_against_it() {
    let mut story = Story::with_routers(2);
    story.send(Input::Started);
    for _ in 0..6 {
        story.lost(2);
        story.wait(ms(600));
        story.up(2);
        story.wait(ms(2000));
    }
    assert_eq!(story.table.rank(NodeId::new(2)), Some(Rank::Steady));
    story.wait(ms(30_000));
    for _ in 0..3 {
        story.lost(2);
        story.wait(ms(600));
        story.up(2);
        story.wait(ms(2000));
    }
    assert_eq!(story.table.rank(NodeId::new(2)), Some(Rank::Flapping), "afterwards it is");
}

#[test]
fn one_that_withdrew_or_whose_key_expired_waits_before_it_takes_the_prefix_back() {
    let (node, all) = (NodeId::new(1), BTreeSet::from([Story::prefix()]));
    let facts = NodeFacts { reachable: true, ..NodeFacts::default() };
    let withdraws = [Input::Advertised(node, BTreeSet::new()), Input::Advertised(node, all)];
    let expires = [Input::Node(node, NodeFacts { expired: true, ..facts }), Input::Node(node, facts)];
    for [goes, comes] in [withdraws, expires] {
        let mut story = Story::with_routers(2);
        let row = story.table.row(RouteId::new(1)).unwrap().clone();
        story.send(Input::Rows(vec![Route { priority: 10, ..row }]));
        story.wait(Duration::from_secs(600));
        story.send(goes);
        assert_eq!(story.primary(), Some(2));
        story.wait(ms(1000));
        story.send(comes);
        story.wait(ms(59_999));
        assert_eq!(story.primary(), Some(2), "it may go again");
        story.wait(ms(1));
        assert_eq!(story.primary(), Some(1));
    }
}

#[test]
fn after_a_common_loss_a_prefix_moves_to_nobody_who_has_not_come_back() {
    let mut story = Story::with_routers(3);
    let all: BTreeSet<NodeId> = (1..=3).map(NodeId::new).collect();
    (1..=3).for_each(|node| story.lost(node));
    let since = story.now - ms(1000);
    story.send(Input::CommonLoss(all, since));
    story.wait(ms(2000));
    story.up(1);
    story.up(3);
    story.wait(ms(3000));
    story.lost(1);
    story.wait(ms(600));
    assert_eq!(story.primary(), Some(3), "the second joined first, and is not there");
}

#[test]
fn one_that_is_preferred_takes_nothing_back_while_it_is_away() {
    let mut story = Story::with_routers(2);
    let row = story.table.row(RouteId::new(1)).unwrap().clone();
    story.send(Input::Rows(vec![Route { priority: 10, ..row }]));
    story.lost(1);
    story.wait(ms(600));
    story.up(1);
    story.wait(ms(50_000));
    assert_eq!(story.primary(), Some(2));
    (1..=2).for_each(|node| story.lost(node));
    let since = story.now - ms(1000);
    story.send(Input::CommonLoss([1, 2].map(NodeId::new).into(), since));
    story.wait(ms(2000));
    story.up(2);
    story.wait(ms(20_000));
    assert_eq!(story.primary(), Some(2));
    story.up(1);
    assert_eq!(story.primary(), Some(1), "it is back, and has waited");
}

#[test]
fn who_has_just_been_lost_is_taken_last() {
    let mut story = Story::with_routers(3);
    story.lost(1);
    story.wait(ms(100));
    story.lost(2);
    story.wait(ms(400));
    assert_eq!(story.primary(), Some(3));
}

#[test]
fn a_person_who_says_who_is_preferred_ends_what_was_moved_before() {
    let mut story = Story::with_routers(2);
    story.wait(Duration::from_secs(120));
    story.send(Input::Moved(Story::prefix(), NodeId::new(2), Approver::Cli));
    story.wait(Duration::from_secs(120));
    assert_eq!(story.primary(), Some(2));
    let row = story.table.row(RouteId::new(1)).unwrap().clone();
    story.send(Input::Rows(vec![Route { priority: 10, ..row }]));
    assert_eq!(story.primary(), Some(1));
}

#[test]
fn that_a_person_moved_a_prefix_is_still_said_after_a_freeze() {
    let mut story = Story::with_routers(2);
    story.send(Input::Moved(Story::prefix(), NodeId::new(2), Approver::Cli));
    let freeze = wayleave_model::Freeze { until: story.now + ms(5000), by: Approver::Cli };
    let overrides = PrefixOverrides { frozen: Some(freeze), ..PrefixOverrides::default() };
    story.send(Input::Overrides(PrefixRow { prefix: Some(Story::prefix()), overrides }));
    let because = |story: &Story| story.table.seat(&Story::prefix()).unwrap().because.clone();
    assert_eq!(because(&story), Because::Frozen);
    story.wait(ms(6000));
    assert_eq!(because(&story), Because::MovedBy(Approver::Cli));
}
