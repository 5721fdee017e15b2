//! The one writer: orders commands, commits and events.
//!
//! ```text
//! commands --> plan --> store.commit (a task) --> apply --.
//! events ----------------------------------------> apply --+--> effects, snapshot
//! deadlines -------------------------------------> apply --'
//! ```
//!
//! One plan is in flight at a time; events and deadlines go on meanwhile, so a stuck database stops no failover. What is already
//! waiting in the inbox is taken in before a deadline is looked at: a sign of life that has arrived counts, however late the
//! loop is. The loop has a thread of its own (`own_thread`), beside those of the sessions. Facts that are in force already are written behind, in batches, never more than one at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use wayleave_policy::PolicyError;
use wayleave_store::{Store, StoreError};
use wayleave_tailnet::{
    Command, Committed, Effect, Event, Outcome, Plan, PolicyRow, Refusal, Settings, Snapshot, Tailnet,
};

mod behind;
mod rounds;
mod words;

use self::behind::{Behind, TRY_AGAIN, Writing};
use self::rounds::{Follower, Rounds};
use self::words::{log, log_history};
use crate::clock::Clock;
use crate::metrics::{Metrics, Operation};

/// Inputs that may wait. A full inbox makes sessions wait, which makes their clients wait: nothing is lost, and memory is bounded.
const INBOX: usize = 4096;
/// Effects that a slow listener may be behind before it misses some, and is told so.
const EFFECTS: usize = 1024;
/// Inputs that are taken in before readers get a new picture, so that a storm does not hold back the picture for ever.
const BATCH: usize = 1024;

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The tailnet refused, with the reason.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store could not make it durable; nothing changed.
    #[error("nothing was changed")]
    Store(#[from] StoreError),
    /// The server is stopping.
    #[error("the server is stopping; nothing was changed")]
    Stopping,
    /// The loop did not answer in time.
    #[error(
        "the control loop has not answered for {} s, and {inputs} inputs wait for it: it hangs, or this machine is far too slow for it",
        .patience.as_secs()
    )]
    Unanswered {
        /// How long was waited.
        patience: Duration,
        /// How many inputs wait for the loop.
        inputs: usize,
    },
}

/// What is being committed: the command, and whoever waits for it; nobody does if it is the tailnet's own.
struct Committing {
    done: JoinHandle<Result<Committed, StoreError>>,
    command: Command,
    reply: Option<Reply>,
}

type Joined = (Result<Committed, StoreError>, Command, Option<Reply>);
type Reply = oneshot::Sender<Result<Outcome, CommandError>>;
type Question = Box<dyn FnOnce(&Tailnet) + Send>;

enum Input {
    Command(Box<Command>, Reply),
    Event(Event),
    Read(Question),
    Stop(oneshot::Sender<()>),
}

