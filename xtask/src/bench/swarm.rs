//! Many simulated clients, at several sizes, and how each figure grows from size to size.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::{say, top};

/// How many clients, and what they do.
#[derive(Debug, Args)]
pub struct SwarmArgs {
    /// How many nodes there are in all; several sizes, with commas between them.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 300, 1000])]
    clients: Vec<usize>,
    /// Who sees whom: `accept-all`, `groups`, or both.
    #[arg(long, value_delimiter = ',', default_values_t = ["accept-all".to_owned(), "groups".to_owned()])]
    policy: Vec<String>,
    /// Only these stages, of register, connect, idle, approve, failover, flap, policy, storm and stuck. Without connect nobody is there.
    #[arg(long, value_delimiter = ',')]
    stages: Vec<String>,
    /// Where to write all figures, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A server's binary to measure; built first where this is not said.
    #[arg(long)]
    server: Option<PathBuf>,
    /// The simulated clients' binary; built first where this is not said.
    #[arg(long)]
    swarm: Option<PathBuf>,
    /// More arguments for the simulated clients.
    #[arg(last = true)]
    more: Vec<String>,
}

/// Measures, and prints tables.
pub fn run(args: &SwarmArgs) -> anyhow::Result<()> {
    let built = if args.server.is_none() || args.swarm.is_none() { Some(build("release")?) } else { None };
    let binary = |said: &Option<PathBuf>, name: &str| {
        said.clone().or_else(|| built.as_ref().map(|folder| folder.join(name))).context("it was built")
    };
    let (server, swarm) = (binary(&args.server, "wayleave")?, binary(&args.swarm, "swarm")?);
    let mut all = Vec::new();
    for policy in &args.policy {
        let mut reports = Vec::new();
        for clients in &args.clients {
            let mut more = args.more.clone();
            if !args.stages.is_empty() {
                more.extend(["--stages".to_owned(), args.stages.join(",")]);
            }
            say(&format!("{clients} clients, {policy} ..."));
            reports.push(play(&swarm, &server, *clients, policy, &more)?);
        }
        say(&table(policy, &reports));
        all.extend(reports);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

/// A hundred clients through all stages, against binaries as tests build them: what has to come of each stage comes, however fast.
pub fn hundred() -> anyhow::Result<()> {
    let folder = build("debug")?;
    let more = ["--idle", "1", "--flapping", "2", "--failovers", "4", "--patience", "120"].map(str::to_owned);
    for policy in ["accept-all", "groups"] {
        play(&folder.join("swarm"), &folder.join("wayleave"), 100, policy, &more)?;
    }
    Ok(())
}

/// Builds both binaries, and gives the folder that they are in.
fn build(profile: &str) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "wayleave", "--package", "wayleave-sim", "--bins"]);
    if profile == "release" {
        command.arg("--release");
    }
    if !command.current_dir(top()).status()?.success() {
        bail!("server and simulated clients could not be built");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top().join("target"), PathBuf::from);
    Ok(target.join(profile))
}

fn play(swarm: &Path, server: &Path, clients: usize, policy: &str, more: &[String]) -> anyhow::Result<Value> {
    let out = Command::new(swarm)
        .arg("--server")
        .arg(server)
        .args(["--clients", &clients.to_string(), "--policy", policy])
        .args(more)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} does not start", swarm.display()))?;
    if !out.status.success() {
        bail!("{clients} clients, {policy}: not all of it came true");
    }
    serde_json::from_slice(&out.stdout).context("the simulated clients said nothing")
}

/// A line for each figure, a column for each size, and by how much each grew.
fn table(policy: &str, reports: &[Value]) -> String {
    let sizes: Vec<f64> = reports.iter().filter_map(|report| report["clients"].as_f64()).collect();
    let heads: String = reports.iter().map(|report| format!("{:>18}", format!("{}", report["clients"]))).collect();
    let grown: String = sizes.windows(2).map(|pair| format!("{:.1}", pair[1] / pair[0])).collect::<Vec<_>>().join(", ");
    let mut text = format!("\n{policy} (grown by {grown})\n{:<58}{heads}\n", "clients");
    let mut rows: Vec<(String, String)> = Vec::new();
    for stage in reports.iter().flat_map(|report| report["stages"].as_array().into_iter().flatten()) {
        let name = stage["stage"].as_str().unwrap_or_default().to_owned();
        let own = ["wall_s", "server_cpu_s", "swarm_share"].map(str::to_owned).into_iter();
        let figures = stage["figures"].as_array().into_iter().flatten();
        for figure in own.chain(figures.filter_map(|figure| figure["name"].as_str().map(str::to_owned))) {
            let row = (name.clone(), figure);
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
    }
    for (stage, figure) in rows {
        let values: Vec<Option<(f64, String)>> = reports.iter().map(|report| value(report, &stage, &figure)).collect();
        let mut line = format!("{:<58}", format!("{stage}: {}", words(&figure)));
        let mut last: Option<f64> = None;
        for value in values {
            let Some((value, unit)) = value else {
                line.push_str(&format!("{:>18}", "-"));
                continue;
            };
            let factor =
                last.filter(|last| *last > 0.0).map_or_else(String::new, |last| format!("x{:.1}", value / last));
            line.push_str(&format!("{:>12}{factor:>6}", format!("{} {unit}", short(value)).trim()));
            last = Some(value);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn value(report: &Value, stage: &str, figure: &str) -> Option<(f64, String)> {
    let stage = report["stages"].as_array()?.iter().find(|found| found["stage"] == stage)?;
    if let Some(value) = stage[figure].as_f64() {
        return Some(if figure == "swarm_share" { (value * 100.0, "%".to_owned()) } else { (value, "s".to_owned()) });
    }
    let found = stage["figures"].as_array()?.iter().find(|found| found["name"] == figure)?;
    Some((found["value"].as_f64()?, found["unit"].as_str().unwrap_or_default().to_owned()))
}

fn words(figure: &str) -> &str {
    match figure {
        "wall_s" => "wall time",
        "server_cpu_s" => "server CPU",
        "swarm_share" => "share of the machine that the clients used",
        other => other,
    }
}

fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_figure_and_says_how_it_grew() {
        let report = |clients: u32, value: f64| {
            json!({ "clients": clients, "stages": [{ "stage": "idle", "wall_s": 1.0, "server_cpu_s": value,
                "swarm_share": 0.5, "figures": [{ "name": "memory", "value": value, "unit": "MB" }] }] })
        };
        let text = table("groups", &[report(100, 2.0), report(300, 8.0)]);
        assert!(text.contains("groups (grown by 3.0)"), "{text}");
        let memory = text.lines().find(|line| line.starts_with("idle: memory")).unwrap();
        assert!(memory.contains("2.00 MB") && memory.contains("8.00 MB  x4.0"), "{memory}");
        assert!(text.contains("50.0 %"), "{text}");
    }
}
