//! What people do to nodes: rename, tag, expire, delete.

use std::collections::BTreeSet;

use wayleave_model::{GivenName, Node, NodeId, Owner, PathCheck, Tag, Timestamp, WitnessChoice};
use wayleave_routes::approval;

use crate::command::{Outcome, Refusal};
use crate::history::{Deletion, HistoryEvent};
use crate::plan::{Draft, Plan, Write};
use crate::tailnet::Tailnet;

impl Tailnet {
    pub(crate) fn existing(&self, node: NodeId) -> Result<&Node, Refusal> {
        self.registry.node(node).ok_or(Refusal::NoNode(node))
    }

    pub(crate) fn plan_rename_node(&self, mut draft: Draft, id: NodeId, name: GivenName) -> Result<Plan, Refusal> {
        let node = self.existing(id)?;
        if let Some(holder) = self.registry.node_named(&name).filter(|holder| holder.id != id) {
            return Err(Refusal::NameTaken { name, holder: holder.id });
        }
        draft.node(Node { given_name: name, renamed: true, ..node.clone() });
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_tag_node(&self, mut draft: Draft, id: NodeId, tags: BTreeSet<Tag>) -> Result<Plan, Refusal> {
        let node = self.existing(id)?;
        if tags.is_empty() {
            return Err(Refusal::NoTags);
        }
        let created_by = match &node.owner {
            Owner::User(user) => Some(*user),
            Owner::Tags { created_by, .. } => *created_by,
            Owner::Nobody => None,
        };
        // A tagged node is a machine's, not a person's: its key has no end (tailscale.com/kb/1068/tags).
        draft.node(Node { owner: Owner::Tags { tags, created_by }, expires_at: None, ..node.clone() });
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_expire_node(
        &self,
        mut draft: Draft,
        id: NodeId,
        at: Option<Timestamp>,
    ) -> Result<Plan, Refusal> {
        let node = self.existing(id)?;
        draft.node(Node { expires_at: at, ..node.clone() });
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_delete_node(&self, mut draft: Draft, id: NodeId) -> Result<Plan, Refusal> {
        self.existing(id)?;
        self.draft_deletion(&mut draft, id, Deletion::Asked);
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_delete_ephemeral(&self, mut draft: Draft, id: NodeId) -> Result<Plan, Refusal> {
        let due = self.existing(id)?.ephemeral && !self.liveness.has_session(id);
        if !due {
            return Err(Refusal::NodeIsBack(id));
        }
        self.draft_deletion(&mut draft, id, Deletion::Gone);
        Ok(draft.done(Outcome::Done))
    }

    /// The rows of a deleted node are kept, marked deleted, in the same transaction.
    pub(crate) fn draft_deletion(&self, draft: &mut Draft, id: NodeId, why: Deletion) {
        let now = draft.now;
        for row in self.routes.rows_of(id) {
            draft.route(approval::deleted(row, now), Some(HistoryEvent::Deleted(why)));
        }
        // A check whose witness is gone would look at nothing: whoever may is asked from now on.
        let its = |check: &&PathCheck| check.witness == Some(WitnessChoice::Node(id));
        for check in self.path_checks().filter(its) {
            let check = PathCheck { witness: None, ..check.clone() };
            let words = format!("{} ({}, its witness, was deleted)", self.check_words(&check), self.name_of(id));
            draft.history(Some(check.prefix), None, HistoryEvent::CheckSet(words, check.set_by.clone()));
            draft.write(Write::PathCheck(check));
        }
        draft.write(Write::DeleteNode(id));
    }
}
