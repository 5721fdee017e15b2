//! Fuzzing: `cargo xtask fuzz policy --minutes 60`. It needs cargo-fuzz, and is no part of `check`.
//!
//! cargo-fuzz builds with flags that only a nightly compiler takes by itself; the stable one takes them where `RUSTC_BOOTSTRAP` is set.
//! There is no sanitizer: none of the code under test is unsafe.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::{conformance, say, top};

/// What to fuzz, and for how long.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// What to fuzz.
    target: Target,
    /// For how long.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Target {
    /// The parser of policies, and all that a policy answers.
    Policy,
    /// `policy evaluate`: a tailnet and its policy.
    Evaluate,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Evaluate => "evaluate",
        }
    }
}

/// Fuzzes. What it finds stays in `fuzz/artifacts`; the corpus is kept in the cache, and grows from run to run.
pub fn run(args: &FuzzArgs) -> anyhow::Result<()> {
    let name = args.target.name();
    let there = Command::new("cargo").args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|done| done.success()) {
        bail!("this needs cargo-fuzz: cargo install --locked cargo-fuzz");
    }
    let corpus = crate::cache().join("fuzz").join(name);
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let seeds = seed(args.target, &corpus)?;
    say(&format!("fuzzing {name} for {} min, from {seeds} seeds", args.minutes));
    let fuzz = top().join("fuzz");
    let status = Command::new("cargo")
        .args(["fuzz", "run", "--sanitizer", "none", name])
        .arg(&corpus)
        .arg("--")
        .arg(format!("-max_total_time={}", args.minutes * 60))
        .arg(format!("-dict={}", fuzz.join("policy.dict").display()))
        .args(["-max_len=8192", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .current_dir(top())
        .env("RUSTC_BOOTSTRAP", "1")
        .status()?;
    if status.success() {
        say(&format!("{name}: {} min without a finding", args.minutes));
        Ok(())
    } else {
        bail!("{name}: something was found; it is in {}", fuzz.join("artifacts").join(name).display())
    }
}

/// Puts captured questions into the corpus, where they are at hand.
fn seed(target: Target, corpus: &Path) -> anyhow::Result<usize> {
    let mut seeds = 0;
    for path in cases(&conformance::folder().join("cases"))? {
        let text = std::fs::read_to_string(&path)?;
        let case: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
        let input = &case["input"];
        let seed = match target {
            Target::Policy => match input["policy"].as_str() {
                Some(text) => text.to_owned(),
                None => serde_json::to_string(&input["policy"])?,
            },
            Target::Evaluate => serde_json::to_string(input)?,
        };
        let name = path.file_name().context("a case has a name")?;
        std::fs::write(corpus.join(name), seed)?;
        seeds += 1;
    }
    Ok(seeds)
}

fn cases(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(cases(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            all.push(path);
        }
    }
    Ok(all)
}
