//! What is known of a node's liveness.
//!
//! # States
//!
//! A node is down while a conviction stands against it that counts (see [`crate::evidence`]), and up otherwise. What it has been accused of
//! but is not convicted of yet is a *doubt*: its stream was lost less than 500 ms ago, or it is silent and its witnesses still reach it.
//! A doubt becomes a conviction when its time is over. Each answer to a witness that was asked after the loss gives it more time, for at most
//! 30 s in all: clients keep their path while only control is cut off. A doubt is looked at ten times a second, so that a server
//! that stood still, and asked nobody meanwhile, finds that out before it gives up a router that a witness has reached.
//!
//! | what happens | what it does |
//! |---|---|
//! | it opens a session | doubts end; what stands by its streams, PINGs and echoes is lifted, and misses are forgotten |
//! | its newest stream is lost | a doubt of 500 ms; longer, up to 1 s, while so many others are being lost that it may be a common loss |
//! | its newest session is silent | a conviction; where a witness reached it since the silence began, a doubt |
//! | that session is heard again | that doubt ends, that conviction is lifted |
//! | an echo is not answered, twice in a row, by a session that answered one before | a conviction; an answered one lifts it |
//! | most witnesses don't reach it, in two rounds, the first of them 10 s after it opened its session or after one did | a conviction; a round in which at least half do lifts it |
//! | it is given a grace (it was primary at a start, or was lost in a common loss) | up without a session until it opens one, or the grace is over |
//! | its newest session fell silent together with most others | up, in a grace, until it is heard or opens another one, or the grace is over |
//!
//! Only the newest session counts: what is told of an older one changes nothing. Down three times in ten minutes, or five sessions lost in
//! one, makes a node flapping until ten minutes after the last; what happens while it is drained or in a grace does not count.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use wayleave_model::{FlapRow, NodeId, SessionId, Timestamp};

use crate::election::Rank;
use crate::evidence::{Convictions, Judging, Kind, Mode, ProbeRound, Verdict};
use crate::reason::Cause;
use crate::table::Settings;

/// Whether a node may carry traffic, from what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Counts as up until then, although it has no session, or none that was heard since a common loss.
    Grace {
        /// The end of the grace.
        until: Timestamp,
    },
    /// Its newest stream is open, and it answers.
    Up,
    /// It was lost or is silent, but counts as up until then: not long enough yet, or its witnesses still reach it.
    Doubted {
        /// What it is accused of.
        cause: Cause,
        /// Since when.
        at: Timestamp,
        /// When the doubt becomes a conviction, if nothing is heard of it.
        until: Timestamp,
    },
    /// Convicted.
    Down {
        /// By which evidence.
        cause: Cause,
        /// When.
        at: Timestamp,
    },
}

/// An accusation that is no conviction yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    cause: Cause,
    /// When it was lost, or fell silent.
    at: Timestamp,
    /// When it is convicted.
    until: Timestamp,
    /// When it is looked at next, for whether the server stood still.
    look_at: Timestamp,
    /// When it was last found that the server had stood still.
    late_at: Option<Timestamp>,
}

impl Doubt {
    fn new(cause: Cause, at: Timestamp, until: Timestamp, now: Timestamp) -> Self {
        Self { cause, at, until, look_at: now + LOOK_EVERY, late_at: None }
    }

    /// When something is due for it.
    fn due(&self) -> Timestamp {
        self.look_at.min(self.until)
    }

    /// Looks whether the server stood still.
    fn look(&mut self, now: Timestamp, judging: &Judging) {
        if judging.is_late(self.due(), now) {
            self.late_at = Some(now);
        }
        self.look_at = now + LOOK_EVERY;
    }

    /// Gives witnesses, of which one reached it at that time, the time for one more answer where the server stood still.
    fn asks_again(&mut self, alive_at: Timestamp, judging: &Judging) {
        if let Some(late_at) = self.late_at.filter(|_| alive_at > self.at) {
            self.until = self.until.max((late_at + judging.hold_lasts).min(self.at + judging.hold_most));
        }
    }
}

