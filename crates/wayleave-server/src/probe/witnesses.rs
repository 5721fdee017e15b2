//! Who is asked about a router. The choice is [`witness::choose`]; here is who may be chosen, and what is remembered of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wayleave_model::{NodeId, Prefix, Tag};
use wayleave_policy::Steering;
use wayleave_routes::witness::{self, Applicant, Class};
use wayleave_tailnet::{NodeView, Snapshot};

use crate::options::Evidence;

/// How often a router with enough witnesses gets others, should better ones have come.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How often one with too few is looked at again. It costs a look at every node.
const LOOK_FOR_MORE: Duration = Duration::from_secs(5);
/// How often one that was lost and has too few is: soon after a start, say, nobody was there yet when it was looked at, and everybody is now.
const LOOK_AT_A_LOSS: Duration = Duration::from_millis(200);
/// So many routers that were lost are looked at in that time, of all that were.
const MOST_LOOKS: usize = 32;
/// So many nodes are looked at in one round over all routers, and those of the look that goes beyond that: a tenth of a second or two of a
/// processor.
const MOST_NODES: usize = 1_000_000;
/// How long a client that said that it accepts no routes is not asked about addresses behind routers.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// TSMP came with this capability version (protocol.md 6.2).
const ANSWERS_TSMP: u16 = 31;

/// Who is asked about whom.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    chosen: Mutex<BTreeMap<NodeId, Chosen>>,
    /// Clients that accept no routes, and when they said so.
    closed: Mutex<BTreeMap<NodeId, Instant>>,
    /// Clients that are led through a standby for the check of a prefix (`None`), or were until a moment ago: they are left alone until then.
    led: Mutex<BTreeMap<(Prefix, NodeId), Option<Instant>>>,
    /// How many routers that were lost were looked at since then.
    looks: Mutex<Option<(Instant, usize)>>,
    /// Prefixes whose standbys are being looked at: one look at a time.
    looked_at: Mutex<BTreeSet<Prefix>>,
}

/// A look at a prefix's standbys, until it is dropped.
#[derive(Debug)]
pub(super) struct Looking<'a> {
    witnesses: &'a Witnesses,
    prefix: Prefix,
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        lock(&self.witnesses.looked_at).remove(&self.prefix);
    }
}

/// How much may be looked at in one round over all routers.
#[derive(Debug)]
pub(super) struct Looks {
    nodes: usize,
    /// Somebody was not looked at.
    pub(super) is_short: bool,
}

impl Default for Looks {
    fn default() -> Self {
        Self { nodes: MOST_NODES, is_short: false }
    }
}

impl Looks {
    /// Whether so many nodes may be looked at.
    const fn take(&mut self, nodes: usize) -> bool {
        let may = self.nodes > 0;
        self.nodes = self.nodes.saturating_sub(nodes);
        self.is_short |= !may;
        may
    }
}

#[derive(Debug, Default)]
struct Chosen {
    witnesses: Vec<NodeId>,
    looked_at: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Witnesses {
    /// Who is asked about a router. They stay the same as long as they can testify. Each look for others costs a look at every node; where
    /// no looks are left it is done with those that there are. `None`: there are none then, and nothing can be said of the router.
    pub(super) fn of(
        &self,
        router: &NodeView,
        snapshot: &Snapshot,
        options: &Evidence,
        looks: &mut Looks,
    ) -> Option<Vec<NodeId>> {
        self.choose(router, snapshot, options, LOOK_FOR_MORE, || looks.take(snapshot.nodes.len()))
    }

    /// Who is asked about a router that was lost: its witnesses, and if they are too few whoever could be one by now. `None`: it has none,
    /// and too many others were looked at just now.
    pub(super) fn of_lost(&self, router: &NodeView, snapshot: &Snapshot, options: &Evidence) -> Option<Vec<NodeId>> {
        self.choose(router, snapshot, options, LOOK_AT_A_LOSS, || self.may_look())
    }

    /// Each look costs a look at every node, and thousands of routers may be lost at once, their witnesses among them.
    fn may_look(&self) -> bool {
        let now = Instant::now();
        let mut looks = lock(&self.looks);
        let (since, count) = looks.filter(|(since, _)| *since + LOOK_AT_A_LOSS > now).unwrap_or((now, 0));
        *looks = Some((since, count + 1));
        count < MOST_LOOKS
    }

    /// `None`: there is nobody, and nobody may be looked for.
    fn choose(
        &self,
        router: &NodeView,
        snapshot: &Snapshot,
        options: &Evidence,
        for_more: Duration,
        may_look: impl FnOnce() -> bool,
    ) -> Option<Vec<NodeId>> {
        let mut all = lock(&self.chosen);
        let chosen = all.entry(router.node.id).or_default();
        let before = chosen.witnesses.len();
        let can = |view: &NodeView| may_testify(snapshot, view, router, options.witness.as_ref());
        chosen.witnesses.retain(|id| snapshot.node(*id).is_some_and(|view| can(view)));
        if chosen.witnesses.len() < before {
            chosen.looked_at = None;
        }
        let patience = if chosen.witnesses.len() < options.probe_witnesses { for_more } else { LOOK_AGAIN };
        if chosen.looked_at.is_none_or(|looked_at| looked_at.elapsed() >= patience) {
            if may_look() {
                let applicants: Vec<Applicant> =
                    snapshot.nodes.values().filter(|view| can(view)).map(|v| apply(v)).collect();
                chosen.witnesses = witness::choose(router.node.id, &applicants, options.probe_witnesses);
                chosen.looked_at = Some(Instant::now());
            } else if chosen.witnesses.is_empty() {
                return None;
            }
        }
        Some(chosen.witnesses.clone())
    }

    /// Who of those that are named may be asked about an address behind a router, the best first.
    pub(super) fn behind(
        &self,
        router: &NodeView,
        snapshot: &Snapshot,
        named: impl Fn(&NodeView) -> bool,
    ) -> Vec<NodeId> {
        let mut closed = lock(&self.closed);
        closed.retain(|_, at| at.elapsed() < ASK_AGAIN);
        let applicants: Vec<Applicant> = snapshot
            .nodes
            .values()
            .filter(|view| !closed.contains_key(&view.node.id) && named(view))
            .filter(|view| may_testify(snapshot, view, router, None))
            .map(|view| apply(view))
            .collect();
        witness::choose(router.node.id, &applicants, applicants.len())
    }

    /// A client accepts no routes.
    pub(super) fn accepts_no_routes(&self, node: NodeId) {
        lock(&self.closed).insert(node, Instant::now());
    }

    /// A look at a prefix's standbys begins; `None`: the one before is not over.
    pub(super) fn looks(&self, prefix: Prefix) -> Option<Looking<'_>> {
        let begins = lock(&self.looked_at).insert(prefix);
        // Made only then: dropping one ends the look.
        begins.then(|| Looking { witnesses: self, prefix })
    }

