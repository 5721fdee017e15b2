//! What a policy of 200 rules costs: compiled, and asked everything for every node, with 1,000, 3,000 and 10,000 nodes. Each size is a
//! process of its own (`crates/wayleave-policy/examples/bench_policy.rs`), so that what it holds is its own too.

use std::process::Command;

use anyhow::{Context, bail};

use crate::{say, top};

const SIZES: [u64; 3] = [1_000, 3_000, 10_000];

/// A step of one run: how long it took, how much it answered, and what the process held after it.
#[derive(Clone, Debug)]
struct Step {
    name: String,
    millis: f64,
    answers: u64,
    kib: u64,
}

/// Measures, and prints the figures.
pub fn run() -> anyhow::Result<()> {
    build(&["-p", "wayleave-policy", "--example", "bench_policy"])?;
    for (variant, title) in [
        ("classes", "200 rules over 50 tags"),
        ("self", "the same, with autogroup:self and half as many users as nodes"),
    ] {
        let mut runs = Vec::new();
        for nodes in SIZES {
            let program = top().join("target/release/examples/bench_policy");
            let output = Command::new(&program).args([&nodes.to_string(), variant]).output();
            let output = output.with_context(|| format!("cannot run {}", program.display()))?;
            if !output.status.success() {
                bail!("the measurement broke: {}", String::from_utf8_lossy(&output.stderr));
            }
            runs.push(String::from_utf8_lossy(&output.stdout).lines().map(step).collect::<anyhow::Result<Vec<_>>>()?);
        }
        say(&format!("\n{title}: milliseconds (and MiB held), and the growth per node from 1,000 to 10,000\n"));
        say(&table(&runs));
    }
    Ok(())
}

/// A release build: what is measured is what is shipped.
fn build(what: &[&str]) -> anyhow::Result<()> {
    let status =
        Command::new("cargo").args(["build", "--release", "--quiet"]).args(what).current_dir(top()).status()?;
    if status.success() { Ok(()) } else { bail!("the program could not be built") }
}

fn step(line: &str) -> anyhow::Result<Step> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, millis, answers, kib] = fields.as_slice() else { bail!("{line:?} is no step") };
    Ok(Step { name: (*name).to_owned(), millis: millis.parse()?, answers: answers.parse()?, kib: kib.parse()? })
}

fn table(runs: &[Vec<Step>]) -> String {
    let mut out = format!("{:<18}", "");
    for nodes in SIZES {
        out.push_str(&format!("{:>22}", format!("{nodes} nodes")));
    }
    out.push_str(&format!("{:>12}{:>12}{:>14}", "time/node", "time/answer", "answers/node"));
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return out };
    let sizes = SIZES[SIZES.len() - 1] as f64 / SIZES[0] as f64;
    for (at, small) in first.iter().enumerate() {
        out.push_str(&format!("\n{:<18}", small.name));
        if small.name == "classes" {
            for step in runs.iter().filter_map(|run| run.get(at)) {
                out.push_str(&format!("{:>22}", step.answers));
            }
            continue;
        }
        for step in runs.iter().filter_map(|run| run.get(at)) {
            out.push_str(&format!("{:>22}", format!("{:.1} ({:.0})", step.millis, step.kib as f64 / 1024.0)));
        }
        let Some(big) = last.get(at) else { continue };
        let growth = |small: f64, big: f64| if small > 0.0 { big / small } else { f64::NAN };
        let (time, answers) = (growth(small.millis, big.millis), growth(small.answers as f64, big.answers as f64));
        out.push_str(&format!("{:>11.2}x{:>11.2}x{:>13.2}x", time / sizes, time / answers, answers / sizes));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_is_left_when_the_nodes_are_taken_out() {
        let run = |millis: f64| vec![Step { name: "compile".to_owned(), millis, answers: 1, kib: 2048 }];
        let told = table(&[run(1.0), run(3.0), run(20.0)]);
        let line = told.lines().nth(1).unwrap();
        assert!(line.contains("20.0 (2)") && line.contains("2.00x"), "{line}");
    }
}
