//! `wayleave routes`.

mod explain;
mod person;

use std::io::Write;

use anyhow::bail;
use clap::{ArgGroup, Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::{Global, Misspelt, checks, what_if};
use crate::client::{Client, query};
use crate::output::{self, Column, Format};

/// What to do with routes.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List routes, prefix by prefix.
    List {
        /// Only of this node: id, name or address.
        #[arg(long)]
        node: Option<String>,
        /// Only this prefix.
        #[arg(long)]
        prefix: Option<String>,
        /// Only in this state, such as pending.
        #[arg(long)]
        state: Option<String>,
    },
    /// Approve routes. It adds: others stay as they are.
    Approve(Approve),
    /// Disable routes of a node. No auto-approver brings them back.
    Disable {
        /// Id, name or address.
        #[arg(long, value_name = "N")]
        node: String,
        /// Which.
        #[arg(required = true)]
        prefixes: Vec<String>,
    },
    /// Set what holds for a prefix, or with --default for all that say nothing of their own.
    Set(person::Set),
    /// Show what is set.
    Settings,
    /// Prefer a node for a prefix.
    Prefer(person::Prefer),
    /// Put a prefix on another of its routers, once.
    Move(person::Move),
    /// Stop every automatic move of a prefix, or of all, for a while.
    Freeze(person::Freeze),
    /// End a freeze.
    Unfreeze(person::Unfreeze),
    /// Take a router out of service: none of its routes is chosen while another can serve.
    Drain(person::Drain),
    /// Put a router back into service.
    Undrain(person::Undrain),
    /// Say which router carries an address or a prefix, by which rule, why not the others, and what is pending.
    Explain(explain::Explain),
    /// Say what would change, and for whom, if these things were so, all of them together. Changes nothing.
    WhatIf(what_if::Case),
    /// List prefixes that several sites use, as far as that can be told, with the 4via6 prefix to use instead.
    Collisions,
    /// Path checks: an address behind the routers of a prefix that has to answer.
    #[command(subcommand)]
    Check(checks::Command),
    /// Show what happened to routes, the newest first.
    History {
        /// Only of this prefix.
        #[arg(long)]
        prefix: Option<String>,
        /// Only of this node: id, name or address.
        #[arg(long)]
        node: Option<String>,
        /// Only of this time after: a duration before now, such as 2h, or a time such as 2026-11-22T10:00:00Z.
        #[arg(long)]
        since: Option<String>,
        /// Only from before this time, said in the same way.
        #[arg(long)]
        until: Option<String>,
        /// So many lines, the newest; 10,000 at most.
        #[arg(long)]
        limit: Option<u32>,
    },
    /// Show what happens to routes as it happens.
    Watch,
}

/// Which routes to approve.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["prefixes", "prefix", "all_pending"]))]
pub struct Approve {
    /// Of this node: id, name or address.
    #[arg(long, value_name = "N")]
    node: Option<String>,
    /// Of every node that advertises this prefix.
    #[arg(long, value_name = "P")]
    prefix: Option<String>,
    /// All that are pending.
    #[arg(long, conflicts_with = "prefixes")]
    all_pending: bool,
    /// These, of the node.
    #[arg(requires = "node")]
    prefixes: Vec<String>,
}

impl Command {
    /// Whether a policy comes with it, in a file.
    pub const fn brings_a_policy(&self) -> bool {
        matches!(self, Self::WhatIf(case) if case.policy.is_some())
    }
}

pub async fn run(global: &Global, client: &Client, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::List { node, prefix, state } => {
            list(global, client, node.as_deref(), prefix.as_deref(), state.as_deref()).await
        }
        Command::Approve(Approve { node, prefix, all_pending, prefixes }) => {
            let all: Vec<&String> = prefixes.iter().chain(prefix).collect();
            let body = |force: bool| {
                Some(json!({ "node": node, "prefixes": all, "all_pending": all_pending, "force": force }))
            };
            let path = |_| "/api/v2/routes/approve".to_owned();
            let changed = global.confirmed(client, Method::POST, path, body).await?;
            output::list(global.output, &changed, &columns())
        }
        Command::Disable { node, prefixes } => {
            let body = |force: bool| Some(json!({ "node": node, "prefixes": prefixes, "force": force }));
            let path = |_| "/api/v2/routes/disable".to_owned();
            let changed = global.confirmed(client, Method::POST, path, body).await?;
            output::list(global.output, &changed, &columns())
        }
        Command::Set(ask) => person::set(global, client, ask).await,
        Command::Settings => person::settings(global, client).await,
        Command::Prefer(ask) => person::prefer(global, client, ask).await,
        Command::Move(ask) => person::move_primary(global, client, ask).await,
        Command::Freeze(ask) => person::freeze(global, client, ask).await,
        Command::Unfreeze(ask) => person::unfreeze(global, client, ask).await,
        Command::Drain(ask) => person::drain(global, client, ask).await,
        Command::Undrain(ask) => person::undrain(global, client, ask).await,
        Command::Explain(ask) => explain::run(global, client, ask).await,
        Command::WhatIf(case) => what_if::run(global, client, case).await,
        Command::Collisions => what_if::collisions(global, client).await,
        Command::Check(command) => checks::run(global, client, command).await,
        Command::Watch => watch(global, client).await,
        Command::History { prefix, node, since, until, limit } => {
            let limit = limit.map(|limit| limit.to_string());
            let since = since.as_deref().map(time).transpose()?;
            let until = until.as_deref().map(time).transpose()?;
            let parts = [
                ("prefix", prefix.as_deref()),
                ("node", node.as_deref()),
                ("since", since.as_deref()),
                ("until", until.as_deref()),
                ("limit", limit.as_deref()),
            ];
            let path = format!("/api/v2/routes/history{}", query(&parts));
            let lines = client.ask(Method::GET, &path, None).await?;
            let columns = [
                Column::text("TIME", "at"),
                Column::text("PREFIX", "shown"),
                Column::text("EVENT", "event"),
                Column::with("NODE", who),
                Column::text("CAUSE", "cause"),
                Column::text("EVIDENCE", "evidence"),
            ];
            output::list(global.output, &lines, &columns)
        }
    }
}