    /// A client is led through a standby.
    pub(super) fn lead(&self, prefix: Prefix, witness: NodeId) {
        lock(&self.led).insert((prefix, witness), None);
    }

    /// Nobody but this client is led for the check of a prefix; others are left alone for a while after it.
    pub(super) fn led_only(&self, prefix: Prefix, witness: Option<NodeId>, after: Duration) {
        let mut led = lock(&self.led);
        let now = Instant::now();
        led.retain(|_, until| until.is_none_or(|until| until > now));
        for ((of, node), until) in &mut *led {
            if *of == prefix && Some(*node) != witness {
                until.get_or_insert(now + after);
            }
        }
    }

    /// Whether a client is led through a standby, or was until a moment ago.
    pub(super) fn is_led(&self, prefix: &Prefix, node: NodeId) -> bool {
        let until = lock(&self.led).get(&(*prefix, node)).copied();
        until.is_some_and(|until| until.is_none_or(|until| until > Instant::now()))
    }

    pub(super) fn forget_gone(&self, snapshot: &Snapshot) {
        lock(&self.chosen).retain(|router, _| snapshot.node(*router).is_some());
    }
}

fn apply(view: &NodeView) -> Applicant {
    let node = &view.node;
    Applicant { node: node.id, class: Class::of(&node.owner, &node.hostinfo.os), owner: node.owner.user() }
}

