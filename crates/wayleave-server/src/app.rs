//! A server: its parts put together, started and stopped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use wayleave_derp::Relay;
use wayleave_model::Timestamp;
use wayleave_netmap::{Fan, PeerCache, Pieces, Shared};
use wayleave_store::{OpenError, Store};
use wayleave_tailnet::{Effect, Event, LoginToken};
use wayleave_wire::PrivateKey;

use crate::api::{self, ApiState};
use crate::clock::Clock;
use crate::connections::Sessions;
use crate::control_loop::{Control, LoadError};
use crate::data_dir::{DataDir, DataDirError};
use crate::derp_map::Foreign;
use crate::imported_keys::SlowHashes;
use crate::keys::{self, KeyFileError};
use crate::listener::Secure;
use crate::options::{Options, OwnDerp};
use crate::own_thread::OwnThread;
use crate::policy_file::{self, PolicyFileError};
use crate::relay::Members;
use crate::tls::{self, TlsError};
use crate::transport::Listener;
use crate::{guard, listener, probe, web};

/// How long connections may take to end once the server stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// Full maps that are made and written at a time. A map takes some 100 KiB while it is under way, beside what maps share; few at a time
/// are also done sooner, and keep those waiting less who have theirs and are told what moved.
const TURNS: usize = 64;

/// How often it is told that somebody waits for a turn, while somebody does.
const BUSY_EVERY: Duration = Duration::from_secs(1);

/// How often that is forgotten which was made of nodes as they are no more.
const SETTLE_EVERY: Duration = Duration::from_secs(10);

/// What every connection and every request shares.
pub(crate) struct App {
    pub(crate) options: Options,
    pub(crate) control: Control,
    pub(crate) sessions: Sessions,
    /// Who is asked about routers.
    pub(crate) witnesses: probe::Witnesses,
    pub(crate) cache: PeerCache,
    pub(crate) fan: Fans,
    pub(crate) pieces: Pieces,
    pub(crate) relay: Option<Relay>,
    /// The Noise key.
    pub(crate) key: PrivateKey,
    /// The server stops.
    pub(crate) stop: CancellationToken,
    pub(crate) strangers: Arc<Semaphore>,
    /// Where buffers that a connection keeps are made.
    pub(crate) buffers: Handle,
    /// Connections of machines that have no node: they may join, or not.
    pub(crate) newcomers: Arc<Semaphore>,
    pub(crate) held_logins: Semaphore,
    /// Who may be sent a full map now; the others wait, and theirs is made when their turn comes.
    pub(crate) turns: Semaphore,
    /// When it was last told that somebody waits for a turn.
    busy_at: Mutex<Option<Timestamp>>,
    pub(crate) slow_hashes: SlowHashes,
    shared: watch::Sender<Arc<Shared>>,
    /// Why the policy file was not taken in, when that was tried last.
    policy_fault: Mutex<Option<String>>,
}

/// Frames that many viewers get.
#[derive(Default)]
pub(crate) struct Fans {
    pub(crate) compressed: Fan<Bytes>,
    pub(crate) plain: Fan<Bytes>,
}

impl App {
    /// What is wrong with the policy file; `None`: nothing, or there is none.
    pub(crate) fn policy_fault(&self) -> Option<String> {
        self.policy_fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in the policy file. Returns the revision that is in force by it; `None` if that was the case before.
    pub(crate) async fn reload_policy(&self, path: &Path) -> Result<Option<u64>, PolicyFileError> {
        let done = policy_file::take_in(&self.control, path).await;
        let fault = done.as_ref().err().map(|error| crate::words(error));
        *self.policy_fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        done
    }

    /// Waits for a turn to be sent a full map. While others wait too the tailnet is told that clients wait for the server.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Some(turn);
        }
        let now = self.control.clock().now();
        let tells = {
            let mut busy_at = self.busy_at.lock().unwrap_or_else(PoisonError::into_inner);
            let tells = busy_at.is_none_or(|at| now.since(at) >= BUSY_EVERY);
            *busy_at = if tells { Some(now) } else { *busy_at };
            tells
        };
        if tells {
            self.control.event(Event::Busy).await;
        }
        self.turns.acquire().await.ok()
    }

    /// What all viewers share, as it is now.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared.borrow())
    }

    pub(crate) fn shared_changes(&self) -> watch::Receiver<Arc<Shared>> {
        self.shared.subscribe()
    }

    /// Where a person approves a login.
    pub(crate) fn login_url(&self, token: &LoginToken) -> String {
        format!("{}/register/{}", self.options.server_url, token.0)
    }

    /// The login that such an address means.
    pub(crate) fn login_of(&self, url: &str) -> Option<LoginToken> {
        let token = url.rsplit_once("/register/")?.1;
        Some(LoginToken(token.to_owned()))
    }
}

