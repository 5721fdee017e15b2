//! Path checks, as a person sets them: an address behind the routers of a prefix that has to answer (design.md 4).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::{Approver, NodeId, Prefix, Tag, TagError, Timestamp};

/// The check of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathCheck {
    /// Whose routers are checked.
    pub prefix: Prefix,
    /// The address behind them that has to answer.
    pub target: IpAddr,
    /// How often it is asked for. 1 s to 1 h; 2 s by default.
    pub every: Duration,
    /// Who is asked to look. `None`: the server chooses.
    pub witness: Option<WitnessChoice>,
    /// Routers that stand by are checked too: a witness, and nobody else, is lent the way to the target through them.
    pub standby: bool,
    /// When it was set.
    pub set_at: Timestamp,
    /// Who set it.
    pub set_by: Approver,
}

/// Whom a person names as witness. Its text form is stored: `tag:witness`, or the number of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessChoice {
    /// Any node with this tag.
    Tag(Tag),
    /// This node.
    Node(NodeId),
}

impl fmt::Display for WitnessChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Node(node) => node.fmt(f),
        }
    }
}

impl FromStr for WitnessChoice {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        match text.parse() {
            Ok(number) => Ok(Self::Node(NodeId::new(number))),
            Err(_) => text.parse().map(Self::Tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn witnesses_round_trip_through_text() {
        for text in ["tag:witness", "17"] {
            assert_eq!(text.parse::<WitnessChoice>().unwrap().to_string(), text);
        }
        assert!("witness".parse::<WitnessChoice>().is_err());
    }
}
