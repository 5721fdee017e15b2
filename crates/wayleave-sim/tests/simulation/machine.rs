//! A machine of the tailnet: what `tailscaled` does as far as the server can tell. It joins, keeps a map stream open, connects again
//! after a loss, answers what the server asks, and pings others over a data plane that only exists here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use wayleave_model::{MachineKey, Prefix};
use wayleave_sim::network::Network;
use wayleave_sim::{Client, Mirror};
use wayleave_wire::PrivateKey;

/// One way between two machines over the tailnet.
const DATA_LATENCY: Duration = Duration::from_millis(4);

/// After so long without a frame a client gives its map stream up (protocol.md 2.2).
const GIVES_UP: Duration = Duration::from_secs(120);

/// What all machines share.
#[derive(Clone, Default)]
pub struct Ground {
    pub network: Network,
    /// Where machines are in the tailnet, by address.
    tailnet: Arc<Mutex<BTreeMap<IpAddr, Arc<Shared>>>>,
    /// Pairs of machines, by name, between which nothing passes.
    apart: Arc<Mutex<BTreeSet<(String, String)>>>,
    /// A host behind every router of its prefix is down.
    dead_host: Arc<AtomicBool>,
}

impl Ground {
    /// Nothing passes between these and those over the tailnet any more.
    pub fn part(&self, some: &[&str], others: &[&str]) {
        let pairs = some.iter().flat_map(|one| others.iter().map(|other| ((*one).to_owned(), (*other).to_owned())));
        self.apart.lock().unwrap().extend(pairs);
    }

    /// All reach each other again.
    pub fn join(&self) {
        self.apart.lock().unwrap().clear();
    }

    fn passes(&self, one: &Shared, other: &Shared) -> bool {
        let apart = self.apart.lock().unwrap();
        let pair = |a: &Shared, b: &Shared| apart.contains(&(a.name.clone(), b.name.clone()));
        one.is_reachable() && other.is_reachable() && !pair(one, other) && !pair(other, one)
    }

    /// The hosts behind routers are down, or are there again.
    pub fn hosts(&self, are_there: bool) {
        self.dead_host.store(!are_there, Ordering::SeqCst);
    }
}

/// A machine, as others see it.
pub struct Shared {
    pub name: String,
    pub host: IpAddr,
    /// Its WireGuard works, as far as the machine itself goes.
    data: Mutex<Data>,
    pub mirror: Mutex<Seen>,
    /// It uses the routes of others, as a client does and a router does not.
    accepts_routes: AtomicBool,
    /// Where it says that it is reached.
    endpoints: watch::Sender<Vec<&'static str>>,
}

#[derive(Clone, Copy)]
struct Data {
    /// Its process runs.
    runs: bool,
    /// Its packets go through.
    passes: bool,
    /// What is behind it is there.
    leg: bool,
    /// Its process does itself what it is asked for, and leaves not all to its HTTP/2.
    answers: bool,
}

/// What it knows.
#[derive(Default)]
pub struct Seen {
    pub mirror: Mirror,
    /// It has a map stream.
    pub connected: bool,
    /// It wants none.
    pub ended: bool,
    /// Frames in which a prefix was on two peers at once.
    pub doubled: Vec<String>,
    /// Single hosts behind routers that it was ever told of, and at whom.
    pub hosts: BTreeSet<(String, String)>,
    /// What it was asked to reach: how, and what.
    pub asked: Vec<(String, String)>,
}

impl Shared {
    /// Others reach it.
    pub fn is_reachable(&self) -> bool {
        let data = self.data.lock().unwrap();
        data.runs && data.passes
    }

