//! A router's own address inside the prefix that it advertises: while it reports one, its interface to that network is up.
//!
//! A router that once reported an endpoint of its own inside the prefix, and whose later, non-empty report holds none, has lost that
//! interface or its address. It is convicted as soon as somebody better is there: another candidate that is steady or flapping,
//! and has such an address or never had one. Where all lost theirs nobody is convicted, so the prefix stays where it is; whoever gets an address back
//! first then takes over. A conviction is lifted when an address is back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wayleave_model::{Endpoint, NodeId, Prefix, Timestamp, via6};

use crate::election::Rank;
use crate::evidence::Kind;
use crate::reason::Cause;
use crate::table::{Effect, RouteTable};

/// Where a node can be reached, as it last reported it.
///
/// Clients call an address of their own `stun` when a server in the same network saw it (seen with 1.102.5), so the kinds of endpoints don't
/// tell which are a node's own; that one is inside a prefix that the node advertises does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints(BTreeSet<IpAddr>);

impl Endpoints {
    /// The addresses of a report.
    pub fn reported(endpoints: &[Endpoint]) -> Self {
        Self(endpoints.iter().map(|endpoint| endpoint.address.ip()).collect())
    }

    /// One of them inside this prefix, as clients address it by way of the prefix: where that is a 4via6 prefix, at its site.
    pub fn inside(&self, prefix: &Prefix) -> Option<IpAddr> {
        self.0.iter().find_map(|address| via6::address_through(prefix, *address))
    }
}

/// What is known of a router's own address inside a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Has,
    NeverHad,
    Gone,
}

impl RouteTable {
    pub(crate) fn endpoints_reported(&mut self, node: NodeId, endpoints: Endpoints) {
        let Some(router) = self.routers.get_mut(&node) else { return };
        // An empty list is no report: a client without any address could not have sent it.
        if endpoints.0.is_empty() || router.endpoints == endpoints {
            return;
        }
        router.endpoints = endpoints;
        self.mark_node(node);
    }

    /// An address of a node's own inside a prefix, as it last reported it, and as clients address it by way of the prefix.
    pub fn own_address(&self, node: NodeId, prefix: &Prefix) -> Option<IpAddr> {
        self.routers.get(&node)?.endpoints.inside(prefix)
    }

    fn own(&self, node: NodeId, prefix: &Prefix) -> Own {
        if self.own_address(node, prefix).is_some() {
            return Own::Has;
        }
        let had = self.row_of(node, prefix).is_some_and(|row| row.had_endpoint);
        let reported = self.routers.get(&node).is_some_and(|router| !router.endpoints.0.is_empty());
        if had && reported { Own::Gone } else { Own::NeverHad }
    }

    /// Remembers who has an address inside a prefix, and judges who has it no more.
    pub(crate) fn judge_endpoints(&mut self, prefix: Prefix, now: Timestamp, out: &mut Vec<Effect>) {
        let holders: Vec<NodeId> = self.holders(&prefix).collect();
        for node in holders {
            if self.own(node, &prefix) != Own::Has {
                continue;
            }
            let id = self.routers.get(&node).and_then(|router| router.prefixes.get(&prefix)).copied();
            if let Some(row) =
                id.and_then(|id| self.rows.get_mut(&id)).filter(|row| !row.had_endpoint && row.advertised)
            {
                row.had_endpoint = true;
                out.push(Effect::RowChanged(row.id));
            }
            self.clear(node, prefix, Kind::Endpoint, now, out);
        }
        let candidates = self.candidates(&prefix);
        let somebody_is_better = candidates.iter().any(|candidate| {
            candidate.is_up() && candidate.rank != Rank::Drained && self.own(candidate.node, &prefix) != Own::Gone
        });
        if !somebody_is_better {
            return;
        }
        for candidate in candidates {
            if self.own(candidate.node, &prefix) == Own::Gone {
                self.suspect(candidate.node, prefix, Cause::EndpointGone, now, out);
            }
        }
    }
}
