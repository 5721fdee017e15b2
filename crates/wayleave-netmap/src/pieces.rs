//! Full maps from pieces that viewers share.
//!
//! A compressed body may be several compressed parts one after the other, and decompresses to what they say one after the other. So the
//! list of peers is cut, and each cut is serialised and compressed once for all viewers of a kind: those of one class are told the same of
//! the same peers. A viewer's map is a part of its own, with everything but the peers, and then the pieces. What it is told by itself is
//! made for it alone: the piece that it would be in itself, and those with a peer that its kind is not told alike of.
//!
//! From one picture to the next only the pieces with a node that changed are made anew; the others live on.

mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use wayleave_model::{NodeId, Timestamp, UserId};
use wayleave_tailnet::{NodeView, Snapshot};

use crate::cache::PeerCache;
use crate::delta::{Shared, around};
use crate::encode::Encoder;
use crate::to_wire::profile_of_user;
use crate::view::{is_its_own, takes_every_route, told, told_as_seen};
use list::{List, Member, Seen};

/// How many peers a piece has, about. A piece with a node that changed is made anew, and each viewer's own for it alone, so small ones cost
/// less; they compress less well, since each begins with nothing behind it.
const SIZE: u64 = 64;
/// Pictures of a kind's list that are kept: viewers may be on the newest or on the one before.
const PICTURES: usize = 2;
/// Peers in all lists that are kept, each counted in each kind's. A peer takes some 150 bytes, compressed, and where it is held.
const MOST_PEERS: usize = 1_000_000;

/// Remembers the pieces of full maps. Shared by all sessions; what it answers depends on its arguments only.
#[derive(Debug)]
pub struct Pieces {
    size: u64,
    kinds: Mutex<Kinds>,
}

impl Default for Pieces {
    fn default() -> Self {
        Self::new(SIZE)
    }
}

#[derive(Debug, Default)]
struct Kinds {
    /// Lists are kept for one version of the rules, the newest.
    policy_version: u64,
    lists: BTreeMap<Kind, Kept>,
    /// In all of them.
    peers: usize,
    /// Grows with each use.
    clock: u64,
}

#[derive(Debug, Default)]
struct Kept {
    lists: Arc<Mutex<Vec<Arc<List>>>>,
    used: u64,
    peers: usize,
}

/// Viewers that are told the same of the same peers, but for peers that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    class: u32,
    user: Option<UserId>,
    takes_every_route: bool,
    /// Its own prefixes come into what it is told of those who carry some.
    carries: bool,
}

impl Kind {
    fn of(snapshot: &Snapshot, viewer: &NodeView) -> Option<Self> {
        Some(Self {
            class: snapshot.policy.class_of(viewer.node.id)?,
            user: viewer.node.owner.user().filter(|_| snapshot.policy.tells_users_apart()),
            takes_every_route: takes_every_route(viewer),
            carries: is_its_own(viewer),
        })
    }

    /// Whether viewers of the kind may be told different things of this peer.
    fn tells_apart(self, peer: &NodeView) -> bool {
        !peer.choices.is_empty() || !peer.lent.is_empty() || (self.carries && !peer.approved.is_empty())
    }
}

impl Pieces {
    /// With about so many peers in each piece; one at least.
    pub fn new(size: u64) -> Self {
        Self { size: size.max(1), kinds: Mutex::default() }
    }

    /// The frame of a viewer's full map, compressed, as parts that are to be sent one after the other. Decompressed it says what
    /// [`full()`](crate::full()) says. `None`: the viewer is not in this picture, or sees nobody because its key has expired.
    ///
    /// # Errors
    ///
    /// The encoder can't get its memory.
    pub fn frame(
        &self,
        (snapshot, shared): (&Snapshot, &Shared),
        cache: &PeerCache,
        viewer: NodeId,
        now: Timestamp,
        encoder: &mut Encoder,
    ) -> io::Result<Option<Vec<Bytes>>> {
        let Some(me) = snapshot.node(viewer).filter(|me| !me.expired) else { return Ok(None) };
        let Some(list) = self.list(snapshot, shared, cache, me) else { return Ok(None) };
        let mut users = BTreeSet::new();
        let mut parts = vec![Bytes::new()];
        let mut text = Vec::new();
        for piece in &list.pieces {
            let follows = parts.len() > 1;
            if !piece.has_apart && !piece.has(viewer) {
                users.extend(&piece.owners);
                parts.push(piece.part(follows, encoder)?);
                continue;
            }
            text.clear();
            for member in piece.members.iter().filter(|member| member.id != viewer) {
                let own;
                let peer = match &member.seen {
                    Seen::Alike(peer) => peer,
                    Seen::Apart => {
                        let Some(peer) = snapshot.node(member.id) else { continue };
                        let Some(told) = told(snapshot, me, peer) else { continue };
                        own = cache.peer(peer, &told, &shared.base_domain);
                        &own
                    }
                };
                users.insert(member.owner);
                list::append(&mut text, follows, peer);
            }
            if !text.is_empty() {
                parts.push(encoder.part(&text)?);
            }
        }
        let profiles = users.into_iter().map(|user| profile_of_user(user, snapshot));
        let profiles = profiles.map(|profile| (profile.id, profile)).collect();
        let mut own = serde_json::to_vec(&around(snapshot, shared, me, profiles, now)).map_err(io::Error::other)?;
        // The peers come last in the object.
        own.pop();
        own.extend(b",\"Peers\":[");
        let own = encoder.part(&own)?;
        parts.push(encoder.part(b"]}")?);
        let length = own.len() + parts.iter().map(Bytes::len).sum::<usize>();
        let length = u32::try_from(length).map_err(io::Error::other)?;
        parts[0] = [&length.to_le_bytes()[..], &own].concat().into();
        Ok(Some(parts))
    }

