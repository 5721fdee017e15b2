//! What one viewer sees of a tailnet, how that differs from what it was told before, and the bytes that tell it.
//!
//! A view is a function of a [`Snapshot`](wayleave_tailnet::Snapshot) and a viewer. A viewer is brought from one snapshot to a newer one
//! by [`delta()`], which looks only at the nodes that changed between the two, or anew by [`full()`]. What came out is told in one frame,
//! so a route that moves is never on two peers nor on none. What many viewers are told alike is made and encoded once: of changes
//! by [`Fan`], of full maps by [`Pieces`].
//!
//! This crate never decides: who is primary comes from the route table, who may see whom from the policy.

mod cache;
mod delta;
mod difference;
mod dns;
mod encode;
mod explain;
mod fan;
mod pieces;
#[cfg(test)]
mod rig;
mod to_wire;
mod view;

pub use cache::PeerCache;
pub use delta::{SSH_CHECK, Shared, delta, full, full_again};
pub use difference::{Change, Difference, Gain, Move, Names, What, difference};
pub use dns::host_name;
pub use encode::{Encoder, frame};
pub use explain::{ChosenExit, Reach, exits, reach, viewers_of};
pub use fan::Fan;
pub use pieces::Pieces;
pub use to_wire::{TAGGED_DEVICES, filter_to_wire, profile_of as owner_profile, ssh_to_wire};
pub use view::{Told, goes_through, peers, told, told_address};
