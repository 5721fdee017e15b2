//! `wayleave webhooks`.

use anyhow::bail;
use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::{Global, done};
use crate::client::Client;
use crate::output::{self, Column, Format, line, note, show};

/// What to do with webhooks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Have an address called with what happens to routes. Its secret is shown once.
    Add {
        /// `http://` or `https://`.
        url: String,
        /// Of what, with commas between; where it is not said, of everything: pending, approved, disabled, withdrawn, primary-changed,
        /// redundancy-lost, prefix-down, prefix-restored, collision-found, key-expires.
        #[arg(long, value_delimiter = ',')]
        events: Vec<String>,
    },
    /// List webhooks, with how many calls wait.
    List,
    /// Remove a webhook, and all that waits for it.
    Remove {
        /// Its number.
        id: u64,
    },
    /// Call a webhook once, to see whether it answers.
    Test {
        /// Its number.
        id: u64,
    },
}

pub async fn run(global: &Global, client: &Client, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Add { url, events } => {
            let body = json!({ "url": url, "events": events });
            let made = client.ask(Method::POST, "/api/v2/webhooks", Some(&body)).await?;
            if global.output == Format::Table {
                line(&show(&made["secret"]));
                note(&format!("webhook {} was made; this secret signs its calls and is not shown again", made["id"]));
                return Ok(());
            }
            output::one(global.output, &made)
        }
        Command::List => {
            let all = client.ask(Method::GET, "/api/v2/webhooks", None).await?;
            let events = |webhook: &Value| match show(&webhook["events"]).as_str() {
                "-" => "all".to_owned(),
                events => events.to_owned(),
            };
            let columns = [
                Column::text("ID", "id"),
                Column::text("URL", "url"),
                Column::with("EVENTS", events),
                Column::text("WAITING", "waiting"),
                Column::time("MADE", "created_at"),
            ];
            output::list(global.output, &all, &columns)
        }
        Command::Remove { id } => {
            let answer = client.ask(Method::DELETE, &format!("/api/v2/webhooks/{id}"), None).await?;
            done(global, &answer, &format!("webhook {id} was removed"))
        }
        Command::Test { id } => {
            let answer = client.ask(Method::POST, &format!("/api/v2/webhooks/{id}/test"), None).await?;
            if answer["delivered"] != Value::Bool(true) {
                bail!("webhook {id}: {}", show(&answer["error"]));
            }
            done(global, &answer, &format!("webhook {id} answers"))
        }
    }
}
