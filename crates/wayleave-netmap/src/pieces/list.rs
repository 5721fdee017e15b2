//! The peers of one kind of viewers in one picture, cut into pieces.
//!
//! Where a list is cut follows from the ids of those on it alone, so a node that comes or goes moves no cut but its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use wayleave_model::{NodeId, UserId};

use super::locked;
use crate::cache::WirePeer;
use crate::delta::Shared;
use crate::encode::Encoder;

/// The peers of one kind of viewers, in the order of their ids.
#[derive(Debug)]
pub(super) struct List {
    /// The picture's.
    pub(super) version: u64,
    base_domain: String,
    /// How many peers a piece has, about.
    size: u64,
    pub(super) pieces: Vec<Arc<Piece>>,
}

/// Some peers that follow each other.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) members: Vec<Member>,
    /// Not all viewers of the kind are told the same of one of them.
    pub(super) has_apart: bool,
    /// Whose they are; `None`: tagged.
    pub(super) owners: BTreeSet<Option<UserId>>,
    /// Compressed, as the first of a map, and as one that follows another.
    parts: [Mutex<Option<Bytes>>; 2],
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: NodeId,
    pub(super) owner: Option<UserId>,
    pub(super) seen: Seen,
}

/// What viewers of the kind are told of a peer.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// All the same.
    Alike(Arc<WirePeer>),
    /// Each its own.
    Apart,
}

impl Member {
    /// Whether nobody is told anything else of it now.
    fn is_as(&self, other: &Self) -> bool {
        match (&self.seen, &other.seen) {
            (Seen::Alike(a), Seen::Alike(b)) => self.owner == other.owner && a.json.get() == b.json.get(),
            (Seen::Apart, Seen::Apart) => self.owner == other.owner,
            _ => false,
        }
    }
}

impl Piece {
    fn new(members: Vec<Member>) -> Self {
        Self {
            has_apart: members.iter().any(|member| matches!(member.seen, Seen::Apart)),
            owners: members.iter().map(|member| member.owner).collect(),
            members,
            parts: Default::default(),
        }
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.members.binary_search_by_key(&node, |member| member.id).is_ok()
    }

    /// The compressed piece. `follows`: there is one before it in the map.
    pub(super) fn part(&self, follows: bool, encoder: &mut Encoder) -> io::Result<Bytes> {
        // Held while it is made, so that others wait for it.
        let mut part = locked(&self.parts[usize::from(follows)]);
        if let Some(part) = &*part {
            return Ok(part.clone());
        }
        let mut text = Vec::new();
        for member in &self.members {
            if let Seen::Alike(peer) = &member.seen {
                append(&mut text, follows, peer);
            }
        }
        Ok(part.insert(encoder.part(&text)?).clone())
    }
}

/// Appends a peer to the text of a piece.
pub(super) fn append(text: &mut Vec<u8>, follows: bool, peer: &WirePeer) {
    if follows || !text.is_empty() {
        text.push(b',');
    }
    text.extend(peer.json.get().as_bytes());
}

impl List {
    pub(super) fn new(version: u64, shared: &Shared, size: u64, members: impl Iterator<Item = Member>) -> Self {
        let mut cutter = Cutter { size, pieces: Vec::new(), open: Vec::new() };
        members.for_each(|member| cutter.put(member));
        Self { version, base_domain: shared.base_domain.clone(), size, pieces: cutter.end() }
    }

    /// Whether it was made with what all viewers share now, as far as peers go.
    pub(super) fn is_of(&self, shared: &Shared) -> bool {
        self.base_domain == shared.base_domain
    }

    pub(super) fn peers(&self) -> usize {
        self.pieces.iter().map(|piece| piece.members.len()).sum()
    }

    /// The list of a newer picture, of which the nodes that changed are given; `None` for one that is not on it. Shares with this one the
    /// pieces that are the same.
    pub(super) fn next(&self, version: u64, mut changed: BTreeMap<NodeId, Option<Member>>) -> Self {
        let mut cutter =
            Cutter { size: self.size, pieces: Vec::with_capacity(self.pieces.len() + 1), open: Vec::new() };
        for (at, piece) in self.pieces.iter().enumerate() {
            let last = piece.members.last().filter(|_| at + 1 < self.pieces.len()).map(|member| member.id);
            let later = last.map(|last| changed.split_off(&NodeId::new(last.get().saturating_add(1))));
            let mut here = std::mem::replace(&mut changed, later.unwrap_or_default());
            here.retain(|id, now| {
                let before = piece.members.binary_search_by_key(id, |member| member.id).map(|at| &piece.members[at]);
                match (before, now) {
                    (Ok(before), Some(now)) => !before.is_as(now),
                    (Err(_), None) => false,
                    _ => true,
                }
            });
            if here.is_empty() && cutter.open.is_empty() {
                cutter.pieces.push(Arc::clone(piece));
                continue;
            }
            let mut members: BTreeMap<_, _> =
                piece.members.iter().map(|member| (member.id, Some(member.clone()))).collect();
            members.append(&mut here);
            members.into_values().flatten().for_each(|member| cutter.put(member));
        }
        changed.into_values().flatten().for_each(|member| cutter.put(member));
        Self { version, base_domain: self.base_domain.clone(), size: self.size, pieces: cutter.end() }
    }
}

/// Cuts a list while it is read.
struct Cutter {
    size: u64,
    pieces: Vec<Arc<Piece>>,
    open: Vec<Member>,
}

impl Cutter {
    fn put(&mut self, member: Member) {
        // Fibonacci hashing: ids follow each other, and cuts come after every so many of them whichever a viewer sees.
        let mixed = member.id.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.open.push(member);
        if mixed.is_multiple_of(self.size) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push(Arc::new(Piece::new(std::mem::take(&mut self.open))));
        }
    }

    fn end(mut self) -> Vec<Arc<Piece>> {
        self.cut();
        self.pieces
    }
}
