//! What viewers that see the same are told alike: compared, made and encoded once, for the first of them that asks.
//!
//! On the way from one picture to a newer one, what a viewer is told follows from what the rules make of it, from what it is and carries
//! itself, and from its packet filter. Most viewers of a step did not change themselves and carry nothing: those of one class, with the same
//! change of filter, get the same bytes. One that changed itself in a way that makes it no other viewer shares the comparison of peers, and
//! is told the same but for itself. So do those whom other rules brought from one class to another. Any other viewer is looked at by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use wayleave_model::{NodeId, Timestamp, UserId};
use wayleave_policy::FilterRule;
use wayleave_tailnet::{NodeView, Snapshot};
use wayleave_wire::CapabilityVersion;
use wayleave_wire::control::MapResponse;

use crate::cache::PeerCache;
use crate::delta::{
    PeerStep, Shared, carries_other, delta, everybody, full_again, own_ssh, peer_steps, self_step, with_steps,
};
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
    /// The rules are the same. If not, the answers about anybody may have changed.
    same_rules: bool,
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
    /// Before and after: the same, unless the rules are others.
    classes: (u32, u32),
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
        let Some(kind) = step.kind(base, next, was, is) else {
            return delta(base, next, changed, cache, viewer, now).as_ref().map(encode).transpose();
        };
        let alike = Arc::clone(locked(&step.kinds).entry(kind).or_default());
        let peers = alike.peers.get_or_init(|| {
            if step.same_rules {
                return peer_steps(base, next, changed, cache, (was, is));
            }
            let mut all = everybody(base.0, next.0, viewer);
            all.insert(viewer);
            peer_steps(base, next, &all, cache, (was, is))
        });
        let make = || with_steps(base, next, peers, viewer, now).as_ref().map(encode).transpose();
        let is_among = peers.binary_search_by_key(&viewer, |(id, _)| *id).is_ok();
        if is_among || step.tells_of_itself(base, next, was, is) {
            return make();
        }
        let filter = other_filter(base.0, next.0, viewer);
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
        let same_rules = old.policy_version == new.policy_version;
        let mut step = Self {
            changed: None,
            same_rules,
            is_chosen: false,
            by_user: old.policy.tells_users_apart() || new.policy.tells_users_apart(),
            borrowers: BTreeSet::new(),
            kinds: Mutex::default(),
        };
        let mut look = |view: &NodeView| {
            step.is_chosen |= !view.choices.is_empty();
            step.borrowers.extend(view.lent.values());
        };
        if same_rules {
            let of = |id: &NodeId| [old.node(*id), new.node(*id)];
            changed.iter().flatten().flat_map(of).flatten().for_each(|view| look(view));
        } else {
            old.nodes.values().chain(new.nodes.values()).for_each(|view| look(view));
        }
        Self { changed, ..step }
    }

    /// The kind of a viewer; `None`: what it is told is its own.
    fn kind(
        &self,
        (old, old_shared): (&Snapshot, &Shared),
        (new, shared): (&Snapshot, &Shared),
        was: &NodeView,
        is: &NodeView,
    ) -> Option<Kind> {
        let viewer = is.node.id;
        let classes = (old.policy.class_of(viewer)?, new.policy.class_of(viewer)?);
        let same_class = !self.same_rules || classes.0 == classes.1;
        let same_names = Arc::ptr_eq(&old.sites, &new.sites) && std::ptr::eq(old_shared, shared);
        let same_viewer = std::ptr::eq(was, is)
            || !carries_other(was, is)
                && was.node.vantage == is.node.vantage
                && takes_every_route(was) == takes_every_route(is);
        let borrows = self.borrowers.contains(&viewer);
        if self.is_chosen || borrows || !same_viewer || !same_class || !same_names || is_its_own(is) {
            return None;
        }
        Some(Kind {
            classes,
            user: is.node.owner.user().filter(|_| self.by_user),
            takes_every_route: takes_every_route(is),
            loses_incremental_peers: CapabilityVersion(is.node.capability).loses_incremental_peers(),
        })
    }

    /// Whether a viewer is told of itself, or of who may open shells on it.
    fn tells_of_itself(
        &self,
        base: (&Snapshot, &Shared),
        next: (&Snapshot, &Shared),
        was: &Arc<NodeView>,
        is: &Arc<NodeView>,
    ) -> bool {
        let (old, new) = (base.0, next.0);
        let itself = || (!Arc::ptr_eq(was, is) || !self.same_rules) && self_step(base, next, was, is).is_some();
        let shells = || !Arc::ptr_eq(&old.policy, &new.policy) && own_ssh(old, was) != own_ssh(new, is);
        itself() || shells()
    }
}

