//! What a viewer knows by the frames that it got.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Context, bail};
use memchr::memmem;
use serde::Deserialize;

use super::bits::Bits;

/// What a viewer knows.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Its own node.
    pub(crate) me: u64,
    /// The nodes that it was told of, itself among them.
    pub(crate) known: Bits,
    /// Who carries the prefix that moves.
    pub(crate) carrier: u64,
    /// The frame that named the carrier named these too.
    pub(crate) with_carrier: Bits,
    /// Frames and bytes, compressed, that came since the count was last taken.
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// Its map as a client would have it; for one viewer in a hundred.
    pub(crate) reader: Option<Reader>,
}

thread_local! {
    static PLAIN: RefCell<(Option<zstd::bulk::Decompressor<'static>>, Vec<u8>)> = const { RefCell::new((None, Vec::new())) };
}

/// The largest map that is looked at.
const LARGEST: usize = 256 << 20;

/// Decompresses a frame, all parts of it, and looks at what is in it. There is one decompressor for each thread.
fn with_plain<T>(body: &[u8], look: impl FnOnce(&[u8]) -> anyhow::Result<T>) -> anyhow::Result<T> {
    PLAIN.with_borrow_mut(|(decompressor, plain)| {
        let decompressor = match decompressor {
            Some(made) => made,
            none => none.insert(zstd::bulk::Decompressor::new()?),
        };
        let mut room = (body.len() * 8).max(64 << 10);
        loop {
            plain.clear();
            plain.reserve(room);
            match decompressor.decompress_to_buffer(body, plain) {
                Ok(_) => return look(plain),
                Err(error) if room > LARGEST => return Err(error).context("a frame that can't be decompressed"),
                Err(_) => room *= 2,
            }
        }
    })
}

/// Everything that comes before a node's id in its text.
const ID: &[u8] = b"\"StableID\":\"";

fn number(text: &[u8]) -> u64 {
    text.iter().take_while(|byte| byte.is_ascii_digit()).fold(0, |number, byte| number * 10 + u64::from(byte - b'0'))
}

impl Seen {
    /// A new stream begins: whatever was known is of no account.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
        self.carrier = 0;
        if let Some(reader) = &mut self.reader {
            *reader = Reader::default();
        }
    }

    /// Takes in a frame. `prefix` is the one that moves.
    ///
    /// # Errors
    ///
    /// The frame is none, or says what can't be.
    pub(crate) fn take(&mut self, body: &[u8], prefix: &str) -> anyhow::Result<()> {
        self.frames += 1;
        self.bytes += body.len() as u64 + 4;
        with_plain(body, |json| {
            self.look(json, prefix);
            match &mut self.reader {
                Some(reader) => reader.take(json, prefix),
                None => Ok(()),
            }
        })?;
        if let Some(reader) = &self.reader {
            reader.agrees_with(self.me, &self.known, self.carrier)?;
        }
        Ok(())
    }

    fn look(&mut self, json: &[u8], prefix: &str) {
        if json.starts_with(b"{\"KeepAlive\"") {
            return;
        }
        for at in memmem::find_iter(json, ID) {
            let id = number(&json[at + ID.len()..]);
            self.known.insert(id);
            if self.me == 0 {
                // A stream begins with the viewer itself.
                self.me = id;
            }
        }
        if let Some(at) = memmem::find(json, b"\"PeersRemoved\":[") {
            let list = &json[at + 16..];
            let end = list.iter().position(|byte| *byte == b']').unwrap_or(list.len());
            list[..end].split(|byte| *byte == b',').for_each(|id| self.known.remove(number(id)));
        }
        let carried = format!("\"PrimaryRoutes\":[\"{prefix}\"]");
        for at in memmem::find_iter(json, carried.as_bytes()) {
            let Some(named) = memmem::rfind(&json[..at], ID) else { continue };
            let id = number(&json[named + ID.len()..]);
            self.carrier = id;
            self.with_carrier = memmem::find_iter(json, ID).map(|at| number(&json[at + ID.len()..])).collect();
        }
    }
}

