//! Random histories, so many that they need a build of their own.

use std::process::Command;

use anyhow::bail;
use clap::Args;

use crate::top;

/// How many histories, and which.
#[derive(Debug, Args)]
pub struct HistoriesArgs {
    /// So many, of 200 events each.
    #[arg(long, default_value_t = IN_CHECK)]
    count: u64,
    /// The number of the first; the next ones follow.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

/// As many as the check runs.
const IN_CHECK: u64 = 100_000;

/// Runs as many as are asked for. The test prints how many it ran, or the shortest history that fails.
pub fn run(args: &HistoriesArgs) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["test", "--quiet", "--profile", "histories", "-p", "wayleave-netmap", "--test", "histories", "--"])
        .arg("--nocapture")
        .env("HISTORIES", args.count.to_string())
        .env("HISTORIES_FROM", args.from.to_string())
        .current_dir(top());
    if command.status()?.success() { Ok(()) } else { bail!("an invariant does not hold") }
}

/// As many as the check runs.
pub fn in_check() -> anyhow::Result<()> {
    run(&HistoriesArgs { count: IN_CHECK, from: 0 })
}
