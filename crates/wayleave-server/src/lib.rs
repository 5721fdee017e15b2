//! The server: the control loop that owns a tailnet, client sessions, probes, and the admin API.
//!
//! ```text
//!  clients ---> listener ---> /key /ts2021 /derp /register ...  --> machine (Noise, HTTP/2) --> register, map --.
//!  people  ---> unix socket, listener ---> api -----------------------------------------------------------------+--> control loop
//!                                                                                                               |    (one task)
//!  clients <--- map sessions <--- netmap <--- snapshots <-------------------------------------------------------'
//! ```
//!
//! Every task ends when the server's token is cancelled. Connections and sessions may be dropped at any point; the control loop's own
//! writes never are.

pub mod api;
mod app;
pub mod clock;
mod connections;
pub mod control_loop;
pub mod data_dir;
mod derp_map;
mod encoding;
pub mod evaluate;
pub mod keys;
mod listener;
mod machine;
pub mod meter;
pub mod noise_stream;
pub mod options;
mod relay;
pub mod secrets;
pub mod tls;
mod web;
mod ws_stream;

pub use app::{Server, StartError};
pub use clock::Clock;
pub use control_loop::{CommandError, Control};
pub use options::Options;

/// What the options of a server hold of the tailnet's.
pub mod tailnet {
    pub use wayleave_routes::Settings as RouteSettings;
    pub use wayleave_tailnet::{AddressError, AddressPool, Settings};
}

/// What the options of a server hold of the wire's.
pub mod wire {
    pub use wayleave_wire::control::{DnsConfig, DnsRecord, Resolver};
}

/// An error and all that caused it, in one line.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = source.source();
    }
    text
}
