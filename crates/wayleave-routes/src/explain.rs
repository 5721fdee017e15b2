//! Why a prefix is where it is, and why it is not elsewhere: the words that `routes explain` shows.

use std::fmt;
use std::time::Duration;

use wayleave_model::{Failback, Freeze, NodeId, Prefix, PrefixSettings, Spread, Timestamp};

use crate::election::{Candidate, Incumbent, Presence, Rank, Terms, elect};
use crate::reason::Gone;
use crate::seats::Seat;
use crate::state::RouteState;
use crate::steered::Group;
use crate::table::RouteTable;

/// Where a prefix is, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Which prefix.
    pub prefix: Prefix,
    /// Within which group; `None`: in the tailnet as a whole.
    pub group: Option<Group>,
    /// Who carries it.
    pub seat: Option<Seat>,
    /// Everybody who has a row for it, in the order of joining.
    pub standings: Vec<Standing>,
    /// What is set for it.
    pub settings: PrefixSettings,
    /// How long a router must be steady before the prefix comes back where it has fallen back.
    pub back_after: Duration,
    /// What holds it where it is.
    pub frozen: Option<Freeze>,
}

/// A node that has a row for the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The node.
    pub node: NodeId,
    /// How good it is; `None`: it is no candidate.
    pub rank: Option<Rank>,
    /// Higher is preferred.
    pub priority: i32,
    /// Since when it has been steady.
    pub steady_since: Option<Timestamp>,
    /// Why it does not carry the prefix; `None`: it does.
    pub why_not: Option<WhyNot>,
}

/// Why a node does not carry a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// It is no candidate.
    NoCandidate(Gone),
    /// It has no route to give: not advertised, not approved, or never to be. The word is that of `routes list`.
    NoRoute(RouteState),
    /// It has none of the group's tags.
    NotInGroup,
    /// It ranks below the one that carries it.
    Rank(Rank),
    /// It takes over then, unless something changes.
    Waits(Timestamp),
    /// It is better, and what holds the prefix where it is forbids that it takes over: `failback_after` is `never`, a person moved the prefix
    /// away, or it is frozen.
    Held(Held),
    /// It is better, but another takes over before it, and it is no better than that one.
    Overtaken,
    /// The other is preferred.
    LowerPriority(i32),
    /// It would be better, but it was lost, or has not come back since a start.
    Absent,
    /// It is no better, and the other had the prefix before.
    IncumbentStays,
    /// It shares the prefix with the primary: some viewers use it.
    Shares,
    /// It shares the prefix from then on, unless something changes.
    Joins(Timestamp),
    /// It does not share the prefix, and `failback_after` is `never`, so it does not join by itself.
    NeverJoins,
    /// It does not share the prefix, since it was lost, or has not come back since a start.
    NotThere,
}

/// What holds a prefix where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// `failback_after` is `never`.
    NoFailback,
    /// A person moved it.
    Moved,
    /// It is frozen.
    Frozen,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steady => f.write_str("steady"),
            Self::Flapping => f.write_str("flapping"),
            Self::Drained => f.write_str("drained"),
            Self::Suspect(cause) => write!(f, "suspect: {cause}"),
            Self::Down(cause) => write!(f, "down: {cause}"),
        }
    }
}

impl WhyNot {
    /// The words, at this time.
    pub fn words(&self, now: Timestamp) -> String {
        match self {
            Self::NoCandidate(gone) => gone.to_string(),
            Self::NoRoute(state) => state.to_string(),
            Self::NotInGroup => "has none of the group's tags".to_owned(),
            Self::Rank(rank) => rank.to_string(),
            Self::Waits(at) => format!("takes over in {} s", at.since(now).as_millis().div_ceil(1000)),
            Self::Joins(at) => format!("joins in {} s", at.since(now).as_millis().div_ceil(1000)),
            Self::NeverJoins => "does not join by itself: failback_after is never".to_owned(),
            Self::NotThere => "has no connection to the server now".to_owned(),
            Self::Held(Held::NoFailback) => "would be better, but failback_after is never".to_owned(),
            Self::Held(Held::Moved) => "would be better, but a person moved the prefix".to_owned(),
            Self::Held(Held::Frozen) => "would be better, but the prefix is frozen".to_owned(),
            Self::Overtaken => "another takes over before it, and is no worse".to_owned(),
            Self::LowerPriority(priority) => format!("lower priority: {priority}"),
            Self::Absent => "would be better, but has no connection to the server now".to_owned(),
            Self::IncumbentStays => "stands by: no better than the incumbent".to_owned(),
            Self::Shares => "shares the prefix with the primary".to_owned(),
        }
    }
}

impl RouteTable {
    /// Why a node is no candidate for a prefix, in the words that a person sees of its route elsewhere. `None`: it is one.
    pub fn why_none(&self, node: NodeId, prefix: &Prefix) -> Option<WhyNot> {
        let gone = self.why_no_candidate(node, prefix)?;
        let state = self.row_of(node, prefix).map(|row| self.state(row));
        Some(match state {
            Some(
                state @ (RouteState::Invalid(_)
                | RouteState::PreApproved
                | RouteState::Withdrawn
                | RouteState::Refused
                | RouteState::Pending),
            ) => WhyNot::NoRoute(state),
            _ => WhyNot::NoCandidate(gone),
        })
    }

