//! Shells that a person has to approve (`action: check` in a policy's `ssh`).
//!
//! | state | becomes | when |
//! |---|---|---|
//! | no check | waiting, under a key | the policy asks for one, and no approval that still holds covers it |
//! | waiting | approved | a person says so |
//! | waiting | refused | a person says so |
//! | any | gone | its client was answered, half an hour is over, or one of the two nodes is deleted |
//!
//! The policy is asked each time, so a connection that it has come to forbid is refused however far its check got. An approval covers
//! further connections from the same node to the same node as the same local user for as long as the rule's `checkPeriod` says. Nothing
//! here outlives the server: after a restart a person is asked again.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use wayleave_model::{NodeId, Timers, Timestamp};
use wayleave_policy::{CheckPeriod, SshAccess};

use crate::command::{Outcome, Refusal};
use crate::plan::{Draft, Plan};
use crate::tailnet::Tailnet;

/// How long a check waits for a person. Clients give up after as long (protocol.md 2.3).
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How long an approval is remembered at most: the longest `checkPeriod` that a policy may name.
const LONGEST: Duration = Duration::from_secs(168 * 3600);
/// Checks that may wait at once; more are refused, so that no node can fill the memory.
const MOST: usize = 1024;

/// By what a person names a check. Given in, because the core rolls no dice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SshCheckKey(pub String);

impl fmt::Display for SshCheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A connection to a node's SSH server, as far as it is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shell {
    /// Where it comes from.
    pub from: NodeId,
    /// Where it goes to.
    pub to: NodeId,
    /// As which local user.
    pub user: String,
}

/// A check that waits for a person, or whose answer waits for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshCheck {
    /// What it is about.
    pub shell: Shell,
    /// Since when.
    pub since: Timestamp,
    /// What a person said; `None` while nobody has said anything.
    pub approved: Option<bool>,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SshVerdict {
    /// It is let in.
    Accepted,
    /// It is refused, with the reason in words for the user.
    Refused(&'static str),
    /// A person has to approve it under this key; whether that was just begun.
    Waits {
        /// The key.
        key: SshCheckKey,
        /// Nobody was told of it before.
        is_new: bool,
    },
}

/// What becomes of a check. It does not survive a restart, so it is no write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SshCheckChange {
    Wait(SshCheckKey, Shell),
    Answer(SshCheckKey, bool),
    Forget(SshCheckKey),
}

/// The deadlines that belong to checks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Check(SshCheckKey),
    Approval(Shell),
}

/// All checks, and the approvals that may cover further connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct SshChecks {
    checks: BTreeMap<SshCheckKey, SshCheck>,
    approvals: BTreeMap<Shell, Timestamp>,
    due: Timers<Due>,
}

impl SshChecks {
    /// Returns the key whose client may ask again, if there is one.
    pub(crate) fn apply(&mut self, change: SshCheckChange, now: Timestamp) -> Option<SshCheckKey> {
        match change {
            SshCheckChange::Wait(key, shell) => {
                self.due.set(Due::Check(key.clone()), now + PATIENCE);
                self.checks.insert(key, SshCheck { shell, since: now, approved: None });
                None
            }
            SshCheckChange::Answer(key, approved) => {
                let check = self.checks.get_mut(&key)?;
                check.approved = Some(approved);
                if approved {
                    self.due.set(Due::Approval(check.shell.clone()), now + LONGEST);
                    self.approvals.insert(check.shell.clone(), now);
                }
                Some(key)
            }
            SshCheckChange::Forget(key) => {
                self.due.stop(&Due::Check(key.clone()));
                self.checks.remove(&key);
                None
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.due.next()
    }

    /// Forgets what is due. Returns the keys of checks that nobody answered in time.
    pub(crate) fn handle_deadline(&mut self, now: Timestamp) -> Vec<SshCheckKey> {
        let mut over = Vec::new();
        while let Some(due) = self.due.pop_due(now) {
            match due {
                Due::Check(key) => {
                    self.checks.remove(&key);
                    over.push(key);
                }
                Due::Approval(shell) => drop(self.approvals.remove(&shell)),
            }
        }
        over
    }

    pub(crate) fn node_removed(&mut self, node: NodeId) -> Vec<SshCheckKey> {
        let concerns = |shell: &Shell| shell.from == node || shell.to == node;
        let gone: Vec<SshCheckKey> =
            self.checks.iter().filter(|(_, check)| concerns(&check.shell)).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.due.stop(&Due::Check(key.clone()));
            self.checks.remove(key);
        }
        for shell in self.approvals.keys().filter(|shell| concerns(shell)).cloned().collect::<Vec<_>>() {
            self.due.stop(&Due::Approval(shell.clone()));
            self.approvals.remove(&shell);
        }
        gone
    }
}

impl Tailnet {
    /// The checks that wait for a person.
    pub fn ssh_checks(&self) -> impl Iterator<Item = (&SshCheckKey, &SshCheck)> {
        self.ssh_checks.checks.iter().filter(|(_, check)| check.approved.is_none())
    }

