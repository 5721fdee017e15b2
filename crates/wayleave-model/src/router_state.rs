//! What a restart needs to know of routers beside their rows: how often they were lost, and who carried what.

use std::collections::BTreeSet;

use crate::{Approver, NodeId, Prefix, Tag, Timestamp};

/// How often a node was lost of late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlapRow {
    /// Which node.
    pub node: NodeId,
    /// When it was convicted; the oldest first.
    pub downs: Vec<Timestamp>,
    /// When it lost a session; the oldest first.
    pub losses: Vec<Timestamp>,
    /// It counts as flapping until then.
    pub until: Option<Timestamp>,
}

impl FlapRow {
    /// Whether there is nothing to remember.
    pub const fn is_empty(&self) -> bool {
        self.downs.is_empty() && self.losses.is_empty() && self.until.is_none()
    }
}

/// Who carries a prefix, in the tailnet as a whole or within a group that a grant steers through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatRow {
    /// Which prefix.
    pub prefix: Prefix,
    /// The tags of the group; empty for the tailnet as a whole.
    pub group: BTreeSet<Tag>,
    /// Who, and since when.
    pub holder: SeatHolder,
}

/// What is remembered of who carries a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatHolder {
    /// The node.
    pub node: NodeId,
    /// Since when.
    pub since: Timestamp,
    /// The person who moved it there, if one did.
    pub moved_by: Option<Approver>,
    /// Every candidate was down and none has been steady for long enough since, so it is withdrawn from those who have another way.
    pub fallen_back: bool,
    /// Those that viewers are spread over.
    pub carriers: BTreeSet<NodeId>,
}
