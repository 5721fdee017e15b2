//! Tests only: clients that speak the real protocol over loopback, and servers as shipped to play them against.

mod client;
mod mirror;
pub mod network;
mod server;
pub mod swarm;

pub use client::{Client, MapStream};
pub use mirror::Mirror;
pub use server::{TestServer, options};
