//! A whole tailnet in virtual time: the server as shipped, clients that speak the real protocol, and a network, a clock and a kernel
//! that only exist here. `bounds.rs` holds the times that design.md 4 states, `standby.rs` those of the standby's check, `carriers.rs` those
//! of checks where several routers carry a prefix, `holds.rs` what is asked of witnesses; in `uplink.rs` it is the server that is cut off;
//! `troubles.rs`, which is played by `cargo xtask simulate` only, plays random histories, each with a seed that is printed where it fails:
//! `SIMULATION_SEED` plays one again, `SIMULATIONS` says how many.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
#![allow(clippy::disallowed_methods, reason = "how many histories, and which, comes from outside")]
#![allow(clippy::print_stdout, reason = "the figures are what a person runs it for")]

mod bounds;
mod carriers;
mod holds;
mod machine;
mod sim;
mod standby;
#[cfg(feature = "troubles")]
mod troubles;
mod uplink;