/// The server can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A key file can't be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The database can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What the database holds can't be served.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The policy file can't be taken in, and there is no policy from before.
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    /// The certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system gives no thread for the control loop.
    #[error("cannot start the thread of the control loop; see the limits on threads and memory of this process")]
    Thread(#[source] std::io::Error),
    /// An address can't be listened at.
    #[error("cannot listen at {address} ({key}): {hint}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What to do.
        hint: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The socket of the admin API can't be made.
    #[error("cannot make the admin socket {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn cannot_listen(key: &'static str, address: SocketAddr) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| {
        let kind = source.kind();
        let hint = if kind == std::io::ErrorKind::AddrInUse {
            "another program listens there; stop it, or choose another address"
        } else if kind == std::io::ErrorKind::PermissionDenied {
            "ports below 1024 need the right to open them (CAP_NET_BIND_SERVICE)"
        } else if kind == std::io::ErrorKind::AddrNotAvailable {
            "this machine has no such address"
        } else {
            "see the cause"
        };
        StartError::Listen { key, address, hint, source }
    }
}

/// A server that runs.
pub struct Server {
    app: Arc<App>,
    tasks: JoinSet<()>,
    address: Option<SocketAddr>,
    /// Where the control loop and the probes run, and where buffers are made, if not where all else does.
    apart: Option<[OwnThread; 2]>,
    _folder: DataDir,
}

