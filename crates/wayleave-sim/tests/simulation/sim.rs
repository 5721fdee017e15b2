//! A tailnet in virtual time: the server as shipped, machines, a network between them, and a clock that runs only while nothing is
//! to be done.
//!
//! All of it is one thread and one runtime whose clock is paused, so it jumps to the next timer whenever everybody waits. The
//! database is a real one with threads of its own, of which the runtime knows nothing: while it is asked anything, time is held.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;
use tokio::time::Instant;
use wayleave_model::{Approver, NodeId, Prefix, UserId};
use wayleave_server::options::Options;
use wayleave_server::{Clock, Control, Server, secrets};
use wayleave_sim::{Client, MapStream};
use wayleave_store::Store;
use wayleave_tailnet::{ApproveMode, Command, NewAuthKey, Outcome, Tailnet};
use wayleave_wire::PrivateKey;

use crate::machine::{Ground, Machine};

/// The server's address, as machines know it.
const SERVER: &str = "198.51.100.1:443";
/// Where virtual time begins: 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// What time waits for.
#[derive(Default)]
struct Waits {
    stores: Mutex<Vec<Store>>,
    /// A server starts: its database is not in `stores` yet.
    starting: AtomicUsize,
    /// Time is held.
    held: AtomicBool,
}

impl Waits {
    fn is_busy(&self) -> bool {
        self.starting.load(Ordering::SeqCst) > 0 || self.stores.lock().unwrap().iter().any(Store::is_busy)
    }

    /// Called when the runtime has nothing to do. A blocking task keeps it from moving its clock.
    fn hold(self: &Arc<Self>) {
        if self.is_busy() && !self.held.swap(true, Ordering::SeqCst) {
            let waits = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                while waits.is_busy() {
                    std::thread::sleep(Duration::from_micros(50));
                }
                waits.held.store(false, Ordering::SeqCst);
            });
        }
    }
}

/// Plays a story in virtual time.
pub fn play<F: Future<Output = ()>>(story: impl FnOnce(Sim) -> F) {
    play_with(|_| {}, story);
}

/// Plays a story with a server that has other options than usual.
pub fn play_with<F: Future<Output = ()>>(change: impl FnOnce(&mut Options), story: impl FnOnce(Sim) -> F) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let waits = Arc::<Waits>::default();
    let hold = Arc::clone(&waits);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .on_thread_park(move || hold.hold())
        .build()
        .unwrap();
    runtime.block_on(async {
        let sim = Sim::start(waits, change).await;
        story(sim).await;
    });
    // What still runs belongs to a story that is over.
    runtime.shutdown_background();
}

pub struct Sim {
    pub ground: Ground,
    pub machines: Vec<Machine>,
    waits: Arc<Waits>,
    server: Option<Server>,
    folder: TempDir,
    options: Options,
    key: String,
    /// By how much the system's clock is wrong, in seconds.
    skew: Arc<AtomicI64>,
    began: Instant,
}

impl Sim {
    async fn start(waits: Arc<Waits>, change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address: SocketAddr = SERVER.parse().unwrap();
        let mut options = wayleave_sim::options(folder.path(), address);
        // No sockets: machines come over the network of the simulation, persons by the control loop.
        (options.listen, options.socket) = (None, None);
        change(&mut options);
        let began = Instant::now();
        let mut sim = Self {
            ground: Ground::default(),
            machines: Vec::new(),
            waits,
            server: None,
            folder,
            options,
            key: String::new(),
            skew: Arc::default(),
            began,
        };
        sim.begin().await;
        let user =
            Command::CreateUser { name: "anna".to_owned(), display_name: String::new(), email: None, role: None };
        let Outcome::User(user) = sim.control().command(user).await.unwrap() else { unreachable!() };
        sim.key = sim.auth_key(user).await;
        sim
    }

    async fn begin(&mut self) {
        let (skew, began) = (Arc::clone(&self.skew), self.began);
        let clock = Clock::reading(move || {
            let skew = skew.load(Ordering::SeqCst);
            let right = UNIX_EPOCH + EPOCH + began.elapsed();
            let by = Duration::from_secs(skew.unsigned_abs());
            if skew < 0 { right - by } else { right + by }
        });
        self.waits.starting.fetch_add(1, Ordering::SeqCst);
        let listener = self.ground.network.listen();
        let server = Server::start_at(self.options.clone(), clock, Some(listener)).await.unwrap();
        self.waits.stores.lock().unwrap().push(server.control().store().clone());
        self.waits.starting.fetch_sub(1, Ordering::SeqCst);
        self.server = Some(server);
    }

    async fn auth_key(&self, user: UserId) -> String {
        let secret = secrets::new_key("wl-auth");
        let new = NewAuthKey {
            user: Some(user),
            hint: secret.public,
            hash: secret.hash,
            reusable: true,
            ephemeral: false,
            tags: Default::default(),
            description: String::new(),
            lifetime: None,
        };
        self.control().command(Command::CreateAuthKey(new)).await.unwrap();
        secret.text
    }

    pub fn control(&self) -> Control {
        self.server.as_ref().expect("a server runs").control().clone()
    }

