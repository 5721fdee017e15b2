//! The choice: who is primary for a prefix, and why. A function of the incumbent and the candidates; nothing else.
//!
//! Candidates are ranked, best first: steady, flapping, drained, suspect, down. Then, in this order:
//!
//! 1. A primary that is steady or flapping stays. A steady candidate with a higher priority, or any steady one where the
//!    primary is flapping, takes over only after it has been steady for `failback_after`.
//! 2. A primary that is drained, suspect, down or no candidate any more is replaced at once by the best candidate, if that
//!    ranks better: by rank, then priority, then the one that joined first. A primary that is no candidate ranks below all.
//!    Of those that rank alike one that has just been lost comes last; one that is waited for after a start or a common loss comes after
//!    all that are up: only for whoever carries a prefix does it count as up (design.md 4).
//! 3. If none ranks better, the primary stays as long as it is a candidate: traffic must not leak into a wider route when
//!    everybody is down, and whoever comes back first takes the prefix at once. Without any candidate it is on nobody.
//!
//! A person's word comes first. While a prefix is frozen, whoever has it keeps it as long as it is a candidate; a prefix that is on nobody
//! is given out also then, because there is nothing that could stay. One that a person moved stays there in spite of priorities.

use std::cmp::Reverse;

use wayleave_model::{Failback, NodeId, Timestamp};

use crate::reason::{Because, Cause, Gone};

/// How good a candidate is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Up, and nothing is known against it.
    Steady,
    /// Up, but it was lost too often of late.
    Flapping,
    /// A person took it out of service.
    Drained,
    /// Connected, but what is behind it is judged broken for this prefix.
    Suspect(Cause),
    /// Convicted by evidence about the node.
    Down(Cause),
}

impl Rank {
    /// The rank without what caused it: all that are down rank alike.
    const fn class(self) -> u8 {
        match self {
            Self::Steady => 0,
            Self::Flapping => 1,
            Self::Drained => 2,
            Self::Suspect(_) => 4,
            Self::Down(_) => 5,
        }
    }

    /// Whether a primary of this rank keeps its prefix until somebody better has waited.
    const fn holds(self) -> bool {
        matches!(self, Self::Steady | Self::Flapping)
    }
}

/// Whether a candidate that is not known to be down is really there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It has a session, and nobody doubts it; or it is known to be down.
    Here,
    /// It was lost, or is silent, and is not convicted of that yet.
    Doubted,
    /// It has not come back since a start or a common loss.
    Awaited,
}

/// A node that could carry the prefix: it advertises it, is approved for it, is neither expired nor deleted, and others can
/// reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node. Ids grow in the order of joining.
    pub node: NodeId,
    /// How good it is now.
    pub rank: Rank,
    /// Higher is preferred.
    pub priority: i32,
    /// Since when it has been steady without a break; `None` unless it is.
    pub steady_since: Option<Timestamp>,
    /// Whether it is there.
    pub presence: Presence,
}

impl Candidate {
    /// How good it is as one that does not carry the prefix: its rank, but one that is waited for is not up.
    const fn class(&self) -> u8 {
        match (self.presence, self.rank) {
            (Presence::Awaited, Rank::Steady | Rank::Flapping | Rank::Drained) => 3,
            (_, rank) => rank.class(),
        }
    }

    /// Whether it is as good as a router can be.
    pub fn is_steady(&self) -> bool {
        self.rank == Rank::Steady && self.presence != Presence::Awaited
    }

    /// Whether it could carry the prefix at once, as far as is known.
    pub const fn is_up(&self) -> bool {
        !matches!(self.presence, Presence::Awaited) && !matches!(self.rank, Rank::Suspect(_) | Rank::Down(_))
    }
}

/// Who had the prefix before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incumbent {
    /// Nobody.
    None,
    /// This node; whether it still is a candidate is told by the candidates.
    Node(NodeId),
    /// This node, which is no candidate any more, and why.
    Gone(NodeId, Gone),
}

impl Incumbent {
    /// The node, if there is one.
    pub const fn node(self) -> Option<NodeId> {
        match self {
            Self::None => None,
            Self::Node(node) | Self::Gone(node, _) => Some(node),
        }
    }
}

