//! The server's process: started, asked by its own command line, and looked at from outside.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;
use wayleave_model::MachineKey;

/// A server in a process of its own.
pub struct Host {
    child: Child,
    binary: PathBuf,
    folder: TempDir,
    address: SocketAddr,
    lines: Arc<Mutex<Lines>>,
}

/// What it logged.
#[derive(Debug, Default)]
struct Lines {
    /// When a primary moved, in microseconds of wall time.
    moves: Vec<i64>,
    /// Warnings and errors.
    faults: Vec<String>,
    /// Clients that were cut off because they took too little of their maps.
    cut_off: usize,
}

/// Wall time, in microseconds.
pub(crate) fn wall_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

impl Host {
    /// Starts a server, with these arguments besides.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn start(binary: &Path, more: &[String]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut child = Command::new(binary)
            .arg("--data-dir")
            .arg(folder.path())
            .args(["serve", "--listen", &address.to_string(), "--set", "log.format=json"])
            // Routers die again and again here, and come back at once: a move of their own accord would mix with those that are measured.
            .args(["--set", "routes.failback_after=never"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", binary.display()))?;
        let lines: Arc<Mutex<Lines>> = Arc::default();
        let stderr = child.stderr.take().context("its log")?;
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).take(&line);
            }
        });
        let host = Self { child, binary: binary.to_owned(), folder, address, lines };
        let deadline = Instant::now() + Duration::from_secs(20);
        while host.ask(&["users", "list"]).is_err() {
            if Instant::now() > deadline {
                bail!("the server does not answer: {:?}", host.faults());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(host)
    }

    /// Runs a command of the server's own command line, and gives what it says.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let out = Command::new(&self.binary)
            .arg("--data-dir")
            .arg(self.folder.path())
            .args(["--yes", "--output", "json"])
            .args(arguments)
            .output()?;
        if !out.status.success() {
            bail!("{arguments:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(serde_json::from_slice(&out.stdout).unwrap_or(Value::Null))
    }

    /// Sets the policy.
    ///
    /// # Errors
    ///
    /// It is refused.
    pub fn set_policy(&self, text: &str) -> anyhow::Result<()> {
        let file = self.folder.path().join("bench-policy.json");
        std::fs::write(&file, text)?;
        self.ask(&["policy", "set", file.to_str().context("its path")?]).map(drop)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its public key, as clients ask for it.
    ///
    /// # Errors
    ///
    /// It does not say.
    pub async fn public_key(&self) -> anyhow::Result<MachineKey> {
        let answer = get(self.address, "/key?v=142").await?;
        let answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["publicKey"].as_str().context("no key")?.parse()?)
    }

    /// CPU time that it used so far.
    pub fn cpu(&self) -> Duration {
        process_cpu(self.child.id())
    }

    /// Resident memory, in bytes: what it is, and what it was at most since the last [`Self::forget_peak`].
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// Has the kernel forget how much memory it used at most (proc(5), `clear_refs`).
    pub fn forget_peak(&self) {
        // Without it the peak is that of the whole run, which is never less.
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").ok();
    }

    /// When primaries moved, after the first `seen` of them.
    pub(crate) fn moves_after(&self, seen: usize) -> Vec<i64> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.moves.get(seen..).unwrap_or_default().to_vec()
    }

    /// How often a primary moved so far.
    pub(crate) fn moves(&self) -> usize {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).moves.len()
    }

    /// How many clients it cut off so far because they took too little of their maps.
    pub(crate) fn cut_off(&self) -> usize {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).cut_off
    }

    /// What it warned of.
    pub fn faults(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).faults.clone()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It is gone already, if this fails.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Lines {
    fn take(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<Value>(line) else { return };
        let at = line["timestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        if let (Some("primary changed"), Some(at)) = (line["message"].as_str(), at) {
            self.moves.push(at.as_microsecond());
        }
        if line["message"].as_str().is_some_and(|text| text.ends_with("its session is ended")) {
            self.cut_off += 1;
            return;
        }
        if matches!(line["level"].as_str(), Some("WARN" | "ERROR")) && self.faults.len() < 1000 {
            self.faults.push(line.to_string());
        }
    }
}

/// Memory that TCP has on this machine, in bytes, as the kernel counts it.
pub(crate) fn tcp_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages =
        text.lines().find_map(|line| line.strip_prefix("TCP:")?.split_once("mem ")?.1.trim().parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// CPU time of this process.
pub(crate) fn own_cpu() -> Duration {
    process_cpu(std::process::id())
}

/// CPU time of a process, to the nanosecond; /proc has it to the hundredth of a second.
fn process_cpu(pid: u32) -> Duration {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return Duration::ZERO };
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "the standard library has no word for another process's clock")]
    // SAFETY: both calls write one value each to where these point, which are of the types that they write.
    let done = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) == 0 && libc::clock_gettime(clock, &raw mut time) == 0
    };
    if !done {
        return Duration::ZERO;
    }
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Asks by plain HTTP.
async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok(body.to_owned())
}
