//! A client that keeps its map as clients do: the full map first, then what changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use wayleave_model::{NodeId, Timestamp};
use wayleave_netmap::{Fan, PeerCache, Shared, full};
use wayleave_tailnet::Snapshot;

pub struct Viewer {
    pub node: NodeId,
    base: Snapshot,
    peers: BTreeMap<u64, Value>,
}

fn peers_of(map: &Value) -> BTreeMap<u64, Value> {
    let peers = map["Peers"].as_array().into_iter().flatten();
    peers.map(|peer| (peer["ID"].as_u64().unwrap(), peer.clone())).collect()
}

/// The fields of a patch, and those of a node that they are.
const FIELDS: [(&str, &str); 4] =
    [("Online", "Online"), ("LastSeen", "LastSeen"), ("Endpoints", "Endpoints"), ("DiscoKey", "DiscoKey")];

impl Viewer {
    pub fn connects(
        node: NodeId,
        snapshot: &Snapshot,
        shared: &Shared,
        cache: &PeerCache,
        now: Timestamp,
    ) -> Option<Self> {
        let map = serde_json::to_value(full(snapshot, shared, cache, node, now)?).unwrap();
        Some(Self { node, base: snapshot.clone(), peers: peers_of(&map) })
    }

    /// Brings it to the newest picture. Returns whether it is still there.
    pub fn follows(&mut self, snapshot: &Snapshot, shared: &Arc<Shared>, cache: &PeerCache, now: Timestamp) -> bool {
        if snapshot.changed_since(self.base.version).is_none() || snapshot.node(self.node).is_none() {
            return false;
        }
        // All others are told first, so that it gets what was made for one of them where that is meant to be the same.
        let fan = Fan::default();
        let mut told = None;
        let others = snapshot.nodes.keys().filter(|other| **other != self.node && self.base.node(**other).is_some());
        for viewer in others.chain([&self.node]) {
            let (base, next) = ((&self.base, &**shared), (snapshot, &**shared));
            told = fan.bring(base, next, cache, *viewer, now, |map| serde_json::to_value(map)).unwrap();
        }
        self.base = snapshot.clone();
        let Some(told) = told else { return true };
        for peer in told["PeersChanged"].as_array().into_iter().flatten() {
            self.peers.insert(peer["ID"].as_u64().unwrap(), peer.clone());
        }
        for id in told["PeersRemoved"].as_array().into_iter().flatten() {
            self.peers.remove(&id.as_u64().unwrap());
        }
        for patch in told["PeersChangedPatch"].as_array().into_iter().flatten() {
            let Some(peer) = self.peers.get_mut(&patch["NodeID"].as_u64().unwrap()) else { continue };
            for (from, to) in FIELDS.into_iter().filter(|(from, _)| !patch[*from].is_null()) {
                peer[to] = patch[from].clone();
            }
            if patch["Online"] == Value::Bool(true)
                && let Some(fields) = peer.as_object_mut()
            {
                fields.remove("LastSeen");
            }
            if let Some(region) = patch["DERPRegion"].as_u64() {
                peer["HomeDERP"] = region.into();
                peer["DERP"] = format!("127.3.3.40:{region}").into();
            }
        }
        true
    }

    /// How its map differs from the one that it would get now, if it does.
    pub fn differs(&self, snapshot: &Snapshot, shared: &Shared, cache: &PeerCache, now: Timestamp) -> Option<String> {
        let map = serde_json::to_value(full(snapshot, shared, cache, self.node, now)?).unwrap();
        let (own, is) = (&self.peers, peers_of(&map));
        let faults = own.keys().chain(is.keys()).filter(|id| own.get(id) != is.get(id));
        faults.map(|id| format!("{:?} instead of {:?}", own.get(id), is.get(id))).next()
    }
}
