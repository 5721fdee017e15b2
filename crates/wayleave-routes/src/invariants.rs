//! What must hold of a prefix after every step (design.md 6). The running server checks it in its debug build; the tests check it over
//! random histories.

use std::fmt;

use wayleave_model::{NodeId, Prefix, Timestamp};

use crate::election::Rank;
use crate::reason::Because;
use crate::steered::Group;
use crate::table::{PrimaryChange, RouteTable, Timer};

/// Something that must hold, and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// 1: more than one row is primary, or another one than the seat says.
    Primaries(Vec<NodeId>),
    /// 2: a primary, of the tailnet or a group, is no candidate.
    NoCandidate(NodeId),
    /// 3: the prefix is on one that is drained, suspect or down while another is steady.
    LeftOnWorse(NodeId),
    /// 4: it moved, and the record names nothing that moves a prefix.
    NoCause(Because),
    /// 6: a withdrawn route is enabled, and nothing waits to disable it.
    StaysEnabled(NodeId),
    /// 7: an exit was elected.
    ExitElected,
    /// 10: the prefix is on one that is down while another is reachable.
    LeftOnDown(NodeId),
    /// Somebody could carry the prefix, and it is on nobody.
    Unserved,
    /// A router that viewers are spread over is no candidate.
    CarrierNoCandidate(NodeId),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primaries(nodes) => write!(f, "rows and seat disagree on the primary: rows say {nodes:?}"),
            Self::NoCandidate(node) => write!(f, "node {node} is primary and no candidate"),
            Self::LeftOnWorse(node) => write!(f, "left on node {node} while another is steady"),
            Self::NoCause(because) => write!(f, "moved, because: {because}"),
            Self::StaysEnabled(node) => write!(f, "withdrawn by node {node}, and stays enabled"),
            Self::LeftOnDown(node) => write!(f, "left on node {node}, which is down, while another is not"),
            Self::ExitElected => f.write_str("an exit was elected"),
            Self::Unserved => f.write_str("on nobody although there is a candidate"),
            Self::CarrierNoCandidate(node) => write!(f, "viewers are spread over node {node}, which is no candidate"),
        }
    }
}

impl PrimaryChange {
    /// What does not hold of a move: it has to name one of the causes that move a prefix (4).
    pub fn broken(&self) -> Option<Broken> {
        let named = self.from != self.to && moves(&self.because, self.from.is_some(), self.to.is_some());
        (!named).then(|| Broken::NoCause(self.because.clone()))
    }
}

/// Whether this moves a prefix from somebody, or nobody, to somebody, or nobody.
pub(crate) fn moves(because: &Because, from: bool, to: bool) -> bool {
    match because {
        Because::IncumbentDown(_)
        | Because::IncumbentFlapping
        | Because::IncumbentDrained
        | Because::IncumbentSuspect(_)
        | Because::IncumbentGone(_) => from && to,
        Because::HigherPriority | Because::MovedBy(_) => to,
        Because::OnlyCandidate | Because::JoinedFirst | Because::BetterRank => !from,
        Because::NoCandidate => !to,
        Because::Incumbent | Because::LastKnown | Because::Frozen => false,
    }
}

impl RouteTable {
    /// What does not hold of this prefix, though it must. Asked right after a step.
    pub fn broken_at(&self, prefix: &Prefix, now: Timestamp) -> Option<Broken> {
        let seat = self.seat(prefix).map(|seat| seat.node);
        if prefix.is_exit() {
            return seat.map(|_| Broken::ExitElected);
        }
        let holders = self.holders(prefix).filter_map(|node| self.row_of(node, prefix));
        let marked: Vec<NodeId> = holders.filter(|row| row.is_primary).map(|row| row.node).collect();
        if !marked.iter().eq(seat.iter()) {
            return Some(Broken::Primaries(marked));
        }
        let rows = self.holders(prefix).filter_map(|node| self.row_of(node, prefix));
        let mut withdrawn = rows.filter(|row| row.enabled && !row.advertised && self.ends_with_withdrawal(row));
        let waits = |id| self.timers.is_set(&Timer::Withdrawn(id)) || self.disabling.contains(&id);
        if let Some(row) = withdrawn.find(|row| !waits(row.id)) {
            return Some(Broken::StaysEnabled(row.node));
        }
        let all = self.candidates(prefix);
        if seat.is_none() && !all.is_empty() {
            return Some(Broken::Unserved);
        }
        let is_frozen = self.frozen(prefix, now).is_some();
        // After a start groups have their seats before it is known who is in them.
        let known = |group: Option<&Group>| group.is_none_or(|group| self.electorates.contains_key(group));
        for (group, seat) in self.seats_of(prefix).filter(|(group, _)| known(*group)) {
            let in_group = |node: &NodeId| {
                group.is_none_or(|group| self.electorates.get(group).is_some_and(|all| all.members.contains(node)))
            };
            let candidates: Vec<_> = all.iter().filter(|c| in_group(&c.node)).collect();
            let Some(own) = candidates.iter().find(|c| c.node == seat.node) else {
                return Some(Broken::NoCandidate(seat.node));
            };
            if let Some(node) = seat.carriers.iter().find(|node| !candidates.iter().any(|c| c.node == **node)) {
                return Some(Broken::CarrierNoCandidate(*node));
            }
            let steady = candidates.iter().any(|c| c.is_steady());
            let reachable = candidates.iter().any(|c| !matches!(c.rank, Rank::Down(_)));
            if reachable && !is_frozen && matches!(own.rank, Rank::Down(_)) {
                return Some(Broken::LeftOnDown(seat.node));
            }
            if steady && !is_frozen && !matches!(own.rank, Rank::Steady | Rank::Flapping) {
                return Some(Broken::LeftOnWorse(seat.node));
            }
        }
        None
    }
}