/// A handle on the control loop. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    inbox: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    rounds: Follower,
    effects: broadcast::Sender<Effect>,
    store: Store,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Control {
    /// Loads a tailnet from its store, and starts the loop that owns it.
    ///
    /// `policy` is the policy where its home is a file: it is served where the stored one is none (any more). The loop runs `on` that
    /// runtime, and waits for the store on the caller's.
    ///
    /// # Errors
    ///
    /// The store can't be read, or the policy in it is none and there is no other.
    pub async fn start(
        store: Store,
        settings: Settings,
        clock: Clock,
        policy: Option<String>,
        on: &Handle,
    ) -> Result<Self, LoadError> {
        let mut loaded = store.load().await?;
        let now = clock.now();
        let mut tailnet = match (Tailnet::new(settings.clone(), loaded.clone(), now), policy) {
            (Ok(tailnet), _) => tailnet,
            (Err(fault), None) => return Err(fault.into()),
            (Err(fault), Some(text)) => {
                tracing::warn!(%fault, "the stored policy is not valid for this version; that of the file is served");
                let revision = loaded.policy.as_ref().map_or(1, |row| row.revision + 1);
                let set_by = "file".to_owned();
                loaded.policy = Some(PolicyRow { revision, text: text.into(), set_at: now, set_by });
                Tailnet::new(settings, loaded, now)?
            }
        };
        let started = tailnet.apply(Event::Started, now);
        let (inbox, inputs) = mpsc::channel(INBOX);
        let first = Arc::new(tailnet.snapshot().clone());
        let (publish, snapshots) = watch::channel(Arc::clone(&first));
        let (rounds, follower) = Rounds::new(first);
        let (effects, _) = broadcast::channel(EFFECTS);
        let metrics = Arc::new(Metrics::default());
        metrics.picture(tailnet.snapshot().version);
        let mut work = Loop {
            tailnet,
            workers: Handle::current(),
            store: store.clone(),
            clock: clock.clone(),
            publish,
            rounds,
            effects: effects.clone(),
            waiting: VecDeque::new(),
            committing: None,
            again: Vec::new(),
            behind: Behind::default(),
            on_its_way: Behind::default(),
            not_before: None,
            writing: None,
            metrics: Arc::clone(&metrics),
        };
        work.run_effects(started);
        on.spawn(work.run(inputs));
        Ok(Self { inbox, snapshots, rounds: follower, effects, store, clock, metrics })
    }

    /// Asks for something, and waits until it is durable and in force.
    ///
    /// # Errors
    ///
    /// It was refused, or could not be made durable; nothing changed then.
    pub async fn command(&self, command: Command) -> Result<Outcome, CommandError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inbox.send(Input::Command(Box::new(command), reply)).await;
        sent.map_err(|_| CommandError::Stopping)?;
        answer.await.unwrap_or(Err(CommandError::Stopping))
    }

    /// Tells what happened. Waits only while the inbox is full.
    pub async fn event(&self, event: Event) {
        // A loop that has stopped has no use for it.
        drop(self.inbox.send(Input::Event(event)).await);
    }

    /// Reads the state itself, in order with everything else.
    ///
    /// # Errors
    ///
    /// The server is stopping.
    pub async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Tailnet) -> T + Send + 'static,
    ) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        let ask: Question = Box::new(move |tailnet| {
            // Whoever asked may have gone.
            drop(reply.send(question(tailnet)));
        });
        self.inbox.send(Input::Read(ask)).await.map_err(|_| CommandError::Stopping)?;
        answer.await.map_err(|_| CommandError::Stopping)
    }

    /// Reads as [`read`](Self::read) does, for whoever asks whether the loop works at all.
    ///
    /// # Errors
    ///
    /// The server is stopping, or the loop did not answer in time.
    pub async fn read_within<T: Send + 'static>(
        &self,
        patience: Duration,
        question: impl FnOnce(&Tailnet) -> T + Send + 'static,
    ) -> Result<T, CommandError> {
        let answer = tokio::time::timeout(patience, self.read(question)).await;
        answer.unwrap_or_else(|_| Err(CommandError::Unanswered { patience, inputs: self.inbox_length() }))
    }

    /// The newest picture.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Pictures as they come; a slow reader sees the newest only.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The pictures that a session tells its client of. There are fewer than of [`snapshots`](Self::snapshots), and one may come later,
    /// but never one in which a route moved.
    pub(crate) fn rounds(&self) -> Follower {
        self.rounds.clone()
    }

    /// Effects as they happen. A listener that is too slow is told how many it missed.
    pub fn effects(&self) -> broadcast::Receiver<Effect> {
        self.effects.subscribe()
    }

    /// The store, for what is read from it directly (history).
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Inputs that wait for the loop.
    pub fn inbox_length(&self) -> usize {
        self.inbox.max_capacity() - self.inbox.capacity()
    }

    /// The clock of this server.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Ends the loop. Returns once everything that was in force is durable.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.inbox.send(Input::Stop(done)).await.is_ok() {
            drop(stopped.await);
        }
    }
}

struct Loop {
    tailnet: Tailnet,
    /// Where the store is waited for: what it leaves behind for later must outlive the loop.
    workers: Handle,
    store: Store,
    clock: Clock,
    publish: watch::Sender<Arc<Snapshot>>,
    rounds: Rounds,
    effects: broadcast::Sender<Effect>,
    /// Commands that wait for the one in flight; those without a reply are the tailnet's own.
    waiting: VecDeque<(Command, Option<Reply>)>,
    committing: Option<Committing>,
    /// The tailnet's own commands that the store could not make durable; nobody else would ask for them again.
    again: Vec<Command>,
    behind: Behind,
    /// What is being written; it is behind again if that fails.
    on_its_way: Behind,
    /// Set after a failure.
    not_before: Option<tokio::time::Instant>,
    writing: Option<Writing>,
    metrics: Arc<Metrics>,
}

