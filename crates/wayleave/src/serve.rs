//! `wayleave serve`.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use wayleave_server::Server;

use crate::cli::Global;
use crate::config::resolve;
use crate::logging;

/// Flags of `serve` that have names of their own; every other key is set with `--set`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where clients, browsers and API users are served: an address and a port, or `off`.
    #[arg(long, value_name = "A:P")]
    listen: Option<String>,
    /// The address at which clients reach the server.
    #[arg(long, value_name = "URL")]
    server_url: Option<String>,
}

impl ServeArgs {
    fn flags(&self) -> Vec<(&'static str, &'static str, String)> {
        let listen = self.listen.clone().map(|text| ("--listen", "listen", text));
        let server_url = self.server_url.clone().map(|text| ("--server-url", "server_url", text));
        listen.into_iter().chain(server_url).collect()
    }
}

/// Lets this process open as many files as the system lets it: each client is one, and the usual limit is 1,024.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, limit = limit.current, "the limit on open files stays as it is; each client needs one");
    }
}

/// Runs a server until a signal ends it.
pub async fn run(global: &Global, args: &ServeArgs) -> anyhow::Result<()> {
    let data_dir = global.data_dir()?;
    let layers = global.layers(&data_dir, &args.flags())?;
    let text = |key| layers.get(key).and_then(|(value, _)| value.as_str()).unwrap_or_default().to_owned();
    logging::set_up(&text("log.level"), &text("log.format"))?;
    let options = resolve::options(&layers, &data_dir)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    raise_open_files();
    let (url, relay) = (options.server_url.clone(), options.derp.own.is_some());
    let server = Server::start(options).await.context("the server did not start")?;
    tracing::info!(
        address = server.address().map(|address| address.to_string()),
        data_dir = %data_dir.display(),
        relay,
        "serving"
    );
    // The one line to type on the first client; nobody may be reading.
    writeln!(std::io::stdout(), "tailscale up --login-server {url}").ok();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => server.reload().await,
        }
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = server.stop() => tracing::info!("stopped"),
        _ = terminate.recv() => tracing::warn!("stopped at once"),
        _ = interrupt.recv() => tracing::warn!("stopped at once"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let most = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: most }).unwrap();
        raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current, most);
    }
}
