//! `wayleave nodes`.

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::{Global, done, routes};
use crate::client::{Client, escape};
use crate::output::{self, Column};

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List nodes.
    List,
    /// Show one node.
    Show(Which),
    /// Let in a machine that waits for a person.
    Register {
        /// The last part of the address that the machine shows.
        #[arg(long)]
        key: String,
        /// Whose node it becomes: name, e-mail address or id.
        #[arg(long)]
        user: String,
    },
    /// Give a node another name, which it keeps.
    Rename {
        #[command(flatten)]
        which: Which,
        /// The name.
        name: String,
    },
    /// Make a node a tagged one, with exactly these tags.
    Tag {
        #[command(flatten)]
        which: Which,
        /// Each with its `tag:`.
        #[arg(required = true, value_delimiter = ',')]
        tags: Vec<String>,
    },
    /// End the life of a node's key: now, at a time, or never.
    Expire {
        #[command(flatten)]
        which: Which,
        /// A time such as 2026-12-24T00:00:00Z.
        #[arg(long, conflicts_with = "never")]
        at: Option<String>,
        /// It lives for ever.
        #[arg(long)]
        never: bool,
    },
    /// Delete a node and all that is its.
    Delete(Which),
    /// List routes, node by node.
    ListRoutes {
        /// Only of this node: id, name or address.
        #[arg(long)]
        node: Option<String>,
    },
    /// Approve exactly these routes of a node, and disable all others.
    ApproveRoutes {
        #[command(flatten)]
        which: Which,
        /// The whole set; none disables all.
        prefixes: Vec<String>,
    },
}

/// Which node.
#[derive(Debug, Args)]
pub struct Which {
    /// Id, name or address.
    #[arg(long, value_name = "N")]
    node: String,
}

impl Which {
    fn path(&self, rest: &str) -> String {
        format!("/api/v2/nodes/{}{rest}", escape(&self.node))
    }
}

pub async fn run(global: &Global, client: &Client, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::List => {
            let nodes = client.ask(Method::GET, "/api/v2/nodes", None).await?;
            output::list(global.output, &nodes, &columns())
        }
        Command::Show(which) => output::one(global.output, &client.ask(Method::GET, &which.path(""), None).await?),
        Command::Register { key, user } => {
            // People paste the whole address.
            let key = key.rsplit('/').next().unwrap_or(key);
            let path = format!("/api/v2/logins/{}/approve", escape(key));
            let node = client.ask(Method::POST, &path, Some(&json!({ "user": user }))).await?;
            let name = output::show(&node["name"]);
            done(global, &node, &format!("{name} is in, at {}", output::show(&node["addresses"])))
        }
        Command::Rename { which, name } => {
            let answer = client.ask(Method::POST, &which.path("/name"), Some(&json!({ "name": name }))).await?;
            done(global, &answer, &format!("{} is {name} from here on", which.node))
        }
        Command::Tag { which, tags } => {
            let body = |force: bool| Some(json!({ "tags": tags, "force": force }));
            let answer = global.confirmed(client, Method::POST, |_| which.path("/tags"), body).await?;
            done(global, &answer, &format!("{} has {}", which.node, tags.join(", ")))
        }
        Command::Expire { which, at, never } => {
            let body = |force: bool| Some(json!({ "at": at, "never": never, "force": force }));
            let answer = global.confirmed(client, Method::POST, |_| which.path("/expire"), body).await?;
            let when = match at {
                Some(at) => format!("ends at {at}"),
                None if *never => "never ends".to_owned(),
                None => "has ended: it has to log in again".to_owned(),
            };
            done(global, &answer, &format!("the key of {} {when}", which.node))
        }
        Command::Delete(which) => {
            let path = |force| which.path(if force { "?force=true" } else { "" });
            let answer = global.confirmed(client, Method::DELETE, path, |_| None).await?;
            done(global, &answer, &format!("{} was deleted", which.node))
        }
        Command::ListRoutes { node } => routes::list(global, client, node.as_deref(), None, None).await,
        Command::ApproveRoutes { which, prefixes } => {
            let body = |force: bool| {
                Some(json!({ "node": which.node, "prefixes": prefixes, "replace": true, "force": force }))
            };
            let path = |_| "/api/v2/routes/approve".to_owned();
            let changed = global.confirmed(client, Method::POST, path, body).await?;
            output::list(global.output, &changed, &routes::columns())
        }
    }
}

fn columns() -> [Column; 8] {
    [
        Column::text("ID", "id"),
        Column::text("NAME", "name"),
        Column::with("OWNER", |node: &Value| {
            if node["user"].is_null() { output::show(&node["tags"]) } else { output::show(&node["user"]) }
        }),
        Column::text("ADDRESSES", "addresses"),
        Column::flag("ONLINE", "online"),
        Column::time("LAST SEEN", "last_seen"),
        Column::time("EXPIRES", "expires_at"),
        Column::with("ROUTES", |node: &Value| {
            let list = |field: &str| node[field].as_array().cloned().unwrap_or_default();
            let (advertised, primary) = (list("advertised_routes"), list("primary_routes").len());
            let (approved, ahead): (Vec<Value>, Vec<Value>) =
                list("approved_routes").into_iter().partition(|prefix| advertised.contains(prefix));
            let of_these = format!("{} of {} approved", approved.len(), advertised.len());
            let parts = [
                (!advertised.is_empty()).then_some(of_these),
                (!ahead.is_empty()).then(|| format!("{} pre-approved", ahead.len())),
                (primary > 0).then(|| format!("primary for {primary}")),
            ];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
        }),
    ]
}