impl Loop {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        loop {
            self.write_behind();
            self.plan_next();
            self.publish();
            self.metrics.waits(
                self.waiting.len() + usize::from(self.committing.is_some()),
                self.behind.len() + self.on_its_way.len(),
            );
            let due = self.tailnet.next_deadline().map(|at| self.clock.instant(at));
            // What is under way has to end before anything is tried again.
            let again = self.not_before.filter(|_| self.committing.is_none() && self.writing.is_none());
            let deadline = due.into_iter().chain(again).chain(self.rounds.due()).min();
            tokio::select! {
                biased;
                done = joined(&mut self.committing) => self.committed(done),
                done = written(&mut self.writing) => self.written(done),
                input = inputs.recv() => {
                    let Some(input) = input else { return };
                    if self.take(input, &mut inputs).await {
                        return;
                    }
                }
                () = until(deadline) => {}
            }
            // What has arrived comes before what is due.
            for _ in 0..BATCH {
                let Ok(input) = inputs.try_recv() else { break };
                if self.take(input, &mut inputs).await {
                    return;
                }
            }
            let now = self.clock.now();
            if self.tailnet.next_deadline().is_some_and(|at| at <= now) {
                let effects = self.tailnet.handle_deadline(now);
                self.run_effects(effects);
            }
        }
    }

    /// Returns whether the loop is to end.
    async fn take(&mut self, input: Input, inputs: &mut mpsc::Receiver<Input>) -> bool {
        match input {
            Input::Command(command, reply) => self.waiting.push_back((*command, Some(reply))),
            Input::Event(event) => self.apply(event),
            Input::Read(question) => question(&self.tailnet),
            Input::Stop(done) => {
                inputs.close();
                self.finish().await;
                // Whoever waits for the end may have gone.
                done.send(()).ok();
                return true;
            }
        }
        false
    }

    fn apply(&mut self, event: Event) {
        if rounds::is_pressing(&event) {
            self.rounds.press();
        }
        let effects = self.tailnet.apply(event, self.clock.now());
        self.run_effects(effects);
    }

    /// Plans what waits until one has to be committed. A commit and a write-behind never overlap: a batch of older facts that came
    /// last would undo what was committed.
    fn plan_next(&mut self) {
        while self.committing.is_none() {
            let Some((command, reply)) = self.waiting.pop_front() else { return };
            match self.tailnet.plan(command.clone(), self.clock.now()) {
                Err(refusal) => answer(reply, Err(refusal.into())),
                Ok(plan) if plan.writes().is_empty() => self.apply_committed(plan.into_committed(), &command, reply),
                Ok(_) if self.writing.is_some() => {
                    self.waiting.push_front((command, reply));
                    return;
                }
                Ok(plan) => {
                    let done = self.workers.spawn(commit(self.store.clone(), plan, Arc::clone(&self.metrics)));
                    self.committing = Some(Committing { done, command, reply });
                }
            }
        }
    }

    fn apply_committed(&mut self, committed: Committed, command: &Command, reply: Option<Reply>) {
        if rounds::is_asked(command) {
            self.rounds.press();
        }
        let outcome = committed.outcome().clone();
        for entry in committed.history() {
            log_history(entry, &self.tailnet);
            // Nobody may be listening.
            drop(self.effects.send(Effect::History(entry.clone())));
        }
        self.apply(Event::Committed(Box::new(committed)));
        // Readers see it before whoever asked is told.
        self.publish();
        answer(reply, Ok(outcome));
    }

    fn committed(&mut self, (done, command, reply): Joined) {
        match done {
            Ok(committed) => self.apply_committed(committed, &command, reply),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "commit failed; nothing was changed");
                if reply.is_none() {
                    self.again.push(command);
                }
                self.not_before = Some(tokio::time::Instant::now() + TRY_AGAIN);
                answer(reply, Err(error.into()));
            }
        }
    }

    fn publish(&mut self) {
        let snapshot = self.tailnet.snapshot();
        if snapshot.version != self.publish.borrow().version {
            self.metrics.picture(snapshot.version);
            self.publish.send_replace(Arc::new(snapshot.clone()));
        }
        let now = tokio::time::Instant::now();
        if self.rounds.is_due(snapshot.version, now) {
            let shown = self.tailnet.show(self.rounds.last());
            self.rounds.show(Arc::new(shown.clone()), now);
        }
    }

    /// Makes durable what is in force, and answers what still waits.
    async fn finish(&mut self) {
        if let Some(Committing { done, command, reply }) = self.committing.take() {
            let done = finished(done).await;
            self.committed((done, command, reply));
        }
        self.waiting.clear();
        if let Some(writing) = self.writing.take() {
            let done = finished(writing).await;
            self.written(done);
        }
        let facts = self.take_behind();
        let done = finished(self.write(facts)).await;
        self.written(done);
    }

    fn run_effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            log(&effect, &self.tailnet);
            self.metrics.effect(&effect);
            if rounds::is_news(&effect, &self.tailnet) {
                self.rounds.press();
            }
            match &effect {
                Effect::Propose(command) => self.waiting.push_back((command.clone(), None)),
                Effect::NodeRow(node) => drop(self.behind.nodes.insert(*node)),
                Effect::RouteRow(route) => drop(self.behind.routes.insert(*route)),
                Effect::SeatRow(prefix, group) => drop(self.behind.seats.insert((*prefix, group.clone()))),
                Effect::FlapRow(node) => drop(self.behind.flaps.insert(*node)),
                Effect::History(entry) => self.behind.history.push(entry.clone()),
                Effect::PrimaryChanged(_)
                | Effect::SteeredChanged(_)
                | Effect::FellBack { .. }
                | Effect::KeyExpires { .. }
                | Effect::PolicyChanged(_)
                | Effect::Judged(_)
                | Effect::AskWitnesses(_)
                | Effect::NodeDown(..)
                | Effect::NodeUp(_)
                | Effect::Flapping(_)
                | Effect::CommonLoss(_)
                | Effect::LoginSettled(_)
                | Effect::SshCheckSettled(_)
                | Effect::NodeGone(_) => {}
            }
            // Nobody may be listening.
            drop(self.effects.send(effect));
        }
    }
}