/// How often a doubt is looked at. A server that stood still for longer than this and [`Judging::late`] together is found; one that stood
/// still for less had time enough to ask witnesses again before a doubt that any of them answered is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The health of one node.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    /// The newest session that was opened and not lost since.
    session: Option<SessionId>,
    /// Set only while there is no session, or while it has not been heard since a common loss.
    grace: Option<Grace>,
    /// At most one of each kind, and none of a kind by which it stands convicted.
    doubts: BTreeMap<Kind, Doubt>,
    convictions: Convictions,
    /// When the last witness was asked that reached it.
    alive_at: Option<Timestamp>,
    /// This session answered an echo. Only then can it fail to: some clients are built without the part that answers.
    echoes: bool,
    /// Echoes of this session in a row that were not answered.
    echo_misses: u32,
    /// When the newest session was opened, until a witness reached the node: silence does not count for some time.
    settling: Option<Timestamp>,
    /// Rounds in a row in which most witnesses were silent.
    probe_misses: u32,
    /// Since when nobody could testify; `None` while somebody can.
    unwitnessed_since: Option<Timestamp>,
    downs: VecDeque<Timestamp>,
    losses: VecDeque<Timestamp>,
    flapping_until: Option<Timestamp>,
    /// What was before each of the latest losses, in case they turn out to be the server's own fault. As long as a loss may turn out so.
    before: VecDeque<Before>,
    /// Set exactly while it is up, not flapping and not drained.
    steady_since: Option<Timestamp>,
}

/// The time in which a node that has not come back counts as up.
#[derive(Clone, Copy, Debug)]
struct Grace {
    until: Timestamp,
    /// What it is convicted of then.
    cause: Cause,
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
    pub(crate) fn unseen(now: Timestamp) -> Self {
        let mut convictions = Convictions::default();
        convictions.convict(Cause::NotSeen, Mode::Act, now);
        Self {
            session: None,
            grace: None,
            doubts: BTreeMap::new(),
            convictions,
            alive_at: None,
            echoes: false,
            echo_misses: 0,
            settling: None,
            probe_misses: 0,
            unwitnessed_since: None,
            downs: VecDeque::new(),
            losses: VecDeque::new(),
            flapping_until: None,
            before: VecDeque::new(),
            steady_since: None,
        }
    }

    pub(crate) fn liveness(&self) -> Liveness {
        if let Some(conviction) = self.convictions.acting() {
            return Liveness::Down { cause: conviction.cause, at: conviction.at };
        }
        if let Some(Grace { until, .. }) = self.grace {
            return Liveness::Grace { until };
        }
        match self.doubts.values().min_by_key(|doubt| doubt.until) {
            Some(Doubt { cause, at, until, .. }) => Liveness::Doubted { cause: *cause, at: *at, until: *until },
            None => Liveness::Up,
        }
    }

    pub(crate) const fn convictions(&self) -> &Convictions {
        &self.convictions
    }

    pub(crate) const fn session(&self) -> Option<SessionId> {
        self.session
    }

    pub(crate) fn is_up(&self) -> bool {
        self.convictions.acting().is_none()
    }

    /// Whether witnesses are to look at it: one without a session that nobody doubts is known to be gone, and is left alone, so that nobody
    /// keeps a handshake with it waiting when it comes back. Where the end of a stream convicts nobody, nobody else may know.
    pub(crate) fn wants_probe(&self) -> bool {
        self.is_there() || self.convictions.of(Kind::Probe).is_some()
    }

    /// Whether silence is news: it has a session, or counts as up without one and is not accused of that.
    fn is_there(&self) -> bool {
        self.session.is_some() || self.grace.is_some() || (self.is_up() && self.doubts.is_empty())
    }

    /// Whether it is accused of something that its witnesses may answer.
    pub(crate) fn is_doubted(&self) -> bool {
        !self.doubts.is_empty()
    }

    pub(crate) const fn steady_since(&self) -> Option<Timestamp> {
        self.steady_since
    }

    pub(crate) const fn flapping_until(&self) -> Option<Timestamp> {
        self.flapping_until
    }

    pub(crate) fn rank(&self, drained: bool) -> Rank {
        match self.convictions.acting() {
            Some(conviction) => Rank::Down(conviction.cause),
            None if drained => Rank::Drained,
            None if self.flapping_until.is_some() => Rank::Flapping,
            None => Rank::Steady,
        }
    }

