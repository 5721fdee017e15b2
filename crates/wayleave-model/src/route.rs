//! The route record: one row for each (node, prefix), never two (design.md 1).

use std::fmt;
use std::str::FromStr;

use crate::{NodeId, Prefix, RouteId, Timestamp};

/// One (node, prefix) that a node advertises, advertised, or was approved for in advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Stable for the life of the row, also across withdraw and re-advertise.
    pub id: RouteId,
    /// Who advertises it.
    pub node: NodeId,
    /// What is advertised.
    pub prefix: Prefix,
    /// The node advertises it now (`Hostinfo.RoutableIPs`).
    pub advertised: bool,
    /// Approved: by a person, by an auto-approver, or by an import.
    pub enabled: bool,
    /// This node is the one chosen for this prefix in the tailnet as a whole.
    pub is_primary: bool,
    /// When the row appeared.
    pub created_at: Timestamp,
    /// When a field of the row last changed.
    pub updated_at: Timestamp,
    /// Set when its node was deleted; the row is kept.
    pub deleted_at: Option<Timestamp>,
    /// The last word on whether it is enabled, and whose it was. `None` while nobody has said anything.
    pub approval: Option<Approval>,
    /// Higher is preferred. 0 by default.
    pub priority: i32,
    /// The node once reported an endpoint of its own inside the prefix (design.md 4).
    pub had_endpoint: bool,
    /// It was advertised at least once, so it is withdrawn, not pre-approved, when it is not advertised now.
    pub was_advertised: bool,
    /// It passed its prefix's path check at least once; only then can it fail it.
    pub path_passed: bool,
    /// Since when it stands convicted by the path check (design.md 4), if it does.
    pub path_failed_at: Option<Timestamp>,
}

/// Who said yes or no to a route, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Who or what spoke.
    pub by: Approver,
    /// When.
    pub at: Timestamp,
    /// `true`: this was a refusal. A person's refusal is not undone by an auto-approver.
    pub refused: bool,
    /// `true`: it was given before the node advertised the prefix. Such an approval outlives a withdrawal.
    pub in_advance: bool,
}

/// Who or what may approve or refuse a route. Its text form is stored and shown: `cli`, `api:<key>`, `ui:<user>`,
/// `auto:<rule>`, `import`, `withdrawn`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Approver {
    /// A person at the command line, over the local socket.
    Cli,
    /// The holder of this API key.
    Api(String),
    /// A user in the browser.
    Ui(String),
    /// This rule of the policy.
    Auto(String),
    /// The import of another installation.
    Import,
    /// Nobody: the node stopped advertising it, and the grace ran out.
    Withdrawn,
}

impl Approver {
    /// Whether a person spoke, whose refusal no auto-approver undoes.
    pub const fn is_person(&self) -> bool {
        matches!(self, Self::Cli | Self::Api(_) | Self::Ui(_))
    }
}

impl fmt::Display for Approver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cli => f.write_str("cli"),
            Self::Api(key) => write!(f, "api:{key}"),
            Self::Ui(user) => write!(f, "ui:{user}"),
            Self::Auto(rule) => write!(f, "auto:{rule}"),
            Self::Import => f.write_str("import"),
            Self::Withdrawn => f.write_str("withdrawn"),
        }
    }
}

/// A stored text names no approver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no approver")]
pub struct ApproverError(String);

impl FromStr for Approver {
    type Err = ApproverError;

    fn from_str(text: &str) -> Result<Self, ApproverError> {
        Ok(match text.split_once(':') {
            None if text == "cli" => Self::Cli,
            None if text == "import" => Self::Import,
            None if text == "withdrawn" => Self::Withdrawn,
            Some(("api", key)) => Self::Api(key.to_owned()),
            Some(("ui", user)) => Self::Ui(user.to_owned()),
            Some(("auto", rule)) => Self::Auto(rule.to_owned()),
            _ => return Err(ApproverError(text.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approvers_round_trip_through_text() {
        for text in
            ["cli", "api:k1", "ui:anna@example.com", "auto:routes[10.0.0.0/8]:tag:router", "import", "withdrawn"]
        {
            assert_eq!(text.parse::<Approver>().unwrap().to_string(), text);
        }
        assert!("somebody".parse::<Approver>().is_err());
    }
}
