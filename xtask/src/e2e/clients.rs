//! The real clients: built once from the Go module proxy, into a cache that is keyed by version.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::{cache, say, top};

/// The clients of the pinned versions.
pub struct Clients {
    /// The newest.
    pub newest: PathBuf,
    /// The oldest that is promised to work.
    pub oldest: PathBuf,
}

/// What this machine lacks to run real clients; `None`: nothing.
pub fn missing() -> Option<String> {
    let has = |program: &str, argument: &str| {
        Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0");
    if !root {
        return Some("they need root, for network namespaces".to_owned());
    }
    for (program, argument, package) in [
        ("go", "version", "the Go toolchain"),
        ("ip", "-V", "iproute2"),
        ("iptables", "--version", "iptables"),
        ("ping", "-V", "iputils-ping"),
        ("setpriv", "--version", "util-linux"),
        ("ssh", "-V", "openssh-client"),
    ] {
        if !has(program, argument) {
            return Some(format!("there is no `{program}` ({package})"));
        }
    }
    (!Path::new("/dev/net/tun").exists()).then(|| "there is no /dev/net/tun".to_owned())
}

impl Clients {
    /// Builds what the cache does not have.
    pub fn get() -> anyhow::Result<Self> {
        let path = top().join("e2e/versions.toml");
        let pins: toml::Table = std::fs::read_to_string(&path)?.parse()?;
        let version = |name: &str| {
            let pin = pins.get(name).and_then(toml::Value::as_str);
            pin.map(str::to_owned).with_context(|| format!("{} does not pin `{name}`", path.display()))
        };
        Ok(Self { newest: client(&version("newest")?)?, oldest: client(&version("oldest")?)? })
    }
}

/// The folder with `tailscaled` and `tailscale` of this version. A build that was cut off is never used: it gets its name when it is
/// whole.
fn client(version: &str) -> anyhow::Result<PathBuf> {
    let folder = cache().join("clients").join(version);
    if folder.join("tailscaled").exists() && folder.join("tailscale").exists() {
        return Ok(folder);
    }
    say(&format!("building tailscaled {version} (once; some minutes)"));
    let unfinished = cache().join("clients").join(format!("{version}.{}", std::process::id()));
    std::fs::create_dir_all(&unfinished)?;
    let programs = ["tailscaled", "tailscale"].map(|program| format!("tailscale.com/cmd/{program}@v{version}"));
    let built =
        Command::new("go").arg("install").args(programs).env("GOBIN", &unfinished).current_dir(cache()).status()?;
    if !built.success() {
        bail!("the Go toolchain could not build tailscaled {version}");
    }
    std::fs::remove_dir_all(&folder).ok();
    std::fs::rename(&unfinished, &folder)?;
    Ok(folder)
}

/// Builds the server as it is in this tree.
pub fn build_server() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--package", "wayleave", "--message-format", "json-render-diagnostics"])
        .current_dir(top())
        .stderr(Stdio::inherit())
        .output()?;
    if !built.status.success() {
        bail!("the server could not be built");
    }
    let lines = String::from_utf8_lossy(&built.stdout).into_owned();
    let executable = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "wayleave")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.context("cargo did not say where it put the server")
}
