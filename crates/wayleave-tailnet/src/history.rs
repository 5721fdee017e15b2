//! Lines of history: what happened to a route, when, and why.

use std::collections::BTreeSet;
use std::fmt;

use wayleave_model::{Approver, NodeId, Prefix, Tag, Timestamp};
use wayleave_routes::{Because, Conviction, Group, Verdict};

/// One line of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// Of which prefix; `None` where it concerns a node as a whole.
    pub prefix: Option<Prefix>,
    /// Of which node; `None` where a prefix went to nobody.
    pub node: Option<NodeId>,
    /// What.
    pub event: HistoryEvent,
    /// What stood against the router that it is about, or against its route: of a move, the one that had the prefix.
    pub evidence: Vec<Conviction>,
}

impl HistoryEntry {
    /// One without evidence.
    pub const fn new(at: Timestamp, prefix: Option<Prefix>, node: Option<NodeId>, event: HistoryEvent) -> Self {
        Self { at, prefix, node, event, evidence: Vec::new() }
    }

    /// The evidence in words: `ping unanswered since TIME; witnesses silent since TIME (observed)`. Empty where there is none.
    pub fn evidence_text(&self) -> String {
        let words = self.evidence.iter().map(|conviction| {
            let observed = if conviction.acts { "" } else { " (observed)" };
            format!("{} since {}{observed}", conviction.cause, conviction.at)
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

/// The cause of a line, with the group that it is about: `via tag:a,tag:b: CAUSE`.
pub(crate) fn cause_in(group: Option<&Group>, cause: String) -> String {
    let Some(group) = group else { return cause };
    let tags: Vec<String> = group.iter().map(ToString::to_string).collect();
    let colon = if cause.is_empty() { "" } else { ": " };
    format!("via {}{colon}{cause}", tags.join(","))
}

/// The group that the cause of a line names. `None`: it is about the tailnet as a whole.
pub fn group_in(cause: &str) -> Option<Group> {
    let named = cause.strip_prefix("via ")?;
    let tags = named.split_once(": ").map_or(named, |(tags, _)| tags);
    let tags: Result<BTreeSet<Tag>, _> = tags.split(',').map(str::parse).collect();
    tags.ok().map(Group::new)
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryEvent {
    /// A node advertised a prefix for the first time, or again after a withdrawal.
    Advertised,
    /// It waits for a person: no auto-approver said yes.
    Pending,
    /// A node stopped advertising it.
    Withdrawn,
    /// Somebody approved it.
    Approved(Approver),
    /// Somebody disabled it, or the grace after a withdrawal ran out.
    Disabled(Approver),
    /// The prefix went from one node to another, or to nobody.
    PrimaryChanged {
        /// Who had it.
        from: Option<NodeId>,
        /// Who has it.
        to: Option<NodeId>,
        /// Why.
        because: Because,
    },
    /// The prefix went from one node to another within the group that a grant steers through.
    GroupPrimaryChanged {
        /// The tags that make the group.
        group: Group,
        /// Who had it.
        from: Option<NodeId>,
        /// Who has it.
        to: Option<NodeId>,
        /// Why.
        because: Because,
    },
    /// Every router, or every one of the group, is down: those who have a wider prefix to use do without it.
    FellBack(Option<Group>),
    /// It is told to all of them again.
    CameBack(Option<Group>),
    /// A person set something for the prefix, or for all: what, and who.
    Set(String, Approver),
    /// A person moved the prefix to the node that had it already: it stays there in spite of priorities.
    Held(Approver),
    /// A person froze the prefix, or all.
    Frozen(Timestamp, Approver),
    /// A person ended a freeze.
    Unfrozen(Approver),
    /// A person set the path check of the prefix: which, and who.
    CheckSet(String, Approver),
    /// A person took the path check of the prefix back.
    CheckRemoved(Approver),
    /// A person took the node out of service.
    Drained(Approver),
    /// A person put it back.
    Undrained(Approver),
    /// A conviction of the node, or of its route to the prefix, was made, written down, or lifted.
    Judged(Verdict),
    /// No router could take over any more: what became of the last that could have. Names the group, where it is one's.
    RedundancyLost(String),
    /// Nobody carries the prefix any more: what became of the last who did. Names the group, where it is one's.
    PrefixDown(String),
    /// Somebody carries it again. Names the group, where it is one's.
    PrefixRestored(String),
    /// The key of a router ends then.
    KeyExpires(Timestamp),
    /// Nodes that do not look like one site advertise it, or a wider one: which.
    CollisionFound(String),
    /// The node was deleted.
    Deleted(Deletion),
}

/// Why a node was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// A person, or a program with a key, asked for it.
    Asked,
    /// It is ephemeral, and was gone for too long.
    Gone,
    /// It is ephemeral, and logged out.
    LoggedOut,
}

impl fmt::Display for Deletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "its node was deleted",
            Self::Gone => "its node is ephemeral, and was gone for too long",
            Self::LoggedOut => "its node is ephemeral, and logged out",
        })
    }
}

