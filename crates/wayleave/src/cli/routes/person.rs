//! What a person says of prefixes and routers: settings, priorities, moves, freezes, drains.

use std::time::Duration;

use clap::{ArgGroup, Args};
use hyper::Method;
use serde_json::{Value, json};
use wayleave_model::duration;

use super::super::{Global, done};
use super::columns;
use crate::client::Client;
use crate::output::{self, Column, show};

/// What holds for a prefix.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("of").required(true).args(["prefix", "default"]))]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["when_down", "on_withdraw", "spread", "failback_after"]))]
pub struct Set {
    /// Of this prefix.
    prefix: Option<String>,
    /// Of all that say nothing of their own.
    #[arg(long)]
    default: bool,
    /// While every router is down: keep, `fall_back`, or default.
    #[arg(long, value_name = "WORD")]
    when_down: Option<String>,
    /// When a node stops advertising it: disable, keep, or default.
    #[arg(long, value_name = "WORD")]
    on_withdraw: Option<String>,
    /// Who is primary for one client: single, region, balance, or default.
    #[arg(long, value_name = "WORD")]
    spread: Option<String>,
    /// How long a better router must be steady before it takes over: a duration, never, or default.
    #[arg(long, value_name = "DURATION")]
    failback_after: Option<String>,
}

/// How much a node is preferred.
#[derive(Debug, Args)]
pub struct Prefer {
    /// Id, name or address.
    #[arg(long, value_name = "N")]
    node: String,
    /// For which of its prefixes.
    prefix: String,
    /// Higher is preferred; 0 where nobody says anything.
    #[arg(long, allow_negative_numbers = true)]
    priority: i32,
}

/// Where a prefix goes.
#[derive(Debug, Args)]
pub struct Move {
    /// Which.
    prefix: String,
    /// Id, name or address.
    #[arg(long, value_name = "N")]
    to: String,
}

/// What is held where it is.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("of").required(true).args(["prefix", "all"]))]
pub struct Freeze {
    /// Which.
    prefix: Option<String>,
    /// All prefixes.
    #[arg(long)]
    all: bool,
    /// For how long; an hour where it is not said.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
    lifetime: Option<Duration>,
}

/// What is let go.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("of").required(true).args(["prefix", "all"]))]
pub struct Unfreeze {
    /// Which.
    prefix: Option<String>,
    /// Everything that is frozen.
    #[arg(long)]
    all: bool,
}

/// Which router to take out of service.
#[derive(Debug, Args)]
pub struct Drain {
    /// Id, name or address.
    #[arg(long, value_name = "N")]
    node: String,
    /// Return once every client that may use its routes has acknowledged the new map. Fails, and drains nothing, where nobody else can
    /// serve.
    #[arg(long)]
    wait: bool,
    /// Wait that long at most; a minute where it is not said.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, requires = "wait")]
    timeout: Option<Duration>,
    /// Also where nobody else can serve.
    #[arg(long)]
    force: bool,
}

/// Which router to put back into service.
#[derive(Debug, Args)]
pub struct Undrain {
    /// Id, name or address.
    #[arg(long, value_name = "N")]
    node: String,
    /// Return once every client that may use its routes has acknowledged the new map.
    #[arg(long)]
    wait: bool,
    /// Wait that long at most; a minute where it is not said.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, requires = "wait")]
    timeout: Option<Duration>,
}

/// How long the server waits for clients where nobody says it (`timeout` of `POST /api/v2/routes/drain`).
const WAITS: Duration = Duration::from_secs(60);

pub async fn set(global: &Global, client: &Client, ask: &Set) -> anyhow::Result<()> {
    let Set { prefix, default: _, when_down, on_withdraw, spread, failback_after } = ask;
    let body = json!({
        "prefix": prefix,
        "when_down": when_down,
        "on_withdraw": on_withdraw,
        "spread": spread,
        "failback_after": failback_after,
    });
    let holds = client.ask(Method::POST, "/api/v2/routes/settings", Some(&body)).await?;
    tell_notes(&holds);
    output::list(global.output, &Value::Array(vec![holds]), &settings_columns())
}

pub async fn settings(global: &Global, client: &Client) -> anyhow::Result<()> {
    let all = client.ask(Method::GET, "/api/v2/routes/settings", None).await?;
    output::list(global.output, &all, &settings_columns())
}

fn tell_notes(answer: &Value) {
    for note in answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::note(&format!("note: {note}"));
    }
}

