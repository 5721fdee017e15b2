//! `wayleave apikeys`.

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use serde_json::json;

use super::{Global, done, duration};
use crate::client::Client;
use crate::output::{self, Column, Format};

/// What to do with keys for the admin API.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key. It is shown this once.
    Create {
        /// How long it works, such as 90d. Not said: for ever.
        #[arg(long, value_parser = duration)]
        expires: Option<Duration>,
        /// A word on what it is for.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List keys, without their secrets.
    List,
    /// End a key.
    Delete {
        /// Its id.
        id: u64,
    },
}

pub async fn run(global: &Global, client: &Client, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Create { expires, description } => {
            let seconds = expires.map(|expires| expires.as_secs());
            let body = json!({ "description": description, "expires_in_seconds": seconds });
            let key = client.ask(Method::POST, "/api/v2/apikeys", Some(&body)).await?;
            if global.output != Format::Table {
                return output::one(global.output, &key);
            }
            output::line(key["key"].as_str().unwrap_or_default());
            output::note("\nIt is not shown again. Send it as `Authorization: Bearer KEY`.");
            Ok(())
        }
        Command::List => {
            let keys = client.ask(Method::GET, "/api/v2/apikeys", None).await?;
            let columns = [
                Column::text("ID", "id"),
                Column::text("NAME", "name"),
                Column::text("DESCRIPTION", "description"),
                Column::time("CREATED", "created_at"),
                Column::time("EXPIRES", "expires_at"),
            ];
            output::list(global.output, &keys, &columns)
        }
        Command::Delete { id } => {
            let answer = client.ask(Method::DELETE, &format!("/api/v2/apikeys/{id}"), None).await?;
            done(global, &answer, &format!("key {id} opens nothing any more"))
        }
    }
}
