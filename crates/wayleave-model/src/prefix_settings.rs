//! What holds for a prefix beside who advertises it: set by a person for one prefix, or for all that say nothing of their own.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{Approver, Prefix, Timestamp, duration};

/// A text is none of the words of a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not among {words}")]
pub struct SettingError {
    text: String,
    words: &'static str,
}

macro_rules! setting {
    ($(#[$doc:meta])* $name:ident, $words:literal, { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The word that is stored and typed.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = SettingError;

            fn from_str(text: &str) -> Result<Self, SettingError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(SettingError { text: text.to_owned(), words: $words }),
                }
            }
        }
    };
}

setting!(
    /// What becomes of a prefix while every candidate is down.
    WhenDown, "keep, fall_back", {
    /// The last primary keeps it, so that traffic does not leak into a wider route or an exit.
    #[default]
    Keep = "keep",
    /// It is withdrawn from each viewer who may use a covering subnet prefix whose router is up.
    FallBack = "fall_back",
});

setting!(
    /// What becomes of an approval when the node stops advertising the prefix.
    OnWithdraw, "disable, keep", {
    /// It ends after a grace: a person or an auto-approver has to approve again.
    #[default]
    Disable = "disable",
    /// It stays.
    Keep = "keep",
});

setting!(
    /// Who is primary for one viewer.
    Spread, "single, region, balance", {
    /// The primary, for all.
    #[default]
    Single = "single",
    /// The steady router that is nearest to the viewer.
    Region = "region",
    /// One of the steady routers of the highest priority, by a hash of viewer and prefix.
    Balance = "balance",
});

/// How long somebody better must have been steady before it replaces a primary that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failback {
    /// That long.
    After(Duration),
    /// It never does.
    Never,
}

impl Default for Failback {
    fn default() -> Self {
        Self::After(Duration::from_secs(60))
    }
}

impl fmt::Display for Failback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(time) => f.write_str(&duration::words(*time)),
            Self::Never => f.write_str("never"),
        }
    }
}

/// A text says nothing of a failback.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a duration, such as 60s or 2h 30m, nor `never`")]
pub struct FailbackError(String);

impl FromStr for Failback {
    type Err = FailbackError;

    fn from_str(text: &str) -> Result<Self, FailbackError> {
        if text == "never" {
            return Ok(Self::Never);
        }
        duration::parse(text).map(Self::After).map_err(|_| FailbackError(text.to_owned()))
    }
}

/// What holds for a prefix, all worked out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixSettings {
    /// While every candidate is down.
    pub when_down: WhenDown,
    /// When a node stops advertising it.
    pub on_withdraw: OnWithdraw,
    /// Who is primary for one viewer.
    pub spread: Spread,
    /// When somebody better takes over.
    pub failback: Failback,
}

/// A prefix, or all of them, stays where it is until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The end.
    pub until: Timestamp,
    /// Who wanted it.
    pub by: Approver,
}

/// What a person set, for one prefix or for all that say nothing of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixOverrides {
    /// See [`PrefixSettings::when_down`].
    pub when_down: Option<WhenDown>,
    /// See [`PrefixSettings::on_withdraw`].
    pub on_withdraw: Option<OnWithdraw>,
    /// See [`PrefixSettings::spread`].
    pub spread: Option<Spread>,
    /// See [`PrefixSettings::failback`].
    pub failback: Option<Failback>,
    /// Stops every automatic move.
    pub frozen: Option<Freeze>,
}

impl PrefixOverrides {
    /// `base`, but for what is set here.
    pub fn over(&self, base: PrefixSettings) -> PrefixSettings {
        PrefixSettings {
            when_down: self.when_down.unwrap_or(base.when_down),
            on_withdraw: self.on_withdraw.unwrap_or(base.on_withdraw),
            spread: self.spread.unwrap_or(base.spread),
            failback: self.failback.unwrap_or(base.failback),
        }
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Overrides as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixRow {
    /// Of which prefix; `None`: of all that say nothing of their own.
    pub prefix: Option<Prefix>,
    /// What is set. Nothing: there is no such row.
    pub overrides: PrefixOverrides,
}

/// What to do with one setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// Leaves it as it is.
    #[default]
    Leave,
    /// Takes it back: what is wider holds again.
    Reset,
    /// Sets it.
    Set(T),
}

impl<T: Copy> Change<T> {
    /// What was set, once this was done to it.
    pub const fn of(self, before: Option<T>) -> Option<T> {
        match self {
            Self::Leave => before,
            Self::Reset => None,
            Self::Set(value) => Some(value),
        }
    }
}

/// What to do with the settings of a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixChange {
    /// See [`PrefixSettings::when_down`].
    pub when_down: Change<WhenDown>,
    /// See [`PrefixSettings::on_withdraw`].
    pub on_withdraw: Change<OnWithdraw>,
    /// See [`PrefixSettings::spread`].
    pub spread: Change<Spread>,
    /// See [`PrefixSettings::failback`].
    pub failback: Change<Failback>,
}

impl PrefixChange {
    /// The overrides, once this was done to them.
    pub fn of(&self, before: &PrefixOverrides) -> PrefixOverrides {
        PrefixOverrides {
            when_down: self.when_down.of(before.when_down),
            on_withdraw: self.on_withdraw.of(before.on_withdraw),
            spread: self.spread.of(before.spread),
            failback: self.failback.of(before.failback),
            frozen: before.frozen.clone(),
        }
    }

    /// What is done, in words: `spread = balance, failback_after = default`.
    pub fn words(&self) -> String {
        fn part<T: fmt::Display>(name: &str, change: Change<T>) -> Option<String> {
            match change {
                Change::Leave => None,
                Change::Reset => Some(format!("{name} = default")),
                Change::Set(value) => Some(format!("{name} = {value}")),
            }
        }
        let parts = [
            part("when_down", self.when_down),
            part("on_withdraw", self.on_withdraw),
            part("spread", self.spread),
            part("failback_after", self.failback),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_others_are_refused_with_the_list() {
        for text in ["keep", "fall_back"] {
            assert_eq!(text.parse::<WhenDown>().unwrap().to_string(), text);
        }
        for text in ["single", "region", "balance"] {
            assert_eq!(text.parse::<Spread>().unwrap().to_string(), text);
        }
        for text in ["never", "1m", "90s", "1500ms"] {
            assert_eq!(text.parse::<Failback>().unwrap().to_string(), text);
        }
        assert_eq!("drop".parse::<OnWithdraw>().unwrap_err().to_string(), "`drop` is not among disable, keep");
    }

    #[test]
    fn what_a_prefix_says_itself_is_stronger_than_the_default() {
        let default = PrefixOverrides { spread: Some(Spread::Region), ..PrefixOverrides::default() };
        let own = PrefixOverrides { spread: Some(Spread::Balance), ..PrefixOverrides::default() };
        let base = PrefixSettings::default();
        assert_eq!(own.over(default.over(base)).spread, Spread::Balance);
        let change = PrefixChange { spread: Change::Reset, ..PrefixChange::default() };
        assert_eq!(change.of(&own).over(default.over(base)).spread, Spread::Region);
        assert_eq!(change.words(), "spread = default");
    }
}
