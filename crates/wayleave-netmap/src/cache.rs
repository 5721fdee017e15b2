//! Peers as they were serialised last: what many viewers are told alike is made once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;
use wayleave_model::NodeId;
use wayleave_tailnet::{NodeView, Snapshot};
use wayleave_wire::control::Node;

use crate::to_wire::peer_to_wire;
use crate::view::Told;

/// Versions of one peer that are kept: viewers on the older and the newer snapshot, told of its routes or not.
const VERSIONS: usize = 4;

/// A peer in the wire's shape, and its bytes.
#[derive(Debug)]
pub(crate) struct WirePeer {
    pub(crate) node: Node,
    pub(crate) json: Arc<RawValue>,
}

#[derive(Debug)]
struct Entry {
    view: Arc<NodeView>,
    told: Told,
    peer: Arc<WirePeer>,
}

/// Remembers how peers were serialised. Shared by all sessions of a server; what it answers depends on its arguments only.
#[derive(Debug, Default)]
pub struct PeerCache(Mutex<BTreeMap<NodeId, Vec<Entry>>>);

impl PeerCache {
    pub(crate) fn peer(&self, view: &Arc<NodeView>, told: &Told, base_domain: &str) -> Arc<WirePeer> {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = nodes.entry(view.node.id).or_default();
        if let Some(entry) = entries.iter().find(|entry| Arc::ptr_eq(&entry.view, view) && entry.told == *told) {
            return Arc::clone(&entry.peer);
        }
        let node = peer_to_wire(view, told, base_domain);
        let json =
            serde_json::value::to_raw_value(&node).expect("a node is made of strings, numbers and lists of them");
        let peer = Arc::new(WirePeer { node, json: Arc::from(json) });
        if entries.len() == VERSIONS {
            entries.remove(0);
        }
        entries.push(Entry { view: Arc::clone(view), told: told.clone(), peer: Arc::clone(&peer) });
        peer
    }

    /// Forgets what nodes were before this picture. Whoever still needs it has it made again.
    pub fn settle(&self, snapshot: &Snapshot) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|id, entries| {
            let now = snapshot.node(*id);
            entries.retain(|entry| now.is_some_and(|now| Arc::ptr_eq(&entry.view, now)));
            entries.shrink_to_fit();
            !entries.is_empty()
        });
    }

    /// Forgets a node that is gone.
    pub fn forget(&self, node: NodeId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }
}
