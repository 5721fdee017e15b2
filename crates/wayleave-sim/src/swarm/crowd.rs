//! Viewers, each a task that keeps up with its map, and what is waited for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use wayleave_model::MachineKey;
use wayleave_wire::PrivateKey;

use super::bits::Bits;
use super::host::wall_micros;
use super::seen::{Reader, Seen};
use crate::Client;

/// One in so many reads all that it is told.
const READERS: usize = 100;
/// One address has 28,000 ports; the clients dial from so many.
const ADDRESSES: usize = 16;
/// How long a client waits before it dials again.
const DIAL_AGAIN: Duration = Duration::from_millis(500);

/// A simulated client.
pub(crate) struct Viewer {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) group: usize,
    pub(crate) is_router: bool,
    routes: Vec<String>,
    auth_key: String,
    from: IpAddr,
    machine: PrivateKey,
    node: PrivateKey,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: Seen,
    joined: bool,
    client: Option<Client>,
    task: Option<AbortHandle>,
    /// When it began to dial, when it had joined, and when the first map of its stream was there; in microseconds of wall time.
    dialled_at: i64,
    joined_at: i64,
    map_at: i64,
    /// It asks for a map and reads nothing of it.
    is_stuck: bool,
    /// The goal that it has reached last.
    reached: u64,
}

/// What is waited for.
pub(crate) enum Want {
    /// To know exactly these nodes, by the viewer's group; who is in none of them is not waited for.
    Knows(Vec<Bits>),
    /// To be told that this node carries the prefix; by a frame that tells of the other one too, if there is one.
    Carrier { now: u64, before: Option<u64> },
}

/// Who is still waited for.
pub(crate) struct Goal {
    number: u64,
    want: Want,
    waiting: AtomicUsize,
    /// When each viewer got there, in microseconds of wall time.
    reached: Mutex<Vec<(usize, i64)>>,
    all: Notify,
}

/// All viewers.
pub struct Crowd {
    address: SocketAddr,
    server: MachineKey,
    viewers: Mutex<Vec<Arc<Viewer>>>,
    goal: Mutex<Option<Arc<Goal>>>,
    goals: AtomicU64,
    prefix: Mutex<Arc<str>>,
    dialling: Semaphore,
    faults: Mutex<Vec<String>>,
    /// Connections that the server ended, or that could not be made.
    pub(crate) lost: AtomicUsize,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Goal {
    fn holds(&self, viewer: &Viewer, seen: &Seen) -> bool {
        match &self.want {
            Want::Knows(all) => all.get(viewer.group).is_some_and(|wanted| seen.known.equals(wanted)),
            Want::Carrier { now, before } => {
                seen.carrier == *now && before.is_none_or(|before| seen.with_carrier.contains(before))
            }
        }
    }

    fn reached(&self, viewer: &Viewer) {
        lock(&self.reached).push((viewer.index, wall_micros()));
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.notify_one();
        }
    }
}

impl Crowd {
    /// Nobody yet.
    pub fn new(address: SocketAddr, server: MachineKey, prefix: &str, dialling: usize) -> Arc<Self> {
        Arc::new(Self {
            address,
            server,
            viewers: Mutex::default(),
            goal: Mutex::default(),
            goals: AtomicU64::new(0),
            prefix: Mutex::new(Arc::from(prefix)),
            dialling: Semaphore::new(dialling),
            faults: Mutex::default(),
            lost: AtomicUsize::new(0),
        })
    }

    /// Adds a client, which is not connected yet.
    pub(crate) fn add(&self, name: String, group: usize, auth_key: String, routes: Vec<String>) -> Arc<Viewer> {
        let mut viewers = lock(&self.viewers);
        let index = viewers.len();
        let reader = index.is_multiple_of(READERS).then(Reader::default);
        let last = u8::try_from(1 + index % ADDRESSES).unwrap_or(1);
        let key = || PrivateKey::from_bytes(rand::random());
        let viewer = Arc::new(Viewer {
            index,
            name,
            group,
            is_router: !routes.is_empty(),
            routes,
            auth_key,
            from: IpAddr::V4(Ipv4Addr::new(127, 0, 1, last)),
            machine: key(),
            node: key(),
            state: Mutex::new(State { seen: Seen { reader, ..Seen::default() }, ..State::default() }),
        });
        viewers.push(Arc::clone(&viewer));
        viewer
    }

