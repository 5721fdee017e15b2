//! Sessions: which is the newest of a node, whether it is shown as online, when an ephemeral node is due, and whether so many are
//! lost at once that it is the server's own side.
//!
//! Being shown as online is cosmetic and has a grace of 10 s. Whether a node may carry a route is the route table's business,
//! which is told of each session from here, the newest only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    recent: VecDeque<(Timestamp, NodeId)>,
    due: Timers<Due>,
}

/// What the end of a session came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was not the newest: nothing.
    Stale,
    /// It was the newest.
    Newest {
        /// These lost theirs with it, all at once: it is the server's own side.
        common: Option<BTreeSet<NodeId>>,
    },
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
        }
        presence.session = Some(session);
        presence.online = true;
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
        self.due.set(Due::Offline(node), now + settings.offline_after);
        if ending == Ending::Replaced {
            return Ended::Newest { common: None };
        }
        self.recent.push_back((now, node));
        while self.recent.front().is_some_and(|(at, _)| now.since(*at) > settings.common_loss_window) {
            self.recent.pop_front();
        }
        let lost: BTreeSet<NodeId> = self.recent.iter().map(|(_, node)| *node).collect();
        let common = lost.len() >= settings.common_loss_sessions && lost.len() > self.open;
        Ended::Newest { common: common.then_some(lost) }
    }

    /// After a start: a node that was online when the server stopped is still shown so for a while.
    pub(crate) fn was_online(&mut self, node: NodeId, now: Timestamp, settings: &Settings) {
        self.nodes.entry(node).or_default().online = true;
        self.due.set(Due::Offline(node), now + settings.offline_after);
    }

    pub(crate) fn await_ephemeral(&mut self, node: NodeId, at: Timestamp) {
        self.due.set(Due::Ephemeral(node), at);
    }

    /// Returns whether it was shown as online until then.
    pub(crate) fn show_offline(&mut self, node: NodeId) -> bool {
        self.nodes
            .get_mut(&node)
            .filter(|presence| presence.session.is_none())
            .is_some_and(|presence| std::mem::replace(&mut presence.online, false))
    }

    pub(crate) fn removed(&mut self, node: NodeId) {
        if self.nodes.remove(&node).is_some_and(|presence| presence.session.is_some()) {
            self.open -= 1;
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
            assert!(liveness.show_offline(node));
        }
    }

    #[test]
    fn more_than_half_of_all_and_at_least_eight_lost_within_a_second_are_a_common_loss() {
        let settings = Settings::default();
        let lose = |liveness: &mut Liveness, n: u64, millis: i64| {
            let at = Timestamp::from_millis(millis);
            matches!(
                liveness.ended(NodeId::new(n), SessionId::new(n), LOST, at, &settings),
                Ended::Newest { common: Some(_) }
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
}
