//! `wayleave import`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use wayleave_import::headscale::{self, Config, PolicyAt, Prepared, Setup, key_file, prepare};
use wayleave_import::source::is_sqlite;
use wayleave_import::{Location, Report, Warning};
use wayleave_server::Clock;
use wayleave_server::take_over::{Document, ServerKeys, take_over, take_over_export};

use super::{Global, done};
use crate::output::{self, Format};

/// Where to move from.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Move a Headscale installation over, of any release since 0.2, into an empty data folder. The source is never written to.
    Headscale {
        /// Its database (a SQLite file, or a postgres:// address), or its config.yaml, which names the database. With a database, --config
        /// names the config.yaml.
        source: String,
        /// Say what would come of it, and write nothing.
        #[arg(long)]
        check: bool,
        /// The file with the server's Noise key (`noise_private.key`).
        #[arg(long, value_name = "F")]
        noise_key: Option<PathBuf>,
        /// The file with the embedded relay's key (`derp_server_private.key`).
        #[arg(long, value_name = "F")]
        derp_key: Option<PathBuf>,
        /// Where the policy is: a file, `database`, or `allow-all` if there was none.
        #[arg(long, value_name = "WHERE", conflicts_with = "deny_all")]
        policy: Option<String>,
        /// Set a policy that allows nothing in the place of the one that was in force.
        #[arg(long)]
        deny_all: bool,
    },
    /// Read back what `wayleave export` wrote, into an empty data folder. Keys come without their secrets, and open nothing.
    Wayleave {
        /// The export.
        file: PathBuf,
        /// The file with the Noise key of the server that it came from (`noise.key`). Without it every client has to be restarted.
        #[arg(long, value_name = "F")]
        noise_key: Option<PathBuf>,
        /// The file with its relay's key (`derp.key`).
        #[arg(long, value_name = "F")]
        derp_key: Option<PathBuf>,
    },
}

/// Every row shown for a code in a table; programs get all.
const SHOWN: usize = 5;

pub async fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Headscale { .. } => headscale(global, command).await,
        Command::Wayleave { file, noise_key, derp_key } => {
            wayleave(global, file, noise_key.as_deref(), derp_key.as_deref()).await
        }
    }
}

async fn wayleave(
    global: &Global,
    file: &Path,
    noise_key: Option<&Path>,
    derp_key: Option<&Path>,
) -> anyhow::Result<()> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let document: Document =
        serde_json::from_slice(&text).with_context(|| format!("{} is no export of Wayleave", file.display()))?;
    let noise = noise_key.map(key_file::read).transpose()?;
    let derp = derp_key.map(key_file::read).transpose()?;
    if noise.is_none() {
        output::note("without --noise-key this server gets a key of its own: restart tailscaled on each client once");
    }
    let data_dir = global.data_dir()?;
    let taken = take_over_export(&data_dir, ServerKeys { noise, derp }, &document).await;
    taken.context("nothing was imported")?;
    let rows: BTreeMap<&String, usize> = document.tables.iter().map(|(table, rows)| (table, rows.len())).collect();
    let shown: Vec<String> = rows.iter().filter(|(_, count)| **count > 0).map(|(t, n)| format!("{n} {t}")).collect();
    let text = format!("read into {}: {}", data_dir.display(), shown.join(", "));
    done(global, &json!({ "data_dir": data_dir, "rows": rows }), &text)
}

async fn headscale(global: &Global, command: &Command) -> anyhow::Result<()> {
    let Command::Headscale { source, check, noise_key, derp_key, policy, deny_all } = command else { return Ok(()) };
    let is_config = is_config(source)?;
    let path = if is_config { Some(PathBuf::from(source)) } else { headscale_config(global) };
    let config = path.as_deref().map(Config::read).transpose()?;
    let mut setup = match &config {
        Some(config) => Setup::from_config(config, &global.data_dir()?)?,
        None => Setup::default(),
    };
    setup.noise_key = noise_key.clone().or(setup.noise_key);
    setup.derp_key = derp_key.clone().or(setup.derp_key);
    setup.policy = match policy.as_deref() {
        _ if *deny_all => PolicyAt::DenyAll,
        None => setup.policy,
        Some("database") => PolicyAt::Database,
        Some("allow-all") => PolicyAt::Nowhere,
        Some(path) => PolicyAt::File(PathBuf::from(path)),
    };
    let location = match &config {
        Some(config) if is_config => headscale::location(config)?,
        Some(_) | None => Location::parse(source)?,
    };
    let now = Clock::default().now();
    let prepared = prepare(&location, &setup, now, &mut |what| output::note(&format!("{what} ..."))).await?;
    if *check {
        show(global, &prepared.report, &prepared.stops)?;
        return may_go_on(&prepared.stops);
    }
    may_go_on(&prepared.stops)?;
    let report = write(global, prepared).await?;
    show(global, &report, &[])
}

