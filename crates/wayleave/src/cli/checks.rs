//! `wayleave routes check`.

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};
use wayleave_model::duration::words;

use super::{Global, done, duration};
use crate::client::Client;
use crate::output::{self, Column};

/// What to do with path checks: an address behind the routers of a prefix that has to answer.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set the check of a prefix.
    Set {
        /// Which prefix.
        prefix: String,
        /// An address inside it that answers pings, and is none of a router's own.
        #[arg(long, value_name = "ADDRESS")]
        target: String,
        /// How often it is asked for: 1s to 1h.
        #[arg(long, value_parser = duration, default_value = "2s")]
        every: Duration,
        /// Who looks: a tag, or a node by id, name or address. Not said: the server chooses.
        #[arg(long, value_name = "N|TAG")]
        witness: Option<String>,
        /// Check routers that stand by, too: one witness, and nobody else, is led to the address through them; one that you name all the
        /// time, any other for at most 2 s a minute.
        #[arg(long)]
        standby: bool,
    },
    /// List checks, and what they have said of each router.
    List,
    /// Take the check of a prefix back.
    Remove {
        /// Which prefix.
        prefix: String,
    },
    /// Run the check of a prefix now, behind each router that carries it.
    Run {
        /// Which prefix.
        prefix: String,
    },
}

pub async fn run(global: &Global, client: &Client, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Set { prefix, target, every, witness, standby } => {
            let body = json!({ "prefix": prefix, "target": target, "witness": witness, "standby": standby,
                "every_millis": u64::try_from(every.as_millis()).unwrap_or(u64::MAX) });
            let whom = if *standby { "all routers of" } else { "whoever carries" };
            let check = client.ask(Method::PUT, "/api/v2/routes/checks", Some(&body)).await?;
            done(global, &check, &format!("{target} is asked for behind {whom} {prefix}"))
        }
        Command::List => {
            let checks = client.ask(Method::GET, "/api/v2/routes/checks", None).await?;
            output::list(global.output, &checks, &columns())
        }
        Command::Remove { prefix } => {
            let body = json!({ "prefix": prefix });
            let answer = client.ask(Method::POST, "/api/v2/routes/checks/remove", Some(&body)).await?;
            done(global, &answer, &format!("{prefix} is not checked any more"))
        }
        Command::Run { prefix } => {
            let answer =
                client.ask(Method::POST, "/api/v2/routes/checks/run", Some(&json!({ "prefix": prefix }))).await?;
            output::list(global.output, &answer, &ran())
        }
    }
}

fn ran() -> [Column; 4] {
    [
        Column::text("ROUTER", "router"),
        Column::text("WITNESS", "witness"),
        Column::text("OUTCOME", "outcome"),
        Column::with("TOOK", |ran: &Value| {
            ran["milliseconds"].as_f64().map_or("-".into(), |took| format!("{took:.1} ms"))
        }),
    ]
}

fn columns() -> [Column; 7] {
    [
        Column::text("PREFIX", "shown"),
        Column::text("TARGET", "target_shown"),
        Column::with("EVERY", |check: &Value| {
            words(Duration::from_millis(check["every_millis"].as_u64().unwrap_or_default()))
        }),
        Column::text("WITNESS", "witness"),
        Column::with("STANDBY", |check: &Value| match (&check["standby"], &check["led"]) {
            (Value::Bool(true), Value::Null) => "yes".to_owned(),
            (Value::Bool(true), led) => {
                format!("{} through {}", output::show(&led["witness"]), output::show(&led["router"]))
            }
            _ => "no".to_owned(),
        }),
        Column::with("ROUTERS", |check: &Value| {
            let of = |router: &Value| {
                let word = match (router["misses"].as_u64(), router["passed"] == Value::Bool(true)) {
                    _ if router["at"].is_null() => "not checked yet".to_owned(),
                    (Some(misses), _) if misses > 0 => format!("missed {misses}"),
                    (_, true) => "passes".to_owned(),
                    (_, false) => "never passed".to_owned(),
                };
                format!("{}: {word}", output::show(&router["node"]))
            };
            check["routers"].as_array().into_iter().flatten().map(of).collect::<Vec<_>>().join(", ")
        }),
        Column::text("FAULT", "fault"),
    ]
}
