//! `wayleave via6`.

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};
use wayleave_model::{Prefix, PrefixError, via6};

use super::{Global, Misspelt, done};
use crate::client::{escape, query};
use crate::output::{self, Column};

/// What to do with 4via6.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the prefix that a router at a site advertises. With a number for the site it needs no server.
    Encode {
        /// The site: name or number.
        site: String,
        /// An IPv4 prefix, such as 192.168.1.0/24.
        prefix: String,
    },
    /// Print what a 4via6 prefix or address stands for. Needs no server; if one answers, the site is named.
    Decode {
        /// Such as fd7a:115c:a1e0:b1a:0:7:c0a8:100/120.
        prefix: String,
    },
    /// Sites.
    #[command(subcommand)]
    Sites(Sites),
    /// Hosts at sites, by names that clients resolve.
    #[command(subcommand)]
    Hosts(Hosts),
}

/// What to do with sites.
#[derive(Debug, Subcommand)]
pub enum Sites {
    /// Make a site.
    Add {
        /// Its name.
        name: String,
        /// Its number, 0 to 65535; where it is not said, the lowest from 1 that is free.
        #[arg(long, value_name = "N")]
        id: Option<u32>,
    },
    /// List sites.
    List,
    /// Remove a site.
    Remove {
        /// Which: name or number.
        site: String,
    },
    /// Give a site another name. Its number stays.
    Rename {
        /// Which: name or number.
        site: String,
        /// The new name.
        name: String,
    },
}

/// What to do with hosts.
#[derive(Debug, Subcommand)]
pub enum Hosts {
    /// Name a host, or give the name to another address.
    Add {
        /// Its name.
        name: String,
        /// Its site: name or number.
        site: String,
        /// Its IPv4 address there.
        address: String,
    },
    /// List hosts.
    List,
    /// Take a name away.
    Remove {
        /// Its name.
        name: String,
        /// Its site: name or number.
        site: String,
    },
}

pub async fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Encode { site, prefix } => encode(global, site, prefix).await,
        Command::Decode { prefix } => decode(global, prefix).await,
        Command::Sites(command) => sites(global, command).await,
        Command::Hosts(command) => hosts(global, command).await,
    }
}

async fn encode(global: &Global, site: &str, prefix: &str) -> anyhow::Result<()> {
    let answer = match site.parse::<u16>() {
        Ok(number) => local(number.into(), prefix, false)?,
        Err(_) => {
            let text = format!("{prefix} via {site}");
            let path = format!("/api/v2/via6/prefix{}", query(&[("prefix", Some(&text))]));
            global.client()?.ask(Method::GET, &path, None).await?
        }
    };
    done(global, &answer, answer["prefix"].as_str().unwrap_or_default())
}

/// What a server answers, without one: it has no names.
fn local(site: u32, prefix: &str, is_address: bool) -> anyhow::Result<Value> {
    let part: Prefix = prefix.parse().map_err(|error: PrefixError| Misspelt(error.to_string()))?;
    let encoded = via6::at_site(site, &part)
        .ok_or_else(|| Misspelt(format!("{prefix} is not IPv4: what is reached through a 4via6 site is")))?;
    if let Some(reason) = encoded.invalid() {
        anyhow::bail!(Misspelt(format!("{prefix} via {site} can't be used: it {reason}")));
    }
    Ok(json!({
        "prefix": encoded.to_string(),
        "shown": if is_address { format!("{} via {site}", part.network()) } else { format!("{part} via {site}") },
        "site": site,
        "site_name": null,
        "part": part.to_string(),
    }))
}

async fn decode(global: &Global, prefix: &str) -> anyhow::Result<()> {
    let address = prefix.parse().map(Prefix::host);
    let parsed = address.or_else(|_| prefix.parse()).map_err(|error: PrefixError| Misspelt(error.to_string()))?;
    let (site, part) = via6::decode(&parsed).ok_or_else(|| {
        Misspelt(format!("{prefix} is no 4via6 prefix: those are in fd7a:115c:a1e0:b1a::/64, /96 or longer"))
    })?;
    let path = format!("/api/v2/via6/prefix{}", query(&[("prefix", Some(prefix))]));
    let named = match global.client() {
        Ok(client) => client.ask(Method::GET, &path, None).await.ok(),
        Err(_) => None,
    };
    let answer = match named {
        Some(answer) => answer,
        None => local(site, &part.to_string(), !prefix.contains('/'))?,
    };
    done(global, &answer, answer["shown"].as_str().unwrap_or_default())
}

async fn sites(global: &Global, command: &Sites) -> anyhow::Result<()> {
    let client = global.client()?;
    let path = |site: &str| format!("/api/v2/via6/sites/{}", escape(site));
    match command {
        Sites::Add { name, id } => {
            let body = json!({ "name": name, "id": id });
            let site = client.ask(Method::POST, "/api/v2/via6/sites", Some(&body)).await?;
            done(global, &site, &format!("site {name} was made, with the number {}", site["id"]))
        }
        Sites::List => {
            let all = client.ask(Method::GET, "/api/v2/via6/sites", None).await?;
            let columns = [
                Column::text("ID", "id"),
                Column::text("NAME", "name"),
                Column::text("HOSTS", "hosts"),
                Column::time("MADE", "created_at"),
            ];
            output::list(global.output, &all, &columns)
        }
        Sites::Remove { site } => {
            let answer = client.ask(Method::DELETE, &path(site), None).await?;
            done(global, &answer, &format!("site {site} was removed"))
        }
        Sites::Rename { site, name } => {
            let answer = client.ask(Method::PATCH, &path(site), Some(&json!({ "name": name }))).await?;
            done(global, &answer, &format!("site {site} is {name}"))
        }
    }
}

async fn hosts(global: &Global, command: &Hosts) -> anyhow::Result<()> {
    let client = global.client()?;
    match command {
        Hosts::Add { name, site, address } => {
            let body = json!({ "name": name, "site": site, "address": address });
            let host = client.ask(Method::POST, "/api/v2/via6/hosts", Some(&body)).await?;
            let text = format!("{} is {}", output::show(&host["dns_name"]), output::show(&host["via6"]));
            done(global, &host, &text)
        }
        Hosts::List => {
            let all = client.ask(Method::GET, "/api/v2/via6/hosts", None).await?;
            let columns = [
                Column::text("NAME", "dns_name"),
                Column::text("SITE", "site"),
                Column::text("ADDRESS", "address"),
                Column::text("FROM ELSEWHERE", "via6"),
            ];
            output::list(global.output, &all, &columns)
        }
        Hosts::Remove { name, site } => {
            let path = format!("/api/v2/via6/hosts{}", query(&[("name", Some(name)), ("site", Some(site))]));
            let answer = client.ask(Method::DELETE, &path, None).await?;
            done(global, &answer, &format!("{name} at {site} has no name any more"))
        }
    }
}
