//! The official Rust client against this server. It pulls two minutes of building, so it is a crate of its own, outside the default
//! members; `cargo xtask check` runs it.
