//! Whether so many sessions fall silent at once that it is the server's own side: its uplink drops what it sends or is sent, and nothing is closed.
//!
//! Only those count whose silence is known at once, which are the routers' ones: they are asked each second. Each is asked at a moment of its
//! own, so one is convicted up to a second before another; but before the first is, all others have been unheard for half of the time that
//! convicts, which is told as a doubt. So it is known then already, and nobody is convicted in between.

use std::collections::BTreeMap;

use wayleave_model::{NodeId, SessionId, Timestamp};

use crate::settings::Settings;

/// One session that is not heard.
#[derive(Clone, Copy, Debug)]
struct Unheard {
    session: SessionId,
    /// When that was told first.
    at: Timestamp,
    /// It was part of a common loss.
    common: bool,
}

/// The sessions that are not heard, the newest of each node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Silences {
    nodes: BTreeMap<NodeId, Unheard>,
}

impl Silences {
    /// The newest session of a node is doubtful, or silent.
    pub(crate) fn unheard(&mut self, node: NodeId, session: SessionId, now: Timestamp) {
        let new = Unheard { session, at: now, common: false };
        let known = self.nodes.entry(node).or_insert(new);
        if known.session != session {
            *known = new;
        }
    }

    /// It is heard again, has ended, was replaced, or its node is gone.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// The session of this node is silent. Those that are lost with it, and were not before, if it is the server's side: more than half of
    /// all routers, and not too few, are not heard since within a second of it. `routers` are those that have a session.
    pub(crate) fn common(
        &mut self,
        node: NodeId,
        settings: &Settings,
        routers: impl Iterator<Item = NodeId>,
    ) -> BTreeMap<NodeId, SessionId> {
        if self.nodes.len() < settings.common_loss_sessions {
            return BTreeMap::new();
        }
        let Some(own) = self.nodes.get(&node).copied().filter(|own| !own.common) else { return BTreeMap::new() };
        let window = settings.common_loss_window;
        let near = |other: &Unheard| own.at.since(other.at).max(other.at.since(own.at)) <= window;
        let (mut lost, mut others) = (Vec::new(), 0);
        for router in routers {
            match self.nodes.get(&router) {
                Some(unheard) if near(unheard) => lost.push(router),
                Some(_) | None => others += 1,
            }
            if others >= self.nodes.len() {
                return BTreeMap::new();
            }
        }
        if lost.len() < settings.common_loss_sessions || lost.len() <= others {
            return BTreeMap::new();
        }
        let mut new = BTreeMap::new();
        for node in lost {
            if let Some(unheard) = self.nodes.get_mut(&node).filter(|unheard| !unheard.common) {
                unheard.common = true;
                new.insert(node, unheard.session);
            }
        }
        new
    }
}
