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
//! 500 ms; a node that is silent to PINGs is convicted by [`PingWatch`], which a session owns and feeds. What others saw of it comes as
//! [`Testimony`]. A conviction stands until proof to the contrary of the same kind ([`evidence`]); one about a single route makes that
//! route suspect ([`endpoint`], [`path_check`]). After a start, and after a loss that so many suffered at once that it is the server's
//! own, primaries that have not come back yet still count as up for a while.
//!
//! # The choice
//!
//! [`election`] is one function from an incumbent and candidates to a decision with its reason. Changes mark prefixes dirty;
//! one pass recomputes their seats ([`Seat`]) in prefix order: the tailnet's own, and that of each group. Exits are never elected. What a
//! person set for a prefix, or for all, goes into it as [`Terms`]. Where a prefix is spread, [`spread`] says which router a viewer uses.

pub mod approval;
pub mod election;
pub mod endpoint;
pub mod evidence;
mod explain;
mod failover;
mod fall_back;
pub mod health;
mod invariants;
pub mod path_check;
mod ping_watch;
mod reason;
mod seats;
pub mod spread;
mod state;
mod steered;
mod suspicion;
mod table;
mod terms;
pub mod witness;

pub use election::{Candidate, Decision, Incumbent, Pending, Presence, Primary, Rank, Terms, elect};
pub use endpoint::Endpoints;
pub use evidence::{Conviction, Convictions, Judging, Kind, Mode, ModeError, ProbeRound, Testimony, Verdict};
pub use explain::{Explanation, Standing, WhyNot};
pub use health::Liveness;
pub use invariants::Broken;
pub use path_check::{PathOutcome, PathRound, Role};
pub use ping_watch::{Observation, PingWatch, Silence};
pub use reason::{Because, Cause, Gone, router_fault};
pub use seats::Seat;
pub use state::{RouteState, StateError, StateWord};
pub use steered::{Electorate, Group, SteeredChange};
pub use table::{Effect, Input, Judgement, NodeFacts, PrimaryChange, Restored, RouteTable, Settings};
