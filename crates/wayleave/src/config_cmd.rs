//! `wayleave config`.

use clap::Subcommand;
use serde_json::json;

use crate::cli::Global;
use crate::config::{keys, prefixes, resolve};
use crate::output::{self, Column};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether all of it is right.
    Check,
    /// Show what holds for every key, and where that comes from. Secrets are hidden.
    Show,
    /// Print the page of all keys.
    Document,
}

/// Shows or checks the configuration.
pub fn run(global: &Global, command: &ConfigCommand) -> anyhow::Result<()> {
    if matches!(command, ConfigCommand::Document) {
        output::line(keys::document().trim_end());
        return Ok(());
    }
    let data_dir = global.data_dir()?;
    let layers = global.layers(&data_dir, &[])?;
    let options = resolve::options(&layers, &data_dir)?;
    if let Some(files) = &options.tls {
        wayleave_server::tls::load(files)?;
    }
    if matches!(command, ConfigCommand::Check) {
        output::line(&format!("the configuration is right; the server's address is {}", options.server_url));
        return Ok(());
    }
    let rows = layers.iter().flat_map(|(key, value, source)| {
        let parts = if key.name == prefixes::KEY { prefixes::flat(value) } else { Vec::new() };
        let whole = || vec![(key.name.to_owned(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))];
        let parts = if parts.is_empty() { whole() } else { parts };
        let row = |(key, value): (String, String)| json!({ "key": key, "value": hide_credentials(&value), "source": source.to_string() });
        parts.into_iter().map(row).collect::<Vec<_>>()
    });
    let columns = [Column::text("KEY", "key"), Column::text("VALUE", "value"), Column::text("SOURCE", "source")];
    output::list(global.output, &rows.collect(), &columns)
}

/// Addresses may hold a password.
fn hide_credentials(value: &str) -> String {
    match value.split_once("://").and_then(|(scheme, rest)| rest.split_once('@').map(|(_, rest)| (scheme, rest))) {
        Some((scheme, rest)) => format!("{scheme}://(hidden)@{rest}"),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_hidden() {
        assert_eq!(hide_credentials("https://me:secret@relay.test/map"), "https://(hidden)@relay.test/map");
        assert_eq!(hide_credentials("https://relay.test/map"), "https://relay.test/map");
    }
}
