//! Who may have routes without a person's approval, and who may give tags.

use std::collections::BTreeSet;

use wayleave_model::{Owner, Prefix, Tag, UserId};

use crate::rules::Rules;
use crate::selector::{Selector, listed};

impl Rules {
    /// The rule by which this prefix of a node of this owner is approved, in words: the approver's prefix and the name that fits.
    ///
    /// A prefix is approved by approvers of a prefix that covers it, a default route by those of exits only (conformance cases
    /// routes-ea6 and routes-pa1).
    pub fn auto_approves(&self, owner: &Owner, prefix: &Prefix) -> Option<String> {
        if prefix.is_exit() {
            let who = self.file.auto_approvers.exit_node.iter().find(|who| self.is_owner(who, owner))?;
            return Some(format!("autoApprovers.exitNode: {who}"));
        }
        // The narrowest approver that fits is named.
        let mut covering: Vec<_> =
            self.file.auto_approvers.routes.iter().filter(|(wide, _)| wide.covers(prefix)).collect();
        covering.sort_by_key(|(wide, _)| std::cmp::Reverse(wide.bits()));
        let found = covering
            .into_iter()
            .find_map(|(wide, who)| who.iter().find(|who| self.is_owner(who, owner)).map(|who| (wide, who)));
        found.map(|(wide, who)| format!("autoApprovers.routes[{}]: {who}", listed(wide)))
    }

    /// Whether a user may put this tag on a machine that asks for it. A tag may be owned by a tag; its owners own both.
    pub fn may_tag(&self, user: UserId, tag: &Tag) -> bool {
        self.may_tag_through(user, tag, &mut BTreeSet::new())
    }

    /// Whether the policy knows this tag.
    pub fn knows_tag(&self, tag: &Tag) -> bool {
        self.file.names.tag_owners.contains_key(tag)
    }

    fn may_tag_through<'a>(&'a self, user: UserId, tag: &'a Tag, seen: &mut BTreeSet<&'a Tag>) -> bool {
        if !seen.insert(tag) {
            return false;
        }
        let owners = self.file.names.tag_owners.get(tag).map(Vec::as_slice).unwrap_or_default();
        owners.iter().any(|owner| {
            if let Selector::Tag(other) = owner {
                self.may_tag_through(user, other, seen)
            } else {
                self.is_owner(owner, &Owner::User(user))
            }
        })
    }

    fn is_owner(&self, who: &Selector, owner: &Owner) -> bool {
        match (who, owner) {
            (Selector::Any | Selector::Everywhere, _) => true,
            (Selector::Tag(tag), Owner::Tags { tags, .. }) => tags.contains(tag),
            (Selector::Tagged, Owner::Tags { .. }) | (Selector::Member, Owner::User(_)) => true,
            (_, Owner::User(user)) => self.users_of(who).contains(user),
            (_, Owner::Tags { .. } | Owner::Nobody) => false,
        }
    }
}
