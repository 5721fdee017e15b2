//! `wayleave users`.

use clap::Subcommand;
use hyper::Method;
use serde_json::json;

use super::{Global, done};
use crate::client::{Client, escape};
use crate::output::{self, Column};

/// What to do with users.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a user.
    Create {
        /// The name, unique.
        name: String,
        /// What clients show.
        #[arg(long, default_value = "")]
        display_name: String,
        /// The e-mail address.
        #[arg(long)]
        email: Option<String>,
        /// What the user is: owner, admin, it-admin, network-admin, billing-admin, auditor, member.
        #[arg(long)]
        role: Option<String>,
    },
    /// List users.
    List,
    /// Give a user another name.
    Rename {
        /// Who: name, e-mail address or id.
        user: String,
        /// The new name.
        name: String,
    },
    /// Make a user something else in the tailnet: policies name roles by `autogroup:`.
    Role {
        /// Who: name, e-mail address or id.
        user: String,
        /// owner, admin, it-admin, network-admin, billing-admin, auditor or member.
        role: String,
    },
    /// Delete a user who has no nodes, and the user's keys.
    Delete {
        /// Who: name, e-mail address or id.
        user: String,
    },
}

pub async fn run(global: &Global, client: &Client, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Create { name, display_name, email, role } => {
            let body = json!({ "name": name, "display_name": display_name, "email": email, "role": role });
            let user = client.ask(Method::POST, "/api/v2/users", Some(&body)).await?;
            done(global, &user, &format!("user {name} was made"))
        }
        Command::List => {
            let users = client.ask(Method::GET, "/api/v2/users", None).await?;
            let columns = [
                Column::text("ID", "id"),
                Column::text("NAME", "name"),
                Column::text("DISPLAY NAME", "display_name"),
                Column::text("EMAIL", "email"),
                Column::text("ROLE", "role"),
                Column::text("NODES", "nodes"),
                Column::time("CREATED", "created_at"),
            ];
            output::list(global.output, &users, &columns)
        }
        Command::Rename { user, name } => {
            let path = format!("/api/v2/users/{}", escape(user));
            let answer = client.ask(Method::PATCH, &path, Some(&json!({ "name": name }))).await?;
            done(global, &answer, &format!("user {user} is {name} from here on"))
        }
        Command::Role { user, role } => {
            let path = format!("/api/v2/users/{}", escape(user));
            let answer = client.ask(Method::PATCH, &path, Some(&json!({ "role": role }))).await?;
            done(global, &answer, &format!("user {user} is {role} from here on"))
        }
        Command::Delete { user } => {
            let path = format!("/api/v2/users/{}", escape(user));
            let answer = client.ask(Method::DELETE, &path, None).await?;
            done(global, &answer, &format!("user {user} was deleted"))
        }
    }
}
