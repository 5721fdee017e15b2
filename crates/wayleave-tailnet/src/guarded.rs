//! Addresses that clients need to reach before they reach anything else. A prefix that contains one can be enabled by a person, after a
//! warning, and never by an auto-approver (design.md 2).

use std::fmt;
use std::net::IpAddr;

use wayleave_model::{NodeId, Prefix, Timestamp};
use wayleave_routes::approval;

use crate::tailnet::{Effect, Tailnet};

/// What such an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarded {
    /// This server's.
    Server,
    /// A relay's.
    Relay,
    /// That of a resolver of names.
    Resolver,
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "the control server's address",
            Self::Relay => "a relay's address",
            Self::Resolver => "a resolver's address",
        })
    }
}

impl Tailnet {
    /// The address in this prefix that clients need before anything else, if there is one. Exits have them all, and are no danger: clients
    /// keep the way to their server and relays out of an exit.
    pub fn guarded(&self, prefix: &Prefix) -> Option<(IpAddr, Guarded)> {
        if prefix.is_exit() {
            return None;
        }
        self.guarded.iter().find(|(address, _)| prefix.contains(**address)).map(|(address, what)| (*address, *what))
    }

    /// What was guarded may be free: auto-approvers are asked again.
    pub(crate) fn guards_changed(&self, _now: Timestamp, out: &mut Vec<Effect>) {
        let waiting: std::collections::BTreeSet<NodeId> =
            self.routes.rows().filter(|row| approval::wants_auto_approval(row)).map(|row| row.node).collect();
        waiting.into_iter().for_each(|node| self.ask_again(node, out));
    }
}
