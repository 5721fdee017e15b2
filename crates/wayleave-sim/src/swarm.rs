//! Many clients at once, for measuring: a server as a process of its own, viewers that keep up with their maps, and what came of it.
//!
//! ```text
//! Plan --> Host (the server's process: CPU, memory, the moments of its decisions)
//!     '--> Crowd: a task for each Viewer --> frames --> Seen --> Goal (who is still waited for)
//! ```
//!
//! One viewer in a hundred reads all that it is told and keeps a map as a client does; the others decrypt, decompress and look for the
//! names that they wait for, so that the clients are not what is measured.

mod bits;
mod crowd;
mod host;
mod plan;
mod report;
mod seen;
mod stages;

pub use crowd::Crowd;
pub use host::Host;
pub use plan::{Plan, Policy, Stage};
pub use report::{Figure, Report, StageReport};
pub use stages::run;
