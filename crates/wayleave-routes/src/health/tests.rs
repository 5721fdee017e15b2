use super::*;

const fn t(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn s(number: u64) -> SessionId {
    SessionId::new(number)
}

/// What can happen to a node, at the tenth second.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Opens,
    OpensOlder,
    IsLost,
    IsLostOlder,
    IsSilent,
    IsSilentOlder,
    Answers,
    AnswersOlder,
    EchoMissed,
    EchoMissedLate,
    EchoMissedOlder,
    EchoAnswered,
    RoundSilent,
    RoundSilentLate,
    RoundOfOtherSession,
    RoundAnswered,
    RoundTied,
    RoundUnknown,
    Grace,
    Excused,
    ExcusedOlder,
    TimeOver,
}

/// States are named by what stands convicted, or by what is going on.
fn state_named(name: &str) -> Health {
    let settings = Settings::default();
    let judging = &settings.judging;
    let mut health = Health::unseen(t(0));
    if name == "unseen" {
        return health;
    }
    assert!(health.opened(s(5), t(0)).is_some());
    match name {
        "up" => {}
        "lost" => assert!(health.lost(s(5), Cause::StreamEnded, t(9_000), &settings)),
        "stream" => {
            health.lost(s(5), Cause::StreamEnded, t(1_000), &settings);
            health.time_over(t(1_500), judging);
        }
        "held" => {
            health.alive(t(9_500), &settings);
            assert_eq!(health.silent(s(5), Cause::TcpStalled, t(9_800), judging), None);
        }
        "ping" => assert!(health.silent(s(5), Cause::PingUnanswered, t(9_000), judging).is_some()),
        "echo" => {
            assert!(health.echoed(s(5), true, false, t(500), judging).is_none());
            assert!(health.echoed(s(5), false, false, t(1_000), judging).is_none());
            assert!(health.echoed(s(5), false, false, t(6_000), judging).is_some());
        }
        "probe" => {
            assert!(health.probed(round(Some(s(5)), 2_000, 2, 1), t(2_000), judging).is_none());
            assert!(health.probed(round(Some(s(5)), 4_000, 1, 2), t(4_000), judging).is_none());
            assert!(health.probed(round(Some(s(5)), 6_000, 0, 1), t(6_000), judging).is_some());
        }
        "grace" => {
            health.lost(s(5), Cause::ConnectionClosed, t(9_000), &settings);
            assert!(health.give_grace(t(10_000)).is_some());
        }
        "excused" => assert!(health.excuse_silence(s(5), t(10_000)).is_some()),
        other => panic!("no state {other}"),
    }
    assert_eq!(name_of(&health), name);
    health
}

const fn round(session: Option<SessionId>, due: i64, answered: u32, silent: u32) -> ProbeRound {
    ProbeRound { session, due: t(due), answered, silent }
}

fn name_of(health: &Health) -> &'static str {
    match health.liveness() {
        Liveness::Down { cause: Cause::NotSeen, .. } => "unseen",
        Liveness::Down { cause, .. } => cause.kind().word(),
        Liveness::Grace { .. } if health.session().is_some() => "excused",
        Liveness::Grace { .. } => "grace",
        Liveness::Doubted { .. } if health.session().is_some() => "held",
        Liveness::Doubted { .. } => "lost",
        Liveness::Up => "up",
    }
}

