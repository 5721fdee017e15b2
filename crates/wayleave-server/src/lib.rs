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
mod deliveries;
mod delivery;
mod derp_map;
mod encoding;
pub mod evaluate;
mod guard;
mod imported_keys;
pub mod keys;
mod listener;
mod machine;
pub mod meter;
pub mod metrics;
pub mod noise_stream;
pub mod options;
mod own_thread;
pub mod policy_file;
mod probe;
mod relay;
pub mod secrets;
pub mod take_over;
pub mod tls;
pub mod transport;
mod web;
pub mod webhook;
mod ws_stream;

pub use app::{Server, StartError};
pub use clock::Clock;
pub use control_loop::{CommandError, Control};
pub use options::Options;

/// What the options of a server hold of the tailnet's.
pub mod tailnet {
    pub use wayleave_routes::{Judging, Kind, Mode, Settings as RouteSettings};
    pub use wayleave_tailnet::{AddressError, AddressPool, Settings};
}

/// What the options of a server hold of the wire's.
pub mod wire {
    pub use wayleave_wire::control::{DnsConfig, DnsRecord, Resolver};
}

/// A text as a part of a path or of a query (RFC 3986, 2.3: all but the unreserved characters are escaped).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
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
