//! Sessions: which is the newest of a node, whether it is shown as online, when an ephemeral node is due, and whether so many are
//! lost at once that it is the server's own side.
//!
//! Being shown as online is cosmetic and has a grace of 10 s, which begins anew where the server is too busy to accept those who come. Whether a node may carry a route is the route table's business,
//! which is told of each session from here, the newest only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use wayleave_model::{NodeId, SessionId, Timers, Timestamp};
use wayleave_routes::Cause;

use crate::settings::Settings;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was lost, by this evidence.
    Lost(Cause),
    /// The server ended it, because a newer one replaced it or the server stops. That proves nothing about the node.
    Replaced,
}

#[derive(Clone, Debug, Default)]
struct Presence {
    /// The newest session, while it is open.
    session: Option<SessionId>,
    online: bool,
    /// It was online when the server stopped, which started then, and it has not come since.
    awaited_since: Option<Timestamp>,
}

/// The deadlines that belong to presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// The grace before a node is shown as offline is over.
    Offline(NodeId),
    /// An ephemeral node has been gone for long enough.
    Ephemeral(NodeId),
}

/// Presence of all nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Liveness {
    nodes: BTreeMap<NodeId, Presence>,
    open: usize,
    losses: Losses,
    due: Timers<Due>,
    /// When clients were last known to wait for the server.
    busy_at: Option<Timestamp>,
}

/// A node is shown as offline from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offline {
    /// It has not been seen since the server started, which was then.
    pub(crate) not_since: Option<Timestamp>,
}

/// So long after it was told that clients wait for the server, they are taken to wait still.
const BUSY: Duration = Duration::from_secs(2);

/// What the end of a session came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was not the newest: nothing.
    Stale,
    /// It was the newest.
    Newest(Loss),
}

/// What a loss comes to, with those that came just before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing beside itself.
    Single,
    /// So many were lost within a second that it may be about to turn out as a common loss: until then nobody is convicted by a
    /// lost stream, because those that were lost first must not be judged before the last of them is known of.
    Gathering {
        /// When the first of them was lost.
        since: Timestamp,
        /// Until then, unless more are lost.
        until: Timestamp,
    },
    /// These lost theirs all at once: it is the server's own side. It is the last of them, and the one by which that is known.
    Common(BTreeSet<NodeId>),
    /// It is one more of those.
    OneMore,
}

/// The losses of the last second.
#[derive(Clone, Debug, Default)]
struct Losses {
    recent: VecDeque<(Timestamp, NodeId)>,
    /// How often each was lost.
    nodes: BTreeMap<NodeId, usize>,
    /// How many of those are back.
    back: usize,
    /// The last of them was part of a common loss.
    common: bool,
}

impl Losses {
    fn opened(&mut self, node: NodeId) {
        self.back += usize::from(self.nodes.contains_key(&node));
    }

    /// A session ended, lost or not.
    fn closed(&mut self, node: NodeId) {
        self.back -= usize::from(self.nodes.contains_key(&node));
    }

    /// `has_session` answers for each node as it is now, `open` counts those that do.
    fn lost(
        &mut self,
        node: NodeId,
        now: Timestamp,
        open: usize,
        settings: &Settings,
        has_session: impl Fn(NodeId) -> bool,
    ) -> Loss {
        self.recent.push_back((now, node));
        *self.nodes.entry(node).or_default() += 1;
        let window = settings.common_loss_window;
        while let Some((_, node)) = self.recent.pop_front_if(|(at, _)| now.since(*at) > window) {
            let Some(times) = self.nodes.get_mut(&node) else { continue };
            *times -= 1;
            if *times == 0 {
                self.nodes.remove(&node);
                self.back -= usize::from(has_session(node));
            }
        }
        let many = self.nodes.len() >= settings.common_loss_sessions;
        // Those that are back already were lost none the less.
        let was = std::mem::replace(&mut self.common, many && self.nodes.len() > open - self.back);
        match (self.common, was) {
            (true, true) => Loss::OneMore,
            (true, false) => Loss::Common(self.nodes.keys().copied().collect()),
            (false, _) if many => {
                let since = self.recent.front().map_or(now, |(at, _)| *at);
                Loss::Gathering { since, until: (now + settings.common_loss_gap).min(since + window) }
            }
            (false, _) => Loss::Single,
        }
    }
}

