//! What is known against one route of a router: a conviction here makes the router suspect for this prefix, and for no other.

use wayleave_model::{NodeId, Prefix, Timestamp};

use crate::election::Rank;
use crate::evidence::{Conviction, Convictions, Kind, Verdict};
use crate::path_check::PathRecord;
use crate::reason::Cause;
use crate::table::{Effect, Judgement, RouteTable, Router};

/// What is known against one route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suspicion {
    pub(crate) convictions: Convictions,
    pub(crate) path: PathRecord,
    /// When the last conviction that counted was lifted, or the node was last able to carry the prefix again: it is steady for this prefix
    /// since then at the earliest.
    cleared_at: Option<Timestamp>,
}

impl Router {
    /// How good this router is for a prefix.
    pub(crate) fn rank_for(&self, prefix: &Prefix) -> Rank {
        let rank = self.health.rank(self.facts.drained);
        let suspect = self.suspicions.get(prefix).and_then(|suspicion| suspicion.convictions.acting());
        match (rank, suspect) {
            (Rank::Down(_), _) | (_, None) => rank,
            (_, Some(conviction)) => Rank::Suspect(conviction.cause),
        }
    }

    /// It could not carry a prefix, and can again.
    pub(crate) fn steady_again(&mut self, prefix: Prefix, now: Timestamp) {
        self.suspicions.entry(prefix).or_default().cleared_at = Some(now);
    }

    /// Since when it has been steady for a prefix.
    pub(crate) fn steady_since_for(&self, prefix: &Prefix) -> Option<Timestamp> {
        let since = self.health.steady_since().filter(|_| self.rank_for(prefix) == Rank::Steady)?;
        let cleared_at = self.suspicions.get(prefix).and_then(|suspicion| suspicion.cleared_at);
        Some(cleared_at.map_or(since, |cleared_at| cleared_at.max(since)))
    }
}

impl RouteTable {
    /// How good a node is as a router of a prefix.
    pub fn rank_for(&self, node: NodeId, prefix: &Prefix) -> Option<Rank> {
        self.routers.get(&node).map(|router| router.rank_for(prefix))
    }

    /// What stands against a node, and against its route to a prefix.
    pub fn convictions(&self, node: NodeId, prefix: &Prefix) -> Vec<Conviction> {
        let Some(router) = self.routers.get(&node) else { return Vec::new() };
        let own = router.suspicions.get(prefix).into_iter().flat_map(|suspicion| suspicion.convictions.iter());
        router.health.convictions().iter().chain(own).copied().collect()
    }

    /// Whether witnesses are to look at a node.
    pub fn wants_probe(&self, node: NodeId) -> bool {
        self.routers.get(&node).is_some_and(|router| router.health.wants_probe())
    }

    /// Whether a node is accused of something that its witnesses may answer: they are asked for as long as this holds.
    pub fn is_doubted(&self, node: NodeId) -> bool {
        self.routers.get(&node).is_some_and(|router| router.health.is_doubted())
    }

    /// Those with routes that are accused of something that their witnesses may answer.
    pub fn doubted(&self) -> impl Iterator<Item = NodeId> {
        let doubted =
            self.routers.iter().filter(|(_, router)| router.health.is_doubted() && !router.prefixes.is_empty());
        doubted.map(|(node, _)| *node)
    }

    pub(crate) fn suspect(
        &mut self,
        node: NodeId,
        prefix: Prefix,
        cause: Cause,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let mode = self.settings.judging.mode(cause.kind());
        let Some(router) = self.routers.get_mut(&node) else { return };
        let verdict = router.suspicions.entry(prefix).or_default().convictions.convict(cause, mode, now);
        if verdict.is_some() && cause.kind() == Kind::Path {
            self.note_failed(node, &prefix, Some(now), out);
        }
        self.note(node, prefix, verdict, out);
    }

    pub(crate) fn clear(&mut self, node: NodeId, prefix: Prefix, kind: Kind, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(suspicion) = self.routers.get_mut(&node).and_then(|router| router.suspicions.get_mut(&prefix)) else {
            return;
        };
        let was_suspect = suspicion.convictions.acting().is_some();
        let lifted = suspicion.convictions.acquit(kind);
        if was_suspect && suspicion.convictions.acting().is_none() {
            suspicion.cleared_at = Some(now);
        }
        if lifted.is_some() && kind == Kind::Path {
            self.note_failed(node, &prefix, None, out);
        }
        self.note(node, prefix, lifted, out);
    }

    /// A person approved a route that was not approved: what stood against it was before that. That it has an address of its own inside the
    /// prefix has to be seen again, because the site may be another by now.
    pub(crate) fn trust_again(&mut self, node: NodeId, prefix: Prefix, now: Timestamp, out: &mut Vec<Effect>) {
        if let Some(row) = self.row_mut(node, &prefix).filter(|row| row.had_endpoint) {
            row.had_endpoint = false;
            out.push(Effect::RowChanged(row.id));
        }
        if let Some(suspicion) = self.routers.get_mut(&node).and_then(|router| router.suspicions.get_mut(&prefix)) {
            suspicion.path = suspicion.path.anew();
        }
        for kind in [Kind::Endpoint, Kind::Path] {
            self.clear(node, prefix, kind, now, out);
        }
    }

    /// What a restart must not forget of it.
    fn note_failed(&mut self, node: NodeId, prefix: &Prefix, at: Option<Timestamp>, out: &mut Vec<Effect>) {
        if let Some(row) = self.row_mut(node, prefix) {
            row.path_failed_at = at;
            out.push(Effect::RowChanged(row.id));
        }
    }

    fn note(&mut self, node: NodeId, prefix: Prefix, verdict: Option<Verdict>, out: &mut Vec<Effect>) {
        if let Some(verdict) = verdict {
            self.mark(prefix);
            self.tell_of(node, out);
            out.push(Effect::Judged(Judgement { node, prefix: Some(prefix), verdict }));
        }
    }
}