/// What a person said about the prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long a better candidate must have been steady before it replaces a primary that is up.
    pub failback: Failback,
    /// No automatic move.
    pub frozen: bool,
    /// A person moved the prefix to the incumbent.
    pub moved: bool,
}

/// The one that carries the prefix, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// The node.
    pub node: NodeId,
    /// Why it.
    pub because: Because,
}

/// Somebody who takes over later if nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The node.
    pub node: NodeId,
    /// When it will have been steady for long enough.
    pub at: Timestamp,
}

/// What the election came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Who carries the prefix. `None`: nobody can.
    pub primary: Option<Primary>,
    /// Who is about to take over.
    pub pending: Option<Pending>,
}

/// Decides who carries a prefix.
pub fn elect(incumbent: Incumbent, candidates: &[Candidate], terms: Terms, now: Timestamp) -> Decision {
    let order = |c: &&Candidate| (c.class(), c.presence, Reverse(c.priority), c.node);
    let Some(best) = candidates.iter().min_by_key(order) else {
        return Decision { primary: None, pending: None };
    };
    let settled = |node, because| Decision { primary: Some(Primary { node, because }), pending: None };
    let current = incumbent.node().and_then(|node| candidates.iter().find(|c| c.node == node));

    let Some(current) = current else {
        let because = match incumbent {
            Incumbent::Gone(_, gone) => Because::IncumbentGone(gone),
            Incumbent::None | Incumbent::Node(_) => first_reason(best, candidates),
        };
        return settled(best.node, because);
    };

    if terms.frozen {
        return settled(current.node, Because::Frozen);
    }
    if current.rank.holds() {
        return challenge(current, candidates, terms, now);
    }
    if best.node != current.node && best.class() < current.rank.class() {
        let because = match current.rank {
            Rank::Down(cause) => Because::IncumbentDown(cause),
            Rank::Suspect(cause) => Because::IncumbentSuspect(cause),
            Rank::Drained => Because::IncumbentDrained,
            Rank::Steady | Rank::Flapping => Because::IncumbentFlapping,
        };
        return settled(best.node, because);
    }
    settled(current.node, Because::LastKnown)
}

/// Why the best one is the best, where nobody had the prefix before.
fn first_reason(best: &Candidate, candidates: &[Candidate]) -> Because {
    let mut others = candidates.iter().filter(|c| c.node != best.node).peekable();
    if others.peek().is_none() {
        return Because::OnlyCandidate;
    }
    let like = |c: &Candidate| (c.class(), c.presence);
    let mut equals = others.filter(|c| like(c) == like(best)).peekable();
    if equals.peek().is_none() {
        Because::BetterRank
    } else if equals.any(|c| c.priority == best.priority) {
        Because::JoinedFirst
    } else {
        Because::HigherPriority
    }
}

/// Whether somebody better has waited long enough to replace a primary that is up.
fn challenge(current: &Candidate, candidates: &[Candidate], terms: Terms, now: Timestamp) -> Decision {
    let because = if candidates.len() == 1 { Because::OnlyCandidate } else { Because::Incumbent };
    let stays = Decision { primary: Some(Primary { node: current.node, because }), pending: None };
    let Failback::After(failback_after) = terms.failback else { return stays };
    let flapping = current.rank == Rank::Flapping;
    let ready = |c: &Candidate| c.steady_since.map(|since| since + failback_after);
    let challengers = || {
        candidates
            .iter()
            .filter(|c| c.node != current.node && c.rank == Rank::Steady && c.presence == Presence::Here)
            .filter(|c| flapping || (c.priority > current.priority && !terms.moved))
    };
    let waited =
        challengers().filter(|c| ready(c).is_some_and(|at| at <= now)).min_by_key(|c| (Reverse(c.priority), c.node));
    if let Some(next) = waited {
        let because = if flapping { Because::IncumbentFlapping } else { Because::HigherPriority };
        // One that is preferred still more may not have waited long enough yet.
        let pending = challenge(next, candidates, Terms { moved: false, ..terms }, now).pending;
        return Decision { primary: Some(Primary { node: next.node, because }), pending };
    }
    let first =
        challengers().filter_map(|c| Some((ready(c)?, c))).min_by_key(|(at, c)| (*at, Reverse(c.priority), c.node));
    Decision { pending: first.map(|(at, c)| Pending { node: c.node, at }), ..stays }
}

#[cfg(test)]
mod tests;
