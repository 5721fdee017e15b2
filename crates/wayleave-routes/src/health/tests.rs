use super::*;

const DEADLINE: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_millis(250);

const fn t(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn watch() -> PingWatch {
    PingWatch::new(DEADLINE, LATE, t(0))
}

fn seen(at: i64, heard: i64, ping_acked: Option<i64>, unacked: Option<i64>) -> Observation {
    Observation { due: t(at), heard_at: t(heard), ping_acked_at: ping_acked.map(t), unacked_since: unacked.map(t) }
}

#[test]
fn a_frozen_process_whose_kernel_acknowledges_is_convicted_two_seconds_after_the_acknowledgement() {
    let mut watch = watch();
    assert_eq!(watch.look(seen(2900, 900, Some(1000), None), t(2900)), None);
    assert_eq!(watch.look(seen(3000, 900, Some(1000), None), t(3000)), Some(Silence::Silent(Cause::PingUnanswered)));
    assert_eq!(watch.look(seen(3100, 900, Some(1000), None), t(3100)), None, "told once");
}

#[test]
fn a_cut_cable_is_convicted_when_nothing_was_acknowledged_for_two_seconds() {
    let mut watch = watch();
    assert_eq!(watch.look(seen(2999, 900, None, Some(1000)), t(2999)), None);
    assert_eq!(watch.look(seen(3000, 900, None, Some(1000)), t(3000)), Some(Silence::Silent(Cause::TcpStalled)));
}

#[test]
fn a_slow_reader_whose_ping_still_waits_behind_a_map_is_not_dead() {
    let mut watch = watch();
    // Acknowledgements go on (unacked_since moves), the PING itself has not been acknowledged.
    for at in (1000..30_000).step_by(500) {
        assert_eq!(watch.look(seen(at, 0, None, Some(at - 900)), t(at)), None);
    }
}

#[test]
fn anything_heard_from_the_client_counts_as_life() {
    let mut watch = watch();
    assert_eq!(watch.look(seen(3000, 2500, Some(1000), None), t(3000)), None);
    assert_eq!(watch.look(seen(4500, 2500, Some(1000), None), t(4500)), Some(Silence::Silent(Cause::PingUnanswered)));
}

#[test]
fn s30_a_late_look_convicts_nobody_and_restarts_the_count() {
    let mut watch = watch();
    assert_eq!(watch.look(seen(1100, 900, Some(1000), Some(1000)), t(4100)), None, "three seconds late");
    assert_eq!(watch.look(seen(5000, 900, Some(1000), Some(1000)), t(5000)), None);
    assert_eq!(watch.look(seen(6100, 900, Some(1000), None), t(6100)), Some(Silence::Silent(Cause::PingUnanswered)));
}

#[test]
fn an_answer_after_the_conviction_is_recovery() {
    let mut watch = watch();
    assert!(watch.look(seen(3000, 900, Some(1000), None), t(3000)).is_some());
    assert!(watch.is_convicted());
    assert_eq!(watch.look(seen(9000, 8990, None, None), t(9000)), Some(Silence::Heard));
    assert!(!watch.is_convicted());
}

/// Every (state, input) of a node's health, and what it becomes.
#[test]
fn every_transition_of_a_node() {
    let s = SessionId::new;
    let up = || {
        let mut health = Health::unseen(t(0));
        assert!(health.opened(s(5)));
        health
    };
    let down = |health: &Health| matches!(health.liveness(), Liveness::Down { .. });

    let mut health = up();
    assert!(!health.opened(s(4)), "an older session changes nothing");
    assert!(!health.lost(s(4), Cause::StreamEnded, t(1)), "the late end of an old session keeps the node up");
    assert_eq!(health.liveness(), Liveness::Up);
    assert!(health.lost(s(5), Cause::StreamEnded, t(1)));
    assert!(health.is_up(), "a lost stream is not a lost node yet");
    assert_eq!(health.time_over(t(501)), Some(Cause::StreamEnded));
    assert!(down(&health));
    assert_eq!(health.time_over(t(600)), None, "down once");
    assert!(!health.answered(s(5)), "an answer of a session that is gone proves nothing");
    assert!(health.opened(s(6)));
    assert_eq!(health.liveness(), Liveness::Up);

    let mut health = up();
    assert!(!health.silent(s(4), Cause::PingUnanswered, t(1)), "silence of an old session convicts nobody");
    assert!(health.silent(s(5), Cause::PingUnanswered, t(1)));
    assert!(!health.silent(s(5), Cause::PingUnanswered, t(2)), "convicted once");
    assert!(health.answered(s(5)));
    assert!(!health.answered(s(5)), "acquitted once");

    let mut health = up();
    assert!(health.silent(s(5), Cause::TcpStalled, t(1)));
    assert!(health.lost(s(5), Cause::ConnectionClosed, t(9)));
    assert_eq!(health.liveness(), Liveness::Down { cause: Cause::TcpStalled, at: t(1) }, "the first conviction stands");

    let mut health = Health::unseen(t(0));
    health.give_grace(t(30));
    assert!(health.is_up());
    assert_eq!(health.time_over(t(30)), Some(Cause::NotBack));

    let mut health = up();
    health.give_grace(t(30));
    assert_eq!(health.liveness(), Liveness::Up, "who has a session needs no grace");
}

#[test]
fn five_lost_sessions_in_a_minute_make_a_node_flapping_and_four_do_not() {
    let settings = Settings::default();
    let mut health = Health::unseen(t(0));
    for (i, flaps) in [(0, false), (1, false), (2, false), (3, false), (4, true)] {
        health.opened(SessionId::new(i + 1));
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
