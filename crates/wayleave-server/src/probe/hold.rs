//! Life beats silence: the witnesses of a router that was lost are asked at once, and again as long as it is doubted.
//!
//! Thousands may be lost at once, and what asks about them runs beside what decides: so they share a budget of questions. Those that carry
//! something come first, and of those who has waited longest. Whoever is not asked in one wave is asked in the next, and who was never
//! asked while it was doubted has no hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use wayleave_model::NodeId;
use wayleave_netmap::told_address;
use wayleave_routes::Testimony;
use wayleave_tailnet::{Effect, Event, NodeView, Snapshot};
use wayleave_wire::ping::{self, PeerPing};

use super::{Word, word};
use crate::app::App;
use crate::options::Evidence;
use crate::secrets;

/// How long it is asked at least: a silent session is told half a second to a second before it is convicted, and not doubted until then.
const AT_LEAST: Duration = Duration::from_millis(1500);
/// Waves are at least so many to `hold_every` apart. Those whose turn would come before the next are asked in this one.
const MOST_WAVES: u32 = 4;

/// Whose witnesses are being asked.
#[derive(Debug)]
pub(super) struct Holds {
    asking: Mutex<Asking>,
    /// Somebody was lost.
    lost: Notify,
    /// Somebody is to be asked about again later.
    begun: Notify,
}

#[derive(Debug)]
struct Asking {
    all: BTreeMap<NodeId, Asked>,
    budget: Budget,
    every: Duration,
}

/// One whose witnesses are being asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// When somebody last wanted that.
    wanted_at: Instant,
    /// When they were asked last; when somebody first wanted it if they never were.
    waits_since: Instant,
    is_new: bool,
}

/// Whether one is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It is.
    Now,
    /// It was by somebody else, or nobody wants it any more.
    Past,
    /// The budget does not reach so far.
    Later,
}

/// Questions that may be asked: so many a second, and at most what comes in the time between two waves at once.
#[derive(Debug)]
struct Budget {
    a_second: f64,
    most: f64,
    left: f64,
    at: Instant,
    /// What was taken since somebody last asked for that.
    taken: usize,
}

impl Budget {
    fn new(options: &Evidence, now: Instant) -> Self {
        let a_second = f64::from(options.probe_budget);
        // One router can be asked about, however little that is.
        let most = (a_second * options.hold_every.as_secs_f64()).max(options.probe_witnesses as f64);
        Self { a_second, most, left: 0.0, at: now, taken: 0 }
    }

    fn take(&mut self, questions: usize, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at);
        self.left = (self.left + self.a_second * since.as_secs_f64()).min(self.most);
        self.at = now;
        let has = self.left >= questions as f64;
        if has {
            self.left -= questions as f64;
            self.taken += questions;
        }
        has
    }
}

impl Asking {
    fn new(options: &Evidence, now: Instant) -> Self {
        Self { all: BTreeMap::new(), budget: Budget::new(options, now), every: options.hold_every }
    }

    /// Somebody wants it.
    fn wanted(&mut self, node: NodeId, now: Instant) {
        let new = Asked { wanted_at: now, waits_since: now, is_new: true };
        self.all.entry(node).or_insert(new).wanted_at = now;
    }

    /// Ends if nobody had wanted it for so long when it was looked at. Whoever wants it after that has to begin again.
    fn ends(&mut self, node: NodeId, looked_at: Instant, patience: Duration) {
        let is_over = |asked: &Asked| asked.wanted_at + patience <= looked_at;
        if self.all.get(&node).is_some_and(is_over) {
            self.all.remove(&node);
        }
    }

    /// Whether it is one's turn in a wave.
    fn is_due(&self, asked: &Asked, now: Instant) -> bool {
        asked.is_new || asked.waits_since + self.every <= now + self.every / MOST_WAVES
    }

    /// Whose turn it is, the first first.
    fn turns(&self, now: Instant, only_new: bool, carries: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let due = self.all.iter().filter(|(_, asked)| if only_new { asked.is_new } else { self.is_due(asked, now) });
        let rank = |node: NodeId, asked: &Asked| (!carries(node), asked.waits_since, !asked.is_new, node);
        let mut due: Vec<_> = due.map(|(node, asked)| rank(*node, asked)).collect();
        due.sort_unstable();
        due.into_iter().map(|(.., node)| node).collect()
    }

    /// One is to be asked about by so many questions.
    fn asks(&mut self, node: NodeId, questions: usize, now: Instant) -> Turn {
        if !self.all.get(&node).is_some_and(|asked| self.is_due(asked, now)) {
            return Turn::Past;
        }
        if !self.budget.take(questions, now) {
            return Turn::Later;
        }
        if let Some(asked) = self.all.get_mut(&node) {
            (asked.waits_since, asked.is_new) = (now, false);
        }
        Turn::Now
    }

    /// When the next wave is due after one at that time. `None`: nobody is asked about.
    fn next(&self, last: Instant) -> Option<Instant> {
        let turn = |asked: &Asked| if asked.is_new { asked.waits_since } else { asked.waits_since + self.every };
        let first = self.all.values().map(turn).min()?;
        Some(first.max(last + self.every / MOST_WAVES))
    }
}

