//! The policy, as questions that the rest of the server asks.
//!
//! So far there is one policy: everything is allowed, nothing approves itself, and nobody may give tags away but the one who makes a
//! key. It is what holds until a policy is set. [`CompiledPolicy`] is the seam: an immutable value, made anew when something that its
//! answers stand on changes, and shared by all who read.

use wayleave_model::{NodeId, Prefix, Tag, UserId};

/// A policy that is ready to answer.
#[derive(Clone, Debug)]
pub struct CompiledPolicy(());

impl CompiledPolicy {
    /// Everything is allowed.
    pub const fn accept_all() -> Self {
        Self(())
    }

    /// Whether a viewer has a peer on its map.
    pub const fn sees(&self, _viewer: NodeId, _peer: NodeId) -> bool {
        true
    }

    /// The rule by which this prefix of this node is approved without a person.
    pub const fn auto_approves(&self, _node: NodeId, _prefix: &Prefix) -> Option<String> {
        None
    }

    /// Whether a user may put this tag on a machine that asks for it. Tags are what rules will be written for, so nobody gets one by
    /// asking before somebody has said who owns it.
    pub const fn may_tag(&self, _user: UserId, _tag: &Tag) -> bool {
        false
    }

    /// Whether nothing is restricted, so that no answer depends on who is there.
    pub const fn is_accept_all(&self) -> bool {
        true
    }
}
