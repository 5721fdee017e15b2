//! One tailnet as a deterministic state machine.
//!
//! Two kinds of things go in. A [`Command`] asks: [`Tailnet::plan`] answers with a [`Plan`] or a [`Refusal`] and changes nothing.
//! Once the store has made the plan's writes durable it comes back as [`Event::Committed`]. All other [`Event`]s tell what happened
//! (a session opened, a node reported) and are applied at once: they never wait for the store. [`Tailnet::apply`] cannot fail.
//!
//! What follows comes out as [`Effect`]s, and readers get an immutable [`Snapshot`]. The same inputs in the same order, each with
//! its time, give the same state and the same effects: nothing here reads a clock, rolls dice or depends on hash order.
//!
//! A commit is applied by replacing rows: whatever a plan worked out is in its writes, so there is no second place that knows
//! what a command does.

mod addresses;
mod apply;
mod choices;
mod collisions;
mod command;
mod committed;
mod enrolment;
mod findings;
mod guarded;
mod history;
mod liveness;
mod loans;
mod path_checks;
mod plan;
mod plan_keys;
mod plan_nodes;
mod plan_prefixes;
mod plan_routes;
mod policy;
mod registry;
mod settings;
mod silence;
mod sites;
mod snapshot;
mod ssh_checks;
mod standing;
mod tailnet;
mod vantage;
mod what_if;

pub use addresses::{AddressError, AddressPool};
pub use choices::{Choices, Cover, Offer};
pub use collisions::{Collision, Instead, Party};
pub use command::{ApproveMode, Command, ImportedKey, LoginToken, NewAuthKey, Outcome, Refusal, Registration};
pub use findings::{Finding, Severity};
pub use guarded::Guarded;
pub use history::{Deletion, HistoryEntry, HistoryEvent, group_in};
pub use liveness::Ending;
pub use loans::{Loan, Term};
pub use path_checks::{NewPathCheck, TargetFault};
pub use plan::{Committed, Plan, Write};
pub use policy::{NewPolicy, PolicyRow};
pub use registry::{Registry, Sequences};
pub use settings::Settings;
pub use sites::{MAX_SITE, Site, SiteChange, SiteCommand, SiteHost, SitePrefixError, Sites};
pub use snapshot::{NodeView, Snapshot};
pub use ssh_checks::{Shell, SshCheck, SshCheckKey, SshVerdict};
pub use tailnet::{Effect, Event, Imported, Loaded, Report, Tailnet};
pub use wayleave_routes::Group;
pub use wayleave_routes::spread::{Choice, ChosenBecause};
pub use what_if::{Assumption, Moved, WhatIf};