impl Liveness {
    pub(crate) fn has_session(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|presence| presence.session.is_some())
    }

    pub(crate) fn session(&self, node: NodeId) -> Option<SessionId> {
        self.nodes.get(&node)?.session
    }

    pub(crate) fn is_online(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|presence| presence.online)
    }

    pub(crate) const fn open_sessions(&self) -> usize {
        self.open
    }

    /// Returns whether it is the newest session of its node.
    pub(crate) fn opened(&mut self, node: NodeId, session: SessionId) -> bool {
        let presence = self.nodes.entry(node).or_default();
        if presence.session.is_some_and(|newest| newest >= session) {
            return false;
        }
        if presence.session.is_none() {
            self.open += 1;
            self.losses.opened(node);
        }
        *presence = Presence { session: Some(session), online: true, awaited_since: None };
        self.due.stop(&Due::Offline(node));
        self.due.stop(&Due::Ephemeral(node));
        true
    }

    pub(crate) fn ended(
        &mut self,
        node: NodeId,
        session: SessionId,
        ending: Ending,
        now: Timestamp,
        settings: &Settings,
    ) -> Ended {
        let Some(presence) = self.nodes.get_mut(&node).filter(|presence| presence.session == Some(session)) else {
            return Ended::Stale;
        };
        presence.session = None;
        self.open -= 1;
        self.losses.closed(node);
        self.due.set(Due::Offline(node), now + settings.offline_after);
        if ending == Ending::Replaced {
            return Ended::Newest(Loss::Single);
        }
        let nodes = &self.nodes;
        let has_session = |node| nodes.get(&node).is_some_and(|presence| presence.session.is_some());
        Ended::Newest(self.losses.lost(node, now, self.open, settings, has_session))
    }

    /// After a start: a node that was online when the server stopped is still shown so for a while.
    pub(crate) fn was_online(&mut self, node: NodeId, now: Timestamp, settings: &Settings) {
        *self.nodes.entry(node).or_default() = Presence { session: None, online: true, awaited_since: Some(now) };
        self.due.set(Due::Offline(node), now + settings.offline_after);
    }

    pub(crate) fn await_ephemeral(&mut self, node: NodeId, at: Timestamp) {
        self.due.set(Due::Ephemeral(node), at);
    }

    /// Clients wait for the server.
    pub(crate) const fn busy(&mut self, now: Timestamp) {
        self.busy_at = Some(now);
    }

    /// The grace of a node is over. `None`: it was shown as offline before, or has a session; or it may be among those that wait for the
    /// server, and its grace begins anew.
    pub(crate) fn show_offline(&mut self, node: NodeId, now: Timestamp, settings: &Settings) -> Option<Offline> {
        let presence = self.nodes.get_mut(&node).filter(|presence| presence.session.is_none() && presence.online)?;
        if self.busy_at.is_some_and(|at| now.since(at) < BUSY) {
            self.due.set(Due::Offline(node), now + settings.offline_after);
            return None;
        }
        presence.online = false;
        Some(Offline { not_since: presence.awaited_since.take() })
    }

    pub(crate) fn removed(&mut self, node: NodeId) {
        if self.nodes.remove(&node).is_some_and(|presence| presence.session.is_some()) {
            self.open -= 1;
            self.losses.closed(node);
        }
        self.due.stop(&Due::Offline(node));
        self.due.stop(&Due::Ephemeral(node));
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.due.next()
    }

    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<Due> {
        self.due.pop_due(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Ending = Ending::Lost(Cause::ConnectionClosed);

    fn with_sessions(count: u64) -> Liveness {
        let mut liveness = Liveness::default();
        for n in 1..=count {
            assert!(liveness.opened(NodeId::new(n), SessionId::new(n)));
        }
        liveness
    }

    #[test]
    fn s28_sessions_released_in_any_order_are_never_stuck() {
        let (node, settings) = (NodeId::new(1), Settings::default());
        for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
            let mut liveness = Liveness::default();
            (1..=3).for_each(|n| assert!(liveness.opened(node, SessionId::new(n))));
            for n in order {
                let ended = liveness.ended(node, SessionId::new(n), LOST, Timestamp::from_millis(0), &settings);
                assert_eq!(ended != Ended::Stale, n == 3, "only the newest counts");
            }
            assert!(!liveness.has_session(node));
            assert_eq!(liveness.open_sessions(), 0);
            assert!(liveness.is_online(node), "until the grace is over");
            let over = Timestamp::from_millis(10_000);
            assert_eq!(liveness.show_offline(node, over, &settings), Some(Offline { not_since: None }));
            assert_eq!(liveness.show_offline(node, over, &settings), None, "it is already");
        }
    }

    #[test]
    fn nobody_is_shown_as_offline_who_may_be_waiting_for_a_busy_server() {
        let (node, settings, t) = (NodeId::new(1), Settings::default(), Timestamp::from_millis);
        let mut liveness = Liveness::default();
        liveness.was_online(node, t(0), &settings);
        liveness.busy(t(8_500));
        let due = |liveness: &mut Liveness, at| (liveness.next_deadline(), liveness.pop_due(t(at)));
        assert_eq!(due(&mut liveness, 10_000), (Some(t(10_000)), Some(Due::Offline(node))));
        assert_eq!(liveness.show_offline(node, t(10_000), &settings), None);
        assert!(liveness.is_online(node));
        assert_eq!(due(&mut liveness, 20_000), (Some(t(20_000)), Some(Due::Offline(node))), "the grace begins anew");
        let offline = liveness.show_offline(node, t(20_000), &settings);
        assert_eq!(offline, Some(Offline { not_since: Some(t(0)) }), "it has not come since the start");
        assert!(!liveness.is_online(node));
    }

    #[test]
    fn more_than_half_of_all_and_at_least_eight_lost_within_a_second_are_a_common_loss() {
        let settings = Settings::default();
        let lose = |liveness: &mut Liveness, n: u64, millis: i64| {
            let at = Timestamp::from_millis(millis);
            matches!(
                liveness.ended(NodeId::new(n), SessionId::new(n), LOST, at, &settings),
                Ended::Newest(Loss::Common(_))
            )
        };
        let mut liveness = with_sessions(15);
        assert_eq!((1..=8).filter(|n| lose(&mut liveness, *n, 10)).collect::<Vec<_>>(), [8], "8 of 15");
        let mut liveness = with_sessions(16);
        assert_eq!((1..=8).filter(|n| lose(&mut liveness, *n, 10)).count(), 0, "8 of 16 are not more than half");
        let mut liveness = with_sessions(7);
        assert_eq!((1..=7).filter(|n| lose(&mut liveness, *n, 10)).count(), 0, "7 are too few");
        let mut liveness = with_sessions(10);
        assert_eq!((1..=10).filter(|n| lose(&mut liveness, *n, *n as i64 * 600)).count(), 0, "one after the other");
    }

    /// Loses these, one after the other, `every` so many milliseconds, each back at once if `back`.
    fn lose_all(liveness: &mut Liveness, nodes: std::ops::RangeInclusive<u64>, every: i64, back: bool) -> Vec<Loss> {
        let settings = Settings::default();
        let lose = |n: u64| {
            let at = Timestamp::from_millis(n as i64 * every);
            let ended = liveness.ended(NodeId::new(n), SessionId::new(n), LOST, at, &settings);
            if back {
                assert!(liveness.opened(NodeId::new(n), SessionId::new(n + 1_000_000)));
            }
            match ended {
                Ended::Newest(loss) => loss,
                Ended::Stale => panic!("it is the newest"),
            }
        };
        nodes.map(lose).collect()
    }

    #[test]
    fn those_that_are_back_already_were_lost_none_the_less() {
        let mut liveness = with_sessions(100);
        let losses = lose_all(&mut liveness, 1..=100, 9, true);
        let common: Vec<_> = (1..).zip(&losses).filter(|(_, loss)| matches!(loss, Loss::Common(_))).collect();
        assert_eq!(common.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [51], "51 of 100, all of whom are back");
        assert!(losses[51..].iter().all(|loss| *loss == Loss::OneMore));
    }

    #[test]
    fn losses_that_come_one_after_the_other_are_waited_for_until_a_second_after_the_first() {
        let settings = Settings::default();
        let mut liveness = with_sessions(100);
        let losses = lose_all(&mut liveness, 1..=50, 15, false);
        let until = |n: usize| match &losses[n - 1] {
            Loss::Gathering { since, until } => Some((since.as_millis(), until.as_millis())),
            Loss::Single | Loss::Common(_) | Loss::OneMore => None,
        };
        assert_eq!(until(7), None, "seven are too few");
        let gap = settings.common_loss_gap.as_millis() as i64;
        assert_eq!(until(8), Some((15, 8 * 15 + gap)));
        assert_eq!(until(50), Some((15, (50 * 15 + gap).min(15 + 1000))));
        assert!(matches!(lose_all(&mut liveness, 51..=51, 15, false)[0], Loss::Common(_)));
    }

    #[test]
    fn what_is_counted_of_losses_is_what_there_is() {
        let settings = Settings::default();
        let mut liveness = with_sessions(40);
        let mut dice = 7_u64;
        let mut at = 0;
        for session in 100..5100_u64 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (node, what) = (NodeId::new((dice >> 33) % 40 + 1), (dice >> 50) % 8);
            at += ((dice >> 40) % 40) as i64;
            match (what, liveness.session(node)) {
                (0, _) => liveness.removed(node),
                (1..=4, Some(open)) => {
                    liveness.ended(node, open, LOST, Timestamp::from_millis(at), &settings);
                }
                (5, Some(open)) => {
                    liveness.ended(node, open, Ending::Replaced, Timestamp::from_millis(at), &settings);
                }
                _ => drop(liveness.opened(node, SessionId::new(session))),
            }
            let losses = &liveness.losses;
            assert_eq!(losses.nodes.values().sum::<usize>(), losses.recent.len());
            let back = losses.nodes.keys().filter(|node| liveness.has_session(**node)).count();
            assert_eq!(losses.back, back, "session {session}");
        }
    }
}