    pub(crate) fn viewers(&self) -> Vec<Arc<Viewer>> {
        lock(&self.viewers).clone()
    }

    /// The prefix that is looked for in maps.
    pub(crate) fn watch_prefix(&self, prefix: &str) {
        *lock(&self.prefix) = Arc::from(prefix);
        for viewer in self.viewers() {
            lock(&viewer.state).seen.carrier = 0;
        }
    }

    /// What went wrong.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.faults).clone()
    }

    /// Registers a client, which says what it is and leaves.
    pub(crate) async fn register(&self, viewer: &Viewer) -> anyhow::Result<()> {
        let _permit = self.dialling.acquire().await?;
        let keys = (viewer.machine.clone(), viewer.node.clone());
        let client = Client::connect_from(viewer.from, self.address, self.server, keys.0, keys.1).await?;
        client.join(&viewer.auth_key, &viewer.name).await?;
        client.report(&viewer.name, &[]).await?;
        client.cut();
        let mut state = lock(&viewer.state);
        state.joined = true;
        state.joined_at = wall_micros();
        Ok(())
    }

    /// Connects a client; it stays connected until it is cut off.
    pub(crate) fn connect(self: &Arc<Self>, viewer: &Arc<Viewer>) {
        let (crowd, me) = (Arc::clone(self), Arc::clone(viewer));
        let mut state = lock(&viewer.state);
        state.dialled_at = wall_micros();
        state.map_at = 0;
        state.seen.forget();
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = crowd.live(&me).await {
                    crowd.fault(&me, &error);
                }
                crowd.lost.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(DIAL_AGAIN).await;
            }
        });
        state.task = Some(task.abort_handle());
    }

    /// Cuts a client off, as if it had lost its power.
    pub(crate) fn cut(&self, viewer: &Viewer) {
        let mut state = lock(&viewer.state);
        if let Some(task) = state.task.take() {
            task.abort();
        }
        if let Some(client) = state.client.take() {
            client.cut();
        }
        state.map_at = 0;
    }

    fn fault(&self, viewer: &Viewer, error: &anyhow::Error) {
        let mut faults = lock(&self.faults);
        if faults.len() < 20 {
            faults.push(format!("{}: {error:#}", viewer.name));
        }
    }

    /// One connection, from dialling to its end. An error is something that should not have been said.
    async fn live(self: &Arc<Self>, viewer: &Arc<Viewer>) -> anyhow::Result<()> {
        let Ok(permit) = self.dialling.acquire().await else { return Ok(()) };
        let keys = (viewer.machine.clone(), viewer.node.clone());
        // A connection that is refused or lost is made again; only what is said in it can be wrong.
        let Ok(client) = Client::connect_from(viewer.from, self.address, self.server, keys.0, keys.1).await else {
            return Ok(());
        };
        let joined = lock(&viewer.state).joined;
        if !joined {
            client.join(&viewer.auth_key, &viewer.name).await?;
            let mut state = lock(&viewer.state);
            state.joined = true;
            state.joined_at = wall_micros();
        }
        let Ok(mut stream) = client.stream().await else { return Ok(()) };
        drop(permit);
        {
            let mut state = lock(&viewer.state);
            state.seen.forget();
            state.client = Some(client.clone());
            if state.is_stuck {
                client.freeze();
            }
        }
        if !joined {
            let routes: Vec<&str> = viewer.routes.iter().map(String::as_str).collect();
            client.report(&viewer.name, &routes).await?;
        }
        while let Ok(Some(body)) = stream.next_compressed().await {
            let prefix = Arc::clone(&lock(&self.prefix));
            let mut state = lock(&viewer.state);
            let first = state.map_at == 0;
            state.seen.take(&body, &prefix)?;
            if first {
                state.map_at = wall_micros();
            }
            self.look(viewer, &mut state);
        }
        Ok(())
    }

    fn look(&self, viewer: &Viewer, state: &mut State) {
        let Some(goal) = lock(&self.goal).clone() else { return };
        if state.reached != goal.number && !viewer.excused(&goal, state) && goal.holds(viewer, &state.seen) {
            state.reached = goal.number;
            goal.reached(viewer);
        }
    }

    /// Sets what is waited for. Those who are there already count at once.
    pub(crate) fn want(&self, want: Want) -> Arc<Goal> {
        let number = self.goals.fetch_add(1, Ordering::Relaxed) + 1;
        let goal = Goal { number, want, waiting: AtomicUsize::new(0), reached: Mutex::default(), all: Notify::new() };
        let viewers = self.viewers();
        goal.waiting.store(
            viewers.iter().filter(|viewer| !viewer.excused(&goal, &lock(&viewer.state))).count(),
            Ordering::Release,
        );
        let goal = Arc::new(goal);
        *lock(&self.goal) = Some(Arc::clone(&goal));
        for viewer in viewers {
            self.look(&viewer, &mut lock(&viewer.state));
        }
        goal
    }

    /// Waits until all are there, and says when each was.
    pub(crate) async fn reach(&self, goal: &Goal, patience: Duration) -> anyhow::Result<Vec<(usize, i64)>> {
        if goal.waiting.load(Ordering::Acquire) > 0
            && tokio::time::timeout(patience, goal.all.notified()).await.is_err()
        {
            let late: Vec<String> = self
                .viewers()
                .iter()
                .filter(|viewer| {
                    let state = lock(&viewer.state);
                    !viewer.excused(goal, &state) && state.reached != goal.number
                })
                .map(|viewer| {
                    let state = lock(&viewer.state);
                    let (known, carrier) = (state.seen.known.len(), state.seen.carrier);
                    format!("{} knows {known} nodes, carrier {carrier}", viewer.name)
                })
                .collect();
            let some = late.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
            bail!("{} of {} were not there after {patience:?}: {some}", late.len(), self.viewers().len());
        }
        Ok(lock(&goal.reached).clone())
    }

    /// Waits until every client is registered and has a first map.
    pub(crate) async fn all_in(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let is_missing = |state: &State| state.map_at == 0 && !state.is_stuck;
            let missing = self.viewers().iter().filter(|viewer| is_missing(&lock(&viewer.state))).count();
            if missing == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{missing} clients have no map after {patience:?}: {:?}", self.faults());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Frames and bytes that came since this was asked last.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        self.viewers().iter().fold((0, 0), |(frames, bytes), viewer| {
            let seen = &mut lock(&viewer.state).seen;
            (frames + std::mem::take(&mut seen.frames), bytes + std::mem::take(&mut seen.bytes))
        })
    }
}

impl Viewer {
    /// Its node's id; 0 until its first map.
    pub(crate) fn id(&self) -> u64 {
        lock(&self.state).seen.me
    }

    /// When it dialled last and when its map was there, in microseconds of wall time.
    pub(crate) fn times(&self) -> (i64, i64) {
        let state = lock(&self.state);
        (state.dialled_at, state.map_at)
    }

    /// When it had joined, in microseconds of wall time.
    pub(crate) fn joined_at(&self) -> i64 {
        lock(&self.state).joined_at
    }

    /// From its next connection on it asks for a map and reads nothing of it, or reads again.
    pub(crate) fn stick(&self, is_stuck: bool) {
        lock(&self.state).is_stuck = is_stuck;
    }

    /// Routers come and go where prefixes move, and are told other things than the rest.
    fn excused(&self, goal: &Goal, state: &State) -> bool {
        state.is_stuck
            || match &goal.want {
                Want::Knows(all) => all.len() <= self.group,
                Want::Carrier { .. } => self.is_router,
            }
    }
}