/// Reads every frame whole, and keeps what a client would keep.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    peers: BTreeMap<u64, Peer>,
    began: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Peer {
    #[serde(rename = "ID")]
    id: u64,
    name: String,
    #[serde(rename = "AllowedIPs")]
    allowed: Vec<String>,
    #[serde(default)]
    primary_routes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Patch {
    #[serde(rename = "NodeID")]
    node: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Frame {
    node: Option<Peer>,
    peers: Option<Vec<Peer>>,
    peers_changed: Vec<Peer>,
    peers_removed: Vec<u64>,
    peers_changed_patch: Vec<Patch>,
}

impl Reader {
    fn take(&mut self, json: &[u8], prefix: &str) -> anyhow::Result<()> {
        let frame: Frame = serde_json::from_slice(json).context("a frame that is no map")?;
        if !self.began && frame.node.is_none() {
            bail!("a stream that does not begin with the viewer itself");
        }
        self.began = true;
        if let Some(peers) = frame.peers {
            self.peers = peers.into_iter().map(|peer| (peer.id, peer)).collect();
        }
        for peer in frame.peers_changed {
            self.peers.insert(peer.id, peer);
        }
        for gone in frame.peers_removed {
            if self.peers.remove(&gone).is_none() {
                bail!("node {gone} was removed, and was not there");
            }
        }
        if let Some(patch) = frame.peers_changed_patch.iter().find(|patch| !self.peers.contains_key(&patch.node)) {
            bail!("node {} was changed, and is not there", patch.node);
        }
        let carriers: Vec<&str> = self
            .peers
            .values()
            .filter(|peer| peer.allowed.iter().any(|allowed| allowed == prefix))
            .map(|peer| peer.name.as_str())
            .collect();
        if carriers.len() > 1 {
            bail!("{prefix} is on {carriers:?}");
        }
        Ok(())
    }

    /// Whether looking and reading come to the same.
    fn agrees_with(&self, me: u64, known: &Bits, carrier: u64) -> anyhow::Result<()> {
        let mut all: Bits = self.peers.keys().copied().collect();
        if all.contains(me) {
            bail!("node {me} is its own peer");
        }
        all.insert(me);
        if !all.equals(known) {
            bail!("{} nodes were read, {} were looked up", all.len(), known.len());
        }
        match self.peers.get(&carrier) {
            Some(peer) if peer.primary_routes.is_empty() => bail!("{} carries nothing", peer.name),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(json: &str) -> Vec<u8> {
        // Two frames of zstd for one of the map.
        let (a, b) = json.split_at(json.len() / 2);
        [a, b].map(|part| zstd::bulk::compress(part.as_bytes(), 1).unwrap()).concat()
    }

    #[test]
    fn looking_finds_what_reading_finds() {
        let mut seen = Seen { reader: Some(Reader::default()), ..Seen::default() };
        let node = |id: u64, routes: &str| {
            format!(
                r#"{{"ID":{id},"StableID":"{id}","Name":"n{id}.","AllowedIPs":["100.64.0.{id}/32"{}],"PrimaryRoutes":[{routes}]}}"#,
                if routes.is_empty() { String::new() } else { format!(",{routes}") },
            )
        };
        let p = "\"10.9.0.0/16\"";
        seen.take(
            &frame(&format!(r#"{{"Node":{},"Peers":[{},{}]}}"#, node(1, ""), node(2, p), node(3, ""))),
            "10.9.0.0/16",
        )
        .unwrap();
        assert_eq!((seen.me, seen.carrier, seen.known.len()), (1, 2, 3));
        seen.take(&frame(&format!(r#"{{"PeersChanged":[{},{}]}}"#, node(2, ""), node(3, p))), "10.9.0.0/16").unwrap();
        assert_eq!(seen.carrier, 3);
        assert!(seen.with_carrier.contains(2));
        seen.take(&frame(r#"{"PeersRemoved":[2]}"#), "10.9.0.0/16").unwrap();
        assert_eq!(seen.known.len(), 2);
        let twice = frame(&format!(r#"{{"PeersChanged":[{}]}}"#, node(4, p)));
        assert!(seen.take(&twice, "10.9.0.0/16").is_err(), "the prefix is on two peers");
        assert!(seen.take(&frame(r#"{"PeersRemoved":[9]}"#), "10.9.0.0/16").is_err());
    }
}
