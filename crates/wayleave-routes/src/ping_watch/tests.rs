use super::*;

const DEADLINE: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_millis(250);

const fn t(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// What a watch says that convicts or acquits; that it doubts is told apart.
fn verdict(watch: &mut PingWatch, seen: Observation, now: Timestamp) -> Option<Silence> {
    watch.look(seen, now).filter(|silence| *silence != Silence::Doubtful)
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
    assert_eq!(verdict(&mut watch, seen(2900, 900, Some(1000), None), t(2900)), None);
    assert_eq!(
        verdict(&mut watch, seen(3000, 900, Some(1000), None), t(3000)),
        Some(Silence::Silent(Cause::PingUnanswered))
    );
    assert_eq!(verdict(&mut watch, seen(3100, 900, Some(1000), None), t(3100)), None, "told once");
}

#[test]
fn a_cut_cable_is_convicted_when_nothing_was_acknowledged_for_two_seconds() {
    let mut watch = watch();
    assert_eq!(verdict(&mut watch, seen(2999, 900, None, Some(1000)), t(2999)), None);
    assert_eq!(
        verdict(&mut watch, seen(3000, 900, None, Some(1000)), t(3000)),
        Some(Silence::Silent(Cause::TcpStalled))
    );
}

#[test]
fn a_slow_reader_whose_ping_still_waits_behind_a_map_is_not_dead() {
    let mut watch = watch();
    // Acknowledgements go on (unacked_since moves), the PING itself has not been acknowledged.
    for at in (1000..30_000).step_by(500) {
        assert_eq!(verdict(&mut watch, seen(at, 0, None, Some(at - 900)), t(at)), None);
    }
}

#[test]
fn anything_heard_from_the_client_counts_as_life() {
    let mut watch = watch();
    assert_eq!(verdict(&mut watch, seen(3000, 2500, Some(1000), None), t(3000)), None);
    assert_eq!(
        verdict(&mut watch, seen(4500, 2500, Some(1000), None), t(4500)),
        Some(Silence::Silent(Cause::PingUnanswered))
    );
}

#[test]
fn s30_a_late_look_convicts_nobody_and_restarts_the_count() {
    let mut watch = watch();
    assert_eq!(verdict(&mut watch, seen(1100, 900, Some(1000), Some(1000)), t(4100)), None, "three seconds late");
    assert_eq!(verdict(&mut watch, seen(5000, 900, Some(1000), Some(1000)), t(5000)), None);
    assert_eq!(
        verdict(&mut watch, seen(6100, 900, Some(1000), None), t(6100)),
        Some(Silence::Silent(Cause::PingUnanswered))
    );
}

#[test]
fn an_answer_after_the_conviction_is_recovery() {
    let mut watch = watch();
    assert!(verdict(&mut watch, seen(3000, 900, Some(1000), None), t(3000)).is_some());
    assert!(watch.is_convicted());
    assert_eq!(verdict(&mut watch, seen(9000, 8990, None, None), t(9000)), Some(Silence::Heard));
    assert!(!watch.is_convicted());
}

/// A doubt is told once for each silence, at half of the time that convicts.
#[test]
fn half_of_the_time_is_a_doubt_that_is_told_once() {
    let mut watch = watch();
    assert_eq!(watch.look(seen(1900, 900, Some(1000), None), t(1900)), None);
    assert_eq!(watch.look(seen(2000, 900, Some(1000), None), t(2000)), Some(Silence::Doubtful));
    assert_eq!(watch.look(seen(2100, 900, Some(1000), None), t(2100)), None, "told once");
    assert_eq!(watch.look(seen(2200, 2150, None, None), t(2200)), Some(Silence::Heard));
    assert_eq!(watch.look(seen(4200, 2150, None, Some(3100)), t(4200)), Some(Silence::Doubtful));
    assert!(matches!(watch.look(seen(5100, 2150, None, Some(3100)), t(5100)), Some(Silence::Silent(_))));
}

#[test]
fn that_the_server_looks_late_at_one_who_is_doubtful_is_no_sign_of_life() {
    let mut watch = watch();
    assert_eq!(watch.look(seen(2000, 900, Some(1000), None), t(2000)), Some(Silence::Doubtful));
    assert_eq!(watch.look(seen(2100, 900, Some(1000), None), t(2400)), None);
    assert_eq!(watch.look(seen(3400, 900, Some(1000), None), t(3400)), Some(Silence::Doubtful), "anew");
    assert_eq!(watch.look(seen(3500, 3450, None, None), t(3500)), Some(Silence::Heard));
    assert_eq!(watch.look(seen(3600, 3450, None, None), t(3600)), None, "told once");
}
