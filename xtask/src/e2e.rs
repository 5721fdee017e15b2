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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

pub use clients::build_server;

use crate::say;

/// How many tests run at a time where nobody says it: they wait most of the time, also on two cores.
pub const JOBS: usize = 4;

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
    /// How many tests run at a time; those that measure a time always run alone, after the others.
    #[arg(long, default_value_t = JOBS)]
    pub jobs: usize,
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
    let (measured, plain): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|(name, _)| is_measured(name));
    let mut tally = Tally::default();
    for (stories, jobs) in [(plain, args.jobs.max(1)), (measured, 1)] {
        let next = AtomicUsize::new(0);
        let passed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some((name, story)) = stories.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let ok = one(name, *story, || rig::Rig::new(&clients, &binary, &folder.join(name), args.runs));
                        passed.fetch_add(usize::from(ok), Ordering::Relaxed);
                    }
                });
            }
        });
        let passed = passed.into_inner();
        tally.passed += passed;
        tally.failed += stories.len() - passed;
    }
    if args.keep || tally.failed > 0 {
        say(&format!("logs are in {}", folder.display()));
    } else {
        std::fs::remove_dir_all(&folder).ok();
    }
    Ok(tally)
}

/// Runs one test, and says what came of it.
fn one(name: &str, story: stories::Story, rig: impl FnOnce() -> anyhow::Result<rig::Rig>) -> bool {
    let started = Instant::now();
    let done = rig().and_then(|mut rig| {
        let done = story(&mut rig);
        if done.is_err() {
            rig.show_logs();
        }
        done
    });
    let took = started.elapsed().as_secs_f32();
    match &done {
        Ok(()) => say(&format!("ok      {name} ({took:.1} s)")),
        Err(error) => say(&format!("FAILED  {name} ({took:.1} s): {error:#}")),
    }
    done.is_ok()
}

/// Whether a test asserts how long something takes, so that others beside it would disturb it.
fn is_measured(name: &str) -> bool {
    const MEASURED: &[&str] =
        &["the_first_map_", "a_dead_router_", "a_planned_move_", "s2_", "s10_", "s12_", "s14_", "s15_", "two_sites_"];
    MEASURED.iter().any(|start| name.starts_with(start))
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
