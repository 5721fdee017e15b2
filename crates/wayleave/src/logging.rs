//! Logging: to standard error, so that standard output stays for what was asked for.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets logging up. A filter that can't be read is an error.
pub fn set_up(level: &str, format: &str) -> anyhow::Result<()> {
    // The HTTP libraries' own words are of interest to nobody below warnings.
    let quiet = "h2=warn,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn,sqlx=warn,tower=warn,snow=warn";
    let filter = EnvFilter::try_new(format!("{quiet},{level}"))
        .map_err(|error| anyhow::anyhow!("`log.level` is `{level}`, and takes a level or a filter: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        "text" => builder.with_target(false).init(),
        "json" => builder.json().flatten_event(true).init(),
        other => anyhow::bail!("`log.format` is `{other}`, and takes text or json"),
    }
    Ok(())
}