impl HistoryEvent {
    /// The word that is stored and scripted against.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Advertised => "advertised",
            Self::Pending => "pending",
            Self::Withdrawn => "withdrawn",
            Self::Approved(_) => "approved",
            Self::Disabled(_) => "disabled",
            Self::PrimaryChanged { .. } => "primary changed",
            Self::GroupPrimaryChanged { .. } => "group primary changed",
            Self::FellBack(_) => "fell back",
            Self::CameBack(_) => "came back",
            Self::Set(..) => "set",
            Self::Held(_) => "held",
            Self::Frozen(..) => "frozen",
            Self::Unfrozen(_) => "unfrozen",
            Self::CheckSet(..) => "check set",
            Self::CheckRemoved(_) => "check removed",
            Self::Drained(_) => "drained",
            Self::Undrained(_) => "undrained",
            Self::Judged(verdict) => verdict.word(),
            Self::RedundancyLost(_) => "redundancy lost",
            Self::PrefixDown(_) => "prefix down",
            Self::PrefixRestored(_) => "prefix restored",
            Self::KeyExpires(_) => "key expires",
            Self::CollisionFound(_) => "collision found",
            Self::Deleted(_) => "deleted",
        }
    }

    /// The words of what webhooks are told of.
    pub const TOLD: [&'static str; 10] = [
        "pending",
        "approved",
        "disabled",
        "withdrawn",
        "primary changed",
        "redundancy lost",
        "prefix down",
        "prefix restored",
        "collision found",
        "key expires",
    ];

    /// What webhooks are told that this is, one of [`Self::TOLD`]. `None`: they are not told of it.
    pub fn told_as(&self) -> Option<&'static str> {
        // The cause names the group.
        let word = if matches!(self, Self::GroupPrimaryChanged { .. }) { "primary changed" } else { self.word() };
        Self::TOLD.contains(&word).then_some(word)
    }

    /// Who had the prefix and who has it, where it moved.
    pub const fn ends(&self) -> (Option<NodeId>, Option<NodeId>) {
        if let Self::PrimaryChanged { from, to, .. } | Self::GroupPrimaryChanged { from, to, .. } = self {
            (*from, *to)
        } else {
            (None, None)
        }
    }

    /// The cause, in the same words as everywhere else; empty where there is none to tell.
    pub fn cause(&self) -> String {
        match self {
            Self::Approved(by) | Self::Disabled(by) => by.to_string(),
            Self::Unfrozen(by) | Self::CheckRemoved(by) | Self::Drained(by) | Self::Undrained(by) => by.to_string(),
            Self::Held(by) => format!("moved by {by}, where it was already"),
            Self::Set(what, by) | Self::CheckSet(what, by) => format!("{by}: {what}"),
            Self::Frozen(until, by) => format!("{by}: until {until}"),
            Self::FellBack(group) => cause_in(group.as_ref(), "every router is down".to_owned()),
            Self::CameBack(group) => cause_in(group.as_ref(), "a router is steady".to_owned()),
            Self::PrimaryChanged { because, .. } => because.to_string(),
            Self::GroupPrimaryChanged { group, because, .. } => cause_in(Some(group), because.to_string()),
            Self::Judged(verdict) => verdict.cause().to_string(),
            Self::KeyExpires(at) => format!("on {at}"),
            Self::RedundancyLost(what)
            | Self::PrefixDown(what)
            | Self::PrefixRestored(what)
            | Self::CollisionFound(what) => what.clone(),
            Self::Advertised | Self::Pending | Self::Withdrawn => String::new(),
            Self::Deleted(why) => why.to_string(),
        }
    }
}

impl fmt::Display for HistoryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_tells_its_group() {
        let group: Group = BTreeSet::from(["tag:a".parse().unwrap(), "tag:b".parse().unwrap()]).into();
        for cause in ["", "connection closed", "no candidate: at all"] {
            assert_eq!(group_in(&cause_in(Some(&group), cause.to_owned())), Some(Group::clone(&group)), "{cause}");
            assert_eq!(group_in(&cause_in(None, cause.to_owned())), None, "{cause}");
        }
    }
}
