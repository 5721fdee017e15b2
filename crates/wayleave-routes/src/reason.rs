//! Reasons, as types. The CLI, the API, the log and the history show the words that these display as.

use std::fmt;

use wayleave_model::Approver;

use crate::evidence::Kind;

/// What convicted a router: the evidence behind "down" and "suspect" (design.md 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The connection that carried its newest map stream was closed (FIN, RST, TLS alert), and no new one came in time.
    ConnectionClosed,
    /// Its newest map stream ended or was reset while the connection lived; `tailscale down` does that.
    StreamEnded,
    /// TCP acknowledged the PING, but neither its answer nor anything else came.
    PingUnanswered,
    /// TCP acknowledged nothing of what was waiting.
    TcpStalled,
    /// The client's process did not answer requests while its kernel did.
    EchoUnanswered,
    /// Most of its witnesses did not reach it through the tailnet.
    WitnessesSilent,
    /// It reported an address of its own inside the prefix, and has none there any more.
    EndpointGone,
    /// What is behind it did not answer the path check.
    PathCheckMissed,
    /// It did not come back within the time that a start, or a common loss, allows.
    NotBack,
    /// It has not opened a session since the server started, and was no primary.
    NotSeen,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ConnectionClosed,
        Self::StreamEnded,
        Self::PingUnanswered,
        Self::TcpStalled,
        Self::EchoUnanswered,
        Self::WitnessesSilent,
        Self::EndpointGone,
        Self::PathCheckMissed,
        Self::NotBack,
        Self::NotSeen,
    ];

    /// The word that is stored and scripted against.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ConnectionClosed => "connection closed",
            Self::StreamEnded => "stream ended",
            Self::PingUnanswered => "ping unanswered",
            Self::TcpStalled => "nothing acknowledged",
            Self::EchoUnanswered => "echo unanswered",
            Self::WitnessesSilent => "witnesses silent",
            Self::EndpointGone => "own address gone",
            Self::PathCheckMissed => "path check missed",
            Self::NotBack => "not back in time",
            Self::NotSeen => "not seen since start",
        }
    }

    /// The kind of evidence that it is, and that lifts it.
    pub const fn kind(self) -> Kind {
        match self {
            Self::ConnectionClosed | Self::StreamEnded | Self::NotBack | Self::NotSeen => Kind::Stream,
            Self::PingUnanswered | Self::TcpStalled => Kind::Ping,
            Self::EchoUnanswered => Kind::Echo,
            Self::WitnessesSilent => Kind::Probe,
            Self::EndpointGone => Kind::Endpoint,
            Self::PathCheckMissed => Kind::Path,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a client's own warning means for the routes of its node; `None`: nothing. Clients name their warnings in what they report
/// (protocol.md 2.2).
pub fn router_fault(flag: &str) -> Option<&'static str> {
    match flag {
        "warn-ip-forwarding-off" => Some("IP forwarding is off"),
        "warn-router-unhealthy" => Some("it could not set up its own routing"),
        _ => None,
    }
}

/// Why an incumbent is no candidate any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gone {
    /// Its node stopped advertising the prefix.
    Withdrawn,
    /// Somebody disabled the route.
    Disabled,
    /// Its node's key expired.
    Expired,
    /// Its node was deleted.
    Deleted,
    /// Neither a relay nor an endpoint of it is known.
    Unreachable,
    /// Its node has none of the group's tags any more.
    LeftGroup,
}

impl Gone {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Withdrawn, Self::Disabled, Self::Expired, Self::Deleted, Self::Unreachable, Self::LeftGroup];
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Withdrawn => "withdrawn",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
            Self::Unreachable => "unreachable",
            Self::LeftGroup => "left the group",
        })
    }
}

/// Why a node carries a prefix, or why nobody does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Because {
    /// There is no other candidate.
    OnlyCandidate,
    /// It was the primary and nothing speaks against it.
    Incumbent,
    /// Of several that rank alike, it joined first.
    JoinedFirst,
    /// It is preferred over the others.
    HigherPriority,
    /// The others are flapping, drained, suspect or down.
    BetterRank,
    /// The incumbent is flapping, and this one has been steady long enough.
    IncumbentFlapping,
    /// The incumbent was drained by a person.
    IncumbentDrained,
    /// The incumbent is judged broken for this prefix.
    IncumbentSuspect(Cause),
    /// The incumbent is down.
    IncumbentDown(Cause),
    /// The incumbent is no candidate any more.
    IncumbentGone(Gone),
    /// A person moved the prefix to it.
    MovedBy(Approver),
    /// The prefix is frozen where it is.
    Frozen,
    /// Nobody is any better: the last primary keeps the prefix.
    LastKnown,
    /// There is no candidate at all.
    NoCandidate,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyCandidate => f.write_str("only candidate"),
            Self::Incumbent => f.write_str("incumbent"),
            Self::JoinedFirst => f.write_str("joined first"),
            Self::HigherPriority => f.write_str("higher priority"),
            Self::BetterRank => f.write_str("better rank"),
            Self::IncumbentFlapping => f.write_str("incumbent flapping"),
            Self::IncumbentDrained => f.write_str("incumbent drained"),
            Self::IncumbentSuspect(cause) => write!(f, "incumbent suspect: {cause}"),
            Self::IncumbentDown(cause) => write!(f, "incumbent down: {cause}"),
            Self::IncumbentGone(gone) => write!(f, "incumbent gone: {gone}"),
            Self::MovedBy(who) => write!(f, "moved by {who}"),
            Self::Frozen => f.write_str("frozen"),
            Self::LastKnown => f.write_str("last known"),
            Self::NoCandidate => f.write_str("no candidate"),
        }
    }
}