    /// Why this prefix is where it is.
    pub fn explain(&self, prefix: &Prefix, group: Option<&Group>, now: Timestamp) -> Explanation {
        let seat = self.seat_in(prefix, group).cloned();
        let in_group = |node: NodeId| group.is_none_or(|group| self.is_member(node, group));
        let candidates = self.candidates_in(prefix, group);
        let carries = seat.as_ref().and_then(|seat| candidates.iter().find(|c| c.node == seat.node));
        let standing = |node: NodeId| {
            let own = candidates.iter().find(|c| c.node == node);
            let why_not = match (own, carries, &seat) {
                (None, ..) if !in_group(node) => Some(WhyNot::NotInGroup),
                (None, ..) => self.why_none(node, prefix).or(Some(WhyNot::NoCandidate(Gone::Deleted))),
                (Some(own), Some(carries), Some(seat)) if own.node != carries.node => Some(
                    self.why_not_sharing(own, &candidates, seat, now, prefix)
                        .unwrap_or_else(|| self.why_not(own, carries, &candidates, seat, now, prefix)),
                ),
                // A primary that does not share a prefix that is spread is used by nobody.
                (Some(own), Some(_), Some(seat)) => {
                    self.why_not_sharing(own, &candidates, seat, now, prefix).filter(|why| *why != WhyNot::Shares)
                }
                (Some(_), ..) => None,
            };
            Standing {
                node,
                rank: own.map(|own| own.rank),
                priority: self.row_of(node, prefix).map_or(0, |row| row.priority),
                steady_since: own.and_then(|own| own.steady_since),
                why_not,
            }
        };
        Explanation {
            prefix: *prefix,
            group: group.cloned(),
            standings: self.holders(prefix).map(standing).collect(),
            seat,
            settings: self.prefix_settings(prefix),
            back_after: self.settings.back_after,
            frozen: self.frozen(prefix, now).map(|(freeze, _)| freeze.clone()),
        }
    }

    /// Why a router does not share a prefix that is spread; `None`: what holds for a prefix that is not spread holds for it too.
    fn why_not_sharing(
        &self,
        own: &Candidate,
        candidates: &[Candidate],
        seat: &Seat,
        now: Timestamp,
        prefix: &Prefix,
    ) -> Option<WhyNot> {
        let sharing = || candidates.iter().filter(|c| seat.carriers.contains(&c.node));
        let highest = sharing().map(|c| c.priority).max()?;
        let takes_over = seat.pending.is_some_and(|pending| pending.node == own.node);
        let balanced = self.prefix_settings(prefix).spread == Spread::Balance;
        let terms = self.terms(prefix, Some(seat), now);
        if takes_over {
            return None;
        }
        if seat.carriers.contains(&own.node) {
            let used = !balanced || own.priority == highest;
            return Some(if used { WhyNot::Shares } else { WhyNot::LowerPriority(own.priority) });
        }
        Some(match own.steady_since {
            _ if own.rank != Rank::Steady => WhyNot::Rank(own.rank),
            _ if terms.frozen => WhyNot::Held(Held::Frozen),
            _ if own.presence != Presence::Here => WhyNot::NotThere,
            _ if balanced && own.priority < highest => WhyNot::LowerPriority(own.priority),
            since => match (terms.failback, since) {
                (Failback::After(wait), Some(since)) => WhyNot::Joins(since + wait),
                (Failback::Never | Failback::After(_), _) => WhyNot::NeverJoins,
            },
        })
    }

    fn why_not(
        &self,
        own: &Candidate,
        carries: &Candidate,
        candidates: &[Candidate],
        seat: &Seat,
        now: Timestamp,
        prefix: &Prefix,
    ) -> WhyNot {
        let terms = self.terms(prefix, Some(seat), now);
        if let Some(at) = takes_over(own.node, candidates, seat, terms) {
            return WhyNot::Waits(at);
        }
        let better_rank =
            own.rank < carries.rank && std::mem::discriminant(&own.rank) != std::mem::discriminant(&carries.rank);
        let preferred = own.rank == Rank::Steady && own.priority > carries.priority;
        if (better_rank || preferred) && terms.frozen {
            return WhyNot::Held(Held::Frozen);
        }
        if preferred && !better_rank && terms.moved {
            return WhyNot::Held(Held::Moved);
        }
        if (better_rank || preferred) && own.presence != Presence::Here {
            return WhyNot::Absent;
        }
        if better_rank || preferred {
            return match (terms.failback, own.steady_since) {
                (Failback::After(_), Some(_)) => WhyNot::Overtaken,
                (Failback::Never | Failback::After(_), _) => WhyNot::Held(Held::NoFailback),
            };
        }
        if own.rank != Rank::Steady {
            return WhyNot::Rank(own.rank);
        }
        if own.priority < carries.priority {
            return WhyNot::LowerPriority(own.priority);
        }
        WhyNot::IncumbentStays
    }
}

/// When a router takes over, unless something changes: after whoever is pending there may be one that is better still. `None`: it does not.
fn takes_over(node: NodeId, candidates: &[Candidate], seat: &Seat, terms: Terms) -> Option<Timestamp> {
    let (mut holder, mut terms, mut pending) = (seat.node, terms, seat.pending);
    // Whoever takes over from one that is up is preferred to it, or is up and not flapping, so nobody does twice.
    for _ in candidates {
        let at = pending?.at;
        let decision = elect(Incumbent::Node(holder), candidates, terms, at);
        holder = decision.primary?.node;
        if holder == node {
            return Some(at);
        }
        terms = Terms { moved: false, ..terms };
        pending = decision.pending;
    }
    None
}
