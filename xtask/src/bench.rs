//! Measurements, each by its name.

mod swarm;

use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Many simulated clients, from a process of their own, against the server's binary.
    Swarm(swarm::SwarmArgs),
}

/// Measures.
pub fn run(bench: &Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Swarm(args) => swarm::run(args),
    }
}

pub use swarm::hundred;
