//! Wayleave: a control server for Tailscale clients whose heart is route management.

mod cli;
mod client;
mod config;
mod config_cmd;
mod logging;
mod output;
mod serve;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    // One provider of cryptography for all of TLS; without it outgoing requests would have none.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    cli::run(cli::Cli::parse()).await
}
