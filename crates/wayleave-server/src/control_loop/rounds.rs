//! Which pictures clients are told of, and when.
//!
//! What moves a route, and what a person asked for, is told at once. That a client came, went or moved is told at once as well if nothing
//! was told for a while, else together with all else that happens in that while: where thousands come back at the same time, each of those
//! who are there already is told of them in rounds, and all are told the same. The while grows with the number of those who are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wayleave_tailnet::{Command, Effect, Event, Snapshot, Tailnet};

/// Telling somebody something takes a processor some 25 us (docs/performance.md); so at most half of one does nothing but tell who comes and
/// goes.
const EACH: Duration = Duration::from_micros(50);
/// The longest such while.
const MOST: Duration = Duration::from_secs(1);
/// How many such whiles a round lasts at most that not nearly everybody has taken, and how long. Where the server is busy with other things,
/// whoever is told of the round before is the more behind the more rounds there are, and shares less with others.
const PATIENCE: (u32, Duration) = (8, Duration::from_secs(2));

/// A picture that clients are told of.
struct Round {
    snapshot: Arc<Snapshot>,
    /// How many sessions have taken it.
    taken: AtomicUsize,
}

impl Round {
    fn new(snapshot: Arc<Snapshot>) -> Arc<Self> {
        Arc::new(Self { snapshot, taken: AtomicUsize::new(0) })
    }
}

/// How a session comes to the pictures that it tells its client of.
pub(crate) struct Follower {
    rounds: watch::Receiver<Arc<Round>>,
    audience: Arc<AtomicUsize>,
    /// The last that it took, and so counts in the audience.
    took: Option<u64>,
}

impl Follower {
    /// Waits until there is this picture or a newer one. Returns whether there is; if not, the loop has ended.
    pub(crate) async fn reaches(&mut self, version: u64) -> bool {
        self.rounds.wait_for(|round| round.snapshot.version >= version).await.is_ok()
    }

    /// Waits until there is a picture that was not taken. Returns whether there is; if not, the loop has ended.
    pub(crate) async fn changed(&mut self) -> bool {
        self.rounds.changed().await.is_ok()
    }

    /// Takes the newest picture.
    pub(crate) fn take(&mut self) -> Arc<Snapshot> {
        let round = Arc::clone(&self.rounds.borrow_and_update());
        let version = round.snapshot.version;
        if self.took != Some(version) {
            round.taken.fetch_add(1, Ordering::Relaxed);
        }
        if self.took.replace(version).is_none() {
            self.audience.fetch_add(1, Ordering::Relaxed);
        }
        Arc::clone(&round.snapshot)
    }
}

