//! The small parts by themselves, each in the `benches` of its crate.

use std::process::Command;

use anyhow::bail;
use clap::Args;

use crate::{say, top};

/// Crates, and what is measured in them.
const PARTS: [(&str, &str); 5] = [
    ("wayleave-routes", "election"),
    ("wayleave-wire", "record"),
    ("wayleave-policy", "policy"),
    ("wayleave-netmap", "map"),
    ("wayleave-server", "floor"),
];

/// What to measure.
#[derive(Debug, Args)]
pub struct MicroArgs {
    /// Only those whose path has this in it, such as `deltas` or `map::deltas::failover`.
    only: Option<String>,
}

/// Measures, and prints the figures: time of one operation, and below it how many items or bytes that is in a second.
pub fn run(args: &MicroArgs) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.args(["bench", "--quiet"]).current_dir(top());
    for (package, bench) in PARTS {
        command.args(["-p", package, "--bench", bench]);
    }
    command.arg("--").args(&args.only);
    say(
        "Times are of one operation; below them, where it has items or bytes, how many of these it does in a second.\n",
    );
    if command.status()?.success() { Ok(()) } else { bail!("the measurement broke") }
}