    /// The list of what a viewer's kind sees. `None`: the rules of this picture are not the newest any more.
    fn list(&self, snapshot: &Snapshot, shared: &Shared, cache: &PeerCache, me: &NodeView) -> Option<Arc<List>> {
        let kind = Kind::of(snapshot, me)?;
        let lists = {
            let mut kinds = locked(&self.kinds);
            if kinds.policy_version != snapshot.policy_version {
                if kinds.policy_version > snapshot.policy_version {
                    return None;
                }
                *kinds = Kinds { policy_version: snapshot.policy_version, ..Kinds::default() };
            }
            kinds.of(kind)
        };
        // Held while it is brought forward, so that others of the kind wait for it. Pieces are made later, each by who needs it first.
        let mut lists = locked(&lists);
        if let Some(list) = lists.iter().find(|list| list.version == snapshot.version && list.is_of(shared)) {
            return Some(Arc::clone(list));
        }
        let seen = |id: NodeId| -> Option<Member> {
            let peer = snapshot.node(id)?;
            let seen = if kind.tells_apart(peer) {
                Seen::Apart
            } else {
                Seen::Alike(cache.peer(peer, &told_as_seen(snapshot, me, peer), &shared.base_domain))
            };
            Some(Member { id, owner: peer.node.owner.user(), seen })
        };
        let older = lists.iter().rev().find(|list| list.version < snapshot.version && list.is_of(shared));
        let since = older.and_then(|older| Some((older, snapshot.changed_since(older.version)?)));
        let list = match since {
            Some((older, changed)) => {
                let sees = |id: &NodeId| snapshot.policy.sees(me.node.id, *id);
                let changed = changed.into_iter().map(|id| (id, Some(id).filter(sees).and_then(seen)));
                older.next(snapshot.version, changed.collect())
            }
            None => {
                let mut all: BTreeSet<NodeId> = snapshot.policy.peers(me.node.id).into_iter().collect();
                // Others of its kind see it if one of them sees another.
                all.extend(Some(me.node.id).filter(|id| snapshot.policy.sees(*id, *id)));
                List::new(snapshot.version, shared, self.size, all.into_iter().filter_map(seen))
            }
        };
        let list = Arc::new(list);
        if lists.len() == PICTURES {
            lists.remove(0);
        }
        // In the order of their pictures, also when a viewer comes late with an older one.
        lists.push(Arc::clone(&list));
        lists.sort_by_key(|list| list.version);
        drop(lists);
        locked(&self.kinds).holds(kind, list.peers());
        Some(list)
    }
}

impl Kinds {
    fn of(&mut self, kind: Kind) -> Arc<Mutex<Vec<Arc<List>>>> {
        self.clock += 1;
        let kept = self.lists.entry(kind).or_default();
        kept.used = self.clock;
        Arc::clone(&kept.lists)
    }

