//! The policy of a tailnet: how one is set, and what follows when it, the people or the nodes change.

use std::collections::BTreeMap;
use std::sync::Arc;

use wayleave_model::{NodeId, Owner, Timestamp};
use wayleave_policy::{CompiledPolicy, People, PolicyError, PolicyFile, Rules, Subject, Surroundings, TestRun};
use wayleave_routes::{Electorate, Input, approval};

use crate::command::{Outcome, Refusal};
use crate::plan::{Draft, Plan, Write};
use crate::snapshot::NodeView;
use crate::tailnet::{Effect, Tailnet};

/// A policy as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// Grows by one with every policy that is set; 1 is the first.
    pub revision: u64,
    /// The text, comments and all.
    pub text: Arc<str>,
    /// When it was set.
    pub set_at: Timestamp,
    /// Who set it: the words of an approver.
    pub set_by: String,
}

/// A policy that was read and is to be set.
#[derive(Clone, Debug)]
pub struct NewPolicy {
    /// What is stored.
    pub row: PolicyRow,
    pub(crate) file: Arc<PolicyFile>,
}

/// The file follows from the text.
impl PartialEq for NewPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.row == other.row
    }
}

impl Eq for NewPolicy {}

/// The policy of a tailnet that has none: it restricts nothing, approves nothing, and knows no tags.
pub(crate) fn none() -> Arc<PolicyFile> {
    Arc::new(PolicyFile::parse("{}", &Default::default()).expect("an empty object is a policy"))
}

impl Tailnet {
    /// The policy that was set, if one was.
    pub const fn policy_row(&self) -> Option<&PolicyRow> {
        self.policy_row.as_ref()
    }

    /// What a policy would answer for this tailnet as it is. Changes nothing.
    ///
    /// # Errors
    ///
    /// The text is no policy, or fails its own tests.
    pub fn try_policy(&self, text: &str) -> Result<CompiledPolicy, PolicyError> {
        let file = Arc::new(PolicyFile::parse(text, &self.settings.policy)?);
        let rules = Arc::new(Rules::new(Arc::clone(&file), Arc::clone(self.rules.people())));
        let policy = CompiledPolicy::compile(rules, self.subjects());
        let faults = policy.run_tests(&self.settings.policy);
        if faults.is_empty() { Ok(policy) } else { Err(PolicyError { text: Arc::clone(&file.text), faults }) }
    }

    /// Runs the tests in a text. Where it holds nothing but `tests` and `sshTests` they are run against the policy in force, else
    /// against the policy that it is. Changes nothing.
    ///
    /// # Errors
    ///
    /// The text is no policy.
    pub fn run_tests(&self, text: &str) -> Result<Vec<TestRun>, PolicyError> {
        let around = &self.settings.policy;
        let file = Arc::new(PolicyFile::parse(text, around)?);
        let rules = if file.is_tests_only() {
            Arc::clone(&self.rules)
        } else {
            Arc::new(Rules::new(Arc::clone(&file), Arc::clone(self.rules.people())))
        };
        Ok(CompiledPolicy::compile(rules, self.subjects()).run_tests_of(&file, around))
    }

    /// The rules in force.
    pub const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// What policies are read against.
    pub const fn surroundings(&self) -> &Surroundings {
        &self.settings.policy
    }

    pub(crate) fn plan_set_policy(
        &self,
        mut draft: Draft,
        text: &str,
        replaces: Option<u64>,
        by: &str,
    ) -> Result<Plan, Refusal> {
        let current = self.policy_row.as_ref().map_or(0, |row| row.revision);
        if replaces.is_some_and(|replaces| replaces != current) {
            return Err(Refusal::PolicyChanged { current });
        }
        let compiled = self.try_policy(text).map_err(|error| Refusal::Policy(Box::new(error)))?;
        let rules = Arc::clone(compiled.rules());
        let row = PolicyRow { revision: current + 1, text: Arc::from(text), set_at: draft.now, set_by: by.to_owned() };
        draft.write(Write::Policy(Box::new(NewPolicy { row, file: Arc::clone(rules.file()) })));
        // Every route that is advertised, not enabled and not refused is asked again (design.md 2), what an import left waiting too.
        let waiting: Vec<_> =
            self.routes.rows().map(approval::without_import).filter(approval::wants_auto_approval).collect();
        for row in waiting {
            let Some(owner) = self.registry.node(row.node).map(|node| &node.owner) else { continue };
            if let Some(next) = self.auto_approved(&mut draft, &rules, owner, &row) {
                draft.write(Write::Route(next));
            }
        }
        Ok(draft.done(Outcome::Policy(current + 1)))
    }

    /// The policy, or the people that it speaks of, changed.
    pub(crate) fn rules_changed(&mut self, file: Arc<PolicyFile>) {
        let people = Arc::new(People::new(self.registry.users()));
        self.rules = Arc::new(Rules::new(file, people));
        self.rules_stale = true;
    }

    fn subjects(&self) -> impl Iterator<Item = (NodeId, Subject)> {
        self.registry.nodes().map(|node| {
            let expired = self.routes.is_expired(node.id);
            let approved = self.approved_of(node, expired);
            (node.id, Subject { owner: node.owner.clone(), addresses: node.addresses.iter().collect(), approved })
        })
    }

    /// Groups that elect on their own follow from who reaches what; so they are looked at after everything that was applied.
    pub(crate) fn elect_groups(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        if self.rules.steered().is_empty() && self.electorates.is_empty() {
            return;
        }
        self.refresh();
        let policy = &self.snapshot.policy;
        let electorates: BTreeMap<_, _> = policy
            .steered()
            .into_iter()
            .map(|(group, prefixes)| {
                let tagged = |node: &NodeView| match &node.node.owner {
                    Owner::Tags { tags, .. } => tags.iter().any(|tag| group.contains(tag)),
                    Owner::User(_) | Owner::Nobody => false,
                };
                let members = self.snapshot.nodes.values().filter(|node| node.is_router && tagged(node));
                let members = members.map(|node| node.node.id).collect();
                (Arc::clone(&group), Electorate { prefixes, members })
            })
            .collect();
        if electorates != self.electorates {
            self.electorates = electorates.clone();
            self.route_input(Input::Electorates(electorates), now, out);
        }
    }
}
