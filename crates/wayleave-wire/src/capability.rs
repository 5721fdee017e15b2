//! Capability versions: the one number by which a client says what it can do (protocol.md 0.4, 10). There is none from the server.

use std::fmt;

/// A client's capability version. The server refuses none for being too new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CapabilityVersion(pub u16);

impl CapabilityVersion {
    /// From here on a stream request is read-only and lite updates carry state (client 1.50). Older clients are refused: they would
    /// need other rules for every map request.
    pub const OLDEST: Self = Self(68);
    /// Release 1.80, the oldest that is tested.
    pub const V1_80: Self = Self(113);
    /// The first of release 1.100, which forgets to program peers that are added or removed incrementally (protocol.md 3.4).
    pub const PEERS_LOST_FROM: Self = Self(139);
    /// The last with that fault; fixed in 1.102.
    pub const PEERS_LOST_TO: Self = Self(141);

    /// Whether a frame that adds or removes peers needs a field that makes this client rebuild everything. It costs little, so it
    /// is asked for the releases that need it only.
    pub fn loses_incremental_peers(self) -> bool {
        (Self::PEERS_LOST_FROM..=Self::PEERS_LOST_TO).contains(&self)
    }
}

impl fmt::Display for CapabilityVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
