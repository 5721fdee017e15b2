//! Configuration: from defaults, a file, the environment and flags, each stronger than the one before.
//!
//! [`keys`] lists every key with its default and what it means; `docs/configuration.md` is made from it. [`layers`] finds for each key the
//! strongest source that names it. [`prefixes`] reads what is said of single prefixes. [`resolve`] turns the texts into the options that a server is started with, and says for each
//! fault where it came from.

pub mod keys;
pub mod layers;
pub mod prefixes;
pub mod resolve;

pub use layers::Layers;
