//! One test's server, clients and hosts.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::clients::Clients;
use super::net::{self, Net};
use crate::say;

/// The prefix of the LAN.
pub const LAN: &str = "192.168.77.0/24";
/// The host in it that runs nothing.
pub const LAN_HOST: &str = "192.168.77.100";

/// A process that ends with this.
struct Process(Child);

impl Process {
    fn signal(&self, name: &str) -> anyhow::Result<()> {
        net::run("kill", &[&format!("-{name}"), &self.0.id().to_string()]).map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A client.
pub struct Client {
    /// Its name, and that of its namespace.
    pub name: String,
    /// Its address outside the tailnet.
    pub underlay: String,
    folder: PathBuf,
    programs: PathBuf,
    daemon: Option<Process>,
}

/// One test's server, clients and hosts.
pub struct Rig {
    /// The network.
    pub net: Net,
    /// How often each way of failing is measured.
    pub runs: usize,
    newest: PathBuf,
    oldest: PathBuf,
    binary: PathBuf,
    folder: PathBuf,
    settings: Vec<String>,
    server: Option<Process>,
    server_url: String,
    clients: Vec<Client>,
    hosts: Vec<Process>,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Waits until something holds.
pub fn wait_for(what: &str, most: Duration, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let now = holds();
        if matches!(now, Ok(true)) {
            return Ok(());
        }
        if started.elapsed() > most {
            let detail = now.err().map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("{what}: not within {most:?}{detail}");
        }
        sleep(Duration::from_millis(50));
    }
}

/// As long as anything here may take.
pub const SOON: Duration = Duration::from_secs(15);

impl Rig {
    /// A server that runs, with one user, and a LAN; no clients.
    pub fn new(clients: &Clients, binary: &Path, folder: &Path, runs: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut net = Net::new(SERIAL.fetch_add(1, Ordering::Relaxed))?;
        let address = net.host("server")?;
        net.lan("lan")?;
        let mut rig = Self {
            net,
            runs,
            newest: clients.newest.clone(),
            oldest: clients.oldest.clone(),
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            settings: Vec::new(),
            server: None,
            server_url: format!("http://{address}:8080"),
            clients: Vec::new(),
            hosts: Vec::new(),
        };
        rig.start_server(&[])?;
        rig.wayleave(&["users", "create", "anna"])?;
        rig.http_host("lan", LAN_HOST)?;
        Ok(rig)
    }

    fn spawn(&self, namespace: &str, log: &str, program: &Path, arguments: &[&str]) -> anyhow::Result<Process> {
        let log = File::options().create(true).append(true).open(self.folder.join(format!("{log}.log")))?;
        let mut command = Command::new("setpriv");
        if self.certificate().exists() {
            command.env("SSL_CERT_FILE", self.certificate());
        }
        let child = command
            .args(["--pdeathsig", "KILL", "ip", "netns", "exec", &self.net.name(namespace)])
            .arg(program)
            .args(arguments)
            .env("TS_NO_LOGS_NO_SUPPORT", "1")
            .env("TS_PANIC_IF_HIT_MAIN_CONTROL", "1")
            .env("TS_DISABLE_PORTMAPPER", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Process(child))
    }

    /// Starts the server, with these settings beside those of every test.
    pub fn start_server(&mut self, settings: &[&str]) -> anyhow::Result<()> {
        if !settings.is_empty() {
            self.settings = settings.iter().map(|text| (*text).to_owned()).collect();
        }
        let data = self.data_dir();
        let listen = self.server_url.split("//").nth(1).unwrap_or_default().to_owned();
        let mut arguments = vec!["serve", "--data-dir", &data, "--listen", &listen, "--server-url", &self.server_url];
        arguments.extend(["--set", "log.level=debug"]);
        let settings = self.settings.clone();
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        let server = self.spawn("server", "server", &self.binary, &arguments)?;
        self.server = Some(server);
        wait_for("the server answers", SOON, || self.wayleave(&["users", "list"]).map(|_| true))
    }

    /// Starts the server anew with a certificate of its own, under an https address. Clients that start later trust it.
    pub fn change_to_tls(&mut self) -> anyhow::Result<()> {
        self.stop_server("TERM")?;
        let host = self.server_url.trim_start_matches("http://").trim_end_matches(":8080").to_owned();
        let made = rcgen::generate_simple_self_signed([host.clone()])?;
        let (cert, key) = (self.certificate(), self.folder.join("key.pem"));
        std::fs::write(&cert, made.cert.pem())?;
        std::fs::write(&key, made.key_pair.serialize_pem())?;
        self.server_url = format!("https://{host}:8443");
        let (cert, key) = (format!("tls.cert_file={}", cert.display()), format!("tls.key_file={}", key.display()));
        self.start_server(&[&cert, &key])
    }

    fn certificate(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    /// Ends the server with a signal.
    pub fn stop_server(&mut self, signal: &str) -> anyhow::Result<()> {
        if let Some(mut server) = self.server.take() {
            server.signal(signal)?;
            server.0.wait()?;
        }
        Ok(())
    }

    /// The folder of this test.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's data folder.
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn data_dir(&self) -> String {
        self.data_folder().display().to_string()
    }

    /// Runs a command of the server's, and gives what it prints.
    pub fn wayleave(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let data = self.data_dir();
        let program = self.binary.display().to_string();
        self.net.inside("server", &[&[program.as_str(), "--data-dir", &data], arguments].concat())
    }

    /// The same, as JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.wayleave(&[arguments, &["--output", "json"]].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A pre-auth key.
    pub fn key(&self, flags: &[&str]) -> anyhow::Result<String> {
        self.key_of("anna", flags)
    }

    /// A pre-auth key of another user.
    pub fn key_of(&self, user: &str, flags: &[&str]) -> anyhow::Result<String> {
        let key = self.json(&[&["keys", "create", "--user", user], flags].concat())?;
        Ok(key["key"].as_str().context("no key")?.to_owned())
    }

    /// Sets the policy.
    pub fn set_policy(&self, policy: &Value) -> anyhow::Result<()> {
        let file = self.folder.join("policy.hujson");
        std::fs::write(&file, serde_json::to_string_pretty(policy)?)?;
        self.wayleave(&["policy", "set", &file.display().to_string(), "--yes"]).map(drop)
    }

    /// Lets a host answer HTTP requests at an address.
    pub fn http_host(&mut self, namespace: &str, address: &str) -> anyhow::Result<()> {
        let program = std::env::current_exe()?;
        let host =
            self.spawn(namespace, &format!("{namespace}-http"), &program, &["http-host", &format!("{address}:80")])?;
        self.hosts.push(host);
        Ok(())
    }

    /// A client of the newest version that runs and has not logged in.
    pub fn client(&mut self, name: &str) -> anyhow::Result<()> {
        let programs = self.newest.clone();
        self.client_of(name, &programs)
    }

    /// The same, of the oldest version.
    pub fn old_client(&mut self, name: &str) -> anyhow::Result<()> {
        let programs = self.oldest.clone();
        self.client_of(name, &programs)
    }

    fn client_of(&mut self, name: &str, programs: &Path) -> anyhow::Result<()> {
        let underlay = self.net.host(name)?;
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let programs = programs.to_owned();
        self.clients.push(Client { name: name.to_owned(), underlay, folder, programs, daemon: None });
        self.start(name)
    }

    /// The client of this name.
    pub fn get(&self, name: &str) -> anyhow::Result<&Client> {
        self.clients.iter().find(|client| client.name == name).with_context(|| format!("no client {name}"))
    }

    /// Starts a client's daemon.
    pub fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let client = self.get(name)?;
        let (state, socket) = (client.folder.display().to_string(), client.folder.join("s").display().to_string());
        let program = client.programs.join("tailscaled");
        let arguments =
            ["--statedir", &state, "--socket", &socket, "--tun", "tailscale0", "--no-logs-no-support", "--port", "0"];
        let daemon = self.spawn(name, name, &program, &arguments)?;
        if let Some(client) = self.clients.iter_mut().find(|client| client.name == name) {
            client.daemon = Some(daemon);
        }
        wait_for("the daemon answers", SOON, || Ok(self.tailscale(name, &["debug", "prefs"]).is_ok()))
    }

    /// Ends a client's daemon with a signal, or stops and continues it.
    pub fn signal(&mut self, name: &str, signal: &str) -> anyhow::Result<()> {
        let client = self.clients.iter_mut().find(|client| client.name == name).context("no such client")?;
        client.daemon.as_ref().context("it does not run")?.signal(signal)?;
        if matches!(signal, "KILL" | "TERM")
            && let Some(mut daemon) = client.daemon.take()
        {
            daemon.0.wait()?;
        }
        Ok(())
    }

    /// Runs `tailscale` for a client.
    pub fn tailscale(&self, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let client = self.get(name)?;
        let program = client.programs.join("tailscale").display().to_string();
        let socket = client.folder.join("s").display().to_string();
        self.net.inside(name, &[&[program.as_str(), "--socket", &socket], arguments].concat())
    }

    /// Logs a client in with a key.
    pub fn up(&self, name: &str, key: &str, flags: &[&str]) -> anyhow::Result<()> {
        self.up_as(name, name, key, flags)
    }

    /// The same, where it calls itself something else.
    pub fn up_as(&self, name: &str, hostname: &str, key: &str, flags: &[&str]) -> anyhow::Result<()> {
        let (host, key) = (format!("--hostname={hostname}"), format!("--auth-key={key}"));
        let server = format!("--login-server={}", self.server_url);
        let always = ["up", &server, &key, &host, "--timeout=20s"];
        self.tailscale(name, &[&always, flags].concat()).map(drop)
    }

    /// Begins an interactive login, and gives the key that a person is shown.
    pub fn begin_login(&mut self, name: &str, flags: &[&str]) -> anyhow::Result<String> {
        let client = self.get(name)?;
        let program = client.programs.join("tailscale");
        let socket = client.folder.join("s").display().to_string();
        let (host, server) = (format!("--hostname={name}"), format!("--login-server={}", self.server_url));
        let always = ["--socket", &socket, "up", &server, &host, "--timeout=60s"];
        let log = format!("{name}-login");
        let path = self.folder.join(format!("{log}.log"));
        std::fs::remove_file(&path).ok();
        let login = self.spawn(name, &log, &program, &[&always, flags].concat())?;
        self.hosts.push(login);
        let mut key = None;
        wait_for("the client shows an address", SOON, || {
            let lines = BufReader::new(File::open(&path)?).lines();
            key = lines
                .map_while(Result::ok)
                .find_map(|line| line.split_once("/register/").map(|(_, key)| key.trim().to_owned()));
            Ok(key.is_some())
        })?;
        key.context("no key")
    }

    /// A router on the LAN at 192.168.77.`last`, logged in and advertising the LAN.
    pub fn router(&mut self, name: &str, last: u8, key: &str) -> anyhow::Result<()> {
        self.client(name)?;
        self.net.plug(name, "lan", last)?;
        self.up(name, key, &[&format!("--advertise-routes={LAN}")])
    }

    /// What a client knows, as JSON.
    pub fn status(&self, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.tailscale(name, &["status", "--json"])?)?)
    }