impl Server {
    /// Starts a server. Nothing of it runs if this fails.
    ///
    /// # Errors
    ///
    /// The data folder, a key, the database, a certificate or an address can't be used.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let own_thread = |name| OwnThread::start(name).map_err(StartError::Thread);
        let (control, buffers) = (own_thread("control")?, own_thread("buffers")?);
        let on = [control.handle(), buffers.handle()];
        let mut server = Self::start_on(options, Clock::default(), None::<TcpListener>, on).await?;
        server.apart = Some([control, buffers]);
        Ok(server)
    }

    /// Starts a server that goes by this clock, and serves what comes here beside what the options say, as it does on `listen`.
    /// Nothing of it runs if this fails. All of it runs on the caller's runtime, whose time may be a simulated one.
    ///
    /// # Errors
    ///
    /// The data folder, a key, the database, a certificate or an address can't be used.
    pub async fn start_at<L: Listener>(options: Options, clock: Clock, more: Option<L>) -> Result<Self, StartError> {
        let here = Handle::current();
        Self::start_on(options, clock, more, [&here, &here]).await
    }

    /// The control loop and the probes run on the first of these runtimes, buffers are made on the second, all else runs on the caller's.
    async fn start_on<L: Listener>(
        mut options: Options,
        clock: Clock,
        more: Option<L>,
        [on, buffers]: [&Handle; 2],
    ) -> Result<Self, StartError> {
        let folder = DataDir::take(&options.data_dir)?;
        let key = keys::load_or_make(&folder.file("noise.key"))?;
        let derp_key = keys::load_or_make(&folder.file("derp.key"))?;
        let tls = match &options.tls {
            Some(files) => Secure::Always(TlsAcceptor::from(tls::load(files)?)),
            None => Secure::IfAsked(TlsAcceptor::from(tls::self_signed()?)),
        };
        let bind = async |key, address: Option<SocketAddr>| match address {
            Some(address) => TcpListener::bind(address).await.map(Some).map_err(cannot_listen(key, address)),
            None => Ok(None),
        };
        let main = bind("listen", options.listen).await?;
        let plain = bind("http_listen", options.http_listen).await?;
        let stun = bind_stun(options.derp.own.as_mut()).await?;
        let store = Store::open(&folder.file("wayleave.db")).await?;
        // Before the tailnet starts: those who have not come back count as up for half a minute from then on, and can't come back before
        // anybody listens.
        let mut foreign = Foreign::default();
        report(&foreign.refresh(&options.derp).await);
        let server_is_tls = options.server_url.starts_with("https://");
        let derp_map = Arc::new(foreign.merged(&options.derp, server_is_tls));
        let mut names = guard::Names::default();
        let is_whole = names.look_up(&options, &derp_map).await;
        let file = options.policy_file.as_deref();
        let policy = file.and_then(|path| policy_file::read(path).ok());
        let control = Control::start(store, options.tailnet.clone(), clock, policy, on).await?;
        // Before any auto-approver of the policy is asked.
        control.event(Event::Guarded(names.guarded(&options, &derp_map))).await;
        let policy_fault = match file {
            Some(path) => take_in_policy(&control, path).await?,
            None => None,
        };
        let relay = options.derp.own.as_ref().map(|own| {
            let members = Members { control: OnceLock::from(control.clone()), everybody: !own.verify_clients };
            Relay::new(derp_key, Arc::new(members), wayleave_derp::Settings::default())
        });
        let shared = Arc::new(Shared {
            base_domain: options.dns.base_domain.clone(),
            dns: Arc::new(options.dns.config.clone()),
            derp_map,
        });
        let app = Arc::new(App {
            control: control.clone(),
            witnesses: probe::Witnesses::default(),
            sessions: Sessions::default(),
            cache: PeerCache::default(),
            fan: Fans::default(),
            pieces: Pieces::default(),
            relay,
            key,
            stop: CancellationToken::new(),
            buffers: buffers.clone(),
            strangers: Arc::new(Semaphore::new(options.limits.unauthenticated)),
            newcomers: Arc::new(Semaphore::new(options.limits.unauthenticated)),
            held_logins: Semaphore::new(options.limits.held_logins),
            turns: Semaphore::new(TURNS),
            busy_at: Mutex::default(),
            slow_hashes: SlowHashes::default(),
            shared: watch::Sender::new(shared),
            policy_fault: Mutex::new(policy_fault),
            options,
        });
        let mut tasks = JoinSet::new();
        let state = ApiState::new(&app);
        if let Some(path) = app.options.socket.clone() {
            let failed = |source| StartError::Socket { path: path.clone(), source };
            let socket = api::bind_socket(&path).map_err(failed)?;
            let (router, stop) = (api::local_router(state.clone()), app.stop.clone());
            tasks.spawn(async move {
                let stopped = stop.cancelled_owned();
                if let Err(error) = axum::serve(socket, router).with_graceful_shutdown(stopped).await {
                    tracing::error!(%error, "the admin socket broke");
                }
                // The next server makes its own.
                drop(std::fs::remove_file(path));
            });
        }
        let router = web::router(Arc::clone(&app)).merge(api::network_router(state));
        let address = main.as_ref().and_then(|listener| listener.local_addr().ok());
        if let Some(more) = more {
            tasks.spawn(listener::serve(Arc::clone(&app), more, tls.clone(), router.clone()));
        }
        if let Some(main) = main {
            tasks.spawn(listener::serve(Arc::clone(&app), main, tls, router.clone()));
        }
        if let Some(plain) = plain {
            tasks.spawn(listener::serve(Arc::clone(&app), plain, Secure::Never, router));
        }
        if let Some(stun) = stun {
            let stop = app.stop.clone();
            tasks.spawn(async move {
                if let Err(error) = wayleave_derp::stun::serve(&stun, &stop).await {
                    tracing::error!(%error, "the STUN socket broke");
                }
            });
        }
        tasks.spawn(refresh_derp_map(Arc::clone(&app), foreign, server_is_tls));
        tasks.spawn(guard::watch(Arc::clone(&app), (names, is_whole)));
        tasks.spawn(follow_deletions(Arc::clone(&app)));
        tasks.spawn(prune_history(Arc::clone(&app)));
        tasks.spawn(settle(Arc::clone(&app)));
        probe::start(&app, &mut tasks, on);
        tasks.spawn(crate::webhook::call(Arc::clone(&app)));
        Ok(Self { app, tasks, address, apart: None, _folder: folder })
    }

    /// Where clients are served.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The public key by which clients know the server.
    pub fn public_key(&self) -> wayleave_model::MachineKey {
        self.app.key.machine_key()
    }

    /// The control loop, for those who run a server inside another program.
    pub fn control(&self) -> &Control {
        &self.app.control
    }

    /// Reads again what may change while the server runs: the policy file, if there is one. What is wrong is logged, and told at
    /// `/health`.
    pub async fn reload(&self) {
        let Some(path) = &self.app.options.policy_file else {
            return tracing::info!("there is nothing to be read again: the home of the policy is the database");
        };
        match self.app.reload_policy(path).await {
            Ok(Some(revision)) => {
                tracing::info!(policy.revision = revision, file = %path.display(), "policy file was taken in")
            }
            Ok(None) => tracing::info!(file = %path.display(), "policy file has not changed"),
            Err(error) => {
                let error = crate::words(&error);
                tracing::error!(error, "policy file was refused; the policy before it stays in force");
            }
        }
    }

    /// Stops: takes no more connections, tells clients to come back later (GOAWAY), and makes durable what is in force.
    pub async fn stop(mut self) {
        self.app.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, ended).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        self.app.control.stop().await;
        self.app.control.store().close().await;
    }
}

