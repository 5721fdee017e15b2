//! Policy file to compiled policy, and its answers.

use std::collections::BTreeSet;

use wayleave_model::{NodeId, Prefix, Tag, UserId};

/// Users and nodes.
#[derive(Clone, Debug, Default)]
pub struct Directory;

/// A policy, compiled against a directory.
#[derive(Clone, Debug)]
pub struct CompiledPolicy;

impl CompiledPolicy {
    /// Everything is allowed.
    pub fn accept_all(_directory: &Directory) -> Self {
        Self
    }

    /// The rule that approves this prefix of this node by itself.
    pub fn auto_approves(&self, _node: NodeId, _prefix: &Prefix) -> Option<String> {
        None
    }

    /// Whether a user may put a tag on a node.
    pub fn may_tag(&self, _user: UserId, _tag: &Tag) -> bool {
        false
    }

    /// Whether nothing is restricted.
    pub const fn is_accept_all(&self) -> bool {
        true
    }

    /// Whether a viewer sees a peer.
    pub fn sees(&self, _viewer: NodeId, _peer: NodeId) -> bool {
        true
    }

    /// Nothing.
    pub fn none() -> BTreeSet<NodeId> {
        BTreeSet::new()
    }
}
