//! Fences: which crate may know which, what must not be in the repository, and that every scenario is played somewhere.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::top;

/// Which of our crates each may use. A crate that is not here may use all.
const FENCES: &[(&str, &[&str])] = &[
    ("wayleave-model", &[]),
    ("wayleave-routes", &["wayleave-model"]),
    ("wayleave-policy", &["wayleave-model"]),
    ("wayleave-tailnet", &["wayleave-model", "wayleave-routes", "wayleave-policy"]),
    ("wayleave-wire", &["wayleave-model"]),
    ("wayleave-netmap", &["wayleave-model", "wayleave-policy", "wayleave-tailnet", "wayleave-wire"]),
    // The names of causes are the route table's; a store has to write them.
    ("wayleave-store", &["wayleave-model", "wayleave-tailnet"]),
    ("wayleave-derp", &["wayleave-model", "wayleave-wire"]),
    // Other systems keep what clients sent in the wire's own shape, and private keys in its text.
    ("wayleave-import", &["wayleave-model", "wayleave-policy", "wayleave-tailnet", "wayleave-wire", "wayleave-store"]),
    (
        "wayleave-server",
        &[
            "wayleave-model",
            "wayleave-routes",
            "wayleave-policy",
            "wayleave-tailnet",
            "wayleave-netmap",
            "wayleave-wire",
            "wayleave-store",
            "wayleave-derp",
        ],
    ),
];

/// Crates that read no clock, no dice, no files and no sockets.
const PURE: &[&str] = &["model", "routes", "policy", "tailnet", "wire", "netmap"];

/// Scenarios that must come out right, by number: with real clients, of election and evidence with what viewers are told, of several
/// groups. A test, a story with real clients or a story's file is named by its number: `fn s31_...`, `"s31_..."`, `S31.txt`.
const SCENARIOS: &[RangeInclusive<u32>] = &[1..=16, 20..=43, 50..=58];

/// Looks at all fences.
pub fn run() -> anyhow::Result<()> {
    let mut faults = Vec::new();
    dependencies(&mut faults)?;
    sources(&mut faults)?;
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n        ")) }
}

fn dependencies(faults: &mut Vec<String>) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out =
        Command::new(cargo).args(["metadata", "--format-version", "1", "--no-deps"]).current_dir(top()).output()?;
    let metadata: Value = serde_json::from_slice(&out.stdout).context("cargo metadata")?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = FENCES.iter().find(|(fenced, _)| *fenced == name) else { continue };
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        let used = package["dependencies"].as_array().into_iter().flatten().filter(|used| used["kind"].is_null());
        for used in used.filter_map(|used| used["name"].as_str()) {
            if used.starts_with("wayleave") && !allowed.contains(used) {
                faults.push(format!("{name} must not know {used}"));
            }
            if PURE.iter().any(|pure| name == format!("wayleave-{pure}")) && matches!(used, "tokio" | "rand") {
                faults.push(format!("{name} is pure and must not use {used}"));
            }
        }
    }
    Ok(())
}

/// Words that stand for what a file must not have. They are put together here, so that this file has none of them.
fn forbidden() -> Vec<(String, &'static str)> {
    let hosts = [
        ["proxy.", "golang.org"],
        ["registry.", "npmjs"],
        ["index.", "crates.io"],
        ["deb.", "debian.org"],
        ["py", "pi.org"],
    ];
    let hosts = hosts.map(|parts| (parts.concat(), "names a package registry"));
    let paths = [["/ro", "ot/"], ["/wo", "rk/"]].map(|parts| (parts.concat(), "has a path of one machine"));
    let unfinished =
        [["todo", "!("], ["unimple", "mented!("], ["#[ign", "ore"]].map(|parts| (parts.concat(), "is unfinished"));
    hosts.into_iter().chain(paths).chain(unfinished).collect()
}

/// The numbers of the scenarios that a text of Rust has a test or a story for: `fn s33_s34_what_follows` is of two.
fn numbers(text: &str) -> impl Iterator<Item = u32> {
    let names = text.split(['"', ' ']).filter(|word| word.starts_with('s'));
    names.flat_map(|name| name.split('_').map_while(|word| word.strip_prefix('s')?.parse().ok()))
}

/// Every scenario is played somewhere.
fn scenarios(files: &[(&str, String)], faults: &mut Vec<String>) {
    let mut played = BTreeSet::new();
    for (file, text) in files {
        if file.ends_with(".rs") {
            played.extend(numbers(text));
        } else if let Some((_, story)) = file.rsplit_once("/S") {
            played.extend(story.strip_suffix(".txt").and_then(|number| number.parse::<u32>().ok()));
        }
    }
    for number in SCENARIOS.iter().cloned().flatten().filter(|number| !played.contains(number)) {
        faults.push(format!("scenario S{number} has no test or story that is named by its number"));
    }
}

fn sources(faults: &mut Vec<String>) -> anyhow::Result<()> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(top())
        .output()?;
    let files = String::from_utf8(out.stdout)?;
    let words = forbidden();
    let files = files.lines().filter(|file| !file.ends_with(".lock"));
    let files = files.filter_map(|file| Some((file, std::fs::read_to_string(top().join(file)).ok()?)));
    let files: Vec<(&str, String)> = files.collect();
    scenarios(&files, faults);
    for (file, text) in &files {
        for (word, fault) in &words {
            if let Some(line) = text.lines().position(|line| line.contains(word.as_str())) {
                faults.push(format!("{file}:{}: {fault}", line + 1));
            }
        }
        if file.ends_with(".rs") && !file.contains("tests") && text.lines().count() > 600 {
            faults.push(format!("{file}: more than 600 lines; is there a second life-cycle inside?"));
        }
    }
    Ok(())
}
