//! `when_down = fall_back`: while every candidate is down, a prefix is withdrawn from those who have a wider one to use.
//!
//! This file says whether a prefix has fallen back; who has a wider one is a question of viewers, and answered where their maps are made.

use std::time::Duration;

use wayleave_model::{NodeId, Timestamp, WhenDown};

use crate::election::{Candidate, Rank};

/// Whether the prefix has fallen back, and if so when it comes back unless something changes.
///
/// It falls back once every candidate is down, and is back once one of them has been steady for `back_after`. `is_up` tells who was really
/// seen, so that a grace after a start counts for nobody. A frozen prefix stays as it is.
pub(crate) fn judge(
    when_down: WhenDown,
    fallen_back: bool,
    frozen: bool,
    candidates: &[Candidate],
    back_after: Duration,
    is_up: impl Fn(NodeId) -> bool,
    now: Timestamp,
) -> (bool, Option<Timestamp>) {
    if when_down == WhenDown::Keep || candidates.is_empty() {
        return (false, None);
    }
    if frozen {
        return (fallen_back, None);
    }
    if candidates.iter().all(|c| matches!(c.rank, Rank::Down(_))) {
        return (true, None);
    }
    if !fallen_back {
        return (false, None);
    }
    let seen = candidates.iter().filter(|c| is_up(c.node)).filter_map(|c| c.steady_since);
    match seen.map(|since| since + back_after).min() {
        Some(at) if at <= now => (false, None),
        back_at => (true, back_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::Presence;
    use crate::reason::Cause;

    const NOW: Timestamp = Timestamp::from_millis(100_000);
    const AFTER: Duration = Duration::from_secs(30);

    fn candidate(rank: Rank, steady_since: Option<i64>) -> Candidate {
        let steady_since = steady_since.map(Timestamp::from_millis);
        Candidate { node: NodeId::new(1), rank, priority: 0, steady_since, presence: Presence::Here }
    }

    fn at(fallen_back: bool, candidates: &[Candidate]) -> (bool, Option<Timestamp>) {
        judge(WhenDown::FallBack, fallen_back, false, candidates, AFTER, |_| true, NOW)
    }

    #[test]
    fn it_falls_back_once_all_are_down_and_comes_back_once_one_was_steady_for_long_enough() {
        let down = candidate(Rank::Down(Cause::PingUnanswered), None);
        assert_eq!(at(false, &[down, down]), (true, None));
        assert_eq!(at(false, &[down, candidate(Rank::Flapping, None)]), (false, None), "one is up");
        assert_eq!(at(false, &[down, candidate(Rank::Drained, None)]), (false, None), "drained is not down");
        let back = candidate(Rank::Steady, Some(80_000));
        assert_eq!(at(true, &[down, back]), (true, Some(Timestamp::from_millis(110_000))));
        assert_eq!(at(true, &[down, candidate(Rank::Steady, Some(70_000))]), (false, None));
        assert_eq!(at(true, &[candidate(Rank::Flapping, None)]), (true, None), "a flapping one brings nothing back");
        assert_eq!(judge(WhenDown::Keep, true, false, &[down], AFTER, |_| true, NOW), (false, None));
        assert_eq!(judge(WhenDown::FallBack, false, true, &[down], AFTER, |_| true, NOW), (false, None), "frozen");
    }

    #[test]
    fn a_grace_brings_nothing_back() {
        let grace = candidate(Rank::Steady, Some(0));
        assert_eq!(judge(WhenDown::FallBack, true, false, &[grace], AFTER, |_| false, NOW), (true, None));
    }
}
