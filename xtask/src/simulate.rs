//! Whole tailnets in virtual time, as many as wanted.

use std::process::Command;

use anyhow::bail;
use clap::Args;

use crate::top;

/// How many tailnets, and which.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// So many, each with random troubles of its own.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The seed of the first; the next ones follow. Random if not given.
    #[arg(long)]
    from: Option<u64>,
    /// Play this one, and say what happens in it.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
}

/// As many as the check plays, always the same: what a check finds should not depend on the day.
const IN_CHECK: SimulateArgs = SimulateArgs { seeds: 25, from: Some(1), seed: None };

/// Plays as many as the check does.
pub fn in_check() -> anyhow::Result<()> {
    run(&IN_CHECK)
}

/// Plays as many as are asked for. The test prints how many it played, or the seed that fails.
pub fn run(args: &SimulateArgs) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["test", "--quiet", "-p", "wayleave-sim", "--features", "troubles"])
        .args(["--test", "simulation", "--", "--nocapture"])
        .arg("random_troubles")
        .env("SIMULATIONS", args.seeds.to_string())
        .current_dir(top());
    if let Some(from) = args.from {
        command.env("SIMULATIONS_FROM", from.to_string());
    }
    if let Some(seed) = args.seed {
        command.env("SIMULATION_SEED", seed.to_string());
    }
    if command.status()?.success() { Ok(()) } else { bail!("an invariant does not hold") }
}