/// Awaits the write of a plan; cancelled never, because the loop's own future holds it.
async fn commit(store: Store, plan: Plan, metrics: Arc<Metrics>) -> Result<Committed, StoreError> {
    let started = std::time::Instant::now();
    let done = store.commit(plan).await;
    metrics.stored(Operation::Commit, started.elapsed(), done.is_err());
    done
}

async fn joined(slot: &mut Option<Committing>) -> Joined {
    let Some(Committing { done, .. }) = slot else { return std::future::pending().await };
    let done = finished(done).await;
    match slot.take() {
        Some(Committing { command, reply, .. }) => (done, command, reply),
        None => std::future::pending().await,
    }
}

async fn written(slot: &mut Option<Writing>) -> Result<(), StoreError> {
    let Some(handle) = slot else { return std::future::pending().await };
    let done = finished(handle).await;
    *slot = None;
    done
}

/// What a task came to. It panics as the task did; one that was cancelled is never finished: its runtime is gone, and with it all who
/// could ask.
async fn finished<T>(task: impl Future<Output = Result<T, JoinError>>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn answer(reply: Option<Reply>, result: Result<Outcome, CommandError>) {
    match (reply, result) {
        // Whoever asked may have gone.
        (Some(reply), result) => drop(reply.send(result)),
        (None, Err(error)) => tracing::debug!(%error, "the tailnet's own command came too late"),
        (None, Ok(_)) => {}
    }
}

/// What the store holds can't be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It can't be read.
    #[error("the database can't be read")]
    Store(#[from] StoreError),
    /// The policy in it is none (any more).
    #[error(
        "the policy in the database is not valid for this version, and nothing else is put in its place; name a file with one that is by `policy.file`:\n{0}"
    )]
    Policy(#[from] PolicyError),
}
