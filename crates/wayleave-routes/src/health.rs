//! What is known of a node's liveness, and the watch that convicts a silent one.
//!
//! # States
//!
//! | state | counts as | ends |
//! |---|---|---|
//! | `Grace` | up | when it opens a session, or at its end: down, "not back in time" |
//! | `Up` | up | when its newest stream is lost, or a session's watch convicts it |
//! | `Lost` | up | when it opens a session, or 500 ms later: down, with what ended the stream |
//! | `Down` | down | when it opens a session; a conviction for silence also when that session answers |
//!
//! Only the newest session counts: what is told of an older one changes nothing. `Grace` is given to primaries after a start,
//! and to nodes lost in a common loss. Down three times in ten minutes, or five sessions lost in one, makes a node flapping until ten
//! minutes after the last; what happens while it is drained or in a grace does not count.

use std::collections::VecDeque;
use std::time::Duration;

use wayleave_model::{FlapRow, NodeId, SessionId, Timestamp};

use crate::election::Rank;
use crate::reason::Cause;
use crate::table::Settings;

/// Whether a node may carry traffic, from what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Counts as up until then, although it has no session.
    Grace {
        /// The end of the grace.
        until: Timestamp,
    },
    /// Its newest stream is open, and it answers.
    Up,
    /// Its newest stream is gone, but not for long enough.
    Lost {
        /// What ended the stream.
        cause: Cause,
        /// When.
        at: Timestamp,
    },
    /// Convicted.
    Down {
        /// By which evidence.
        cause: Cause,
        /// When.
        at: Timestamp,
    },
}

/// The health of one node.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    /// The newest session that was opened and not lost since. While it is set, `liveness` is `Up` or `Down`.
    session: Option<SessionId>,
    liveness: Liveness,
    downs: VecDeque<Timestamp>,
    losses: VecDeque<Timestamp>,
    flapping_until: Option<Timestamp>,
    /// What was before each of the latest losses, in case they turn out to be the server's own fault. As long as a loss may turn out so.
    before: VecDeque<Before>,
    /// Set exactly while it is up, not flapping and not drained.
    steady_since: Option<Timestamp>,
}

/// What was before a loss.
#[derive(Clone, Copy, Debug)]
struct Before {
    at: Timestamp,
    flapping_until: Option<Timestamp>,
    steady_since: Option<Timestamp>,
}

/// How long a loss is remembered as one that may turn out to be the server's own fault: longer than any window in which that is found.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Whether a loss is held against the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    Yes,
    No,
}

impl Health {
    /// A node that was never seen, or not since the server started.
    pub(crate) const fn unseen(now: Timestamp) -> Self {
        Self {
            session: None,
            liveness: Liveness::Down { cause: Cause::NotSeen, at: now },
            downs: VecDeque::new(),
            losses: VecDeque::new(),
            flapping_until: None,
            before: VecDeque::new(),
            steady_since: None,
        }
    }

    pub(crate) const fn liveness(&self) -> Liveness {
        self.liveness
    }

    pub(crate) const fn is_up(&self) -> bool {
        !matches!(self.liveness, Liveness::Down { .. })
    }

    pub(crate) const fn steady_since(&self) -> Option<Timestamp> {
        self.steady_since
    }

    pub(crate) const fn flapping_until(&self) -> Option<Timestamp> {
        self.flapping_until
    }

    pub(crate) fn rank(&self, drained: bool) -> Rank {
        match self.liveness {
            Liveness::Down { cause, .. } => Rank::Down(cause),
            Liveness::Grace { .. } | Liveness::Up | Liveness::Lost { .. } if drained => Rank::Drained,
            Liveness::Grace { .. } | Liveness::Up | Liveness::Lost { .. } if self.flapping_until.is_some() => {
                Rank::Flapping
            }
            Liveness::Grace { .. } | Liveness::Up | Liveness::Lost { .. } => Rank::Steady,
        }
    }

    /// A newer session opened. An older or the same one changes nothing.
    pub(crate) fn opened(&mut self, session: SessionId) -> bool {
        if self.session.is_some_and(|newest| newest >= session) {
            return false;
        }
        self.session = Some(session);
        self.liveness = Liveness::Up;
        true
    }

    /// The newest session was lost. Returns whether it was the newest.
    pub(crate) fn lost(&mut self, session: SessionId, cause: Cause, now: Timestamp) -> bool {
        if self.session != Some(session) {
            return false;
        }
        self.session = None;
        if self.is_up() {
            self.liveness = Liveness::Lost { cause, at: now };
        }
        true
    }

    /// The newest session is silent. Returns whether that convicted the node.
    pub(crate) fn silent(&mut self, session: SessionId, cause: Cause, now: Timestamp) -> bool {
        let convicts = self.session == Some(session) && self.is_up();
        if convicts {
            self.liveness = Liveness::Down { cause, at: now };
        }
        convicts
    }

    /// The newest session, convicted for silence, answered. Returns whether that acquitted the node.
    pub(crate) fn answered(&mut self, session: SessionId) -> bool {
        let acquits = self.session == Some(session) && !self.is_up();
        if acquits {
            self.liveness = Liveness::Up;
        }
        acquits
    }

    /// The time that a loss or a grace allows is over. Returns the cause if that convicted the node.
    pub(crate) fn time_over(&mut self, now: Timestamp) -> Option<Cause> {
        let cause = match self.liveness {
            Liveness::Grace { .. } => Cause::NotBack,
            Liveness::Lost { cause, .. } => cause,
            Liveness::Up | Liveness::Down { .. } => return None,
        };
        self.liveness = Liveness::Down { cause, at: now };
        Some(cause)
    }

    /// Counts as up until then, if it has no session.
    pub(crate) fn give_grace(&mut self, until: Timestamp) {
        if self.session.is_none() {
            self.liveness = Liveness::Grace { until };
        }
    }

