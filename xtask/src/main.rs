//! The project's own commands: `cargo xtask check` is all of what has to hold and never writes; `cargo xtask fix` writes.

mod bench;
mod check;
mod conformance;
mod e2e;
mod fuzz;
mod histories;
mod simulate;
mod tidy;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything that has to hold: formatting, lints, fences, tests, and real clients.
    Check(check::CheckArgs),
    /// Format, and mend what lints can mend.
    Fix,
    /// Look at fences between crates, and at what must not be in the repository.
    Tidy,
    /// Run random histories of a whole tailnet against the invariants, and a second election.
    Histories(histories::HistoriesArgs),
    /// Run whole tailnets in virtual time: the server as shipped, simulated clients, random troubles.
    Simulate(simulate::SimulateArgs),
    /// Run real clients in network namespaces against a real server.
    E2e(e2e::E2eArgs),
    /// Look for an input that breaks something: not part of `check`.
    Fuzz(fuzz::FuzzArgs),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Answer every HTTP request with where it came from. The tests use it as a host that runs nothing.
    #[command(hide = true)]
    HttpHost {
        /// Where to listen.
        address: String,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Fix => check::fix(),
        Command::Tidy => tidy::run(),
        Command::Histories(args) => histories::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::E2e(args) => e2e::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Bench(what) => bench::run(&what),
        Command::HttpHost { address } => e2e::http_host(&address),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The top of the repository.
fn top() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// What may be kept between runs, outside the repository.
fn cache() -> PathBuf {
    let named = std::env::var_os("WAYLEAVE_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/wayleave"));
    named.or_else(home).unwrap_or_else(|| std::env::temp_dir().join("wayleave-cache"))
}

/// Prints a line, at once. A reader that has gone wants no more of it.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).ok();
}
