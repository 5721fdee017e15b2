//! Evidence: its kinds, what each may do, and the convictions that stand because of it (design.md 4).
//!
//! Each kind convicts by itself and acquits by itself: a conviction stands until proof to the contrary of the same kind. So what is known
//! against a router is a set, with at most one conviction of each kind. Whoever is convicted by any kind that is set to `act` is down
//! (evidence about the node) or suspect (evidence about one of its routes); a kind that is set to `observe` is written down and does no
//! more.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use wayleave_model::{SessionId, Timestamp};

use crate::endpoint::Endpoints;
use crate::path_check::PathRound;
use crate::reason::Cause;

/// The kinds of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The map stream, or the connection that carried it, is gone.
    Stream,
    /// PINGs inside the connection are not answered.
    Ping,
    /// The client's process does not answer a request.
    Echo,
    /// Witnesses don't reach the router through the tailnet.
    Probe,
    /// The router has no address of its own inside the prefix any more.
    Endpoint,
    /// What is behind the router does not answer.
    Path,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Stream, Self::Ping, Self::Echo, Self::Probe, Self::Endpoint, Self::Path];

    /// The word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Ping => "ping",
            Self::Echo => "echo",
            Self::Probe => "probe",
            Self::Endpoint => "endpoint",
            Self::Path => "path",
        }
    }
}

/// What evidence of a kind may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing; it is not taken.
    Off,
    /// It is written down, and moves nothing.
    Observe,
    /// It convicts.
    Act,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Act => "act",
        })
    }
}

/// A text is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mode of evidence: say off, observe or act")]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        [Self::Off, Self::Observe, Self::Act]
            .into_iter()
            .find(|mode| mode.to_string() == text)
            .ok_or_else(|| ModeError(text.to_owned()))
    }
}

/// How evidence is judged. The defaults are those of design.md 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judging {
    /// What each kind may do. A kind that is not in it acts.
    pub modes: BTreeMap<Kind, Mode>,
    /// How late the server itself may be before silence convicts nobody. 250 ms.
    pub late: Duration,
    /// How long the silence behind a conviction for unanswered PINGs has lasted: who was seen alive since then is held. 2 s.
    pub ping_deadline: Duration,
    /// So many echoes in a row that were not answered convict. 2.
    pub echo_misses: u32,
    /// So many rounds in a row in which most witnesses were silent convict. 2.
    pub probe_rounds: u32,
    /// How long after it opened a session a router's silence to witnesses is none, unless one has reached it since: a client that was
    /// restarted needs some seconds to make new WireGuard sessions. 10 s.
    pub probe_settle: Duration,
    /// So many path checks in a row that were not answered convict. 2.
    pub path_misses: u32,
    /// How long an answer to a witness holds a router that was lost. 1 s; less where the loss itself is younger than that.
    pub hold_lasts: Duration,
    /// How long answers to witnesses may hold a router that was lost. 30 s.
    pub hold_most: Duration,
    /// A conviction by witnesses is lifted when nobody could testify for so long: nobody knows. 30 s.
    pub forget_after: Duration,
}

impl Default for Judging {
    fn default() -> Self {
        Self {
            modes: BTreeMap::new(),
            late: Duration::from_millis(250),
            ping_deadline: Duration::from_secs(2),
            echo_misses: 2,
            probe_rounds: 2,
            probe_settle: Duration::from_secs(10),
            path_misses: 2,
            hold_lasts: Duration::from_secs(1),
            hold_most: Duration::from_secs(30),
            forget_after: Duration::from_secs(30),
        }
    }
}

impl Judging {
    /// What this kind may do.
    pub fn mode(&self, kind: Kind) -> Mode {
        self.modes.get(&kind).copied().unwrap_or(Mode::Act)
    }

    /// Whether the server itself was late to look at what was due then.
    pub(crate) fn is_late(&self, due: Timestamp, now: Timestamp) -> bool {
        now.since(due) > self.late
    }
}

/// What was found out about a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Testimony {
    /// Its session does not answer for half of the time that convicts: its witnesses are to be asked.
    Doubted(SessionId),
    /// A witness that was asked then reached it.
    Alive {
        /// When the witness was asked.
        asked_at: Timestamp,
    },
    /// An echo of this session was answered, or was not within its time.
    Echo {
        /// Which session was asked.
        session: SessionId,
        /// Whether it answered.
        answered: bool,
        /// When the look was due.
        due: Timestamp,
    },
    /// A round of probes is over.
    Probe(ProbeRound),
    /// It reported these addresses of its own. An empty list is no report.
    Endpoints(Endpoints),
    /// A path check through it is over.
    Path(PathRound),
}

