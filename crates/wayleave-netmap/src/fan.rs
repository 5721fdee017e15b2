//! What viewers that see the same are told alike: compared, made and encoded once, for the first of them that asks.
//!
//! On the way from one picture to a newer one, what a viewer is told follows from what the rules make of it, from what it is and carries
//! itself, and from its packet filter. Most viewers of a step did not change themselves and carry nothing: those of one class, with the same
//! change of filter, get the same bytes. One that changed itself in a way that makes it no other viewer shares the comparison of peers, and
//! is told the same but for itself. Any other viewer is looked at by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use wayleave_model::{NodeId, Timestamp, UserId};
use wayleave_policy::FilterRule;
use wayleave_tailnet::{NodeView, Snapshot};
use wayleave_wire::CapabilityVersion;
use wayleave_wire::control::MapResponse;

use crate::cache::PeerCache;
use crate::delta::{PeerStep, Shared, delta, full_again, is_another, own_ssh, peer_steps, self_step, with_steps};
use crate::view::{is_its_own, takes_every_route};

/// Steps that are kept. Viewers come from few pictures at a time: from the newest, and those that are written to from one or two before.
const STEPS: usize = 64;
/// Different filters that viewers of one class may come to by one step and still share. Where each filter names its node's own addresses
/// there are as many as viewers, and looking through them all would cost more than it saves.
const FILTERS: usize = 4;

/// Remembers what viewers were told, encoded as `T`. Shared by all sessions that want one encoding; what it answers depends on its
/// arguments only, but for the server's time, which is that of the first viewer.
#[derive(Debug)]
pub struct Fan<T>(Mutex<BTreeMap<StepKey, Entry<T>>>);

/// The numbers of the newer picture and of the older.
type StepKey = (u64, u64);
/// Filled in by the first viewer that takes the step.
type Entry<T> = Arc<OnceLock<Step<T>>>;

/// What viewers of one kind are told.
#[derive(Debug)]
struct Alike<T> {
    /// How the peers that changed did so; filled in by the first viewer.
    peers: OnceLock<Vec<(NodeId, PeerStep)>>,
    /// By the filters that they come to.
    made: Mutex<Vec<Made<T>>>,
}

impl<T> Default for Alike<T> {
    fn default() -> Self {
        Self { peers: OnceLock::new(), made: Mutex::default() }
    }
}

impl<T> Default for Fan<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// The way from one picture to another.
#[derive(Debug)]
struct Step<T> {
    /// The nodes that came, went or changed; `None`: too long ago to say.
    changed: Option<BTreeSet<NodeId>>,
    /// A viewer chooses among what changed by where or who it is.
    is_chosen: bool,
    /// Whose a viewer is decides whom it sees.
    by_user: bool,
    /// Viewers that something was lent to at what changed, before or after.
    borrowers: BTreeSet<NodeId>,
    kinds: Mutex<BTreeMap<Kind, Arc<Alike<T>>>>,
}

/// Viewers that are told the same of the same peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    class: u32,
    user: Option<UserId>,
    takes_every_route: bool,
    loses_incremental_peers: bool,
}

/// What viewers of a kind that came to this filter are told.
#[derive(Debug)]
struct Made<T> {
    /// `None`: it is as it was.
    filter: Option<Vec<FilterRule>>,
    /// `None`: nothing.
    answer: Option<T>,
}

impl<T: Clone> Fan<T> {
    /// What a viewer is told to be brought from one picture to a newer one, encoded; `None`: nothing. The viewer must be in both pictures.
    ///
    /// # Errors
    ///
    /// That of the encoding; nothing is remembered then.
    pub fn bring<E>(
        &self,
        base: (&Snapshot, &Shared),
        next: (&Snapshot, &Shared),
        cache: &PeerCache,
        viewer: NodeId,
        now: Timestamp,
        encode: impl FnOnce(&MapResponse) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let entry = self.entry((next.0.version, base.0.version));
        let step = entry.get_or_init(|| Step::new(base.0, next.0));
        let Some(changed) = &step.changed else {
            return full_again(base.0, next, cache, viewer, now).as_ref().map(encode).transpose();
        };
        let (Some(was), Some(is)) = (base.0.node(viewer), next.0.node(viewer)) else { return Ok(None) };
        let Some((kind, filter)) = step.kind(base, next, was, is) else {
            return delta(base, next, changed, cache, viewer, now).as_ref().map(encode).transpose();
        };
        let alike = Arc::clone(locked(&step.kinds).entry(kind).or_default());
        let peers = alike.peers.get_or_init(|| peer_steps(base, next, changed, cache, (was, is)));
        let make = || with_steps(base, next, peers, viewer, now).as_ref().map(encode).transpose();
        let is_among = peers.binary_search_by_key(&viewer, |(id, _)| *id).is_ok();
        if is_among || (!Arc::ptr_eq(was, is) && self_step(base, next, was, is).is_some()) {
            return make();
        }
        // Held while it is made, so that others of the kind wait for it.
        let mut made = locked(&alike.made);
        if let Some(made) = made.iter().find(|made| made.filter == filter) {
            return Ok(made.answer.clone());
        }
        if made.len() == FILTERS {
            drop(made);
            return make();
        }
        let answer = make()?;
        made.push(Made { filter, answer: answer.clone() });
        Ok(answer)
    }

