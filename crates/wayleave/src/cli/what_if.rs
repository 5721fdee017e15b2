//! `wayleave routes what-if` and `wayleave routes collisions`, and how a difference is printed.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{ArgGroup, Args};
use hyper::Method;
use serde_json::{Value, json};

use super::{Global, Misspelt};
use crate::client::Client;
use crate::output::{self, Column, Format, line, show};

/// What is taken to be so.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("case").required(true).multiple(true).args(["down", "approve", "disable", "priority", "policy"]))]
pub struct Case {
    /// These nodes are lost: id, name or address.
    #[arg(long, value_name = "N", num_args = 1..)]
    down: Vec<String>,
    /// These routes are approved.
    #[arg(long, value_name = "N:PREFIX", num_args = 1..)]
    approve: Vec<String>,
    /// These routes are disabled.
    #[arg(long, value_name = "N:PREFIX", num_args = 1..)]
    disable: Vec<String>,
    /// These nodes are preferred so much for these prefixes.
    #[arg(long, value_name = "N:PREFIX=P", num_args = 1..)]
    priority: Vec<String>,
    /// The policy in this file is in force.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
}

/// A node and a prefix: the node's name has no colon, the prefix may have.
fn of(text: &str) -> anyhow::Result<Value> {
    match text.split_once(':') {
        Some((node, prefix)) if !node.is_empty() => Ok(json!({ "node": node, "prefix": prefix })),
        _ => bail!(Misspelt(format!("`{text}`: write a node, a colon and a prefix, such as r1:10.0.0.0/8"))),
    }
}

fn preferred(text: &str) -> anyhow::Result<Value> {
    let parts =
        text.rsplit_once('=').and_then(|(route, priority)| Some((of(route).ok()?, priority.parse::<i32>().ok()?)));
    let Some((mut route, priority)) = parts else {
        bail!(Misspelt(format!(
            "`{text}`: write a node, a colon, a prefix, `=` and a whole number, such as r1:10.0.0.0/8=10"
        )));
    };
    route["priority"] = priority.into();
    Ok(route)
}

pub async fn run(global: &Global, client: &Client, case: &Case) -> anyhow::Result<()> {
    let Case { down, approve, disable, priority, policy } = case;
    let priority = priority.iter().map(|text| preferred(text)).collect::<Result<Vec<Value>, _>>()?;
    let all = |texts: &[String]| texts.iter().map(|text| of(text)).collect::<Result<Vec<Value>, _>>();
    let policy = policy
        .as_ref()
        .map(|path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())));
    let body = json!({
        "down": down,
        "approve": all(approve)?,
        "disable": all(disable)?,
        "priority": priority,
        "policy": policy.transpose()?,
    });
    let answer = client.ask(Method::POST, "/api/v2/routes/what-if", Some(&body)).await?;
    if global.output != Format::Table {
        return output::one(global.output, &answer);
    }
    print_what_if(&answer);
    Ok(())
}

/// Prints which primaries would move, and who would gain and who would lose.
pub fn print_what_if(answer: &Value) {
    let primaries = answer["primaries"].as_array().map(Vec::as_slice).unwrap_or_default();
    for primary in primaries {
        let name = |field: &str| if primary[field].is_null() { "nobody".into() } else { show(&primary[field]) };
        let via = show(&primary["via"]);
        let via = if via == "-" { String::new() } else { format!(" for those who go via {via}") };
        let rank =
            if primary["rank"].is_null() { String::new() } else { format!(", which is {}", show(&primary["rank"])) };
        line(&format!(
            "{}{via}: {} -> {}{rank} ({})",
            show(&primary["shown"]),
            name("from"),
            name("to"),
            show(&primary["because"])
        ));
    }
    if primaries.is_empty() {
        line("no prefix would have another primary");
    }
    print_difference(&answer["viewers"]);
}

/// Prints who gains (`+`), loses (`-`) and reaches through another router (`~`) what.
fn print_difference(viewers: &Value) {
    let viewers = viewers.as_array().map(Vec::as_slice).unwrap_or_default();
    if viewers.is_empty() {
        line("nobody would gain or lose anything");
    }
    for found in viewers {
        line(&show(&found["who"]));
        for (field, sign) in [("gains", '+'), ("loses", '-'), ("moves", '~')] {
            for what in found[field].as_array().into_iter().flatten() {
                line(&format!("  {sign} {}", show(&what["text"])));
            }
        }
    }
}

pub async fn collisions(global: &Global, client: &Client) -> anyhow::Result<()> {
    let all = client.ask(Method::GET, "/api/v2/routes/collisions", None).await?;
    if global.output != Format::Table {
        return output::list(global.output, &all, &[]);
    }
    let mut lines = Vec::new();
    for collision in all.as_array().into_iter().flatten() {
        for site in collision["sites"].as_array().into_iter().flatten() {
            let nodes = site["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let instead = &site["instead"];
            for (at, node) in nodes.iter().enumerate() {
                let new = if instead["new"] == Value::Bool(true) { ", to be made" } else { "" };
                let name = if instead.is_null() {
                    "-".to_owned()
                } else {
                    format!("{} ({}{new})", show(&instead["site_name"]), instead["site"])
                };
                lines.push(json!({
                    "prefix": collision["prefix"],
                    "kind": collision["kind"],
                    "node": node["node"],
                    "advertises": node["prefix"],
                    "site": name,
                    "instead": instead["prefixes"][at],
                }));
            }
        }
    }
    let columns = [
        Column::text("PREFIX", "prefix"),
        Column::text("KIND", "kind"),
        Column::text("NODE", "node"),
        Column::text("ADVERTISES", "advertises"),
        Column::text("SITE", "site"),
        Column::text("INSTEAD", "instead"),
    ];
    output::list(global.output, &Value::Array(lines), &columns)
}
