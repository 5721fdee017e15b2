//! Plays many clients against a server's binary, and prints what came of it as JSON. `cargo xtask bench swarm` runs it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wayleave_sim::swarm::{self, Plan, Policy, Stage};

/// What is to be played.
#[derive(Debug, Parser)]
struct Cli {
    /// The server's binary.
    #[arg(long)]
    server: PathBuf,
    /// How many nodes there are in all, three routers among them.
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// Who sees whom.
    #[arg(long, value_enum, default_value_t = Policy::AcceptAll)]
    policy: Policy,
    /// What is done, in this order.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Stage::ALL)]
    stages: Vec<Stage>,
    /// How many failovers.
    #[arg(long, default_value_t = 20)]
    failovers: usize,
    /// Seconds in which nothing is done.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Seconds in which some come and go.
    #[arg(long, default_value_t = 10)]
    flapping: u64,
    /// Seconds that a stage may take.
    #[arg(long, default_value_t = 300)]
    patience: u64,
    /// How many clients dial at once.
    #[arg(long, default_value_t = 1000)]
    dialling: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { server, clients, policy, stages, failovers, idle, flapping, patience, dialling } = Cli::parse();
    let plan = Plan { server, clients, policy, stages, failovers, idle, flapping, patience, dialling };
    let done = swarm::run(&plan).await.and_then(|report| Ok(serde_json::to_string(&report)?));
    match done {
        Ok(report) => {
            // Whoever asked may have gone.
            writeln!(std::io::stdout(), "{report}").ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            writeln!(std::io::stderr(), "swarm: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}
