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
/// So many such routers are looked at in that time, of all that were lost.
const MOST_LOOKS: usize = 32;
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

#[derive(Debug, Default)]
struct Chosen {
    witnesses: Vec<NodeId>,
    looked_at: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Witnesses {
    /// Who is asked about a router. They stay the same as long as they can testify.
    pub(super) fn of(&self, router: &NodeView, snapshot: &Snapshot, options: &Evidence) -> Vec<NodeId> {
        self.choose(router, snapshot, options, LOOK_FOR_MORE)
    }

    /// Who is asked about a router that was lost: its witnesses, and if they are too few whoever could be one by now.
    pub(super) fn of_lost(&self, router: &NodeView, snapshot: &Snapshot, options: &Evidence) -> Vec<NodeId> {
        let has_too_few = |chosen: &Chosen| chosen.witnesses.len() < options.probe_witnesses;
        let few = lock(&self.chosen).get(&router.node.id).is_none_or(has_too_few);
        let patience = if few && self.may_look() { LOOK_AT_A_LOSS } else { LOOK_FOR_MORE };
        self.choose(router, snapshot, options, patience)
    }

    /// Each look costs a look at every node, and thousands of routers may be lost at once.
    fn may_look(&self) -> bool {
        let now = Instant::now();
        let mut looks = lock(&self.looks);
        let (since, count) = looks.filter(|(since, _)| *since + LOOK_AT_A_LOSS > now).unwrap_or((now, 0));
        *looks = Some((since, count + 1));
        count < MOST_LOOKS
    }

    fn choose(&self, router: &NodeView, snapshot: &Snapshot, options: &Evidence, for_more: Duration) -> Vec<NodeId> {
        let mut all = lock(&self.chosen);
        let chosen = all.entry(router.node.id).or_default();
        let before = chosen.witnesses.len();
        let can = |view: &NodeView| may_testify(snapshot, view, router, options.witness.as_ref());
        chosen.witnesses.retain(|id| snapshot.node(*id).is_some_and(|view| can(view)));
        let patience = if chosen.witnesses.len() < options.probe_witnesses { for_more } else { LOOK_AGAIN };
        let look =
            chosen.witnesses.len() < before || chosen.looked_at.is_none_or(|looked_at| looked_at.elapsed() >= patience);
        if look {
            let applicants: Vec<Applicant> =
                snapshot.nodes.values().filter(|view| can(view)).map(|v| apply(v)).collect();
            chosen.witnesses = witness::choose(router.node.id, &applicants, options.probe_witnesses);
            chosen.looked_at = Some(Instant::now());
        }
        chosen.witnesses.clone()
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
    use super::*;

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
