//! `wayleave policy`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::what_if::print_what_if;
use super::{Global, done};
use crate::client::Client;
use crate::output::{self, Column, Format, show};

/// What to do with the policy.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the policy in force.
    Get,
    /// Set the policy. It says who gains and who loses before it asks.
    Set {
        /// A file, or `-` for standard input.
        file: PathBuf,
        /// Refused unless this revision is in force: `policy get --output json` tells which is.
        #[arg(long, value_name = "REVISION")]
        replaces: Option<u64>,
    },
    /// Say whether a policy may be set; its tests are run.
    Check {
        /// A file, or `-` for standard input.
        file: PathBuf,
    },
    /// Run a policy's tests, or, where a file holds nothing but tests, those against the policy in force.
    Test {
        /// A file, or `-` for standard input.
        file: PathBuf,
    },
    /// Say who would gain and who would lose what if a policy were set. Changes nothing.
    Diff {
        /// A file, or `-` for standard input.
        file: PathBuf,
    },
    /// Read the policy file again (`policy.file`), as SIGHUP does.
    Reload,
    /// Answer what a policy would mean for a tailnet that is described in JSON. Needs no server.
    Evaluate {
        /// A file, or `-` for standard input.
        file: PathBuf,
    },
}

pub async fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    // The one that needs no server comes first.
    if let Command::Evaluate { file } = command {
        return evaluate(file);
    }
    let client = &global.client()?;
    match command {
        Command::Get => get(global, client).await,
        Command::Set { file, replaces } => set(global, client, file, *replaces).await,
        Command::Check { file } => check(global, client, file).await,
        Command::Test { file } => test(global, client, file).await,
        Command::Diff { file } => diff(global, client, file).await,
        Command::Reload => {
            let answer = client.ask(Method::POST, "/api/v2/policy/reload", None).await?;
            let what = if answer["unchanged"] == Value::Bool(true) { "was in force before" } else { "is in force" };
            done(global, &answer, &format!("revision {} {what}", show(&answer["revision"])))
        }
        Command::Evaluate { file } => evaluate(file),
    }
}

/// For people the text itself, so that `policy get > FILE` gives a file that can be set again.
async fn get(global: &Global, client: &Client) -> anyhow::Result<()> {
    let policy = client.ask(Method::GET, "/api/v2/policy", None).await?;
    if global.output != Format::Table {
        return output::one(global.output, &policy);
    }
    if let Some(fault) = policy["file_fault"].as_str() {
        output::note(&format!("the policy file was not taken in, and this is the policy from before: {fault}"));
    }
    let text = policy["text"].as_str().unwrap_or_default();
    output::line(text.strip_suffix('\n').unwrap_or(text));
    Ok(())
}

async fn set(global: &Global, client: &Client, file: &Path, replaces: Option<u64>) -> anyhow::Result<()> {
    let text = text(file)?;
    // What the person is shown is what is set, or nothing is.
    let shown = client.ask(Method::GET, "/api/v2/policy", None).await?;
    let replaces = replaces.or_else(|| shown["revision"].as_u64());
    let verdict = client.ask(Method::POST, "/api/v2/policy/check", Some(&json!({ "text": text }))).await?;
    refuse_invalid(file, &verdict)?;
    warn(&verdict);
    if !global.yes {
        let answer = client.ask(Method::POST, "/api/v2/routes/what-if", Some(&json!({ "policy": text }))).await?;
        print_what_if(&answer);
    }
    global.agreed(&format!("Set this policy in place of revision {}?", replaces.unwrap_or(0)))?;
    let body = json!({ "text": text, "replaces": replaces });
    let answer = client.ask(Method::PUT, "/api/v2/policy", Some(&body)).await?;
    done(global, &answer, &format!("revision {} is in force", show(&answer["revision"])))
}

async fn check(global: &Global, client: &Client, file: &Path) -> anyhow::Result<()> {
    let body = json!({ "text": text(file)? });
    let verdict = client.ask(Method::POST, "/api/v2/policy/check", Some(&body)).await?;
    if global.output != Format::Table {
        output::one(global.output, &verdict)?;
        if verdict["valid"] == Value::Bool(true) { Ok(()) } else { bail!("{} may not be set", file.display()) }
    } else {
        refuse_invalid(file, &verdict)?;
        warn(&verdict);
        output::line(&format!("{} may be set", file.display()));
        Ok(())
    }
}

async fn test(global: &Global, client: &Client, file: &Path) -> anyhow::Result<()> {
    let body = json!({ "text": text(file)? });
    let runs = client.ask(Method::POST, "/api/v2/policy/test", Some(&body)).await?;
    let all = runs.as_array().map(Vec::as_slice).unwrap_or_default();
    let failed = all.iter().filter(|run| run["passed"] != Value::Bool(true)).count();
    let columns = [
        Column::text("TEST", "test"),
        Column::text("SOURCE", "src"),
        Column::with("RESULT", |run| if run["passed"] == Value::Bool(true) { "passed" } else { "failed" }.to_owned()),
    ];
    output::list(global.output, &runs, &columns)?;
    if global.output == Format::Table {
        for run in all {
            for problem in run["problems"].as_array().into_iter().flatten() {
                output::line(&format!("\n{}: {}", show(&run["test"]), show(&problem["shown"])));
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} tests failed", all.len());
    }
    Ok(())
}

async fn diff(global: &Global, client: &Client, file: &Path) -> anyhow::Result<()> {
    let text = text(file)?;
    let verdict = client.ask(Method::POST, "/api/v2/policy/check", Some(&json!({ "text": text }))).await?;
    refuse_invalid(file, &verdict)?;
    warn(&verdict);
    let answer = client.ask(Method::POST, "/api/v2/routes/what-if", Some(&json!({ "policy": text }))).await?;
    if global.output != Format::Table {
        return output::one(global.output, &answer);
    }
    print_what_if(&answer);
    Ok(())
}

/// The problems, as an error, if there are any.
fn refuse_invalid(file: &Path, verdict: &Value) -> anyhow::Result<()> {
    if verdict["valid"] == Value::Bool(true) {
        return Ok(());
    }
    let problems = verdict["problems"].as_array().into_iter().flatten();
    let shown: Vec<String> = problems.map(|problem| show(&problem["shown"])).collect();
    bail!("{} may not be set:\n{}", file.display(), shown.join("\n"))
}

fn warn(verdict: &Value) {
    for warning in verdict["warnings"].as_array().into_iter().flatten() {
        output::note(&format!("warning: {}", show(&warning["shown"])));
    }
}

fn evaluate(file: &Path) -> anyhow::Result<()> {
    let question = read(file)?;
    let answer = wayleave_server::evaluate::evaluate(&question)?;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &answer)?;
    writeln!(out)?;
    Ok(())
}

fn text(file: &Path) -> anyhow::Result<String> {
    let text = String::from_utf8(read(file)?);
    text.map_err(|error| {
        anyhow::anyhow!("{} is not UTF-8: byte {} is wrong", file.display(), error.utf8_error().valid_up_to())
    })
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        return Ok(bytes);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