/// What came of asking witnesses to reach a router through the tailnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRound {
    /// The router's session when the round began.
    pub session: Option<SessionId>,
    /// When the round was to be over.
    pub due: Timestamp,
    /// Witnesses that reached it in time.
    pub answered: u32,
    /// Witnesses that did not, and answered the server's own ping in the same round.
    pub silent: u32,
}

/// A conviction that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conviction {
    /// By which evidence.
    pub cause: Cause,
    /// Since when.
    pub at: Timestamp,
    /// It counts; otherwise it is only written down.
    pub acts: bool,
}

/// The convictions that stand: at most one of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Convictions(BTreeMap<Kind, Conviction>);

impl Convictions {
    /// All of them, by kind.
    pub fn iter(&self) -> impl Iterator<Item = &Conviction> {
        self.0.values()
    }

    /// The oldest that counts.
    pub fn acting(&self) -> Option<&Conviction> {
        self.0.iter().filter(|(_, conviction)| conviction.acts).min_by_key(|(kind, c)| (c.at, **kind)).map(|(_, c)| c)
    }

    /// The one of this kind.
    pub fn of(&self, kind: Kind) -> Option<&Conviction> {
        self.0.get(&kind)
    }

    /// Convicts, unless a conviction of that kind stands already or the kind is off. Returns what changed.
    pub(crate) fn convict(&mut self, cause: Cause, mode: Mode, at: Timestamp) -> Option<Verdict> {
        let kind = cause.kind();
        if mode == Mode::Off || self.0.contains_key(&kind) {
            return None;
        }
        let acts = mode == Mode::Act;
        self.0.insert(kind, Conviction { cause, at, acts });
        Some(if acts { Verdict::Convicted(cause) } else { Verdict::Observed(cause) })
    }

    /// Lifts the conviction of this kind. Returns what changed.
    pub(crate) fn acquit(&mut self, kind: Kind) -> Option<Verdict> {
        self.0.remove(&kind).map(|conviction| Verdict::Acquitted(conviction.cause))
    }
}

/// A change of what stands against a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stands convicted.
    Convicted(Cause),
    /// It would stand convicted if evidence of this kind were to act.
    Observed(Cause),
    /// The conviction is lifted.
    Acquitted(Cause),
}

impl Verdict {
    /// The evidence.
    pub const fn cause(self) -> Cause {
        match self {
            Self::Convicted(cause) | Self::Observed(cause) | Self::Acquitted(cause) => cause,
        }
    }

    /// The word that is stored and scripted against.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Convicted(_) => "convicted",
            Self::Observed(_) => "observed",
            Self::Acquitted(_) => "acquitted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn t(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_conviction_stands_until_its_own_kind_is_lifted() {
        let mut all = Convictions::default();
        assert!(all.convict(Cause::PingUnanswered, Mode::Act, t(5)).is_some());
        assert!(all.convict(Cause::TcpStalled, Mode::Act, t(6)).is_none(), "the same kind: the first stands");
        assert!(all.convict(Cause::WitnessesSilent, Mode::Act, t(3)).is_some());
        assert_eq!(all.acting().unwrap().cause, Cause::WitnessesSilent, "the oldest");
        assert_eq!(all.acquit(Kind::Echo), None);
        assert_eq!(all.acquit(Kind::Probe), Some(Verdict::Acquitted(Cause::WitnessesSilent)));
        assert_eq!(all.acting().unwrap().cause, Cause::PingUnanswered);
    }

    #[test]
    fn what_is_off_is_not_written_down_and_what_is_observed_does_not_count() {
        let mut all = Convictions::default();
        assert_eq!(all.convict(Cause::PingUnanswered, Mode::Off, t(1)), None);
        let observed = all.convict(Cause::PingUnanswered, Mode::Observe, t(1));
        assert_eq!(observed, Some(Verdict::Observed(Cause::PingUnanswered)));
        assert!(all.of(Kind::Ping).is_some());
        assert_eq!(all.acting(), None);
    }

    #[test]
    fn modes_round_trip_through_text() {
        for text in ["off", "observe", "act"] {
            assert_eq!(text.parse::<Mode>().unwrap().to_string(), text);
        }
        assert!("on".parse::<Mode>().is_err());
    }
}
