//! `wayleave policy`.

use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;

/// What to do with the policy.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer what a policy would mean for a tailnet that is described in JSON. Needs no server.
    Evaluate {
        /// A file, or `-` for standard input.
        file: PathBuf,
    },
}

pub fn evaluate(file: &PathBuf) -> anyhow::Result<()> {
    let question = read(file)?;
    let answer = wayleave_server::evaluate::evaluate(&question)?;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &answer)?;
    writeln!(out)?;
    Ok(())
}

fn read(file: &PathBuf) -> anyhow::Result<Vec<u8>> {
    if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        return Ok(bytes);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