    /// What a client knows of a peer; null if it does not know it.
    pub fn peer(&self, viewer: &str, peer: &str) -> anyhow::Result<Value> {
        let status = self.status(viewer)?;
        let mut peers = status["Peer"].as_object().into_iter().flatten().map(|(_, peer)| peer);
        Ok(peers.find(|known| known["HostName"] == peer).cloned().unwrap_or_default())
    }

    /// The name of the peer to which a client routes a prefix.
    pub fn routed_to(&self, viewer: &str, prefix: &str) -> anyhow::Result<Option<String>> {
        let status = self.status(viewer)?;
        let mut carriers = status["Peer"].as_object().into_iter().flatten().map(|(_, peer)| peer).filter(|peer| {
            peer["AllowedIPs"].as_array().is_some_and(|all| all.iter().any(|allowed| allowed == prefix))
        });
        let first = carriers.next().and_then(|peer| peer["HostName"].as_str().map(str::to_owned));
        if carriers.next().is_some() {
            bail!("{prefix} is on two peers");
        }
        Ok(first)
    }

    /// Whether one ping is answered.
    pub fn pings(&self, name: &str, address: &str) -> bool {
        self.net.inside(name, &["ping", "-c", "1", "-W", "1", address]).is_ok()
    }

    /// What a host answers to an HTTP request.
    pub fn http(&self, name: &str, address: &str) -> anyhow::Result<String> {
        let script = format!("exec 3<>/dev/tcp/{address}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        self.net.inside(name, &["timeout", "5", "bash", "-c", &script])
    }

    /// A page of the server's own, as a browser in this namespace gets it.
    pub fn page(&self, name: &str, path: &str) -> anyhow::Result<String> {
        let (_, host) = self.server_url.split_once("//").context("an address")?;
        let (address, port) = host.split_once(':').context("an address with a port")?;
        let script = format!(
            "exec 3<>/dev/tcp/{address}/{port}; printf 'GET {path} HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n' >&3; cat <&3"
        );
        self.net.inside(name, &["timeout", "5", "bash", "-c", &script])
    }

    /// The state of a node's route to a prefix, in one word.
    pub fn state(&self, node: &str, prefix: &str) -> anyhow::Result<String> {
        let routes = self.json(&["routes", "list", "--node", node, "--prefix", prefix])?;
        Ok(routes[0]["state"].as_str().unwrap_or("absent").to_owned())
    }

    /// Waits until a node's route has this state.
    pub fn wait_state(&self, node: &str, prefix: &str, state: &str) -> anyhow::Result<()> {
        let what = format!("{prefix} on {node} is {state}");
        wait_for(&what, SOON, || {
            let now = self.state(node, prefix)?;
            if now == state { Ok(true) } else { bail!("it is {now}") }
        })
    }

    /// Waits until a client routes a prefix to this peer, or to nobody.
    pub fn wait_routed(&self, viewer: &str, prefix: &str, peer: Option<&str>) -> anyhow::Result<()> {
        let what = format!("{viewer} routes {prefix} to {}", peer.unwrap_or("nobody"));
        wait_for(&what, SOON, || Ok(self.routed_to(viewer, prefix)?.as_deref() == peer))
    }

    /// Starts to ping, and gives what measures the answers.
    pub fn start_pinging(&self, name: &str, address: &str) -> anyhow::Result<super::gaps::Pinging> {
        super::gaps::Pinging::start(&self.net.name(name), address)
    }

    /// The server's address.
    pub fn server_address(&self) -> String {
        self.server_url.split("//").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_default().to_owned()
    }

    /// The server's log.
    pub fn server_log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("server.log"))?)
    }

    /// Shows the ends of all logs.
    pub fn show_logs(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for path in
            entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log"))
        {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            say(&format!("---- {}", path.display()));
            lines[lines.len().saturating_sub(12)..].iter().for_each(|line| say(&format!("     {line}")));
        }
    }
}
