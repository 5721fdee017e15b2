//! The heart: which node may carry which prefix, who carries it now, who takes over, how fast, and why.
//!
//! [`RouteTable`] is a pure state machine. What happened goes in as an [`Input`] with the time at which it happened; what
//! follows comes out as [`Effect`]s. It never reads a clock, never rolls dice and never waits: [`RouteTable::next_deadline`]
//! says when it wants to be called again, and [`RouteTable::handle_deadline`] is that call.
//!
//! # The life of a route
//!
//! A row ([`wayleave_model::Route`]) appears when a node advertises a prefix, or when a person approves one in advance. Who may
//! say yes and no, and what outlives what, is in [`approval`]. What a person reads of a row is one derived word, [`RouteState`].
//!
//! # The life of a router
//!
//! [`health`] keeps what is known of each node's liveness. A node whose newest map stream was lost still counts as up for
//! 500 ms; a node that is silent to PINGs is convicted by [`PingWatch`], which a session owns and feeds. A conviction stands until
//! proof to the contrary of the same kind. After a start, and after a loss that so many suffered at once that it is the server's
//! own, primaries that have not come back yet still count as up for a while.
//!
//! # The choice
//!
//! [`election`] is one function from an incumbent and candidates to a decision with its reason. Changes mark prefixes dirty;
//! one pass ([`failover`](RouteTable)) recomputes them in prefix order. Exits are never elected.

pub mod approval;
pub mod election;
mod failover;
pub mod health;
mod reason;
mod state;
mod steered;
mod table;

pub use election::{Candidate, Decision, Pending, Primary, Rank, elect};
pub use health::{Liveness, Observation, PingWatch, Silence};
pub use reason::{Because, Cause, Gone};
pub use state::{RouteState, StateError, StateWord};
pub use steered::{Electorate, Group, SteeredChange};
pub use table::{Effect, Input, NodeFacts, PrimaryChange, RouteTable, Seat, Settings};