/// The packet filter that a viewer comes to, if that is another one.
fn other_filter(old: &Snapshot, new: &Snapshot, viewer: NodeId) -> Option<Vec<FilterRule>> {
    if Arc::ptr_eq(&old.policy, &new.policy) {
        return None;
    }
    let after = new.policy.filter(viewer);
    (old.policy.filter(viewer) != after).then_some(after)
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
    fn other_rules_are_looked_at_once_for_all_whom_they_bring_from_one_class_to_another() {
        let mut rig = Rig::new();
        let tag = |name: &str| BTreeSet::from([name.parse().unwrap()]);
        let tagged = |rig: &mut Rig, nodes: std::ops::Range<u8>, name: &str| {
            let all: Vec<NodeId> = nodes.map(|n| rig.joins(n, &[])).collect();
            all.iter().for_each(|node| drop(rig.ask(Command::TagNode { node: *node, tags: tag(name) })));
            all
        };
        let rules = |rest: &str| {
            format!(
                r#"{{"tagOwners": {{"tag:a": [], "tag:b": [], "tag:s": []}},
                "acls": [{{"action": "accept", "src": ["tag:a"], "dst": ["tag:s:22"]}},
                         {{"action": "accept", "src": ["tag:b"], "dst": ["tag:b:*"]}}{rest}"#
            )
        };
        let set = |rig: &mut Rig, text: String| {
            let base = rig.base();
            rig.ask(Command::SetPolicy { text, replaces: None, by: "test".to_owned() });
            base
        };
        set(&mut rig, rules("]}"));
        let (a, b) = (tagged(&mut rig, 1..9, "tag:a"), tagged(&mut rig, 9..17, "tag:b"));
        let servers = tagged(&mut rig, 17..19, "tag:s");
        let everybody = [a.clone(), b.clone(), servers.clone()].concat();
        let told = Told::new();

        // Something else for nobody.
        let base = set(&mut rig, rules(" ]}"));
        assert_eq!(told.all(&mut rig, &base, &everybody), 0);

        // They see the servers as well: one frame for all of them; each server has a frame and a filter.
        let base = set(&mut rig, rules(r#", {"action": "accept", "src": ["tag:b"], "dst": ["tag:s:22"]}]}"#));
        assert_eq!(told.all(&mut rig, &base, &everybody), 1 + servers.len());
        let frame = told.bring(&mut rig, &base, b[3]).unwrap();
        assert_eq!(frame["PeersChanged"].as_array().unwrap().len(), servers.len(), "{frame}");

        // They see each other no more, and those of the other tag see each other: nobody sees itself.
        let text = rules("]}").replace(r#"["tag:b"], "dst": ["tag:b:*"]"#, r#"["tag:a"], "dst": ["tag:a:*"]"#);
        let base = set(&mut rig, text);
        told.all(&mut rig, &base, &everybody);
        let frame = told.bring(&mut rig, &base, b[3]).unwrap();
        assert_eq!(frame["PeersRemoved"].as_array().unwrap().len(), b.len() - 1 + servers.len(), "{frame}");
        let frame = told.bring(&mut rig, &base, a[3]).unwrap();
        assert_eq!(frame["PeersChanged"].as_array().unwrap().len(), a.len() - 1, "{frame}");

        // An attribute that everybody has is told to each of itself, and shells to those on whom they are opened.
        let attributes = rules(r#"], "nodeAttrs": [{"target": ["tag:a"], "attr": ["custom:one"]}]}"#);
        let base = set(&mut rig, attributes);
        told.all(&mut rig, &base, &everybody);
        let frame = told.bring(&mut rig, &base, a[0]).unwrap();
        assert!(frame["Node"]["CapMap"].as_object().unwrap().contains_key("custom:one"), "{frame}");
        let shells = r#"], "ssh": [{"action": "accept", "src": ["tag:a"], "dst": ["tag:s"], "users": ["root"]}]}"#;
        let base = set(&mut rig, rules(shells));
        told.all(&mut rig, &base, &everybody);
        assert!(!told.bring(&mut rig, &base, servers[0]).unwrap()["SSHPolicy"].is_null());
    }

    #[test]
    fn other_rules_are_told_to_each_by_itself_where_it_chooses_or_something_is_lent_to_it() {
        let mut rig = Rig::new();
        let routers = [rig.joins(1, &[LAN]), rig.joins(2, &[LAN])];
        let clients: Vec<NodeId> = (3..13).map(|n| rig.joins(n, &[])).collect();
        routers.iter().for_each(|router| rig.approve(*router, LAN));
        let everybody = [clients.clone(), routers.to_vec()].concat();
        let told = Told::new();
        let set = |rig: &mut Rig, destination: &str| {
            let base = rig.base();
            let text = format!(r#"{{"acls": [{{"action": "accept", "src": ["*"], "dst": ["{destination}"]}}]}}"#);
            rig.ask(Command::SetPolicy { text, replaces: None, by: "test".to_owned() });
            told.all(rig, &base, &everybody);
        };
        let loan = rig.lends(LAN, "192.168.77.100", routers[1], clients[2]);
        rig.tell(Event::Lend(loan));
        for destination in ["100.64.0.99:*", "*:*"] {
            set(&mut rig, destination);
        }
        rig.wait(std::time::Duration::from_secs(2));
        let spread = wayleave_model::Change::Set(wayleave_model::Spread::Balance);
        let change = wayleave_model::PrefixChange { spread, ..wayleave_model::PrefixChange::default() };
        let by = wayleave_model::Approver::Cli;
        rig.ask(Command::SetPrefix { prefix: Some(LAN.parse().unwrap()), change, by });
        for destination in ["100.64.0.99:*", "*:*"] {
            set(&mut rig, destination);
        }
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