/// Whether a client is connected, can ping, and is let by the policy to use a router.
fn may_testify(snapshot: &Snapshot, witness: &NodeView, router: &NodeView, tag: Option<&Tag>) -> bool {
    let (id, router_id) = (witness.node.id, router.node.id);
    let uses = |prefix: &Prefix| {
        if prefix.is_exit() {
            snapshot.policy.may_exit(id, router_id)
        } else {
            snapshot.policy.steering(id, prefix) != Steering::Nowhere
        }
    };
    // Another router of the same prefix may reach it through what is behind both, where nobody else is.
    let shares = |prefix: &Prefix| !prefix.is_exit() && witness.approved.contains(prefix);
    // The official Rust client passes over everything but echoes (protocol.md 6.2).
    id != router_id
        && witness.session.is_some()
        && !witness.expired
        && witness.node.capability >= ANSWERS_TSMP
        && !witness.node.hostinfo.app.starts_with("tailscale-rs")
        && tag.is_none_or(|tag| witness.node.owner.has_tag(tag))
        && snapshot.policy.sees(id, router_id)
        && router.approved.iter().any(uses)
        && !router.approved.iter().any(shares)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use wayleave_model::{
        Addresses, Hostinfo, Node, NodeKey, Owner, RegisterMethod, Route, RouteId, SessionId, Timestamp, Vantage,
    };
    use wayleave_tailnet::{Event, Loaded, Settings, Tailnet};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    fn node(id: u8) -> Node {
        Node {
            id: NodeId::new(id.into()),
            machine_key: None,
            node_key: NodeKey::from_bytes([id; 32]),
            disco_key: None,
            owner: Owner::Nobody,
            given_name: format!("n{id}").parse().unwrap(),
            renamed: false,
            addresses: Addresses { v4: Some(Ipv4Addr::new(100, 64, 0, id)), v6: None },
            register_method: RegisterMethod::Import,
            auth_key: None,
            ephemeral: false,
            expires_at: None,
            created_at: NOW,
            last_seen: None,
            drained: false,
            capability: ANSWERS_TSMP,
            hostinfo: Hostinfo::default(),
            endpoints: Vec::new(),
            home_derp: 900,
            vantage: Vantage::default(),
        }
    }

    fn route(id: u8) -> Route {
        Route {
            id: RouteId::new(id.into()),
            node: NodeId::new(id.into()),
            prefix: format!("10.{id}.0.0/16").parse().unwrap(),
            advertised: true,
            enabled: true,
            is_primary: false,
            created_at: NOW,
            updated_at: NOW,
            deleted_at: None,
            approval: None,
            priority: 0,
            had_endpoint: false,
            was_advertised: true,
            path_passed: false,
            path_failed_at: None,
        }
    }

    /// So many routers, numbered from 1, each of a prefix of its own, and four clients; these are connected.
    fn tailnet(routers: u8, connected: impl Fn(u8) -> bool) -> Snapshot {
        let all = 1..=routers + 4;
        let (nodes, routes) = (all.clone().map(node).collect(), (1..=routers).map(route).collect());
        let mut tailnet =
            Tailnet::new(Settings::default(), Loaded { nodes, routes, ..Loaded::default() }, NOW).unwrap();
        for id in all.filter(|id| connected(*id)) {
            tailnet.apply(Event::SessionOpened(NodeId::new(id.into()), SessionId::new(id.into())), NOW);
        }
        tailnet.snapshot().clone()
    }

    /// Of how many routers the witnesses are known, and all of these are three.
    fn known(snapshot: &Snapshot, routers: u8, witnesses: impl FnMut(&NodeView) -> Option<Vec<NodeId>>) -> usize {
        let routers = (1..=routers).filter_map(|id| snapshot.node(NodeId::new(id.into())));
        routers
            .map(|router| &**router)
            .filter_map(witnesses)
            .inspect(|witnesses| assert_eq!(witnesses.len(), 3))
            .count()
    }

    #[test]
    fn a_round_looks_at_so_many_nodes_and_those_that_were_left_out_are_looked_at_in_the_next() {
        let (witnesses, options, snapshot) = (Witnesses::default(), Evidence::default(), tailnet(8, |_| true));
        // As many as three looks and a half take.
        let round = || Looks { nodes: snapshot.nodes.len() * 7 / 2, is_short: false };
        for (so_far, is_short) in [(4, true), (8, false), (8, false)] {
            let mut looks = round();
            assert_eq!(known(&snapshot, 8, |router| witnesses.of(router, &snapshot, &options, &mut looks)), so_far);
            assert_eq!(looks.is_short, is_short);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn routers_that_are_lost_and_have_no_witnesses_are_not_all_looked_at_in_one_go() {
        let (witnesses, options, snapshot) = (Witnesses::default(), Evidence::default(), tailnet(80, |_| true));
        for so_far in [MOST_LOOKS, 2 * MOST_LOOKS, 80] {
            assert_eq!(known(&snapshot, 80, |router| witnesses.of_lost(router, &snapshot, &options)), so_far);
            tokio::time::advance(LOOK_AT_A_LOSS).await;
        }
    }

    #[test]
    fn one_that_has_lost_a_witness_is_looked_at_again_as_soon_as_there_is_time() {
        let (witnesses, options) = (Witnesses::default(), Evidence::default());
        let before = tailnet(1, |_| true);
        let router = |snapshot: &Snapshot, looks: &mut Looks| {
            witnesses.of(snapshot.node(NodeId::new(1)).unwrap(), snapshot, &options, looks).unwrap()
        };
        let chosen = router(&before, &mut Looks::default());
        let after = tailnet(1, |id| chosen[0] != NodeId::new(id.into()));
        let mut none = Looks { nodes: 0, is_short: false };
        assert_eq!(router(&after, &mut none), chosen[1..], "those that there are");
        assert_eq!(router(&after, &mut Looks::default()).len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_lost_routers_are_looked_at_at_once_and_as_many_again_later() {
        let witnesses = Witnesses::default();
        let looks = || (0..MOST_LOOKS * 3).filter(|_| witnesses.may_look()).count();
        assert_eq!(looks(), MOST_LOOKS);
        tokio::time::advance(LOOK_AT_A_LOSS / 2).await;
        assert_eq!(looks(), 0);
        tokio::time::advance(LOOK_AT_A_LOSS / 2).await;
        assert_eq!(looks(), MOST_LOOKS);
    }
}