/// Binds the STUN socket, and says in the options which port it is.
async fn bind_stun(own: Option<&mut OwnDerp>) -> Result<Option<UdpSocket>, StartError> {
    let Some((own, at)) = own.and_then(|own| own.stun_listen.map(|at| (own, at))) else { return Ok(None) };
    let socket = match UdpSocket::bind(at).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && own.stun_any_port => {
            tracing::info!(taken = %at, "the usual port of STUN is taken; another will do");
            UdpSocket::bind(SocketAddr::new(at.ip(), 0)).await
        }
        bound => bound,
    };
    let socket = socket.map_err(cannot_listen("derp.stun_listen", at))?;
    own.stun_listen = socket.local_addr().ok();
    Ok(Some(socket))
}

fn report(errors: &[crate::derp_map::DerpMapError]) {
    for error in errors {
        tracing::warn!(error = error as &dyn std::error::Error, "a relay map was left out, or is as it was last");
    }
}

async fn refresh_derp_map(app: Arc<App>, mut foreign: Foreign, server_is_tls: bool) {
    let options = &app.options.derp;
    if options.urls.is_empty() && options.files.is_empty() {
        return;
    }
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            () = tokio::time::sleep(options.refresh) => {}
        }
        report(&foreign.refresh(options).await);
        let derp_map = Arc::new(foreign.merged(options, server_is_tls));
        app.shared.send_if_modified(|shared| {
            let changed = shared.derp_map != derp_map;
            if changed {
                *shared = Arc::new(Shared { derp_map, ..Shared::clone(shared) });
            }
            changed
        });
    }
}

/// Takes in the policy file as the server starts. What was served before is served where it is refused, and the reason is returned.
async fn take_in_policy(control: &Control, path: &Path) -> Result<Option<String>, PolicyFileError> {
    let Err(error) = policy_file::take_in(control, path).await else { return Ok(None) };
    let before = control.read(|tailnet| tailnet.policy_row().map(|row| row.revision)).await;
    let Ok(Some(revision)) = before else { return Err(error) };
    let fault = crate::words(&error);
    tracing::error!(
        error = fault,
        policy.revision = revision,
        "policy file was refused; the policy before it is served"
    );
    Ok(Some(fault))
}

/// Ends the relay connections of nodes that are deleted.
async fn follow_deletions(app: Arc<App>) {
    let mut effects = app.control.effects();
    loop {
        let effect = tokio::select! {
            () = app.stop.cancelled() => return,
            effect = effects.recv() => effect,
        };
        match effect {
            Ok(Effect::NodeGone(node)) => {
                app.cache.forget(node.id);
                if let Some(relay) = &app.relay {
                    relay.close(&node.node_key);
                }
            }
            Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Forgets what was made for pictures that are past.
async fn settle(app: Arc<App>) {
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            () = tokio::time::sleep(SETTLE_EVERY) => app.cache.settle(&app.control.snapshot()),
        }
    }
}

/// Keeps the history within its bounds.
async fn prune_history(app: Arc<App>) {
    let limits = app.options.history;
    loop {
        let before = app.control.clock().now() - limits.max_age;
        match app.control.store().prune_history(before, limits.max_entries).await {
            Ok(0) => {}
            Ok(lines) => tracing::debug!(lines, "old history was forgotten"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "old history could not be forgotten")
            }
        }
        tokio::select! {
            () = app.stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(3600)) => {}
        }
    }
}
