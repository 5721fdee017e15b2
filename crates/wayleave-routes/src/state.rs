//! The one word that a person sees of a route. Derived, never stored.

use std::fmt;
use std::str::FromStr;

use wayleave_model::{InvalidReason, Route};

use crate::approval;
use crate::table::RouteTable;

/// What a route is, in one word; the first that fits, in this order (design.md 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteState {
    /// The prefix can't be a route.
    Invalid(InvalidReason),
    /// Enabled, not advertised.
    PreApproved,
    /// It was advertised and is not.
    Withdrawn,
    /// A person disabled it.
    Refused,
    /// Advertised, and nobody has enabled it.
    Pending,
    /// Its node's key has expired.
    Expired,
    /// Its node is down.
    Offline,
    /// It carries the prefix.
    Primary,
    /// It carries traffic without being the primary: an exit, or a group's or a viewer's own choice.
    Serving,
    /// It stands by.
    Standby,
}

impl RouteState {
    /// All words, for completion and help.
    pub const WORDS: [&'static str; 10] = [
        "invalid",
        "pre-approved",
        "withdrawn",
        "refused",
        "pending",
        "expired",
        "offline",
        "primary",
        "serving",
        "standby",
    ];

    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::PreApproved => "pre-approved",
            Self::Withdrawn => "withdrawn",
            Self::Refused => "refused",
            Self::Pending => "pending",
            Self::Expired => "expired",
            Self::Offline => "offline",
            Self::Primary => "primary",
            Self::Serving => "serving",
            Self::Standby => "standby",
        }
    }
}

impl fmt::Display for RouteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        if let Self::Invalid(reason) = self { write!(f, ": {reason}") } else { Ok(()) }
    }
}

/// A text is none of the words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no state of a route; the states are {list}", list = RouteState::WORDS.join(", "))]
pub struct StateError(String);

/// One of the words, to select by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateWord(&'static str);

impl StateWord {
    /// Whether a route in this state is meant.
    pub fn fits(self, state: RouteState) -> bool {
        self.0 == state.word()
    }
}

impl FromStr for StateWord {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        let word = RouteState::WORDS.into_iter().find(|word| *word == text);
        word.map(Self).ok_or_else(|| StateError(text.to_owned()))
    }
}

impl RouteTable {
    /// The word for this row.
    pub fn state(&self, row: &Route) -> RouteState {
        let router = self.routers.get(&row.node);
        if let Some(reason) = row.prefix.invalid() {
            RouteState::Invalid(reason)
        } else if row.enabled && !row.advertised {
            RouteState::PreApproved
        } else if row.was_advertised && !row.advertised {
            RouteState::Withdrawn
        } else if !row.enabled && approval::refused_by_person(row) {
            RouteState::Refused
        } else if !row.enabled {
            RouteState::Pending
        } else if router.is_some_and(|router| router.facts.expired) {
            RouteState::Expired
        } else if !router.is_some_and(|router| router.health.is_up()) {
            RouteState::Offline
        } else if row.is_primary {
            RouteState::Primary
        } else if row.prefix.is_exit() || self.serves(row) {
            RouteState::Serving
        } else {
            RouteState::Standby
        }
    }

    /// Whether somebody uses this row's node for its prefix although it is not the primary: a group that a grant steers through, or viewers
    /// that the prefix is spread over.
    fn serves(&self, row: &Route) -> bool {
        self.seats_of(&row.prefix).any(|(group, seat)| {
            (group.is_some() && seat.carriers.is_empty() && seat.node == row.node) || seat.carriers.contains(&row.node)
        })
    }
}
