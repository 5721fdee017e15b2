//! Every byte whose shape Tailscale owns: the Noise handshake and records, the JSON of the control protocol, relay frames, STUN.
//!
//! Nothing here opens a socket, reads a clock or rolls dice: bytes go in and come out, and what has to be random is an argument.
//! Bytes from outside never panic; what can't be read is an error that says where.
//!
//! Sources are named as sections of the protocol notes ("protocol.md 1.5"), which in turn were read off the clients from release
//! 1.80 to 1.102, and run against them.

pub mod capability;
pub mod control;
pub mod derp;
pub mod noise;
pub mod ping;
mod private_key;
pub mod stun;

pub use capability::CapabilityVersion;
pub use private_key::{PrivateKey, PrivateKeyError};
