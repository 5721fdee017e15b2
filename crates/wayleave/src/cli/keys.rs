//! `wayleave keys`.

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use serde_json::json;

use super::{Global, done, duration};
use crate::client::Client;
use crate::output::{self, Column, Format};

/// What to do with pre-auth keys.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key. It is shown this once.
    Create {
        /// Whose nodes it makes: name, e-mail address or id. May be left out with --tags.
        #[arg(long)]
        user: Option<String>,
        /// It may let more than one machine in.
        #[arg(long)]
        reusable: bool,
        /// Its nodes are deleted once they are gone.
        #[arg(long)]
        ephemeral: bool,
        /// Tags of its nodes; they belong to no user.
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
        /// How long it works, such as 24h. Not said: for ever.
        #[arg(long, value_parser = duration)]
        expires: Option<Duration>,
        /// A word on what it is for.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List keys, without their secrets.
    List,
    /// End a key. Nodes that it made stay.
    Revoke {
        /// Its id.
        id: u64,
    },
}

pub async fn run(global: &Global, client: &Client, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Create { user, reusable, ephemeral, tags, expires, description } => {
            let body = json!({ "user": user, "reusable": reusable, "ephemeral": ephemeral, "tags": tags,
                "description": description, "expires_in_seconds": expires.map(|expires| expires.as_secs()) });
            let key = client.ask(Method::POST, "/api/v2/keys", Some(&body)).await?;
            if global.output != Format::Table {
                return output::one(global.output, &key);
            }
            let server = client.ask(Method::GET, "/api/v2/server", None).await?;
            let text = key["key"].as_str().unwrap_or_default();
            output::line(text);
            let url = server["server_url"].as_str().unwrap_or_default();
            output::note(&format!(
                "\nIt is not shown again. On the machine that is to join:\n\n  tailscale up --login-server {url} --auth-key {text}"
            ));
            Ok(())
        }
        Command::List => {
            let keys = client.ask(Method::GET, "/api/v2/keys", None).await?;
            let columns = [
                Column::text("ID", "id"),
                Column::text("KEY", "hint"),
                Column::text("STATE", "state"),
                Column::text("USER", "user"),
                Column::text("TAGS", "tags"),
                Column::flag("REUSABLE", "reusable"),
                Column::flag("EPHEMERAL", "ephemeral"),
                Column::time("EXPIRES", "expires_at"),
                Column::time("LAST USED", "used_at"),
                Column::text("DESCRIPTION", "description"),
            ];
            output::list(global.output, &keys, &columns)
        }
        Command::Revoke { id } => {
            let answer = client.ask(Method::DELETE, &format!("/api/v2/keys/{id}"), None).await?;
            done(global, &answer, &format!("key {id} lets nobody in any more"))
        }
    }
}