/// Whom a line of history concerns: a node, or the two ends of a move.
fn who(line: &Value) -> String {
    if line["from"].is_null() && line["to"].is_null() {
        return output::show(&line["node"]);
    }
    let name = |field: &str| if line[field].is_null() { "nobody".into() } else { output::show(&line[field]) };
    format!("{} -> {}", name("from"), name("to"))
}

/// A time as RFC 3339 writes it: one that was given so, or a duration before now.
fn time(text: &str) -> anyhow::Result<String> {
    if text.parse::<jiff::Timestamp>().is_ok() {
        return Ok(text.to_owned());
    }
    let before = super::duration(text).map_err(|_| {
        Misspelt(format!("`{text}` is neither a duration, such as 2h, nor a time, such as 2026-11-22T10:00:00Z"))
    })?;
    let at = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::try_from(before)?)?;
    Ok(at.to_string())
}

/// Gives lines to whoever prints them, once they are whole. Empty ones only show that the server is there.
struct Lines<F: FnMut(&str) -> std::io::Result<()>> {
    rest: Vec<u8>,
    print: F,
}

impl<F: FnMut(&str) -> std::io::Result<()>> Write for Lines<F> {
    fn write(&mut self, some: &[u8]) -> std::io::Result<usize> {
        self.rest.extend_from_slice(some);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let whole: Vec<u8> = self.rest.drain(..=end).collect();
            let text = String::from_utf8_lossy(&whole);
            if !text.trim().is_empty() {
                (self.print)(text.trim())?;
            }
        }
        Ok(some.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Prints what happens until the server or the person ends it, or whoever reads it has gone.
async fn watch(global: &Global, client: &Client) -> anyhow::Result<()> {
    let format = global.output;
    let print = |line: &str| {
        let Ok(entry) = serde_json::from_str::<Value>(line) else { return Ok(()) };
        if format == Format::Json {
            output::try_line(line)
        } else if format == Format::Yaml {
            output::try_line("---")?;
            output::one(format, &entry).map_err(std::io::Error::other)
        } else if let Some(lost) = entry["lost"].as_u64() {
            output::note(&format!("{lost} events went by unseen: `wayleave routes history` has what was among them"));
            Ok(())
        } else {
            let [at, shown, event] = ["at", "shown", "event"].map(|field| output::show(&entry[field]));
            output::try_line(&format!("{at}  {shown}  {event}  {}  {}", who(&entry), output::show(&entry["cause"])))
        }
    };
    let told = client.download("/api/v2/routes/watch", &mut Lines { rest: Vec::new(), print }).await;
    let is_gone = |error: &anyhow::Error| {
        error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    match told {
        Ok(()) => bail!("the server ended the watch"),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lists routes.
pub async fn list(
    global: &Global,
    client: &Client,
    node: Option<&str>,
    prefix: Option<&str>,
    state: Option<&str>,
) -> anyhow::Result<()> {
    let path = format!("/api/v2/routes{}", query(&[("node", node), ("prefix", prefix), ("state", state)]));
    let routes = client.ask(Method::GET, &path, None).await?;
    output::list(global.output, &routes, &columns())
}

/// The columns of a list of routes.
pub fn columns() -> [Column; 7] {
    [
        Column::text("PREFIX", "shown"),
        Column::text("NODE", "node"),
        Column::with("STATE", |route: &Value| {
            let state = output::show(&route["state"]);
            let dead_primary = route["is_primary"] == Value::Bool(true) && state != "primary";
            let state = if dead_primary { format!("{state}, primary") } else { state };
            let acts = |conviction: &&Value| conviction["acts"] == Value::Bool(true);
            // Whoever carries or could carry a prefix has a reason; of the others only the node can stand convicted.
            let down = route["convictions"].as_array().into_iter().flatten().find(acts);
            let state = match (route["reason"].as_str(), down) {
                (Some(reason), _) => format!("{state}: {reason}"),
                (None, Some(conviction)) => format!("{state}, node down: {}", output::show(&conviction["cause"])),
                (None, None) => state,
            };
            match output::show(&route["warnings"]).as_str() {
                "-" => state,
                warnings => format!("{state} (!) {warnings}"),
            }
        }),
        Column::with("BECAUSE", |route: &Value| output::show(&route["because"])),
        Column::text("PRIORITY", "priority"),
        Column::with("APPROVAL", |route: &Value| {
            let approval = &route["approval"];
            let by = output::show(&approval["by"]);
            if approval["refused"] == Value::Bool(true) { format!("no, {by}") } else { by }
        }),
        Column::time("CHANGED", "updated_at"),
    ]
}