    /// Through whom it reaches an address that is no machine's own, as WireGuard does: the name, and the address in the tailnet.
    fn through(&self, ip: &IpAddr) -> Option<(String, Option<IpAddr>)> {
        let seen = self.mirror.lock().unwrap();
        let accepts = self.accepts_routes.load(Ordering::SeqCst);
        let texts = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let routes = seen.mirror.peers.values().filter(|_| accepts).flat_map(|peer| {
            let prefixes = texts(&peer["AllowedIPs"]).into_iter().filter_map(|text| text.parse::<Prefix>().ok());
            prefixes.map(move |prefix| (prefix, peer))
        });
        let (_, peer) = routes.filter(|(prefix, _)| prefix.contains(*ip)).max_by_key(|(prefix, _)| prefix.bits())?;
        let name = peer["Name"].as_str()?.split('.').next()?.to_owned();
        let own = texts(&peer["Addresses"]).first().and_then(|own| own.split('/').next()?.parse().ok());
        Some((name, own))
    }

    /// How often it was asked to reach an address in this way since this was last looked at.
    pub fn take_asked(&self, kind: &str, ip: Option<&str>) -> usize {
        let asked = std::mem::take(&mut self.mirror.lock().unwrap().asked);
        asked.iter().filter(|(how, what)| how == kind && ip.is_none_or(|ip| ip == what)).count()
    }

    /// It has a map stream.
    pub fn is_connected(&self) -> bool {
        self.mirror.lock().unwrap().connected
    }

    /// Who carries this prefix for it.
    pub fn carriers(&self, prefix: &str) -> Vec<String> {
        self.mirror.lock().unwrap().mirror.carriers(prefix)
    }
}

/// A machine and what it runs.
pub struct Machine {
    pub shared: Arc<Shared>,
    ground: Ground,
    way: Way,
    process: Option<AbortHandle>,
}

/// How it reaches the tailnet.
#[derive(Clone)]
struct Way {
    address: SocketAddr,
    server: MachineKey,
    machine: PrivateKey,
    node: PrivateKey,
    key: String,
    routes: Vec<String>,
}

impl Machine {
    pub fn start(
        ground: &Ground,
        number: u8,
        name: &str,
        routes: &[&str],
        (address, server): (SocketAddr, MachineKey),
        key: &str,
    ) -> Self {
        let host = IpAddr::from([192, 0, 2, number]);
        let accepts_routes = AtomicBool::new(routes.is_empty());
        let endpoints = watch::Sender::new(vec!["127.0.0.1:41641"]);
        let data = Mutex::new(Data { runs: true, passes: true, leg: true, answers: true });
        let shared =
            Arc::new(Shared { name: name.to_owned(), host, data, mirror: Mutex::default(), accepts_routes, endpoints });
        let fresh = || PrivateKey::from_bytes(rand::random());
        let routes = routes.iter().map(|&route| route.to_owned()).collect();
        let way = Way { address, server, machine: fresh(), node: fresh(), key: key.to_owned(), routes };
        let mut machine = Self { shared, ground: ground.clone(), way, process: None };
        machine.run();
        machine
    }

    /// What a whole map would tell it now.
    #[cfg(feature = "troubles")]
    pub async fn fresh(&self) -> anyhow::Result<Mirror> {
        let (stream, way) = (self.ground.network.connect(self.shared.host).await?, &self.way);
        let client = Client::over(stream, way.address, way.server, way.machine.clone(), way.node.clone()).await?;
        let _ends = Ends(client.clone());
        let mut mirror = Mirror::default();
        mirror.take(&client.map_once().await?);
        Ok(mirror)
    }

    /// Its process starts.
    pub fn run(&mut self) {
        self.shared.data.lock().unwrap().runs = true;
        let life = live(self.ground.clone(), Arc::clone(&self.shared), self.way.clone());
        self.process = Some(tokio::spawn(life).abort_handle());
    }

    /// Its process is killed; its kernel closes what was open.
    pub fn kill(&mut self) {
        self.shared.data.lock().unwrap().runs = false;
        if let Some(process) = self.process.take() {
            process.abort();
        }
        self.shared.mirror.lock().unwrap().connected = false;
    }

    /// Its cable is pulled: control and data.
    pub fn pull(&self) {
        self.cut_control();
        self.block_data();
    }

    /// The cable is put back.
    #[cfg(feature = "troubles")]
    pub fn plug(&self) {
        self.mend_control();
        self.pass_data();
    }

    pub fn cut_control(&self) {
        self.ground.network.change(self.shared.host, |link| link.cut = true);
    }