/// Every (state, input) of a node's health, and what it becomes.
#[test]
fn every_transition_of_a_node() {
    use Happens::*;
    let states = ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"];
    // One column for each state, in that order. A single miss or silent round convicts nobody: `up` stays up.
    let table: [(Happens, [&str; 10]); 22] = [
        (Opens, ["up", "up", "up", "up", "up", "up", "up", "probe", "up", "up"]),
        // Without a session any other is newer; with one, an older changes nothing.
        (OpensOlder, ["up", "up", "up", "up", "held", "ping", "echo", "probe", "up", "excused"]),
        (IsLost, ["unseen", "lost", "lost", "stream", "lost", "ping", "echo", "probe", "grace", "grace"]),
        (IsLostOlder, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (IsSilent, ["unseen", "ping", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (IsSilentOlder, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (Answers, ["unseen", "up", "lost", "stream", "up", "up", "echo", "probe", "grace", "up"]),
        (AnswersOlder, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (EchoMissed, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (EchoMissedLate, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (EchoMissedOlder, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (EchoAnswered, ["unseen", "up", "lost", "stream", "held", "ping", "up", "probe", "grace", "excused"]),
        (RoundSilent, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (RoundSilentLate, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (RoundOfOtherSession, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (RoundAnswered, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "up", "grace", "excused"]),
        (RoundTied, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "up", "grace", "excused"]),
        (RoundUnknown, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        // Who has a session needs no grace.
        (Grace, ["grace", "up", "grace", "grace", "held", "ping", "echo", "probe", "grace", "excused"]),
        (Excused, ["unseen", "excused", "lost", "stream", "excused", "excused", "echo", "probe", "grace", "excused"]),
        (ExcusedOlder, ["unseen", "up", "lost", "stream", "held", "ping", "echo", "probe", "grace", "excused"]),
        (TimeOver, ["unseen", "up", "stream", "stream", "held", "ping", "echo", "probe", "stream", "ping"]),
    ];
    for (happens, becomes) in table {
        for (state, expected) in states.into_iter().zip(becomes) {
            let mut health = state_named(state);
            apply(&mut health, happens);
            assert_eq!(name_of(&health), expected, "{state}, and then {happens:?}");
        }
    }
}

/// The state that follows is what is looked at.
fn ignore<T>(_: T) {}

fn apply(health: &mut Health, happens: Happens) {
    let (settings, now) = (Settings::default(), t(10_000));
    let judging = &settings.judging;
    let own = health.session();
    match happens {
        Happens::Opens => ignore(health.opened(s(6), t(0))),
        Happens::OpensOlder => ignore(health.opened(s(4), t(0))),
        Happens::IsLost => ignore(health.lost(s(5), Cause::ConnectionClosed, now, &settings)),
        Happens::IsLostOlder => ignore(health.lost(s(4), Cause::ConnectionClosed, now, &settings)),
        Happens::IsSilent => ignore(health.silent(s(5), Cause::TcpStalled, now, judging)),
        Happens::IsSilentOlder => ignore(health.silent(s(4), Cause::TcpStalled, now, judging)),
        Happens::Answers => ignore(health.answered(s(5))),
        Happens::AnswersOlder => ignore(health.answered(s(4))),
        Happens::EchoMissed => ignore(health.echoed(s(5), false, false, now, judging)),
        Happens::EchoMissedLate => ignore(health.echoed(s(5), false, true, now, judging)),
        Happens::EchoMissedOlder => (0..5).for_each(|_| ignore(health.echoed(s(4), false, false, now, judging))),
        Happens::EchoAnswered => ignore(health.echoed(s(5), true, false, now, judging)),
        Happens::RoundSilent => ignore(health.probed(round(own, 10_000, 0, 3), now, judging)),
        Happens::RoundSilentLate => {
            (0..5).for_each(|_| ignore(health.probed(round(own, 9_700, 0, 3), now, judging)));
        }
        Happens::RoundOfOtherSession => {
            (0..5).for_each(|_| ignore(health.probed(round(Some(s(4)), 10_000, 0, 3), now, judging)));
        }
        Happens::RoundAnswered => ignore(health.probed(round(own, 9_000, 2, 1), now, judging)),
        Happens::RoundTied => ignore(health.probed(round(own, 10_000, 1, 1), now, judging)),
        Happens::RoundUnknown => ignore(health.probed(round(own, 10_000, 0, 0), now, judging)),
        Happens::Grace => ignore(health.give_grace(t(40_000))),
        Happens::Excused => ignore(health.excuse_silence(s(5), t(40_000))),
        Happens::ExcusedOlder => ignore(health.excuse_silence(s(4), t(40_000))),
        Happens::TimeOver => ignore(health.time_over(now, judging)),
    }
}

#[test]
fn convictions_of_several_kinds_stand_side_by_side_and_each_is_lifted_by_its_own() {
    let settings = Settings::default();
    let judging = &settings.judging;
    let mut health = state_named("probe");
    assert!(health.silent(s(5), Cause::TcpStalled, t(7_000), judging).is_some());
    assert!(health.lost(s(5), Cause::ConnectionClosed, t(9_000), &settings));
    assert_eq!(health.time_over(t(9_500), judging), [Verdict::Convicted(Cause::ConnectionClosed)]);
    assert_eq!(health.liveness(), Liveness::Down { cause: Cause::WitnessesSilent, at: t(6_000) }, "the first stands");
    let lifted = health.opened(s(6), t(0)).unwrap();
    assert_eq!(
        lifted,
        [Verdict::Acquitted(Cause::ConnectionClosed), Verdict::Acquitted(Cause::TcpStalled)],
        "a new session says nothing of the data plane"
    );
    assert!(!health.is_up());
    assert!(health.probed(round(None, 9_900, 1, 0), t(10_000), judging).is_some());
    assert!(health.is_up());
}

/// When it is convicted if nothing more is heard of it.
fn convicted_at(health: &Health) -> Option<Timestamp> {
    match health.liveness() {
        Liveness::Doubted { until, .. } => Some(until),
        Liveness::Up | Liveness::Grace { .. } | Liveness::Down { .. } => None,
    }
}

/// All that is due until then happens in time. Returns the verdicts.
fn looked_at(health: &mut Health, until: i64, judging: &Judging) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    while let Some(at) = health.next_deadline().filter(|at| *at <= t(until)) {
        verdicts.extend(health.time_over(at, judging));
    }
    verdicts
}

#[test]
fn s10_answers_to_witnesses_hold_a_lost_router_for_thirty_seconds_and_no_longer() {
    let settings = Settings::default();
    let mut health = state_named("up");
    assert!(health.lost(s(5), Cause::ConnectionClosed, t(10_000), &settings));
    assert!(!health.alive(t(10_000), &settings), "an answer that is no newer than the loss holds nothing");
    let mut now = 10_050;
    while convicted_at(&health).is_some_and(|until| until > t(now)) {
        health.alive(t(now), &settings);
        now += 200;
    }
    assert_eq!(convicted_at(&health), Some(t(40_000)));
    assert_eq!(health.time_over(t(40_000), &settings.judging), [Verdict::Convicted(Cause::ConnectionClosed)]);
}

#[test]
fn s30_a_server_that_stood_still_lets_witnesses_answer_once_more_before_it_convicts() {
    let settings = Settings::default();
    let judging = &settings.judging;
    let silent = |alive_at: Option<i64>| {
        let mut health = state_named("up");
        alive_at.map(|at| health.alive(t(at), &settings));
        let verdict = health.silent(s(5), Cause::PingUnanswered, t(10_000), judging);
        assert_eq!(verdict.is_none(), alive_at.is_some());
        health
    };
    let mut health = silent(Some(9_900));
    assert_eq!(convicted_at(&health), Some(t(10_900)));
    assert_eq!(health.time_over(t(13_000), judging), [], "2.1 s late");
    assert_eq!(convicted_at(&health), Some(t(14_000)));
    health.alive(t(13_100), &settings);
    assert_eq!(convicted_at(&health), Some(t(14_100)));
    assert_eq!(looked_at(&mut health, 14_099, judging), []);
    assert_eq!(health.time_over(t(14_100), judging), [Verdict::Convicted(Cause::PingUnanswered)], "in time");
    // It stood still until just before, and asked nobody meanwhile.
    let mut health = silent(Some(9_900));
    assert_eq!(looked_at(&mut health, 10_200, judging), []);
    assert_eq!(health.time_over(t(10_551), judging), [], "more than 250 ms after the look that was due at 10.3 s");
    assert_eq!(convicted_at(&health), Some(t(11_551)));
    let mut health = silent(Some(9_900));
    assert_eq!(looked_at(&mut health, 10_200, judging), []);
    assert_eq!(health.time_over(t(10_550), judging), [], "there was time enough to ask again");
    assert_eq!(convicted_at(&health), Some(t(10_900)));
    // Not beyond the time for which answers may hold it.
    let mut health = silent(Some(9_900));
    assert_eq!(health.time_over(t(38_000), judging), [Verdict::Convicted(Cause::PingUnanswered)]);
    // A closed connection counts, also where the server was late.
    let mut health = state_named("up");
    assert!(health.lost(s(5), Cause::ConnectionClosed, t(10_000), &settings));
    assert_eq!(health.time_over(t(13_000), judging), [Verdict::Convicted(Cause::ConnectionClosed)]);
}

#[test]
fn a_server_that_stood_still_before_it_took_in_the_first_answer_asks_once_more() {
    let settings = Settings::default();
    let judging = &settings.judging;
    let lost = || {
        let mut health = state_named("up");
        assert!(health.lost(s(5), Cause::StreamEnded, t(10_000), &settings));
        health
    };
    // The witness was asked and answered at once, and nobody read that for almost half a second. Whichever is seen first.
    let mut health = lost();
    assert_eq!(health.time_over(t(10_490), judging), []);
    health.alive(t(10_001), &settings);
    assert_eq!(convicted_at(&health), Some(t(11_490)));
    let mut health = lost();
    health.alive(t(10_001), &settings);
    assert_eq!(convicted_at(&health), Some(t(10_502)));
    assert_eq!(health.time_over(t(10_490), judging), []);
    assert_eq!(convicted_at(&health), Some(t(11_490)));
    // Without an answer a lost stream counts, however late the server was; and one that came slowly is no lateness of the server.
    let mut health = lost();
    assert_eq!(health.time_over(t(10_490), judging), []);
    assert_eq!(health.time_over(t(10_500), judging), [Verdict::Convicted(Cause::StreamEnded)]);
    let mut health = lost();
    assert_eq!(looked_at(&mut health, 10_489, judging), []);
    health.alive(t(10_001), &settings);
    assert_eq!(looked_at(&mut health, 10_501, judging), []);
    assert_eq!(convicted_at(&health), Some(t(10_502)));
}

#[test]
fn an_answer_of_a_process_that_is_about_to_end_costs_no_more_than_it_is_old() {
    let settings = Settings::default();
    let mut health = state_named("up");
    health.lost(s(5), Cause::StreamEnded, t(10_000), &settings);
    health.alive(t(10_002), &settings);
    assert_eq!(convicted_at(&health), Some(t(10_504)));
    health.alive(t(10_100), &settings);
    assert_eq!(convicted_at(&health), Some(t(10_700)));
}

#[test]
fn a_frozen_router_that_answered_its_witnesses_only_before_is_convicted_at_once() {
    let settings = Settings::default();
    let mut health = state_named("up");
    health.alive(t(7_900), &settings);
    assert!(health.silent(s(5), Cause::PingUnanswered, t(10_000), &settings.judging).is_some());
}

#[test]
fn a_client_that_never_answers_echoes_is_not_hung() {
    let settings = Settings::default();
    let mut health = state_named("up");
    for at in 1..50 {
        assert_eq!(health.echoed(s(5), false, false, t(at * 5_000), &settings.judging), None);
    }
    assert!(health.is_up());
}

#[test]
fn s26_the_first_round_after_a_reconnect_never_convicts_by_itself() {
    let settings = Settings::default();
    let judging = &settings.judging;
    let mut health = state_named("up");
    assert!(health.probed(round(Some(s(5)), 1_000, 3, 0), t(1_000), judging).is_none());
    assert!(health.probed(round(Some(s(5)), 2_000, 0, 3), t(2_000), judging).is_none());
    health.lost(s(5), Cause::StreamEnded, t(2_100), &settings);
    assert!(health.probed(round(Some(s(5)), 4_000, 0, 3), t(4_000), judging).is_none(), "a bounce during the round");
    health.opened(s(6), t(5_000));
    for at in [6_000, 8_000, 14_000] {
        assert!(health.probed(round(Some(s(6)), at, 0, 3), t(at), judging).is_none(), "it settles");
    }
    assert!(health.probed(round(Some(s(6)), 16_000, 0, 3), t(16_000), judging).is_none(), "the first after it");
    assert!(health.probed(round(Some(s(6)), 18_000, 0, 3), t(18_000), judging).is_some());
    // One that was reached since it is back has settled.
    health.opened(s(7), t(20_000));
    assert!(health.probed(round(Some(s(7)), 21_000, 3, 0), t(21_000), judging).is_some(), "acquitted");
    assert!(health.probed(round(Some(s(7)), 23_000, 0, 3), t(23_000), judging).is_none());
    assert!(health.probed(round(Some(s(7)), 25_000, 0, 3), t(25_000), judging).is_some());
}

#[test]
fn a_primary_that_has_not_come_back_after_a_start_may_be_convicted_by_witnesses_at_once() {
    let settings = Settings::default();
    let mut health = Health::unseen(t(0));
    assert!(health.give_grace(t(30_000)).is_some());
    assert!(health.probed(round(None, 2_000, 0, 2), t(2_000), &settings.judging).is_none());
    assert!(health.probed(round(None, 4_000, 0, 2), t(4_000), &settings.judging).is_some());
    assert!(!health.is_up());
}

#[test]
fn when_nobody_can_testify_any_more_nobody_knows() {
    let settings = Settings::default();
    let mut health = state_named("probe");
    assert!(health.probed(round(Some(s(5)), 8_000, 0, 0), t(8_000), &settings.judging).is_none());
    assert!(health.probed(round(Some(s(5)), 37_999, 0, 0), t(37_999), &settings.judging).is_none());
    let lifted = health.probed(round(Some(s(5)), 38_000, 0, 0), t(38_000), &settings.judging);
    assert_eq!(lifted, Some(Verdict::Acquitted(Cause::WitnessesSilent)));
}

#[test]
fn evidence_that_is_observed_moves_nothing_and_evidence_that_is_off_is_not_written_down() {
    let mut settings = Settings::default();
    settings.judging.modes = [(Kind::Stream, Mode::Observe), (Kind::Ping, Mode::Off)].into();
    let mut health = state_named("up");
    assert_eq!(health.silent(s(5), Cause::TcpStalled, t(1_000), &settings.judging), None);
    assert!(health.lost(s(5), Cause::StreamEnded, t(1_000), &settings));
    assert_eq!(health.time_over(t(1_500), &settings.judging), [Verdict::Observed(Cause::StreamEnded)]);
    assert!(health.is_up());
    assert_eq!(health.opened(s(6), t(0)), Some(vec![Verdict::Acquitted(Cause::StreamEnded)]));
}

#[test]
fn five_lost_sessions_in_a_minute_make_a_node_flapping_and_four_do_not() {
    let settings = Settings::default();
    let mut health = Health::unseen(t(0));
    for (i, flaps) in [(0, false), (1, false), (2, false), (3, false), (4, true)] {
        health.opened(SessionId::new(i + 1), t(0)).expect("it is newer");
        assert_eq!(health.count_loss(t(i as i64 * 10_000), &settings), flaps);
    }
    assert_eq!(health.rank(false), Rank::Flapping);
    assert_eq!(health.flapping_until(), Some(t(40_000) + settings.flap_hold));
    health.stop_flapping();
    assert_eq!(health.rank(false), Rank::Steady);
}

#[test]
fn losses_spread_over_more_than_a_minute_are_no_flapping() {
    let settings = Settings::default();
    let mut health = Health::unseen(t(0));
    assert!((0..20).all(|i| !health.count_loss(t(i * 16_000), &settings)));
}
