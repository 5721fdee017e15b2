//! From where nodes choose among routers that are spread by region: their home relay region, once it has been stable for a while.
//!
//! A home that settles moves nobody who uses a frozen prefix, neither where it is the viewer's nor where it is a router's: the place that it
//! leaves is held for what is frozen then, in the node's own row, and so over restarts. When the freeze is over it is given up.

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::{Node, NodeId, Place, Prefix, Spread, Timestamp};

use crate::tailnet::{Due, Effect, Tailnet};

/// What is known of nodes' homes beside their rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Homes {
    /// Since when each is what it is. One that was there before anybody chose by region has been there for ever; one that had moved when the
    /// server stopped is looked at from its start on.
    since: BTreeMap<NodeId, Timestamp>,
    /// The freezes for which some node's place is held.
    held: BTreeSet<Option<Prefix>>,
}

impl Homes {
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.since.remove(&node);
    }
}

impl Tailnet {
    /// A node reported a home: it counts once it has been stable.
    pub(crate) fn home_reported(&mut self, id: NodeId, before: u32, now: Timestamp) {
        let Some(node) = self.registry.node(id) else { return };
        if node.home_derp != before {
            self.homes.since.insert(id, now);
        }
        self.await_home(id);
    }

    /// A home as it was stored, with the place that the node chooses from.
    pub(crate) fn home_loaded(&mut self, id: NodeId, now: Timestamp) {
        let Some(node) = self.registry.node(id) else { return };
        let region = node.vantage.place.region;
        if region != 0 && region != node.home_derp {
            self.homes.since.insert(id, now);
        }
        self.homes.held.extend(node.vantage.held.keys().copied());
    }

    /// Whether somebody chooses by region may have changed: all homes are looked at.
    pub(crate) fn look_at_homes(&mut self) {
        let all: Vec<NodeId> = self.registry.nodes().map(|node| node.id).collect();
        all.into_iter().for_each(|id| self.await_home(id));
    }

    pub(crate) fn await_home(&mut self, id: NodeId) {
        let unsettled = |node: &&Node| node.home_derp != 0 && node.home_derp != node.vantage.place.region;
        if !self.routes.uses_region() || self.registry.node(id).filter(unsettled).is_none() {
            return self.timers.stop(&Due::HomeStable(id));
        }
        let since = self.homes.since.get(&id).copied().unwrap_or_default();
        self.timers.set(Due::HomeStable(id), since + self.settings.home_stable);
    }

    pub(crate) fn home_stable(&mut self, id: NodeId, now: Timestamp, out: &mut Vec<Effect>) {
        let freezes = self.freezes(now);
        let Some(node) = self.registry.node_mut(id) else { return };
        let place = Place::reported(node.home_derp, node.hostinfo.net_info.as_ref());
        for freeze in &freezes {
            let left = freeze.as_ref().map_or(&node.vantage.place, |prefix| node.vantage.towards(prefix)).clone();
            node.vantage.held.entry(*freeze).or_insert(left);
        }
        node.vantage.place = place;
        self.touched.insert(id);
        out.push(Effect::NodeRow(id));
        if !freezes.is_empty() {
            self.homes.held.extend(freezes);
            self.await_thaw(now);
        }
    }

    /// What is set for a prefix, or for all, changed, or a freeze is over: places that are held for no freeze any more are given up.
    pub(crate) fn look_at_holds(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let freezes = self.freezes(now);
        // One of all prefixes may still hold what one of its own held.
        let by_region = |prefix: &Prefix| self.routes.prefix_settings(prefix).spread == Spread::Region;
        let holds = |freeze: &Option<Prefix>| match freeze {
            Some(prefix) => self.routes.frozen(prefix, now).is_some() && by_region(prefix),
            None => freezes.contains(freeze),
        };
        let over: Vec<Option<Prefix>> = self.homes.held.iter().filter(|freeze| !holds(freeze)).copied().collect();
        if !over.is_empty() {
            let all: Vec<NodeId> = self.registry.nodes().map(|node| node.id).collect();
            all.into_iter().for_each(|id| self.give_up(id, &over, &freezes, out));
            self.homes.held.retain(|freeze| !over.contains(freeze));
            if over.contains(&None) {
                self.homes.held.extend(freezes);
            }
        }
        self.await_thaw(now);
    }

    /// Gives up a node's places that were held for freezes which are over. What one of all prefixes held is held on for those that are frozen by
    /// themselves.
    fn give_up(
        &mut self,
        id: NodeId,
        over: &[Option<Prefix>],
        freezes: &BTreeSet<Option<Prefix>>,
        out: &mut Vec<Effect>,
    ) {
        let Some(held) = self.registry.node_mut(id).map(|node| &mut node.vantage.held) else { return };
        let mut changed = false;
        for freeze in over {
            let Some(place) = held.remove(freeze) else { continue };
            changed = true;
            for own in freezes.iter().filter(|_| freeze.is_none()) {
                held.entry(*own).or_insert_with(|| place.clone());
            }
        }
        if changed {
            self.touched.insert(id);
            out.push(Effect::NodeRow(id));
        }
    }

    /// The freezes in force that hold viewers by region: of single prefixes, and (`None`) of all.
    fn freezes(&self, now: Timestamp) -> BTreeSet<Option<Prefix>> {
        let in_force = self.routes.all_overrides().filter(|(prefix, overrides)| {
            overrides.frozen.as_ref().is_some_and(|freeze| freeze.until > now)
                && prefix.is_none_or(|prefix| self.routes.prefix_settings(prefix).spread == Spread::Region)
        });
        in_force.map(|(prefix, _)| prefix.copied()).collect()
    }

    fn await_thaw(&mut self, now: Timestamp) {
        let ends = self.routes.all_overrides().filter_map(|(_, overrides)| Some(overrides.frozen.as_ref()?.until));
        match ends.filter(|until| *until > now && !self.homes.held.is_empty()).min() {
            Some(at) => self.timers.set(Due::Thaw, at),
            None => self.timers.stop(&Due::Thaw),
        }
    }
}