    pub fn mend_control(&self) {
        self.ground.network.change(self.shared.host, |link| link.cut = false);
    }

    /// A proxy between it and the server drops its connections, and lets it make no others.
    pub fn lose_control(&self) {
        self.cut_control();
        self.ground.network.reset(self.shared.host);
    }

    pub fn block_data(&self) {
        self.shared.data.lock().unwrap().passes = false;
    }

    pub fn pass_data(&self) {
        self.shared.data.lock().unwrap().passes = true;
    }

    /// Its cable to what is behind it is pulled, or put back.
    pub fn leg(&self, is_there: bool) {
        self.shared.data.lock().unwrap().leg = is_there;
    }

    /// Its process hangs behind an HTTP/2 that answers PINGs.
    pub fn hang(&self) {
        self.shared.data.lock().unwrap().answers = false;
    }

    /// Its interfaces have these addresses now; it says so at once.
    pub fn endpoints(&self, now: &[&'static str]) {
        self.shared.endpoints.send_replace(now.to_vec());
    }

    /// It ends its map stream, and keeps its connection; it makes no other before it is told to.
    pub fn end_stream(&self) {
        self.shared.mirror.lock().unwrap().ended = true;
        self.shared.endpoints.send_modify(|_| {});
    }

    /// `tailscale set --accept-routes`.
    pub fn accept_routes(&self) {
        self.shared.accepts_routes.store(true, Ordering::SeqCst);
    }

    /// Its process stands still (SIGSTOP).
    pub fn freeze(&self) {
        self.ground.network.change(self.shared.host, |link| link.frozen = true);
        self.block_data();
    }

    pub fn thaw(&self) {
        self.ground.network.change(self.shared.host, |link| link.frozen = false);
        self.pass_data();
    }
}

/// Connects for as long as it runs. A client of today waits longer after each failure (up to 30 s); here at most 2 s, so that a story
/// is not about that.
async fn live(ground: Ground, shared: Arc<Shared>, way: Way) {
    let mut pause = Duration::from_millis(100);
    let mut joined = false;
    loop {
        // However it ended, another one is begun.
        session(&ground, &shared, &way, &mut joined, &mut pause).await.ok();
        shared.mirror.lock().unwrap().connected = false;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn session(
    ground: &Ground,
    shared: &Arc<Shared>,
    way: &Way,
    joined: &mut bool,
    pause: &mut Duration,
) -> anyhow::Result<()> {
    let stream = ground.network.connect(shared.host).await?;
    let (machine, node) = (way.machine.clone(), way.node.clone());
    let client = Client::over(stream, way.address, way.server, machine, node).await?;
    // The connection ends with the process, however that ends.
    let _ends = Ends(client.clone());
    if !*joined {
        client.join(&way.key, &shared.name).await?;
        *joined = true;
    }
    let mut map = client.stream().await?;
    let routes: Vec<&str> = way.routes.iter().map(String::as_str).collect();
    let first = map.next().await?.unwrap_or_default();
    for address in first["Node"]["Addresses"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let address: IpAddr = address.split('/').next().unwrap_or_default().parse()?;
        ground.tailnet.lock().unwrap().insert(address, Arc::clone(shared));
    }
    take(shared, &first);
    shared.mirror.lock().unwrap().connected = true;
    let mut endpoints = shared.endpoints.subscribe();
    let now = endpoints.borrow_and_update().clone();
    client.report_from(&shared.name, &routes, &now).await?;
    *pause = Duration::from_millis(100);
    let mut answers = JoinSet::new();
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(GIVES_UP, map.next()) => frame??,
            Ok(()) = endpoints.changed() => {
                if shared.mirror.lock().unwrap().ended {
                    drop(map);
                    return std::future::pending().await;
                }
                let now = endpoints.borrow_and_update().clone();
                client.report_from(&shared.name, &routes, &now).await?;
                continue;
            }
        };
        let Some(frame) = frame else { return Ok(()) };
        if frame["PingRequest"].is_object() {
            answers.spawn(answer(ground.clone(), Arc::clone(shared), client.clone(), frame["PingRequest"].clone()));
        }
        take(shared, &frame);
        while answers.try_join_next().is_some() {}
    }
}

struct Ends(Client);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.cut();
    }
}

