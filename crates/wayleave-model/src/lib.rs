//! The nouns of Wayleave: ids, keys, prefixes, tags, names, nodes, users and time. They parse and display; they have no
//! behaviour. A type moves in here when a second crate needs it.
//!
//! Every id and key is a newtype that is made by parsing or by the one place that gives it out, so a user's id can't be
//! handed where a node's is wanted. Time is one [`Timestamp`]: it can be stored, logged and written as a literal in a test.
//!
//! Nothing here derives `Serialize` for a stranger: the shapes that Tailscale, the database and API users see belong to
//! the crates at those borders. Ids, keys, prefixes and times do serialize, as the one text form that each of them has.

pub mod duration;
mod id;
mod key;
mod name;
mod node;
mod path_check;
mod prefix;
mod prefix_settings;
mod route;
mod router_state;
mod tag;
mod text;
mod time;
mod timers;
mod user;
pub mod via6;

pub use id::{ApiKeyId, AuthKeyId, NodeId, RouteId, SessionId, UserId};
pub use key::{DiscoKey, KeyError, MachineKey, NodeKey};
pub use name::{GivenName, NameError, sanitize_label};
pub use node::{
    Addresses, Endpoint, EndpointKind, Hostinfo, NetInfo, Node, Owner, Place, RegisterMethod, Service, Vantage,
};
pub use path_check::{PathCheck, WitnessChoice};
pub use prefix::{InvalidReason, Prefix, PrefixError, PrefixKind, TAILNET_V4, TAILNET_V6, VIA6};
pub use prefix_settings::{
    Change, Failback, Freeze, OnWithdraw, PrefixChange, PrefixOverrides, PrefixRow, PrefixSettings, SettingError,
    Spread, WhenDown,
};
pub use route::{Approval, Approver, Route};
pub use router_state::{FlapRow, SeatHolder, SeatRow};
pub use tag::{Tag, TagError};
pub use time::{Timestamp, TimestampError};
pub use timers::Timers;
pub use user::{ApiKey, AuthKey, KeyHash, User, UserRole, UserRoleError};
