//! The project's own commands: `cargo xtask check` is all of what has to hold and never writes; `cargo xtask fix` writes.

mod check;
mod e2e;
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
    /// Run real clients in network namespaces against a real server.
    E2e(e2e::E2eArgs),
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
        Command::E2e(args) => e2e::run(&args),
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

/// Prints a line, at once. A reader that has gone wants no more of it.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).ok();
}
