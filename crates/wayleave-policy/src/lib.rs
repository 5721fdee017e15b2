//! The policy: from the file that people write to the answers that the rest of the server asks for.
//!
//! ```text
//! text -> source (HuJSON, with places) -> read -> PolicyFile      what is written, understood
//! PolicyFile + People                  -> Rules                   names are numbers; who owns what is known
//! Rules + Subjects                     -> CompiledPolicy          who sees whom, filters, routes, attributes, ssh
//! ```
//!
//! All of it is immutable and pure. A node that changes costs what that node needs: nodes that no rule tells apart are one class
//! ([`class`]), and what is worked out for a class is kept.
//!
//! What the hosted control plane answers is the measure, hundreds of captured cases of it; where the text names a case, that case decided.

pub mod access;
pub mod attributes;
pub mod auto_approval;
pub mod class;
pub mod compiled;
mod decode;
pub mod file;
pub mod filter;
pub mod people;
pub mod ports;
pub mod preview;
mod read;
mod read_ssh;
pub mod rules;
pub mod selector;
pub mod source;
pub mod ssh;
pub mod steering;
pub mod tests;
pub mod visibility;

pub use access::{Access, Places, PortSet};
pub use compiled::{CompiledPolicy, Subject};
pub use file::{CheckPeriod, PolicyError, PolicyFile};
pub use filter::{Capabilities, FilterRule, Sources};
pub use people::{Domains, People, Surroundings};
pub use ports::Ports;
pub use preview::{Matching, PreviewFor};
pub use rules::Rules;
pub use source::{Fault, Span, standard_json};
pub use ssh::{SshAccess, SshRule};
pub use steering::Steering;
pub use tests::TestRun;
