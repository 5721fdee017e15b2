//! Ids. Each is a number that is given out once and never again, also not after its bearer was deleted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The id with this number. Zero means "none" on the wire and is never given out.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number, always below 2^53 so that it survives JSON (protocol.md 0.1).
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The id that is given out after this one.
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// A node: one client's state directory, for as long as it stays registered. Clients cache by it, so it is never reused.
    NodeId
);
id!(
    /// A user of the tailnet.
    UserId
);
id!(
    /// A route record: one (node, prefix), stable also across withdraw and re-advertise.
    RouteId
);
id!(
    /// A pre-auth key, by which machines register without a person.
    AuthKeyId
);
id!(
    /// A key for the admin API.
    ApiKeyId
);
id!(
    /// One map stream of one node. Numbers grow, so of two sessions of a node the greater is the newer.
    SessionId
);
