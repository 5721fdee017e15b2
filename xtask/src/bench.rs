//! Measurements, each by its name.

mod micro;
mod policy;
mod swarm;

use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Many simulated clients, from a process of their own, against the server's binary.
    Swarm(swarm::SwarmArgs),
    /// A policy of 200 rules, compiled and asked everything for 1,000, 3,000 and 10,000 nodes.
    Policy,
    /// The small parts by themselves: election, Noise, policy, view, delta and encoding.
    Micro(micro::MicroArgs),
}

/// Measures.
pub fn run(bench: &Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Swarm(args) => swarm::run(args),
        Bench::Policy => policy::run(),
        Bench::Micro(args) => micro::run(args),
    }
}

pub use swarm::hundred;
