//! From where nodes choose among routers that are spread by region: their home relay region, once it has been stable for a while.

use std::collections::BTreeMap;

use wayleave_model::{Node, NodeId, Timestamp, Vantage};

use crate::tailnet::{Due, Effect, Tailnet};

/// Since when each node's home is what it is. One that was there before anybody chose by region has been there for ever; one that had moved when
/// the server stopped is looked at from its start on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Homes(BTreeMap<NodeId, Timestamp>);

impl Homes {
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
    }
}

impl Tailnet {
    /// A node reported a home: it counts once it has been stable.
    pub(crate) fn home_reported(&mut self, id: NodeId, before: u32, now: Timestamp) {
        let Some(node) = self.registry.node(id) else { return };
        if node.home_derp != before {
            self.homes.0.insert(id, now);
        }
        self.await_home(id);
    }

    /// A home as it was stored, with the place that the node chooses from.
    pub(crate) fn home_loaded(&mut self, id: NodeId, now: Timestamp) {
        let moves = |node: &&Node| node.vantage.region != 0 && node.vantage.region != node.home_derp;
        if self.registry.node(id).filter(moves).is_some() {
            self.homes.0.insert(id, now);
        }
    }

    /// Whether somebody chooses by region may have changed: all homes are looked at.
    pub(crate) fn look_at_homes(&mut self) {
        let all: Vec<NodeId> = self.registry.nodes().map(|node| node.id).collect();
        all.into_iter().for_each(|id| self.await_home(id));
    }

    pub(crate) fn await_home(&mut self, id: NodeId) {
        let unsettled = |node: &&Node| node.home_derp != 0 && node.home_derp != node.vantage.region;
        if !self.routes.uses_region() || self.registry.node(id).filter(unsettled).is_none() {
            return self.timers.stop(&Due::HomeStable(id));
        }
        let since = self.homes.0.get(&id).copied().unwrap_or_default();
        self.timers.set(Due::HomeStable(id), since + self.settings.home_stable);
    }

    pub(crate) fn home_stable(&mut self, id: NodeId, out: &mut Vec<Effect>) {
        let Some(node) = self.registry.node_mut(id) else { return };
        node.vantage = Vantage::reported(node.home_derp, node.hostinfo.net_info.as_ref());
        self.touched.insert(id);
        out.push(Effect::NodeRow(id));
    }
}
