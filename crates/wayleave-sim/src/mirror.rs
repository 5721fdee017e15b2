//! What a client knows after the frames that it got: the Go client's order of application (protocol.md 3.2).

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Peers as a client has them, by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mirror {
    /// Every peer, as it was told last.
    pub peers: BTreeMap<u64, Value>,
    /// The client's own node.
    pub own: Value,
    /// The packet filter.
    pub filter: Value,
    /// Each frame that was no mere sign of life, with its peers' ids only where it tells whole peers.
    pub frames: usize,
}

fn ids(list: &Value) -> impl Iterator<Item = (u64, &Value)> {
    list.as_array().into_iter().flatten().filter_map(|peer| Some((peer["ID"].as_u64()?, peer)))
}

impl Mirror {
    /// Takes in a frame.
    pub fn take(&mut self, frame: &Value) {
        if frame["KeepAlive"] == true {
            return;
        }
        self.frames += 1;
        if frame["Peers"].as_array().is_some_and(|peers| !peers.is_empty()) {
            self.peers = ids(&frame["Peers"]).map(|(id, peer)| (id, peer.clone())).collect();
        } else {
            for id in frame["PeersRemoved"].as_array().into_iter().flatten().filter_map(Value::as_u64) {
                self.peers.remove(&id);
            }
            self.peers.extend(ids(&frame["PeersChanged"]).map(|(id, peer)| (id, peer.clone())));
            for patch in frame["PeersChangedPatch"].as_array().into_iter().flatten() {
                let peer = patch["NodeID"].as_u64().and_then(|id| self.peers.get_mut(&id));
                if let Some(Value::Object(peer)) = peer {
                    patch_peer(peer, patch);
                }
            }
        }
        for (field, own) in [("Node", &mut self.own), ("PacketFilter", &mut self.filter)] {
            if let Some(value) = frame.get(field) {
                *own = value.clone();
            }
        }
    }

    /// The peer of this name, without the domain.
    pub fn peer(&self, name: &str) -> Option<&Value> {
        self.peers.values().find(|peer| peer["Name"].as_str().is_some_and(|own| own.split('.').next() == Some(name)))
    }

    /// The names of the peers that carry a prefix.
    pub fn carriers(&self, prefix: &str) -> Vec<String> {
        let carries = |peer: &&Value| peer["AllowedIPs"].as_array().is_some_and(|all| all.iter().any(|p| p == prefix));
        let names = self.peers.values().filter(carries).filter_map(|peer| peer["Name"].as_str()?.split('.').next());
        names.map(str::to_owned).collect()
    }
}

fn patch_peer(peer: &mut serde_json::Map<String, Value>, patch: &Value) {
    for (from, to) in [
        ("Online", "Online"),
        ("LastSeen", "LastSeen"),
        ("Endpoints", "Endpoints"),
        ("DERPRegion", "HomeDERP"),
        ("DiscoKey", "DiscoKey"),
    ] {
        if let Some(value) = patch.get(from) {
            peer.insert(to.to_owned(), value.clone());
        }
    }
    if let Some(region) = patch.get("DERPRegion") {
        peer.insert("DERP".to_owned(), json!(format!("127.3.3.40:{region}")));
    }
    if patch["Online"] == true {
        peer.remove("LastSeen");
    }
}