/// Whether a source is a configuration: told by its name, where it is no database.
fn is_config(source: &str) -> anyhow::Result<bool> {
    let path = Path::new(source);
    let named = path.extension().is_some_and(|ext| ["yaml", "yml", "json", "toml"].iter().any(|known| ext == *known));
    Ok(named && path.exists() && !is_sqlite(path)?)
}

/// `--config` is Headscale's here; the variable of that flag is still about Wayleave's own.
fn headscale_config(global: &Global) -> Option<PathBuf> {
    let own = std::env::var_os("WAYLEAVE_CONFIG").map(PathBuf::from);
    global.config.clone().filter(|path| own.as_ref() != Some(path))
}

fn may_go_on(stops: &[String]) -> anyhow::Result<()> {
    match stops {
        [] => Ok(()),
        [one] => bail!("nothing was imported: {one}"),
        all => bail!("nothing was imported:\n- {}", all.join("\n- ")),
    }
}

async fn write(global: &Global, prepared: Prepared) -> anyhow::Result<Report> {
    let Prepared { mut report, stops: _, files, rows, older, noise, derp } = prepared;
    let data_dir = global.data_dir()?;
    let keys = ServerKeys { noise, derp };
    let mut progress = |rows: u64| output::note(&format!("{rows} rows written ..."));
    let taken = take_over(&data_dir, keys, &files, &rows, &older, &mut progress).await;
    taken.context("nothing was imported")?;
    for (name, _) in &files {
        report
            .notices
            .push(format!("{} was written: look at it before the first start", data_dir.join(name).display()));
    }
    report.written = true;
    Ok(report)
}

fn show(global: &Global, report: &Report, stops: &[String]) -> anyhow::Result<()> {
    if global.output != Format::Table {
        let mut value = serde_json::to_value(report)?;
        value["stops"] = json!(stops);
        return output::one(global.output, &value);
    }
    for line in lines(report) {
        output::line(&line);
    }
    Ok(())
}

/// The report as people read it.
fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("{}: {}, {}", report.source, report.generation, report.database)];
    lines.extend(report.notices.iter().map(|notice| format!("! {notice}")));
    lines.push(String::new());
    let width = report.counts.keys().map(|kind| kind.len()).max().unwrap_or(0);
    for (kind, count) in &report.counts {
        lines.push(format!("{kind:width$}  {:>6} read  {:>6} {}", count.read, count.written, arrive(report)));
    }
    let ids: Vec<String> = report.next_ids.iter().map(|(kind, id)| format!("{kind} {id}")).collect();
    lines.push(format!("next ids: {}", ids.join(", ")));
    for (code, count) in &report.warning_counts {
        lines.push(format!("\n{code} ({count}): {}", report.meanings.get(code).copied().unwrap_or_default()));
        let rows = report.warnings.iter().filter(|warning| warning.code.word() == *code);
        lines.extend(rows.take(SHOWN).map(|warning| format!("  {}", row(warning))));
        if *count > SHOWN {
            lines.push(format!("  and {} more: --output json lists them", count - SHOWN));
        }
    }
    if !report.settings.is_empty() {
        lines.push("\nsettings:".to_owned());
    }
    for setting in &report.settings {
        let to = setting.maps_to.as_deref().unwrap_or("has no counterpart");
        let note = setting.note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
        lines.push(format!("  {} -> {to}{note}", setting.key));
    }
    if !report.auto_approvable.is_empty() {
        lines.push("\nan auto-approver would approve these, which wait for `wayleave routes approve`:".to_owned());
    }
    for route in &report.auto_approvable {
        lines.push(format!("  node {} ({}) {} by {}", route.node, route.name, route.prefix, route.by));
    }
    if !report.clients_too_old.is_empty() {
        lines.push(format!("\nclients that are too old for this server: {}", report.clients_too_old.join(", ")));
    }
    lines
}

