//! A policy as it is written: its sections, understood but not yet answered for any node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wayleave_model::{Prefix, Tag};

use crate::people::Surroundings;
use crate::ports::Traffic;
use crate::selector::{Names, Selector};
use crate::source::{Fault, Span, Text};

/// A policy that was read and holds no fault.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// The text that it was read from.
    pub text: Arc<str>,
    /// Groups, hosts and tags.
    pub names: Names,
    /// `acls` and `grants`, in that order. `None`: neither is there, and everything is allowed.
    pub(crate) grants: Option<Vec<Grant>>,
    pub(crate) auto_approvers: AutoApprovers,
    pub(crate) node_attributes: Vec<NodeAttributes>,
    pub(crate) ssh: Vec<SshRule>,
    pub(crate) tests: Vec<Test>,
    pub(crate) ssh_tests: Vec<SshTest>,
    /// What its author should know, although it is no fault.
    pub warnings: Vec<Fault>,
}

/// Why a text is no policy, or one that may not be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.shown())]
pub struct PolicyError {
    /// The text.
    pub text: Arc<str>,
    /// What is wrong with it; at least one.
    pub faults: Vec<Fault>,
}

impl PolicyError {
    fn shown(&self) -> String {
        self.faults.iter().map(|fault| fault.shown(&self.text).to_string()).collect::<Vec<_>>().join("\n")
    }

    /// The messages alone, without places and lines.
    pub fn messages(&self) -> String {
        self.faults.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>().join("; ")
    }
}

/// An entry of `acls` or of `grants`.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) src: Vec<Selector>,
    pub(crate) dst: Vec<Destination>,
    /// Capabilities, each with its list of values.
    pub(crate) app: Vec<(String, Arc<serde_json::Value>)>,
    pub(crate) via: Vec<Tag>,
    /// It lets nobody through: it has a condition on the source that can't be checked.
    pub(crate) conditional: bool,
    /// Where it stands.
    pub(crate) at: Span,
}

/// A destination and the traffic that may go there. No traffic: capabilities only.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) target: Selector,
    pub(crate) traffic: Arc<[Traffic]>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct AutoApprovers {
    pub(crate) routes: BTreeMap<Prefix, Vec<Selector>>,
    pub(crate) exit_node: Vec<Selector>,
}

#[derive(Clone, Debug)]
pub(crate) struct NodeAttributes {
    pub(crate) target: Vec<Selector>,
    /// Each with the value that clients get: `null` for a plain attribute, a list for one with values.
    pub(crate) attributes: Vec<(String, Arc<serde_json::Value>)>,
    pub(crate) pool: Vec<Prefix>,
}

#[derive(Clone, Debug)]
pub(crate) struct SshRule {
    pub(crate) src: Vec<Selector>,
    pub(crate) dst: Vec<Selector>,
    pub(crate) users: Vec<SshUser>,
    pub(crate) check: Option<CheckPeriod>,
    pub(crate) accept_env: Vec<String>,
}

/// How long an approved session lets further ones in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckPeriod {
    /// Each session is asked about.
    Always,
    /// For this long after an approval none is asked about.
    For(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SshUser {
    /// `autogroup:nonroot`.
    NonRoot,
    /// `localpart:*@domain`: the name before the `@` of the user's e-mail address.
    LocalPart(String),
    Name(String),
}

/// An entry of `tests`. What it names is understood when it is run, so that what is wrong in it is a failed test.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) src: Option<Text>,
    pub(crate) protocol: Option<Text>,
    pub(crate) accept: Vec<Text>,
    pub(crate) deny: Vec<Text>,
    pub(crate) at: Span,
}

/// An entry of `sshTests`.
#[derive(Clone, Debug)]
pub(crate) struct SshTest {
    pub(crate) src: Option<Text>,
    pub(crate) dst: Vec<Text>,
    pub(crate) accept: Vec<Text>,
    pub(crate) check: Vec<Text>,
    pub(crate) deny: Vec<Text>,
    pub(crate) at: Span,
}

impl PolicyFile {
    /// Whether it holds tests and nothing else.
    pub fn is_tests_only(&self) -> bool {
        let Self { text: _, names, grants, auto_approvers, node_attributes, ssh, tests, ssh_tests, warnings: _ } = self;
        let says_something = grants.is_some()
            || *names != Names::default()
            || !auto_approvers.routes.is_empty()
            || !auto_approvers.exit_node.is_empty()
            || !node_attributes.is_empty()
            || !ssh.is_empty();
        let tests_something = !tests.is_empty() || !ssh_tests.is_empty();
        tests_something && !says_something
    }

    /// Reads a policy.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, each with its place.
    pub fn parse(text: &str, around: &Surroundings) -> Result<Self, PolicyError> {
        crate::read::read(text, around)
    }
}