impl Holds {
    pub(super) fn new(options: &Evidence) -> Self {
        let asking = Mutex::new(Asking::new(options, Instant::now()));
        Self { asking, lost: Notify::new(), begun: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many questions it took since this was last asked: others have so many fewer.
    pub(super) fn taken(&self) -> usize {
        std::mem::take(&mut self.lock().budget.taken)
    }

    fn want(&self, node: NodeId) {
        self.lock().wanted(node, Instant::now());
        self.lost.notify_one();
    }
}

/// Asks about all that are lost, until the server stops.
pub(super) async fn hold(app: Arc<App>, holds: Arc<Holds>) {
    tokio::select! {
        () = app.stop.cancelled() => {}
        () = follow(&app, &holds) => {}
        () = begin(&app, &holds) => {}
        () = go_on(&app, &holds) => {}
    }
}

async fn follow(app: &App, holds: &Holds) {
    let mut effects = app.control.effects();
    loop {
        match effects.recv().await {
            Ok(Effect::AskWitnesses(node)) => holds.want(node),
            Ok(_) => {}
            // So much happened at once that some of it was not read: whoever is doubted by now is asked about.
            Err(RecvError::Lagged(_)) => {
                let doubted = app.control.read(|tailnet| tailnet.routes().doubted().collect::<Vec<_>>()).await;
                doubted.unwrap_or_default().into_iter().for_each(|node| holds.want(node));
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Asks about those that were just lost. This waits for nobody: the loop may have much to do then.
async fn begin(app: &Arc<App>, holds: &Holds) {
    loop {
        holds.lost.notified().await;
        wave(app, holds, true).await;
        holds.begun.notify_one();
    }
}

/// Asks again about those that are still doubted, and forgets the others.
async fn go_on(app: &Arc<App>, holds: &Holds) {
    let most = app.options.tailnet.routes.judging.hold_most + AT_LEAST;
    let mut last = Instant::now();
    loop {
        let next = holds.lock().next(last);
        let Some(next) = next else {
            holds.begun.notified().await;
            continue;
        };
        sleep_until(next).await;
        let looked_at = Instant::now();
        let all: Vec<NodeId> = holds.lock().all.keys().copied().collect();
        let known = app.control.read(move |tailnet| {
            let table = tailnet.routes();
            let known = all.into_iter().map(|node| (node, table.is_doubted(node), table.down_cause(node).is_some()));
            known.collect::<Vec<_>>()
        });
        let Ok(known) = known.await else { return };
        for (node, doubted, down) in known {
            let patience = match (doubted, down) {
                (true, _) => most,
                (false, true) => Duration::ZERO,
                (false, false) => AT_LEAST,
            };
            holds.lock().ends(node, looked_at, patience);
        }
        wave(app, holds, false).await;
        last = looked_at;
    }
}

/// Asks about those whose turn it is, as far as the budget reaches.
async fn wave(app: &Arc<App>, holds: &Holds, only_new: bool) {
    let now = Instant::now();
    let snapshot = app.control.snapshot();
    let is_carrier = |node| snapshot.node(node).is_some_and(|view| carries(view));
    let turns = holds.lock().turns(now, only_new, is_carrier);
    for node in turns {
        // Who was gone at the first look is gone for good.
        let Some(router) = snapshot.node(node) else { continue };
        let witnesses = app.witnesses.of_lost(router, &snapshot, &app.options.evidence);
        // There will be time to look for some in another wave.
        let Some(witnesses) = witnesses else { continue };
        let turn = holds.lock().asks(node, witnesses.len(), now);
        match turn {
            Turn::Now => ask(app, &snapshot, router, witnesses),
            Turn::Past => continue,
            Turn::Later => return,
        }
        // What decides has its turn in between.
        yield_now().await;
    }
}

/// Whether anybody goes through it.
fn carries(router: &NodeView) -> bool {
    !router.primary.is_empty() || router.steered.values().any(|some| !some.is_empty()) || !router.choices.is_empty()
}

/// Asks its witnesses once.
fn ask(app: &Arc<App>, snapshot: &Snapshot, router: &NodeView, witnesses: Vec<NodeId>) {
    let Some(address) = told_address(snapshot, router) else { return };
    let node = router.node.id;
    for witness in witnesses {
        let app = Arc::clone(app);
        tokio::spawn(async move {
            let asked_at = app.control.clock().now();
            let ask = app.sessions.ask(witness, secrets::login_token(), |url| ping::peer(url, PeerPing::Tsmp, address));
            let Some(answer) = ask else { return };
            let Ok(Ok(body)) = timeout(app.options.evidence.probe_within, answer).await else { return };
            if matches!(word(&body), Word::Reached(_)) {
                app.control.event(Event::Evidence(node, Testimony::Alive { asked_at })).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(1);
    const A_MOMENT: Duration = Duration::from_millis(1);
    const EVERY: Duration = Duration::from_millis(200);

    /// So many questions a second.
    fn asking(budget: u32, now: Instant) -> Asking {
        Asking::new(&Evidence { probe_budget: budget, hold_every: EVERY, ..Evidence::default() }, now - EVERY)
    }

    /// Asks about all whose turn it is with three questions each, as far as the budget reaches, and says about whom.
    fn wave(asking: &mut Asking, now: Instant, carries: impl Fn(NodeId) -> bool) -> Vec<u64> {
        let turns = asking.turns(now, false, carries);
        turns.into_iter().take_while(|node| asking.asks(*node, 3, now) == Turn::Now).map(NodeId::get).collect()
    }

    #[test]
    fn a_second_doubt_at_the_end_of_the_first_is_asked_about() {
        let now = Instant::now();
        let mut asking = asking(1000, now);
        asking.wanted(NODE, now);
        // The router is found down, and comes back and is lost again before that is acted on.
        let looked_at = now + AT_LEAST;
        asking.wanted(NODE, looked_at + A_MOMENT);
        asking.ends(NODE, looked_at, Duration::ZERO);
        assert!(asking.all.contains_key(&NODE), "whoever asks goes on");
        let looked_at = looked_at + 2 * A_MOMENT;
        asking.ends(NODE, looked_at, Duration::ZERO);
        assert!(asking.all.is_empty());
        // Or just after it.
        asking.wanted(NODE, looked_at + A_MOMENT);
        assert_eq!(wave(&mut asking, looked_at + A_MOMENT, |_| true), [1], "it begins again");
    }

    #[test]
    fn it_is_asked_for_as_long_as_is_wanted_and_others_do_not_end_with_it() {
        let (other, now) = (NodeId::new(2), Instant::now());
        let mut asking = asking(1000, now);
        asking.wanted(NODE, now);
        asking.wanted(other, now);
        asking.ends(NODE, now + AT_LEAST - A_MOMENT, AT_LEAST);
        assert_eq!(asking.all.len(), 2);
        asking.ends(NODE, now + AT_LEAST, AT_LEAST);
        assert_eq!(asking.all.keys().collect::<Vec<_>>(), [&other], "it still is asked about");
    }

    #[test]
    fn no_more_is_asked_than_the_budget_has_and_who_was_left_out_comes_first_in_the_next_wave() {
        let now = Instant::now();
        // Six questions to a wave: two routers.
        let mut asking = asking(30, now);
        for node in 1..=5 {
            asking.wanted(NodeId::new(node), now);
        }
        // The fifth carries something, the others stand by.
        let carries = |node: NodeId| node.get() == 5;
        assert_eq!(wave(&mut asking, now, carries), [5, 1]);
        assert_eq!(wave(&mut asking, now + A_MOMENT, carries), [0; 0], "nothing is left");
        assert_eq!(wave(&mut asking, now + EVERY, carries), [5, 2], "who carries something is asked each time");
        assert_eq!(wave(&mut asking, now + 2 * EVERY, carries), [5, 3]);
        assert_eq!(wave(&mut asking, now + 3 * EVERY, carries), [5, 4]);
        assert_eq!(wave(&mut asking, now + 4 * EVERY, carries), [5, 1]);
    }

    #[test]
    fn of_those_that_carry_something_who_has_waited_longest_is_the_first() {
        let now = Instant::now();
        let mut asking = asking(30, now);
        for (node, after) in [(3, 0), (1, 1), (2, 2)] {
            asking.wanted(NodeId::new(node), now + after * A_MOMENT);
        }
        let waves = [2, 202, 402].map(|after| wave(&mut asking, now + after * A_MOMENT, |_| true));
        assert_eq!(waves, [[3, 1], [2, 1], [3, 1]], "the oldest loss, then the others, and nobody is left out twice");
    }

    #[test]
    fn waves_are_a_while_apart_and_one_that_was_asked_about_has_its_next_turn_then() {
        let now = Instant::now();
        let mut asking = asking(1000, now);
        assert_eq!(asking.next(now), None);
        asking.wanted(NODE, now);
        assert_eq!(asking.asks(NODE, 3, now), Turn::Now);
        assert_eq!(asking.asks(NODE, 3, now), Turn::Past, "it was asked about a moment ago");
        assert_eq!(asking.next(now), Some(now + EVERY));
        asking.wanted(NodeId::new(2), now + A_MOMENT);
        assert_eq!(asking.next(now), Some(now + EVERY / MOST_WAVES), "it was not asked about yet");
        assert_eq!(wave(&mut asking, now + EVERY / MOST_WAVES, |_| true), [2]);
        // Both are asked in one wave from now on.
        let later = now + EVERY + EVERY / MOST_WAVES;
        assert_eq!(asking.next(now + EVERY / MOST_WAVES), Some(now + EVERY));
        assert_eq!(wave(&mut asking, now + EVERY, |_| true), [1, 2]);
        assert_eq!(asking.next(now + EVERY), Some(later.max(now + 2 * EVERY)));
        assert_eq!(asking.budget.taken, 12);
    }
}
