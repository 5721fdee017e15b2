//! Lines of history: what happened to a route, when, and why.

use std::fmt;

use wayleave_model::{Approver, NodeId, Prefix, Timestamp};
use wayleave_routes::Because;

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
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryEvent {
    /// A node advertised a prefix for the first time, or again after a withdrawal.
    Advertised,
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
    /// The node was deleted.
    Deleted,
}

impl HistoryEvent {
    /// The word that is stored and scripted against.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Advertised => "advertised",
            Self::Withdrawn => "withdrawn",
            Self::Approved(_) => "approved",
            Self::Disabled(_) => "disabled",
            Self::PrimaryChanged { .. } => "primary changed",
            Self::Deleted => "deleted",
        }
    }

    /// The cause, in the same words as everywhere else; empty where there is none to tell.
    pub fn cause(&self) -> String {
        match self {
            Self::Approved(by) | Self::Disabled(by) => by.to_string(),
            Self::PrimaryChanged { because, .. } => because.to_string(),
            Self::Advertised | Self::Withdrawn | Self::Deleted => String::new(),
        }
    }
}

impl fmt::Display for HistoryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