    /// `key`: the check that the client has been waiting for. `fresh`: the key to use if there has to be a new one.
    pub(crate) fn plan_ask_shell(
        &self,
        mut draft: Draft,
        shell: Shell,
        key: Option<SshCheckKey>,
        fresh: SshCheckKey,
    ) -> Plan {
        let period = match self.snapshot.policy.ssh_access(shell.from, shell.to, &shell.user) {
            SshAccess::Denied => {
                return draft.done(Outcome::Shell(SshVerdict::Refused("the tailnet's policy does not allow this")));
            }
            SshAccess::Accepted => return draft.done(Outcome::Shell(SshVerdict::Accepted)),
            SshAccess::Check(period) => period,
        };
        let checks = &self.ssh_checks;
        let own = key.and_then(|key| checks.checks.get_key_value(&key)).filter(|(_, check)| check.shell == shell);
        if let Some((key, check)) = own {
            let verdict = match check.approved {
                None => SshVerdict::Waits { key: key.clone(), is_new: false },
                Some(true) => SshVerdict::Accepted,
                Some(false) => SshVerdict::Refused("a person refused it"),
            };
            if check.approved.is_some() {
                draft.ssh_check(SshCheckChange::Forget(key.clone()));
            }
            return draft.done(Outcome::Shell(verdict));
        }
        let covered = match period {
            CheckPeriod::Always => false,
            CheckPeriod::For(period) => checks.approvals.get(&shell).is_some_and(|at| draft.now.since(*at) < period),
        };
        let verdict = if covered {
            SshVerdict::Accepted
        } else if checks.checks.len() >= MOST {
            SshVerdict::Refused("too many connections wait for a person; try again later")
        } else {
            draft.ssh_check(SshCheckChange::Wait(fresh.clone(), shell));
            SshVerdict::Waits { key: fresh, is_new: true }
        };
        draft.done(Outcome::Shell(verdict))
    }

    pub(crate) fn plan_answer_shell(
        &self,
        mut draft: Draft,
        key: &SshCheckKey,
        approved: bool,
    ) -> Result<Plan, Refusal> {
        let waits = self.ssh_checks.checks.get(key).is_some_and(|check| check.approved.is_none());
        if !waits {
            return Err(Refusal::NoSshCheck(key.clone()));
        }
        draft.ssh_check(SshCheckChange::Answer(key.clone(), approved));
        Ok(draft.done(Outcome::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn shell(from: u64, to: u64) -> Shell {
        Shell { from: NodeId::new(from), to: NodeId::new(to), user: "root".to_owned() }
    }

    fn key(text: &str) -> SshCheckKey {
        SshCheckKey(text.to_owned())
    }

    #[test]
    fn a_check_that_nobody_answers_is_forgotten_after_half_an_hour() {
        let mut checks = SshChecks::default();
        checks.apply(SshCheckChange::Wait(key("a"), shell(1, 2)), at(0));
        assert_eq!(checks.handle_deadline(at(1799)), []);
        assert_eq!(checks.next_deadline(), Some(at(1800)));
        assert_eq!(checks.handle_deadline(at(1800)), [key("a")]);
        assert_eq!((checks.checks.len(), checks.next_deadline()), (0, None));
    }

    #[test]
    fn an_approval_is_remembered_for_a_week_and_a_refusal_is_not() {
        let mut checks = SshChecks::default();
        for (name, approved) in [("yes", true), ("no", false)] {
            checks.apply(SshCheckChange::Wait(key(name), shell(1, if approved { 2 } else { 3 })), at(0));
            assert_eq!(checks.apply(SshCheckChange::Answer(key(name), approved), at(1)), Some(key(name)));
        }
        assert_eq!(checks.approvals.keys().collect::<Vec<_>>(), [&shell(1, 2)]);
        checks.handle_deadline(at(1 + 168 * 3600));
        assert!(checks.approvals.is_empty());
    }

    #[test]
    fn what_concerns_a_deleted_node_goes_with_it() {
        let mut checks = SshChecks::default();
        checks.apply(SshCheckChange::Wait(key("from"), shell(1, 2)), at(0));
        checks.apply(SshCheckChange::Wait(key("to"), shell(3, 1)), at(0));
        checks.apply(SshCheckChange::Wait(key("other"), shell(2, 3)), at(0));
        checks.apply(SshCheckChange::Answer(key("from"), true), at(0));
        assert_eq!(checks.node_removed(NodeId::new(1)), [key("from"), key("to")]);
        assert_eq!(checks.checks.keys().collect::<Vec<_>>(), [&key("other")]);
        assert!(checks.approvals.is_empty());
    }
}
