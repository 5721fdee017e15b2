//! The one word that a person sees of a route. Derived, never stored.

use std::fmt;
use std::str::FromStr;

use wayleave_model::InvalidReason;

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
