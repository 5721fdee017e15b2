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

/// Every so many tasks a worker looks whether somebody else woke one. What moves a route is told to the sessions by the thread of the
/// control loop, and a worker that is busy with what it woke itself looks for others' once in some sixty tasks if it is not told to: in a
/// storm of 6,000 clients the last of them heard of a failover seconds later.
const OTHERS_TURN: u32 = 2;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().global_queue_interval(OTHERS_TURN).build();
    match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => {
            output::note(&format!("wayleave: the system gives no threads to run on: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> ExitCode {
    // One provider of cryptography for all of TLS; without it outgoing requests would have none.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    cli::run(cli::Cli::parse()).await
}