fn take(shared: &Shared, frame: &Value) {
    let mut seen = shared.mirror.lock().unwrap();
    seen.mirror.take(frame);
    let mut hosts = BTreeSet::new();
    for peer in seen.mirror.peers.values() {
        let own = peer["Addresses"].as_array().cloned().unwrap_or_default();
        let lent = peer["AllowedIPs"].as_array().into_iter().flatten().filter(|prefix| !own.contains(prefix));
        let lent = lent.filter_map(Value::as_str).filter(|prefix| prefix.ends_with("/32"));
        let name = peer["Name"].as_str().and_then(|name| name.split('.').next()).unwrap_or_default();
        hosts.extend(lent.map(|host| (host.to_owned(), name.to_owned())));
    }
    seen.hosts.extend(hosts);
    let mut on = BTreeMap::<String, Vec<u64>>::new();
    for (id, peer) in &seen.mirror.peers {
        for prefix in peer["AllowedIPs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            on.entry(prefix.to_owned()).or_default().push(*id);
        }
    }
    let doubled = on.into_iter().filter(|(prefix, peers)| peers.len() > 1 && !prefix.ends_with("/0"));
    let doubled: Vec<String> = doubled.map(|(prefix, peers)| format!("{prefix} on {peers:?}")).collect();
    seen.doubled.extend(doubled);
}

/// Answers what the server asks (protocol.md 6.3).
async fn answer(ground: Ground, shared: Arc<Shared>, client: Client, request: Value) {
    let url = request["URL"].as_str().unwrap_or_default();
    let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned()));
    let Some(path) = path else { return };
    if let (Some(kind), Some(ip)) = (request["Types"].as_str(), request["IP"].as_str()) {
        shared.mirror.lock().unwrap().asked.push((kind.to_owned(), ip.to_owned()));
    }
    if !shared.data.lock().unwrap().answers {
        return;
    }
    let body = match request["Types"].as_str() {
        Some("") => return drop(client.ask(Method::HEAD, &path, Vec::new()).await),
        Some("c2n") => {
            let asked = STANDARD.decode(request["Payload"].as_str().unwrap_or_default()).unwrap_or_default();
            let text = String::from_utf8_lossy(&asked).into_owned();
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        Some(kind) => {
            let Some(ip) = request["IP"].as_str().and_then(|text| text.parse::<IpAddr>().ok()) else { return };
            let peer = ground.tailnet.lock().unwrap().get(&ip).cloned();
            let known = shared.mirror.lock().unwrap().mirror.peers.values().any(|peer| {
                peer["Addresses"].as_array().is_some_and(|all| {
                    all.iter().filter_map(Value::as_str).any(|own| own.split('/').next() == Some(&ip.to_string()))
                })
            });
            tokio::time::sleep(DATA_LATENCY * 2).await;
            let through = shared.through(&ip);
            match peer {
                // An address behind a router.
                None if through.is_some() => {
                    let (name, at) = through.unwrap_or_default();
                    let router = at.and_then(|at| ground.tailnet.lock().unwrap().get(&at).cloned());
                    let answers =
                        router.is_some_and(|router| ground.passes(&shared, &router) && router.data.lock().unwrap().leg);
                    if !answers || ground.dead_host.load(Ordering::SeqCst) {
                        return;
                    }
                    json!({ "Type": kind, "IP": ip, "NodeName": name, "LatencySeconds": 0.009 }).to_string()
                }
                Some(peer) if known => {
                    // A time-out is never told.
                    if !ground.passes(&shared, &peer) {
                        return;
                    }
                    json!({ "Type": kind, "IP": ip, "LatencySeconds": 0.008 }).to_string()
                }
                _ => json!({ "Type": kind, "IP": ip, "Err": "no matching peer" }).to_string(),
            }
        }
        None => return,
    };
    // Whoever asked may have gone.
    drop(client.ask(Method::POST, &path, body.into_bytes()).await);
}
