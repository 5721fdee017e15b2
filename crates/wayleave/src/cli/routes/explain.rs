//! `wayleave routes explain`: which router, by which rule, why not the others, what is pending.

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::super::Global;
use crate::client::{Client, query};
use crate::output::{self, Column, Format, show};

/// What to explain.
#[derive(Debug, Args)]
pub struct Explain {
    /// An address, or a prefix; at a site: 192.168.1.9 via berlin.
    what: String,
    /// For this client: id, name or address.
    #[arg(long, value_name = "N")]
    from: Option<String>,
}

pub async fn run(global: &Global, client: &Client, Explain { what, from }: &Explain) -> anyhow::Result<()> {
    let path = format!("/api/v2/routes/explain{}", query(&[("what", Some(what)), ("from", from.as_deref())]));
    let answer = client.ask(Method::GET, &path, None).await?;
    if global.output != Format::Table {
        return output::one(global.output, &answer);
    }
    tell(what, &answer)?;
    let instead = &answer["instead"];
    if instead.is_object() {
        let wide = show(&instead["shown"]);
        output::line("");
        tell(&wide, instead)?;
    }
    Ok(())
}

fn tell(what: &str, answer: &Value) -> anyhow::Result<()> {
    for line in lines(what, answer) {
        output::line(&line);
    }
    for election in answer["elections"].as_array().into_iter().flatten() {
        if answer["elections"].as_array().is_some_and(|all| all.len() > 1) {
            output::line(&title(election));
        }
        output::list(Format::Table, &election["candidates"], &columns(back(election)))?;
    }
    if answer["exits"].as_array().is_some_and(|all| !all.is_empty()) {
        if answer["elections"].as_array().is_some_and(|all| !all.is_empty()) {
            output::line("Exits:");
        }
        output::list(Format::Table, &answer["exits"], &exit_columns(answer["viewer"].is_object()))?;
    }
    Ok(())
}

fn title(election: &Value) -> String {
    let via = show(&election["via"]);
    if via == "-" { "The tailnet as a whole:".to_owned() } else { format!("Via {via}:") }
}

/// The answer in sentences, the most important first.
fn lines(what: &str, answer: &Value) -> Vec<String> {
    let exits = answer["exits"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !exits.is_empty() && answer["elections"].as_array().is_some_and(Vec::is_empty) {
        return exit_lines(what, answer, exits);
    }
    let mut lines = Vec::new();
    let prefix = show(&answer["shown"]);
    let itself = what == prefix || what == show(&answer["prefix"]);
    let of = if itself { prefix.clone() } else { format!("{what} is in {prefix}") };
    if let Some(viewer) = answer["viewer"].as_object() {
        let (name, because) = (show(&viewer["node"]), show(&viewer["because"]));
        let via = show(&viewer["via"]);
        let via = if via == "-" { String::new() } else { format!(", via {via}") };
        let router = &viewer["router"];
        lines.push(if router.is_null() {
            format!("{of}: {name} does not reach it: {because}")
        } else {
            format!("{of}: {name} reaches it through {}{via}: {because}", show(router))
        });
    }
    for election in answer["elections"].as_array().into_iter().flatten() {
        let via = show(&election["via"]);
        let whom = if via == "-" { of.clone() } else { format!("{prefix} via {via}") };
        let router = &election["router"];
        lines.push(if router.is_null() {
            format!("{whom}: nobody carries it")
        } else {
            format!("{whom}: {} carries it: {}", show(router), show(&election["because"]))
        });
        if let Some(pending) = election["pending"].as_object() {
            lines.push(format!("  {} takes over in {} s", show(&pending["node"]), pending["in_seconds"]));
        }
        if election["fallen_back"] == Value::Bool(true) {
            lines.push(
                "  it has fallen back, since every router was down: clients that may use a wider prefix do without it"
                    .to_owned(),
            );
        }
        lines.extend(back(election).map(|back| format!("  it {back}")));
        if election["carriers"].as_array().is_some_and(|all| !all.is_empty()) {
            lines.push(format!("  spread ({}) over {}", show(&answer["spread"]), show(&election["carriers"])));
        }
    }
    if !answer["frozen_until"].is_null() {
        lines.push(format!("  frozen until {} by {}", show(&answer["frozen_until"]), show(&answer["frozen_by"])));
    }
    lines
}

/// An exit, or an address that no subnet holds.
fn exit_lines(what: &str, answer: &Value, exits: &[Value]) -> Vec<String> {
    let is_exit = ["0.0.0.0/0", "::/0"].contains(&what);
    let of = if is_exit { what.to_owned() } else { format!("{what} is in no subnet") };
    let serving = exits.iter().filter(|exit| exit["approved"] == Value::Bool(true) && exit["up"] == Value::Bool(true));
    let names: Vec<String> = serving.map(|exit| show(&exit["node"])).collect();
    let mut lines = Vec::new();
    if let Some(viewer) = answer["viewer"].as_object() {
        let (name, because) = (show(&viewer["node"]), show(&viewer["because"]));
        let does = if viewer["router"].is_null() { "sends it to no exit" } else { "sends it to an exit" };
        lines.push(format!("{of}: {name} {does}: {because}"));
    } else if names.is_empty() {
        lines.push(format!("{of}: no exit serves"));
    } else {
        lines.push(format!(
            "{of}: it goes through the exit that a client has chosen, if it has; {} serve",
            names.join(", ")
        ));
    }
    lines.push("  a client chooses its exit itself, the server elects none".to_owned());
    lines
}

fn exit_columns(for_viewer: bool) -> Vec<Column> {
    let yes = |value: &Value| *value == Value::Bool(true);
    let mut columns = vec![
        Column::text("NODE", "node"),
        Column::with("STATE", |exit| {
            let reason = exit["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{}{reason}", show(&exit["state"]))
        }),
        Column::flag("APPROVED", "approved"),
        Column::flag("UP", "up"),
    ];
    if for_viewer {
        columns.push(Column::with("VIEWER", move |exit| {
            let words = match (yes(&exit["chosen"]), yes(&exit["usable"])) {
                (true, true) => "has chosen it",
                (true, false) => "has chosen it, may not use it",
                (false, true) => "may use it",
                (false, false) => "may not use it",
            };
            words.to_owned()
        }));
    }
    columns
}

/// When a prefix that has fallen back comes back.
fn back(election: &Value) -> Option<String> {
    if election["fallen_back"] != Value::Bool(true) {
        return None;
    }
    Some(match (&election["back_in_seconds"], &election["back_after_seconds"]) {
        (Value::Null, Value::Null) => "stays so while it is frozen".to_owned(),
        (Value::Null, after) => format!("comes back once a router has been steady for {after} s"),
        (seconds, _) => format!("comes back in {seconds} s"),
    })
}

fn columns(back: Option<String>) -> [Column; 5] {
    let carries = back.map_or_else(|| "carries it".to_owned(), |back| format!("has it, fallen back: {back}"));
    [
        Column::text("NODE", "node"),
        Column::text("RANK", "rank"),
        Column::text("PRIORITY", "priority"),
        Column::with(
            "WHY NOT",
            move |row| if row["why_not"].is_null() { carries.clone() } else { show(&row["why_not"]) },
        ),
        Column::text("WARNINGS", "warnings"),
    ]
}