fn arrive(report: &Report) -> &'static str {
    if report.written { "written" } else { "would arrive" }
}

fn row(warning: &Warning) -> String {
    let Warning { code: _, table, id, prefix, old, new } = warning;
    let mut text = table.clone();
    if let Some(id) = id {
        text.push_str(&format!(" {id}"));
    }
    if let Some(prefix) = prefix {
        text.push_str(&format!(" `{prefix}`"));
    }
    match (old, new) {
        (Some(old), Some(new)) => text.push_str(&format!(": {old} -> {new}")),
        (Some(one), None) | (None, Some(one)) => text.push_str(&format!(": {one}")),
        (None, None) => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use wayleave_import::Code;

    use super::*;

    #[test]
    fn what_is_written_out_of_a_configuration_is_one_that_a_server_starts_with() {
        let folder = tempfile::tempdir().unwrap();
        for old in [
            "server_url: https://hs.example.net:8443\nlisten_addr: 0.0.0.0:8443\nprivate_key_path: private.key\n\
             ip_prefixes: [\"fd7a:115c:a1e0::/48\", 100.64.0.0/10]\nderp: {server: {enabled: false}, urls: [\"https://derp.example.net/map.json\"], update_frequency: 24h}\n\
             db_type: sqlite3\ndb_path: db.sqlite\nlog: {level: debug, format: json}\n\
             dns_config: {override_local_dns: true, nameservers: [9.9.9.9, \"https://dns.example.net/abc\"], magic_dns: true, \
             base_domain: ts.example.org, extra_records: [{name: grafana.ts.example.org, type: A, value: 100.64.0.3}]}\n",
            "server_url: https://hs.ts.example.org\nlisten_addr: \"[::]:8080\"\nprefixes: {v4: 10.0.0.0/8, v6: \"fd7a:115c:a1e0::/48\"}\n\
             derp: {server: {enabled: true, region_id: 901, region_code: ams, region_name: A, stun_listen_addr: \":3478\", ipv4: 198.51.100.7}}\n\
             node: {expiry: 0, ephemeral: {inactivity_timeout: 90s}}\ndatabase: {type: sqlite, sqlite: {path: db.sqlite}}\n\
             dns: {magic_dns: false, base_domain: ts.example.org, override_local_dns: false, nameservers: {global: [9.9.9.9], \
             split: {corp.example.net: [10.20.0.53]}}, search_domains: [corp.example.net]}\n",
        ] {
            let config = Config::parse(&folder.path().join("config.yaml"), old).unwrap();
            let new = headscale::NewConfig::of(&config, folder.path()).unwrap();
            let file = folder.path().join("wayleave.toml");
            std::fs::write(&file, &new.text).unwrap();
            let layers = crate::config::Layers::read(Some(&file), std::iter::empty(), &[], &[]).unwrap();
            let options = crate::config::resolve::options(&layers, folder.path()).unwrap();
            assert_eq!(Some(options.server_url), config.server_url);
            assert_eq!(options.dns.config.proxied, config.dns.magic_dns);
            assert_eq!(options.dns.config.fallback_resolvers.len(), usize::from(!config.dns.override_local));
            assert_eq!(options.derp.own.map(|own| own.region_id), config.derp.embedded.then_some(901));
            assert_eq!(options.tailnet.ephemeral_timeout, config.ephemeral);
        }
    }

    #[test]
    fn a_report_names_each_code_once_with_its_rows_and_what_it_means() {
        let mut report = Report { source: "x.db".to_owned(), ..Report::default() };
        let warnings = (1..=7).map(|id| Warning::row(Code::PrefixInvalid, "routes", id).prefix("10.0.0.0/33"));
        report.set_warnings(warnings.collect());
        let text = lines(&report).join("\n");
        assert!(text.contains("prefix_invalid (7): This is no prefix. Left out.\n  routes 1 `10.0.0.0/33`"), "{text}");
        assert!(text.contains("and 2 more"), "{text}");
        assert_eq!(serde_json::to_value(&report).unwrap()["warnings"].as_array().map(Vec::len), Some(7));
    }
}