fn settings_columns() -> [Column; 6] {
    let own = |field: &'static str| {
        move |row: &Value| {
            let value = show(&row[field]);
            match row["from"][field].as_str() {
                None | Some("set") => value,
                Some(from) => format!("{value} ({from})"),
            }
        }
    };
    [
        Column::with("PREFIX", |row| row["shown"].as_str().unwrap_or("default").to_owned()),
        Column::with("WHEN DOWN", own("when_down")),
        Column::with("ON WITHDRAW", own("on_withdraw")),
        Column::with("SPREAD", own("spread")),
        Column::with("FAILBACK AFTER", own("failback_after")),
        Column::time("FROZEN UNTIL", "frozen_until"),
    ]
}

pub async fn prefer(global: &Global, client: &Client, ask: &Prefer) -> anyhow::Result<()> {
    let Prefer { node, prefix, priority } = ask;
    let body = json!({ "node": node, "prefix": prefix, "priority": priority });
    let changed = client.ask(Method::POST, "/api/v2/routes/prefer", Some(&body)).await?;
    output::list(global.output, &changed, &columns())
}

pub async fn move_primary(global: &Global, client: &Client, Move { prefix, to }: &Move) -> anyhow::Result<()> {
    let body = json!({ "prefix": prefix, "to": to });
    let changed = client.ask(Method::POST, "/api/v2/routes/move", Some(&body)).await?;
    changed.as_array().into_iter().flatten().for_each(tell_notes);
    output::list(global.output, &changed, &columns())
}

pub async fn freeze(global: &Global, client: &Client, Freeze { prefix, all, lifetime }: &Freeze) -> anyhow::Result<()> {
    let body = json!({ "prefix": prefix, "all": all, "for": lifetime.map(duration::words) });
    let held = client.ask(Method::POST, "/api/v2/routes/freeze", Some(&body)).await?;
    let what = prefix.as_deref().unwrap_or("everything");
    done(global, &held, &format!("{what} stays where it is until {}", show(&held["frozen_until"])))
}

pub async fn unfreeze(global: &Global, client: &Client, Unfreeze { prefix, all }: &Unfreeze) -> anyhow::Result<()> {
    let body = json!({ "prefix": prefix, "all": all });
    let free = client.ask(Method::POST, "/api/v2/routes/unfreeze", Some(&body)).await?;
    done(global, &free, &format!("{} may move again", prefix.as_deref().unwrap_or("everything")))
}

pub async fn drain(global: &Global, client: &Client, ask: &Drain) -> anyhow::Result<()> {
    let Drain { node, wait, timeout, force } = ask;
    let (waits, timeout) = (timeout.unwrap_or(WAITS), timeout.map(duration::words));
    let body = |force: bool| Some(json!({ "node": node, "wait": wait, "timeout": timeout, "force": force }));
    let path = "/api/v2/routes/drain";
    let drained = if *wait {
        // Whoever waits is a script, and is refused rather than asked.
        client.ask_for(Method::POST, path, body(*force).as_ref(), waits).await?
    } else {
        let body = |confirmed| body(*force || confirmed);
        global.confirmed_by("--force", client, Method::POST, |_| path.to_owned(), body).await?
    };
    tell_notes(&drained);
    let moved = match show(&drained["moved"]).as_str() {
        "-" => String::new(),
        moved => format!("; others carry {moved}"),
    };
    done(global, &drained, &format!("{} is drained{moved}{}", show(&drained["node"]), told(&drained)))
}

pub async fn undrain(global: &Global, client: &Client, ask: &Undrain) -> anyhow::Result<()> {
    let Undrain { node, wait, timeout } = ask;
    let body = json!({ "node": node, "wait": wait, "timeout": timeout.map(duration::words) });
    let waits = timeout.unwrap_or(WAITS);
    let back = client.ask_for(Method::POST, "/api/v2/routes/undrain", Some(&body), waits).await?;
    let taken = match show(&back["taken"]).as_str() {
        "-" => String::new(),
        taken => format!("; it carries {taken} again"),
    };
    done(global, &back, &format!("{} is back in service{taken}{}", show(&back["node"]), told(&back)))
}

/// How many clients have the new map, where somebody waited for them.
fn told(answer: &Value) -> String {
    match (&answer["viewers"], &answer["took_ms"]) {
        (Value::Null, _) => String::new(),
        (viewers, took) => format!("; {viewers} clients have the new map, after {took} ms"),
    }
}
