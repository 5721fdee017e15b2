//! The relay (DERP) and STUN: how clients with no direct path reach each other, and how they learn their own addresses.
//!
//! The relay asks an [`Admission`] who may connect, and knows no tailnet. Each connection is one task with two halves: one reads what
//! its client sends and puts it in the queue of whoever it is for, the other writes what is in its own queue. Queues are short and
//! drop their oldest packet, so no client's reading ever waits for another one's writing; a client that takes nothing for two
//! seconds is cut off. Packets of path discovery have a queue of their own, so that data can't crowd them out.

mod client;
mod relay;
pub mod stun;

pub use relay::{Admission, Counters, Relay, RelayError, Settings, upgrade_response};