    /// When a doubt or a grace is over, or a doubt is to be looked at.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.doubts.values().map(Doubt::due).chain(self.grace.map(|grace| grace.until)).min()
    }

    /// A newer session opened. `None`: an older or the same one, which changes nothing.
    pub(crate) fn opened(&mut self, session: SessionId, now: Timestamp) -> Option<Vec<Verdict>> {
        if self.session.is_some_and(|newest| newest >= session) {
            return None;
        }
        self.session = Some(session);
        self.settling = Some(now);
        self.probe_misses = 0;
        Some(self.forget_session())
    }

    /// The newest session was lost. Returns whether it was the newest.
    pub(crate) fn lost(&mut self, session: SessionId, cause: Cause, now: Timestamp, settings: &Settings) -> bool {
        if self.session != Some(session) {
            return false;
        }
        self.session = None;
        self.echo_misses = 0;
        if let Some(grace) = &mut self.grace {
            // It was not heard since a common loss, and that its session ends now is a part of that.
            grace.cause = Cause::NotBack;
        } else if settings.judging.mode(Kind::Stream) != Mode::Off {
            self.doubts.insert(Kind::Stream, Doubt::new(cause, now, now + settings.lost_after, now));
        }
        true
    }

    /// The newest session is silent: it is convicted, unless a witness reached it since the silence began.
    pub(crate) fn silent(
        &mut self,
        session: SessionId,
        cause: Cause,
        now: Timestamp,
        judging: &Judging,
    ) -> Option<Verdict> {
        let known = self.doubts.contains_key(&Kind::Ping) || self.convictions.of(Kind::Ping).is_some();
        if self.session != Some(session) || known {
            return None;
        }
        if let Some(grace) = &mut self.grace {
            grace.cause = cause;
            return None;
        }
        let at = now - judging.ping_deadline;
        let alive_at = self.alive_at.filter(|alive_at| *alive_at > at);
        let held = alive_at.map(|alive_at| (alive_at + judging.hold_lasts).min(at + judging.hold_most));
        if let Some(until) = held.filter(|until| *until > now && judging.mode(Kind::Ping) != Mode::Off) {
            self.doubts.insert(Kind::Ping, Doubt::new(cause, at, until, now));
            return None;
        }
        self.convictions.convict(cause, judging.mode(Kind::Ping), now)
    }

    /// The newest session, which was silent, answered. Returns whether that changed anything, and what it lifted.
    pub(crate) fn answered(&mut self, session: SessionId) -> (bool, Option<Verdict>) {
        if self.session != Some(session) {
            return (false, None);
        }
        let waited_for = self.grace.take().is_some();
        let doubted = self.doubts.remove(&Kind::Ping).is_some();
        let lifted = self.convictions.acquit(Kind::Ping);
        (waited_for || doubted || lifted.is_some(), lifted)
    }

    /// A witness that was asked then reached it. Returns whether that gave a doubt more time.
    pub(crate) fn alive(&mut self, asked_at: Timestamp, settings: &Settings) -> bool {
        self.alive_at = self.alive_at.max(Some(asked_at));
        let judging = &settings.judging;
        let mut changed = false;
        for doubt in self.doubts.values_mut().filter(|doubt| asked_at > doubt.at) {
            // A process that is about to end may still answer for a moment after its stream did.
            let lasts = judging.hold_lasts.min(settings.lost_after + asked_at.since(doubt.at));
            let before = doubt.until;
            doubt.until = before.max((asked_at + lasts).min(doubt.at + judging.hold_most));
            doubt.asks_again(asked_at, judging);
            changed |= doubt.until > before;
        }
        changed
    }

    /// An echo of the newest session was answered, or not.
    pub(crate) fn echoed(
        &mut self,
        session: SessionId,
        answered: bool,
        late: bool,
        now: Timestamp,
        judging: &Judging,
    ) -> Option<Verdict> {
        if self.session != Some(session) {
            return None;
        }
        if answered {
            self.echoes = true;
            self.echo_misses = 0;
            return self.convictions.acquit(Kind::Echo);
        }
        // What does not even hear PINGs for the server's own fault answers nothing else either.
        if !late && self.echoes && self.grace.is_none() {
            self.echo_misses = self.echo_misses.saturating_add(1);
        }
        if self.echo_misses < judging.echo_misses {
            return None;
        }
        self.convictions.convict(Cause::EchoUnanswered, judging.mode(Kind::Echo), now)
    }

    /// A round of probes is over.
    ///
    /// Silence counts only for one that had the same session all the while, or is in its grace: that one without a session is silent is no
    /// news, and what was asked before a reconnect says nothing of what came after.
    pub(crate) fn probed(&mut self, round: ProbeRound, now: Timestamp, judging: &Judging) -> Option<Verdict> {
        let ProbeRound { session, due, answered, silent } = round;
        if answered + silent == 0 {
            let since = *self.unwitnessed_since.get_or_insert(now);
            // Nobody knows: it can't be convicted, and what stands has nobody left who could lift it.
            return if now.since(since) >= judging.forget_after { self.convictions.acquit(Kind::Probe) } else { None };
        }
        self.unwitnessed_since = None;
        if answered >= silent {
            self.settling = None;
            self.probe_misses = 0;
            return self.convictions.acquit(Kind::Probe);
        }
        let same = session == self.session && self.is_there();
        let settles = self.settling.is_some_and(|opened_at| now.since(opened_at) < judging.probe_settle);
        if !same || settles || judging.is_late(due, now) {
            return None;
        }
        self.probe_misses = self.probe_misses.saturating_add(1);
        if self.probe_misses < judging.probe_rounds {
            return None;
        }
        self.convictions.convict(Cause::WitnessesSilent, judging.mode(Kind::Probe), now)
    }

    /// It was lost together with so many others that more are waited for, until then.
    pub(crate) fn wait_for_others(&mut self, since: Timestamp, until: Timestamp) {
        if let Some(doubt) = self.doubts.get_mut(&Kind::Stream).filter(|doubt| doubt.at >= since) {
            doubt.until = doubt.until.max(until);
        }
    }

    /// Time is over for doubts and a grace, or a doubt is looked at. Returns what it is convicted of by that.
    ///
    /// A server that comes late to look was late to ask witnesses, and to take in what they answered, too: that they are not known to have
    /// reached the router any more convicts nobody then, and they get the time for one more answer.
    pub(crate) fn time_over(&mut self, now: Timestamp, judging: &Judging) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if let Some(Grace { cause, .. }) = self.grace.take_if(|grace| grace.until <= now) {
            let mode = if cause == Cause::NotBack { Mode::Act } else { judging.mode(cause.kind()) };
            verdicts.extend(self.convictions.convict(cause, mode, now));
        }
        let alive_at = self.alive_at;
        for doubt in self.doubts.values_mut().filter(|doubt| doubt.due() <= now) {
            doubt.look(now, judging);
            alive_at.into_iter().for_each(|alive_at| doubt.asks_again(alive_at, judging));
        }
        while let Some((kind, doubt)) = self.doubts.iter().find(|(_, doubt)| doubt.until <= now) {
            let (kind, cause) = (*kind, doubt.cause);
            self.doubts.remove(&kind);
            verdicts.extend(self.convictions.convict(cause, judging.mode(kind), now));
        }
        verdicts
    }

    /// Counts as up until then, if it has no session. `None`: it has one.
    pub(crate) fn give_grace(&mut self, until: Timestamp) -> Option<Vec<Verdict>> {
        if self.session.is_some() {
            return None;
        }
        let lifted = self.forget_session();
        self.grace = Some(Grace { until, cause: Cause::NotBack });
        Some(lifted)
    }

    /// The newest session fell silent by the server's own fault: it counts as up until then, unless it is heard before. Returns what that
    /// lifts; `None`: it is not the newest.
    pub(crate) fn excuse_silence(&mut self, session: SessionId, until: Timestamp) -> Option<Vec<Verdict>> {
        if self.session != Some(session) {
            return None;
        }
        let cause = self.doubts.remove(&Kind::Ping).map_or(Cause::PingUnanswered, |doubt| doubt.cause);
        self.echo_misses = 0;
        self.grace = Some(Grace { until, cause });
        Some(self.convictions.acquit(Kind::Ping).into_iter().collect())
    }

    /// What is known of an older session, or of its absence, is known no more.
    fn forget_session(&mut self) -> Vec<Verdict> {
        self.grace = None;
        self.echoes = false;
        self.echo_misses = 0;
        self.doubts.clear();
        [Kind::Stream, Kind::Ping, Kind::Echo].into_iter().filter_map(|kind| self.convictions.acquit(kind)).collect()
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
            (Rank::Flapping | Rank::Drained | Rank::Suspect(_) | Rank::Down(_), _) => self.steady_since = None,
        }
    }
}

fn count(times: &mut VecDeque<Timestamp>, now: Timestamp, window: Duration) {
    times.push_back(now);
    while times.front().is_some_and(|first| now.since(*first) > window) {
        times.pop_front();
    }
}

#[cfg(test)]
mod tests;