    /// Remembers a conviction or a lost session. Returns whether the node is flapping by it.
    pub(crate) fn count_down(&mut self, now: Timestamp, settings: &Settings) -> bool {
        self.remember(now);
        count(&mut self.downs, now, settings.flap_down_window);
        self.judge_flaps(now, settings)
    }

    /// See [`Self::count_down`].
    pub(crate) fn count_loss(&mut self, now: Timestamp, settings: &Settings) -> bool {
        self.remember(now);
        count(&mut self.losses, now, settings.flap_loss_window);
        self.judge_flaps(now, settings)
    }

    fn remember(&mut self, now: Timestamp) {
        let Self { flapping_until, steady_since, .. } = *self;
        self.before.push_back(Before { at: now, flapping_until, steady_since });
        while self.before.front().is_some_and(|before| now.since(before.at) > REMEMBERED) {
            self.before.pop_front();
        }
    }

    /// What was lost since then was the server's own fault, and does not count.
    pub(crate) fn forgive(&mut self, since: Timestamp) {
        self.downs.retain(|at| *at < since);
        self.losses.retain(|at| *at < since);
        if let Some(before) = self.before.iter().find(|before| before.at >= since) {
            self.flapping_until = before.flapping_until;
            self.steady_since = before.steady_since;
        }
        self.before.retain(|before| before.at < since);
    }

    fn judge_flaps(&mut self, now: Timestamp, settings: &Settings) -> bool {
        let flaps = self.flapping_until.is_some()
            || self.downs.len() >= settings.flap_downs
            || self.losses.len() >= settings.flap_losses;
        if flaps {
            self.flapping_until = Some(now + settings.flap_hold);
        }
        flaps
    }

    /// What has to be remembered of its losses.
    pub(crate) fn flaps(&self, node: NodeId) -> FlapRow {
        FlapRow {
            node,
            downs: self.downs.iter().copied().collect(),
            losses: self.losses.iter().copied().collect(),
            until: self.flapping_until,
        }
    }

    /// Takes its losses as they were stored.
    pub(crate) fn restore(&mut self, flaps: FlapRow) {
        self.downs = flaps.downs.into();
        self.losses = flaps.losses.into();
        self.flapping_until = flaps.until;
    }

    pub(crate) fn stop_flapping(&mut self) {
        self.flapping_until = None;
        self.downs.clear();
        self.losses.clear();
    }

    /// Keeps `steady_since` true to its invariant; called after every change.
    pub(crate) fn settle(&mut self, drained: bool, now: Timestamp) {
        match (self.rank(drained), self.steady_since) {
            (Rank::Steady, None) => self.steady_since = Some(now),
            (Rank::Steady, Some(_)) => {}
            (Rank::Flapping | Rank::Drained | Rank::Suspect | Rank::Down(_), _) => self.steady_since = None,
        }
    }
}

fn count(times: &mut VecDeque<Timestamp>, now: Timestamp, window: Duration) {
    times.push_back(now);
    while times.front().is_some_and(|first| now.since(*first) > window) {
        times.pop_front();
    }
}

/// What a session sees of its connection at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When this look was due. If it is much later by now, the server itself was late.
    pub due: Timestamp,
    /// When anything last came from the client.
    pub heard_at: Timestamp,
    /// Since when TCP has acknowledged the oldest PING that is not answered; `None` while there is none.
    pub ping_acked_at: Option<Timestamp>,
    /// Since when bytes have been waiting of which TCP acknowledged nothing; `None` while none wait.
    pub unacked_since: Option<Timestamp>,
}

/// What a watch found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The session is silent, by this evidence.
    Silent(Cause),
    /// The session that was silent has been heard again.
    Heard,
}

/// Convicts one session of silence, and acquits it (design.md 4, the row of HTTP/2 PING).
///
/// A slow reader of a big map is not dead: the silence counts only from when TCP acknowledged the PING itself. A frozen process
/// whose kernel still acknowledges is: nothing comes from it any more. Looks that come late convict nobody, and silence then
/// counts from that look on.
#[derive(Clone, Debug)]
pub struct PingWatch {
    deadline: Duration,
    late: Duration,
    /// Silence before this moment is the server's own fault.
    blind_until: Timestamp,
    convicted_at: Option<Timestamp>,
}

impl PingWatch {
    /// A watch over a session that has just opened. `deadline` is how long silence must last; a look more than `late` behind its
    /// time is the server's own lateness.
    pub const fn new(deadline: Duration, late: Duration, now: Timestamp) -> Self {
        Self { deadline, late, blind_until: now, convicted_at: None }
    }

    /// Whether the session stands convicted.
    pub const fn is_convicted(&self) -> bool {
        self.convicted_at.is_some()
    }

    /// Looks at the connection. Says something only when the verdict changes.
    pub fn look(&mut self, seen: Observation, now: Timestamp) -> Option<Silence> {
        if now.since(seen.due) > self.late {
            self.blind_until = now;
        }
        if let Some(convicted_at) = self.convicted_at {
            if seen.heard_at <= convicted_at {
                return None;
            }
            self.convicted_at = None;
            return Some(Silence::Heard);
        }
        let lasted = |since: Timestamp| now.since(since.max(seen.heard_at).max(self.blind_until)) >= self.deadline;
        let cause = match (seen.ping_acked_at, seen.unacked_since) {
            (Some(since), _) if lasted(since) => Cause::PingUnanswered,
            (_, Some(since)) if lasted(since) => Cause::TcpStalled,
            (Some(_) | None, Some(_) | None) => return None,
        };
        self.convicted_at = Some(now);
        Some(Silence::Silent(cause))
    }
}

#[cfg(test)]
mod tests;