/// For another session, which has taken nothing yet.
impl Clone for Follower {
    fn clone(&self) -> Self {
        Self { rounds: self.rounds.clone(), audience: Arc::clone(&self.audience), took: None }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.took.is_some() {
            self.audience.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Shows pictures to the sessions.
pub(super) struct Rounds {
    show: watch::Sender<Arc<Round>>,
    /// Sessions that have taken a picture, some round or other.
    audience: Arc<AtomicUsize>,
    /// When the last was shown.
    shown_at: Instant,
    /// There is one to show; when that is looked at again.
    due: Option<Instant>,
    /// What has happened can't wait.
    presses: bool,
}

impl Rounds {
    pub(super) fn new(first: Arc<Snapshot>) -> (Self, Follower) {
        let (show, rounds) = watch::channel(Round::new(first));
        let audience = Arc::<AtomicUsize>::default();
        let follower = Follower { rounds, audience: Arc::clone(&audience), took: None };
        (Self { show, audience, shown_at: Instant::now(), due: None, presses: false }, follower)
    }

    /// What happens now can't wait.
    pub(super) const fn press(&mut self) {
        self.presses = true;
    }

    /// The number of the picture that was shown last.
    pub(super) fn last(&self) -> u64 {
        self.show.borrow().snapshot.version
    }

    /// When it is to be looked at again whether one is due; `None`: there is none to show.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the picture with this number, the newest, is to be shown now.
    pub(super) fn is_due(&mut self, version: u64, now: Instant) -> bool {
        let presses = std::mem::take(&mut self.presses);
        if version == self.last() {
            return false;
        }
        let audience = self.audience.load(Ordering::Relaxed);
        let pause = EACH.saturating_mul(u32::try_from(audience).unwrap_or(u32::MAX)).min(MOST);
        let taken = self.show.borrow().taken.load(Ordering::Relaxed);
        let nearly_all = taken >= audience - audience / 10;
        let at = self.shown_at + pause;
        let is_due =
            presses || (now >= at && nearly_all) || now >= self.shown_at + (pause * PATIENCE.0).min(PATIENCE.1);
        self.due = (!is_due).then(|| at.max(now + pause / 4));
        is_due
    }

    /// Shows it.
    pub(super) fn show(&mut self, snapshot: Arc<Snapshot>, now: Instant) {
        self.due = None;
        self.shown_at = now;
        self.show.send_replace(Round::new(snapshot));
    }
}

/// Whether what happened can't wait, whatever follows from it: all but what a client does by coming, going and moving, and what is seen of
/// that.
pub(super) const fn is_pressing(event: &Event) -> bool {
    match event {
        Event::Committed(_)
        | Event::Started
        | Event::SessionOpened(..)
        | Event::SessionEnded(..)
        | Event::Silent(..)
        | Event::Answered(..)
        | Event::Evidence(..)
        | Event::Reported(..)
        | Event::Busy => false,
        Event::Lend(_) | Event::TakeBack(_) | Event::Guarded(_) => true,
    }
}

/// Whether somebody may wait to see what came of it at other nodes: all but what a machine asks for by coming and going.
pub(super) const fn is_asked(command: &Command) -> bool {
    !matches!(command, Command::Register(_) | Command::BindMachine { .. } | Command::DeleteEphemeral { .. })
}

/// Whether this is about routes, or rules.
pub(super) fn is_news(effect: &Effect, tailnet: &Tailnet) -> bool {
    match effect {
        // Where a prefix is spread, one of those that share it may come or go and move no primary.
        Effect::PrimaryChanged(_)
        | Effect::SteeredChanged(_)
        | Effect::PolicyChanged(_)
        | Effect::FellBack { .. }
        | Effect::SeatRow(..) => true,
        // Where a prefix is spread, a router that comes or goes moves no primary.
        Effect::NodeDown(node, _) | Effect::NodeUp(node) => tailnet.routes().rows_of(*node).any(|row| row.advertised),
        Effect::Propose(_)
        | Effect::Judged(_)
        | Effect::AskWitnesses(_)
        | Effect::Flapping(_)
        | Effect::CommonLoss(_)
        | Effect::History(_)
        | Effect::NodeRow(_)
        | Effect::RouteRow(_)
        | Effect::FlapRow(_)
        | Effect::KeyExpires { .. }
        | Effect::LoginSettled(_)
        | Effect::SshCheckSettled(_)
        | Effect::NodeGone(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use wayleave_model::{NodeId, Timestamp};
    use wayleave_policy::{CompiledPolicy, People, PolicyFile, Rules, Surroundings};
    use wayleave_tailnet::{Loaded, Settings};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn picture(version: u64) -> Arc<Snapshot> {
        let policy = Arc::new(PolicyFile::parse("{}", &Surroundings::default()).unwrap());
        let rules = Arc::new(Rules::new(policy, Arc::new(People::new(&[]))));
        let mut picture = Snapshot::empty(Arc::new(CompiledPolicy::new(rules)));
        picture.version = version;
        Arc::new(picture)
    }

    /// Rounds that so many sessions have taken the first of, which was shown at that time.
    fn rounds(sessions: usize) -> (Rounds, Vec<Follower>, Instant) {
        let (mut rounds, follower) = Rounds::new(picture(0));
        let at = Instant::now();
        rounds.show(picture(1), at);
        let mut followers: Vec<Follower> = vec![follower; sessions];
        followers.iter_mut().for_each(|follower| drop(follower.take()));
        (rounds, followers, at)
    }

    #[test]
    fn who_comes_and_goes_is_told_together_and_the_later_the_more_are_told() {
        let (mut rounds, mut followers, at) = rounds(1000);
        assert!(!rounds.is_due(1, at), "nothing is new");
        assert_eq!(rounds.due(), None);
        assert!(!rounds.is_due(2, at + MS));
        assert_eq!(rounds.due(), Some(at + 50 * MS));
        assert!(!rounds.is_due(3, at + 49 * MS));
        assert!(rounds.is_due(4, at + 50 * MS));
        rounds.show(picture(4), at + 50 * MS);
        assert_eq!((rounds.due(), rounds.last(), followers[999].take().version), (None, 4, 4));
        followers.iter_mut().for_each(|follower| drop(follower.take()));
        // Nothing was told for a while: the next is told at once.
        assert!(rounds.is_due(5, at + 100 * MS));
    }

    #[test]
    fn what_can_not_wait_is_told_at_once_with_all_that_waits() {
        let (mut rounds, _followers, at) = rounds(1000);
        assert!(!rounds.is_due(2, at + MS));
        rounds.press();
        assert!(rounds.is_due(3, at + 2 * MS));
        rounds.show(picture(3), at + 2 * MS);
        assert!(!rounds.is_due(4, at + 3 * MS), "that was told; what comes now waits again");
        assert_eq!(rounds.due(), Some(at + 52 * MS));
    }

    #[test]
    fn a_round_that_few_have_taken_is_waited_for_but_not_for_ever() {
        let (mut rounds, mut followers, at) = rounds(1000);
        rounds.show(picture(2), at);
        followers.iter_mut().take(899).for_each(|follower| drop(follower.take()));
        followers[0].take();
        assert!(!rounds.is_due(3, at + 100 * MS), "899 of 1,000, one of them twice");
        assert!(rounds.due().is_some_and(|again| again > at + 100 * MS && again < at + 150 * MS));
        followers[899].take();
        assert!(rounds.is_due(3, at + 101 * MS));

        rounds.show(picture(3), at + 101 * MS);
        assert!(!rounds.is_due(4, at + 500 * MS));
        assert!(rounds.is_due(4, at + 501 * MS), "nobody takes anything, and somebody may yet");
        // Whoever is gone is not waited for.
        rounds.show(picture(4), at + 501 * MS);
        drop(followers);
        assert!(rounds.is_due(5, at + 502 * MS));
    }

    #[test]
    fn few_are_hardly_ever_kept_waiting_by_one_that_takes_nothing() {
        let (mut rounds, _followers, at) = rounds(3);
        rounds.show(picture(2), at);
        assert!(rounds.is_due(3, at + 2 * MS));
    }

    #[test]
    fn nobody_is_kept_waiting_for_more_than_a_second_where_all_keep_up() {
        let (mut rounds, _followers, at) = rounds(30_000);
        assert!(!rounds.is_due(2, at + MS));
        assert_eq!(rounds.due(), Some(at + 1000 * MS));
    }

    #[tokio::test]
    async fn a_session_that_waits_for_a_picture_gets_that_or_a_newer_one() {
        let (mut rounds, mut follower) = Rounds::new(picture(0));
        let (reached, ()) = tokio::join!(follower.reaches(3), async {
            rounds.show(picture(2), Instant::now());
            tokio::task::yield_now().await;
            rounds.show(picture(5), Instant::now());
        });
        assert!(reached && follower.take().version == 5);
        drop(rounds);
        assert!(!follower.changed().await && !follower.reaches(6).await);
    }

    #[test]
    fn that_others_carry_a_prefix_is_told_at_once_where_no_primary_moves() {
        let tailnet = Tailnet::new(Settings::default(), Loaded::default(), Timestamp::from_millis(0)).unwrap();
        let prefix = "10.1.0.0/16".parse().unwrap();
        assert!(is_news(&Effect::SeatRow(prefix, None), &tailnet));
        assert!(!is_news(&Effect::NodeRow(NodeId::new(1)), &tailnet));
    }
}
