//! Real clients in network namespaces.
//!
//! Every run makes namespaces of its own, named after its process: a core that routes between all others, one for the server, one
//! for each client, a LAN that runs nothing of Tailscale, and a host on "the internet". Nothing leaves them, and each has a
//! `resolv.conf` of its own, so that the machine's stays as it is. All of it goes away with the run, also when it fails; what a run
//! that was killed left behind is swept up by the next.

mod clients;
mod evidence;
mod gaps;
mod net;
mod rig;
mod stories;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

pub use clients::build_server;

use crate::say;

/// Which tests to run, and how.
#[derive(Debug, Args)]
pub struct E2eArgs {
    /// Only tests whose names contain this.
    #[arg(long)]
    pub only: Option<String>,
    /// List the tests.
    #[arg(long)]
    pub list: bool,
    /// Skipping is a failure.
    #[arg(long)]
    pub require: bool,
    /// Keep the logs.
    #[arg(long)]
    pub keep: bool,
    /// The server to test; built first where this is not said.
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// How often each way of failing is measured.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
}

/// What came of the tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// That went well.
    pub passed: usize,
    /// That did not.
    pub failed: usize,
    /// That could not run here.
    pub skipped: usize,
}

/// Runs the tests, and fails if one does.
pub fn run(args: &E2eArgs) -> anyhow::Result<()> {
    let tally = tests(args)?;
    say(&format!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped));
    if tally.failed > 0 || (args.require && tally.skipped > 0) {
        bail!("real clients did not pass");
    }
    Ok(())
}

/// Runs the tests.
pub fn tests(args: &E2eArgs) -> anyhow::Result<Tally> {
    let chosen: Vec<_> = stories::ALL
        .iter()
        .chain(evidence::ALL)
        .filter(|(name, _)| args.only.as_ref().is_none_or(|only| name.contains(only)))
        .collect();
    if args.list {
        chosen.iter().for_each(|(name, _)| say(name));
        return Ok(Tally::default());
    }
    if let Some(missing) = clients::missing() {
        say(&format!("SKIPPED: {} tests with real clients: {missing}", chosen.len()));
        return Ok(Tally { skipped: chosen.len(), ..Tally::default() });
    }
    let clients = clients::Clients::get()?;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => build_server()?,
    };
    net::sweep();
    let folder = std::env::temp_dir().join(format!("wl{}", std::process::id()));
    let mut tally = Tally::default();
    for (name, story) in chosen {
        let started = Instant::now();
        let done = rig::Rig::new(&clients, &binary, &folder.join(name), args.runs).and_then(|mut rig| {
            let done = story(&mut rig);
            if done.is_err() {
                rig.show_logs();
            }
            done
        });
        let took = started.elapsed().as_secs_f32();
        match done {
            Ok(()) => {
                tally.passed += 1;
                say(&format!("ok      {name} ({took:.1} s)"));
            }
            Err(error) => {
                tally.failed += 1;
                say(&format!("FAILED  {name} ({took:.1} s): {error:#}"));
            }
        }
    }
    if args.keep || tally.failed > 0 {
        say(&format!("logs are in {}", folder.display()));
    } else {
        std::fs::remove_dir_all(&folder).ok();
    }
    Ok(tally)
}

/// Answers every HTTP request with where it came from.
pub fn http_host(address: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)?;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let Ok(peer) = stream.peer_addr() else { continue };
        let from = peer.ip();
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        // The whole head, or else closing the connection would reset it. Whatever was asked, the answer is the same.
        let mut request = Vec::new();
        let mut some = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut some) {
                Ok(length) if length > 0 => request.extend_from_slice(&some[..length]),
                _ => break,
            }
        }
        let body = format!("hello {from}\n");
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).ok();
    }
    Ok(())
}