    /// Takes in how many peers the list of a kind has, and forgets the lists that were not used for longest if that is too many.
    fn holds(&mut self, kind: Kind, peers: usize) {
        let Some(kept) = self.lists.get_mut(&kind) else { return };
        self.peers = self.peers - kept.peers + peers;
        kept.peers = peers;
        while self.peers > MOST_PEERS && self.lists.len() > 1 {
            let oldest = self.lists.iter().min_by_key(|(_, kept)| kept.used).map(|(kind, _)| *kind);
            let Some(gone) = oldest.and_then(|oldest| self.lists.remove(&oldest)) else { return };
            self.peers -= gone.peers;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::rig::Rig;

    impl Rig {
        fn parts(&mut self, pieces: &Pieces, viewer: NodeId) -> Vec<Bytes> {
            let snapshot = self.tailnet.snapshot().clone();
            let mut encoder = Encoder::new().unwrap();
            pieces.frame((&snapshot, &self.shared), &self.cache, viewer, self.now, &mut encoder).unwrap().unwrap()
        }

        /// Checks that each viewer's pieces say what its full map says, and returns them.
        fn all_parts(&mut self, pieces: &Pieces, viewers: &[NodeId]) -> Vec<Vec<Bytes>> {
            let each = viewers.iter().map(|viewer| {
                let parts = self.parts(pieces, *viewer);
                let frame = parts.concat();
                let (length, body) = frame.split_at(4);
                assert_eq!(u32::from_le_bytes(length.try_into().unwrap()) as usize, body.len());
                let map: Value = serde_json::from_slice(&zstd::decode_all(body).unwrap()).unwrap();
                assert_eq!(map, self.full(*viewer), "{viewer}");
                parts
            });
            each.collect()
        }
    }

    fn shared(a: &[Bytes], b: &[Bytes]) -> usize {
        a.iter().filter(|part| b.iter().any(|other| other.as_ptr() == part.as_ptr())).count()
    }

    const LAN: &str = "192.168.77.0/24";

    #[test]
    fn viewers_of_a_kind_share_all_pieces_but_their_own() {
        let mut rig = Rig::new();
        let pieces = Pieces::new(8);
        let viewers: Vec<NodeId> = (1..121).map(|n| rig.joins(n, &[])).collect();
        let parts = rig.all_parts(&pieces, &viewers);
        let count = parts[0].len();
        assert!((8..40).contains(&count), "{count} parts");
        // Another first part, and the end; and the piece that each is in itself.
        assert!(shared(&parts[0], &parts[119]) >= count - 4, "{} of {count}", shared(&parts[0], &parts[119]));
        // One more comes, one goes, one changes: what is not near them is as it was.
        rig.joins(121, &[]);
        rig.reports(60, viewers[59], &[], 4242);
        rig.ask(wayleave_tailnet::Command::DeleteNode { node: viewers[90] });
        let rest: Vec<NodeId> = viewers.iter().copied().filter(|id| *id != viewers[90]).collect();
        let later = rig.all_parts(&pieces, &rest);
        assert!(shared(&parts[0], &later[0]) >= count - 8, "{} of {count}", shared(&parts[0], &later[0]));
        assert!(shared(&parts[0], &later[0]) < count - 3);
    }

    #[test]
    fn a_router_shares_the_pieces_without_routers() {
        let mut rig = Rig::new();
        let pieces = Pieces::new(4);
        let routers = [rig.joins(1, &[LAN]), rig.joins(2, &[LAN])];
        let viewers: Vec<NodeId> = (3..63).map(|n| rig.joins(n, &[])).collect();
        for router in routers {
            rig.approve(router, LAN);
        }
        rig.all_parts(&pieces, &viewers);
        let parts = rig.all_parts(&pieces, &routers);
        assert!(shared(&parts[0], &parts[1]) >= parts[0].len() - 4);
    }

    #[test]
    fn what_is_lent_to_one_viewer_is_in_its_pieces_alone() {
        let mut rig = Rig::new();
        let pieces = Pieces::new(4);
        let routers = [rig.joins(1, &[LAN]), rig.joins(2, &[LAN])];
        let viewers: Vec<NodeId> = (3..33).map(|n| rig.joins(n, &[])).collect();
        routers.iter().for_each(|router| rig.approve(*router, LAN));
        let lent = rig.lends(LAN, "192.168.77.100", routers[1], viewers[7]);
        for is_lent in [false, true, false] {
            match is_lent {
                true => rig.tell(wayleave_tailnet::Event::Lend(lent)),
                false => rig.tell(wayleave_tailnet::Event::TakeBack(lent.prefix)),
            }
            rig.all_parts(&pieces, &[&routers[..], &viewers].concat());
            assert_eq!(rig.full(viewers[7]).to_string().contains("192.168.77.100/32"), is_lent);
            assert!(!rig.full(viewers[8]).to_string().contains("192.168.77.100/32"));
        }
    }

    #[test]
    fn an_older_picture_is_told_as_it_was() {
        let mut rig = Rig::new();
        let pieces = Pieces::new(4);
        let viewers: Vec<NodeId> = (1..30).map(|n| rig.joins(n, &[])).collect();
        let mut encoder = Encoder::new().unwrap();
        let mut pictures = vec![rig.base()];
        for n in 1..5 {
            rig.reports(n, viewers[usize::from(n)], &[], 7777);
            pictures.push(rig.base());
        }
        for picture in [4, 0, 3, 4, 1, 2] {
            let snapshot = &pictures[picture];
            let at = (snapshot, &rig.shared);
            let parts = pieces.frame(at, &rig.cache, viewers[20], rig.now, &mut encoder).unwrap().unwrap();
            let map: Value = serde_json::from_slice(&zstd::decode_all(&parts.concat()[4..]).unwrap()).unwrap();
            let whole = crate::full(snapshot, &rig.shared, &rig.cache, viewers[20], rig.now);
            assert_eq!(map, serde_json::to_value(whole).unwrap(), "picture {picture}");
        }
    }
}