    /// Looks at the state itself.
    pub async fn read<T: Send + 'static>(&self, question: impl FnOnce(&Tailnet) -> T + Send + 'static) -> T {
        self.control().read(question).await.unwrap()
    }

    /// A machine starts.
    pub fn machine(&mut self, name: &str, routes: &[&str]) -> usize {
        let number = u8::try_from(self.machines.len() + 1).unwrap();
        let public = self.server.as_ref().expect("a server runs").public_key();
        let at = (SERVER.parse().unwrap(), public);
        self.machines.push(Machine::start(&self.ground, number, name, routes, at, &self.key));
        self.machines.len() - 1
    }

    /// A client that only does what it is told: its connection, and its map stream after the first frame.
    pub async fn visitor(&self, host: &str, name: &str) -> (Client, MapStream) {
        let public = self.server.as_ref().expect("a server runs").public_key();
        let stream = self.ground.network.connect(host.parse().unwrap()).await.unwrap();
        let fresh = || PrivateKey::from_bytes(rand::random());
        let client = Client::over(stream, SERVER.parse().unwrap(), public, fresh(), fresh()).await.unwrap();
        client.join(&self.key, name).await.unwrap();
        let mut map = client.stream().await.unwrap();
        map.next().await.unwrap();
        (client, map)
    }

    /// So many routers `r1`, `r2`, ... of these prefixes, approved, and clients `c1`, `c2`, ..., and all of them at rest.
    pub async fn tailnet(&mut self, routers: usize, clients: usize, prefixes: &[&str]) {
        for router in 1..=routers {
            let at = self.machine(&format!("r{router}"), prefixes);
            // Whoever joins first is asked first.
            self.until("it joins", Duration::from_secs(5), |sim| sim.machines[at].shared.is_connected()).await;
        }
        for client in 1..=clients {
            self.machine(&format!("c{client}"), &[]);
        }
        let all = routers + clients;
        self.until("all are there", Duration::from_secs(10), |sim| {
            sim.machines.iter().filter(|machine| machine.shared.is_connected()).count() == all
        })
        .await;
        let rows = routers * prefixes.len();
        let reported = self.read(move |tailnet| tailnet.routes().rows().count() == rows);
        if !reported.await {
            self.sleep(Duration::from_secs(1)).await;
        }
        for router in 1..=routers {
            self.approve(&format!("r{router}"), prefixes).await;
        }
        // Sessions are told, witnesses chosen, and nobody is new any more.
        self.sleep(Duration::from_secs(15)).await;
    }

    pub async fn node(&self, name: &str) -> NodeId {
        let name = name.to_owned();
        let found = self.read(move |tailnet| {
            tailnet.registry().nodes().find(|node| node.given_name.to_string() == name).map(|node| node.id)
        });
        found.await.expect("it has joined")
    }

    pub async fn approve(&self, name: &str, prefixes: &[&str]) {
        let node = self.node(name).await;
        let prefixes = prefixes.iter().map(|text| text.parse::<Prefix>().unwrap()).collect();
        let approve = Command::ApproveRoutes { node, prefixes, mode: ApproveMode::Add, by: Approver::Cli };
        self.control().command(approve).await.unwrap();
    }

    pub async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// How long virtual time has run.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The system's clock of the server's machine is set wrong by so many seconds.
    pub fn skew(&self, seconds: i64) {
        self.skew.store(seconds, Ordering::SeqCst);
    }

    /// Waits until this holds, and says how long that took.
    ///
    /// # Panics
    ///
    /// It does not hold in time.
    pub async fn until(&self, what: &str, within: Duration, holds: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() <= within, "not within {within:?}: {what} (at {:?})", self.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    }

    /// Whether all clients that are connected see a prefix on this router and nobody else.
    pub fn all_see(&self, prefix: &str, router: &str) -> bool {
        let mut clients = self.machines.iter().filter(|m| m.shared.name.starts_with('c') && m.shared.is_connected());
        clients.all(|client| client.shared.carriers(prefix) == [router])
    }

    /// Nobody was ever told of a prefix on two peers at once.
    pub fn nobody_saw_double(&self) {
        for machine in &self.machines {
            let seen = machine.shared.mirror.lock().unwrap();
            assert!(seen.doubled.is_empty(), "{}: {:?}", machine.shared.name, seen.doubled);
        }
    }

    /// Stops the server as a signal does, and starts it again on the same data.
    pub async fn restart(&mut self) {
        let server = self.server.take().expect("a server runs");
        server.stop().await;
        self.ground.network.server_dies();
        self.begin().await;
    }

    /// Kills the server, and starts it again on what it had written by then (what a file system keeps of a process that is killed).
    pub async fn kill_and_start(&mut self) {
        let image = tempfile::tempdir().unwrap();
        copy(&self.options.data_dir, &image.path().join("data"));
        self.ground.network.server_dies();
        // What the old one still does, nobody sees: its connections are gone and its folder is another.
        let old = self.server.take().expect("a server runs");
        tokio::spawn(old.stop());
        self.options.data_dir = image.path().join("data");
        let before = std::mem::replace(&mut self.folder, image);
        // The old server still writes there.
        drop(before.keep());
        self.begin().await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