    fn entry(&self, step: StepKey) -> Entry<T> {
        let mut steps = locked(&self.0);
        let entry = Arc::clone(steps.entry(step).or_default());
        if steps.len() > STEPS {
            // Nobody is brought to the oldest picture any more.
            steps.pop_first();
        }
        entry
    }
}

impl<T> Step<T> {
    fn new(old: &Snapshot, new: &Snapshot) -> Self {
        let changed = new.changed_since(old.version);
        let offers = |snapshot: &Snapshot, id: &NodeId| snapshot.node(*id).is_some_and(|node| !node.choices.is_empty());
        let is_chosen = changed.iter().flatten().any(|id| offers(old, id) || offers(new, id));
        let views = changed.iter().flatten().flat_map(|id| [old.node(*id), new.node(*id)]).flatten();
        let borrowers = views.flat_map(|view| view.lent.values().copied()).collect();
        let by_user = old.policy.tells_users_apart() || new.policy.tells_users_apart();
        Self { changed, is_chosen, by_user, borrowers, kinds: Mutex::default() }
    }

    /// The kind of a viewer, and the filter that it comes to if that is another one; `None`: what it is told is its own.
    fn kind(
        &self,
        (old, old_shared): (&Snapshot, &Shared),
        (new, shared): (&Snapshot, &Shared),
        was: &NodeView,
        is: &NodeView,
    ) -> Option<(Kind, Option<Vec<FilterRule>>)> {
        let viewer = is.node.id;
        let class = new.policy.class_of(viewer)?;
        let same_rules = old.policy_version == new.policy_version;
        let same_names = Arc::ptr_eq(&old.sites, &new.sites) && std::ptr::eq(old_shared, shared);
        let same_viewer = std::ptr::eq(was, is)
            || !is_another(old, was, new, is)
                && was.node.vantage == is.node.vantage
                && takes_every_route(was) == takes_every_route(is);
        let borrows = self.borrowers.contains(&viewer);
        if self.is_chosen || borrows || !same_viewer || !same_rules || !same_names || is_its_own(is) {
            return None;
        }
        let mut filter = None;
        if !Arc::ptr_eq(&old.policy, &new.policy) {
            if own_ssh(old, was) != own_ssh(new, is) {
                return None;
            }
            let after = new.policy.filter(viewer);
            filter = (old.policy.filter(viewer) != after).then_some(after);
        }
        let kind = Kind {
            class,
            user: is.node.owner.user().filter(|_| self.by_user),
            takes_every_route: takes_every_route(is),
            loses_incremental_peers: CapabilityVersion(is.node.capability).loses_incremental_peers(),
        };
        Some((kind, filter))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use serde_json::Value;
    use wayleave_routes::Cause;
    use wayleave_tailnet::{Command, Ending, Event};

    use super::*;
    use crate::rig::Rig;

    struct Told {
        fan: Fan<Value>,
        made: Cell<usize>,
    }

    impl Told {
        fn new() -> Self {
            Self { fan: Fan::default(), made: Cell::new(0) }
        }

        fn bring(&self, rig: &mut Rig, base: &Snapshot, viewer: NodeId) -> Option<Value> {
            let next = rig.tailnet.snapshot().clone();
            let encode = |map: &MapResponse| {
                self.made.set(self.made.get() + 1);
                Ok::<_, Infallible>(serde_json::to_value(map).unwrap())
            };
            let (base, next) = ((base, &rig.shared), (&next, &rig.shared));
            self.fan.bring(base, next, &rig.cache, viewer, rig.now, encode).unwrap()
        }

        /// Everybody is told what a comparison of its own says. Returns how often something was made for that.
        fn all(&self, rig: &mut Rig, base: &Snapshot, viewers: &[NodeId]) -> usize {
            self.made.set(0);
            for viewer in viewers {
                assert_eq!(self.bring(rig, base, *viewer), rig.delta(base, *viewer), "viewer {viewer}");
            }
            self.made.get()
        }
    }

    const LAN: &str = "192.168.77.0/24";

    #[test]
    fn a_failovers_frame_is_made_once_for_all_who_see_the_same() {
        let mut rig = Rig::new();
        let routers = [rig.joins(1, &[LAN]), rig.joins(2, &[LAN])];
        let viewers: Vec<NodeId> = (3..23).map(|n| rig.joins(n, &[])).collect();
        let told = Told::new();
        for router in routers {
            let base = rig.base();
            rig.approve(router, LAN);
            assert!(told.all(&mut rig, &base, &viewers) <= 1, "an approval, with the filters that it changes");
        }
        let base = rig.base();
        let session = wayleave_model::SessionId::new(1);
        rig.tell(Event::SessionEnded(routers[0], session, Ending::Lost(Cause::StreamEnded)));
        rig.wait(std::time::Duration::from_secs(1));
        assert_eq!(told.all(&mut rig, &base, &viewers), 1);
        let frame = told.bring(&mut rig, &base, viewers[0]).unwrap();
        assert_eq!(frame["PeersChanged"].as_array().unwrap().len(), 2, "{frame}");
        // The routers carry something themselves, so each is told its own.
        assert_eq!(told.all(&mut rig, &base, &routers), 2);
    }

    #[test]
    fn a_loan_is_told_to_its_witness_alone_and_taken_from_it_by_the_next_difference() {
        let mut rig = Rig::new();
        let routers = [rig.joins(1, &[LAN]), rig.joins(2, &[LAN])];
        let clients: Vec<NodeId> = (3..9).map(|n| rig.joins(n, &[])).collect();
        routers.iter().for_each(|router| rig.approve(*router, LAN));
        let witness = clients[2];
        let loan = rig.lends(LAN, "192.168.77.100", routers[1], witness);
        let ips = |peer: &Value| peer["AllowedIPs"].to_string();
        let on_map = |rig: &mut Rig, viewer: NodeId| {
            let map = rig.full(viewer);
            let peers = map["Peers"].as_array().unwrap().clone();
            let lent = peers.iter().filter(|peer| ips(peer).contains("192.168.77.100/32"));
            lent.map(|peer| peer["ID"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        let everybody: Vec<NodeId> = routers.iter().chain(&clients).copied().collect();
        let told = Told::new();
        let base = rig.base();
        rig.tell(Event::Lend(loan));
        assert_eq!(told.all(&mut rig, &base, &everybody), 1, "one frame, for one viewer");
        let frame = told.bring(&mut rig, &base, witness).unwrap();
        let changed = frame["PeersChanged"].as_array().unwrap();
        assert!(changed.len() == 1 && ips(&changed[0]).contains("192.168.77.100/32"), "{frame}");
        assert!(changed[0]["PrimaryRoutes"].is_null(), "it is primary for nothing: {frame}");
        for viewer in &everybody {
            let expected = if *viewer == witness { vec![routers[1].get()] } else { Vec::new() };
            assert_eq!(on_map(&mut rig, *viewer), expected, "viewer {viewer}");
        }

        let base = rig.base();
        rig.wait(std::time::Duration::from_secs(2));
        assert_eq!(told.all(&mut rig, &base, &everybody), 1);
        let frame = told.bring(&mut rig, &base, witness).unwrap();
        let changed = frame["PeersChanged"].as_array().unwrap();
        assert!(changed.len() == 1 && !ips(&changed[0]).contains("192.168.77.100"), "{frame}");
        assert!(everybody.iter().all(|viewer| on_map(&mut rig, *viewer).is_empty()));
    }

    #[test]
    fn a_viewer_that_changed_itself_is_not_told_of_itself_as_a_peer() {
        let mut rig = Rig::new();
        let viewers: Vec<NodeId> = (1..5).map(|n| rig.joins(n, &[])).collect();
        let base = rig.base();
        rig.reports(1, viewers[0], &[], 5555);
        let told = Told::new();
        assert_eq!(told.all(&mut rig, &base, &viewers), 1);
        assert_eq!(told.bring(&mut rig, &base, viewers[0]), None);
    }

    #[test]
    fn viewers_that_changed_themselves_are_told_of_each_other_and_not_of_themselves() {
        let mut rig = Rig::new();
        let viewers: Vec<NodeId> = (1..7).map(|n| rig.joins(n, &[])).collect();
        let base = rig.base();
        rig.reports(1, viewers[0], &[], 5555);
        rig.reports(2, viewers[1], &[], 6666);
        rig.ask(Command::RenameNode { node: viewers[2], name: "other".parse().unwrap() });
        let told = Told::new();
        assert_eq!(told.all(&mut rig, &base, &viewers), 4, "one for each that changed, and one for all others");
        let mut patched = |viewer: NodeId| {
            let frame = told.bring(&mut rig, &base, viewer).unwrap();
            let ids = |key: &str, id: &str| {
                frame[key].as_array().into_iter().flatten().map(|one| one[id].as_u64().unwrap()).collect::<Vec<_>>()
            };
            (ids("PeersChangedPatch", "NodeID"), ids("PeersChanged", "ID"), frame["Node"]["Name"].clone())
        };
        let [a, b, c] = [0, 1, 2].map(|at| viewers[at].get());
        assert_eq!(patched(viewers[0]), (vec![b], vec![c], Value::Null));
        assert_eq!(patched(viewers[2]), (vec![a, b], vec![], "other.example.net.".into()));
        assert_eq!(patched(viewers[5]), (vec![a, b], vec![c], Value::Null));
    }

    #[test]
    fn a_viewer_that_its_like_do_not_see_is_told_of_itself_alone() {
        let mut rig = Rig::new();
        let [a, b, server] = [1, 2, 3].map(|n| rig.joins(n, &[]));
        let text = r#"{"tagOwners": {"tag:c": [], "tag:s": []},
            "acls": [{"action": "accept", "src": ["tag:c"], "dst": ["tag:s:22"]}]}"#;
        rig.ask(Command::SetPolicy { text: text.to_owned(), replaces: None, by: "test".to_owned() });
        for (node, tag) in [(a, "tag:c"), (b, "tag:c"), (server, "tag:s")] {
            rig.ask(Command::TagNode { node, tags: BTreeSet::from([tag.parse().unwrap()]) });
        }
        let base = rig.base();
        rig.ask(Command::RenameNode { node: a, name: "other".parse().unwrap() });
        let told = Told::new();
        told.all(&mut rig, &base, &[b, a, server]);
        assert_eq!(told.bring(&mut rig, &base, b), None);
        assert_eq!(told.bring(&mut rig, &base, a).unwrap()["Node"]["Name"], "other.example.net.");
    }

    #[test]
    fn pictures_that_nobody_was_shown_are_one_step() {
        let mut rig = Rig::new();
        let viewers: Vec<NodeId> = (1..5).map(|n| rig.joins(n, &[])).collect();
        let shown = rig.base();
        rig.reports(1, viewers[0], &[], 5555);
        let between = rig.base();
        rig.reports(2, viewers[1], &[], 6666);
        rig.base();
        rig.reports(3, viewers[2], &[], 7777);
        let next = rig.tailnet.show(shown.version).clone();
        let both = |picture: &Snapshot, nodes: &[NodeId]| {
            assert_eq!(next.changed_since(picture.version), Some(nodes.iter().copied().collect()));
        };
        both(&shown, &viewers[..3]);
        // Too many, never too few: what it says of the first is no difference.
        both(&between, &viewers[..3]);
        let told = Told::new();
        for base in [&shown, &between] {
            assert!(told.all(&mut rig, base, &viewers) > 0);
        }
        // Once more, on top of that.
        rig.reports(4, viewers[3], &[], 8888);
        rig.base();
        let last = rig.tailnet.show(next.version).clone();
        assert_eq!(last.changed_since(next.version), Some(BTreeSet::from([viewers[3]])));
        assert_eq!(last.changed_since(shown.version), Some(viewers.iter().copied().collect()));
    }

    #[test]
    fn that_a_client_goes_leaves_the_answers_of_the_rules_as_they_are() {
        let mut rig = Rig::new();
        let viewers: Vec<NodeId> = (1..4).map(|n| rig.joins(n, &[])).collect();
        let base = rig.base();
        rig.reports(1, viewers[0], &[], 5555);
        let next = rig.base();
        assert!(next.version > base.version && Arc::ptr_eq(&base.policy, &next.policy));
        rig.joins(4, &[]);
        assert!(!Arc::ptr_eq(&next.policy, &rig.base().policy), "another node is something to them");
    }

    #[test]
    fn who_is_told_apart_by_user_or_by_rules_does_not_share() {
        let mut rig = Rig::new();
        let (mine, tagged) = ([rig.joins(1, &[]), rig.joins(2, &[])], [rig.joins(3, &[]), rig.joins(4, &[])]);
        let text = r#"{"tagOwners": {"tag:s": []}, "acls": [
            {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
            {"action": "accept", "src": ["tag:s"], "dst": ["tag:s:22"]},
        ]}"#;
        rig.ask(Command::SetPolicy { text: text.to_owned(), replaces: None, by: "test".to_owned() });
        for node in tagged {
            rig.ask(Command::TagNode { node, tags: BTreeSet::from(["tag:s".parse().unwrap()]) });
        }
        let told = Told::new();
        let everybody = [mine, tagged].concat();
        let base = rig.base();
        rig.reports(1, mine[0], &[], 5555);
        told.all(&mut rig, &base, &everybody);
        assert!(told.bring(&mut rig, &base, mine[1]).is_some() && told.bring(&mut rig, &base, tagged[0]).is_none());
        let base = rig.base();
        rig.reports(3, tagged[0], &[], 5555);
        told.all(&mut rig, &base, &everybody);
        assert!(told.bring(&mut rig, &base, mine[1]).is_none() && told.bring(&mut rig, &base, tagged[1]).is_some());
    }
}
