//! `wayleave ssh`.

use clap::Subcommand;
use hyper::Method;

use super::{Global, done};
use crate::client::{Client, escape};
use crate::output::{self, Column, show};

/// What to do with shells that wait for a person (`check` in the policy's `ssh`).
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the connections that wait.
    List,
    /// Let a connection in.
    Approve {
        /// What the user in front of the shell is shown.
        key: String,
    },
    /// Refuse a connection.
    Deny {
        /// What the user in front of the shell is shown.
        key: String,
    },
}

pub async fn run(global: &Global, client: &Client, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::List => {
            let checks = client.ask(Method::GET, "/api/v2/ssh/checks", None).await?;
            let columns = [
                Column::text("KEY", "key"),
                Column::text("FROM", "from"),
                Column::text("OWNER", "owner"),
                Column::text("TO", "to"),
                Column::text("AS", "user"),
                Column::time("WAITS SINCE", "since"),
            ];
            output::list(global.output, &checks, &columns)
        }
        Command::Approve { key } => answer(global, client, key, "approve", "is let in").await,
        Command::Deny { key } => answer(global, client, key, "deny", "is refused").await,
    }
}

async fn answer(global: &Global, client: &Client, key: &str, verb: &str, what: &str) -> anyhow::Result<()> {
    let path = format!("/api/v2/ssh/checks/{}/{verb}", escape(key));
    let check = client.ask(Method::POST, &path, None).await?;
    let text = format!("{} at {} as {} {what}", show(&check["from"]), show(&check["to"]), show(&check["user"]));
    done(global, &check, &text)
}
