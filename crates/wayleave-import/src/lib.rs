//! Reads what other systems leave on disk, and makes it the state of an empty Wayleave.
//!
//! ```text
//!  source (SQLite file, PostgreSQL) --> tables by name --> installation      one form for all generations of a schema
//!  installation + policy + settings --> translation                          what holds there, and each thing that had to give
//!  translation                      --> import                               rows for the store, keys for the data folder
//!                                   '-> report                               counts, warnings with their rows, what to do by hand
//! ```
//!
//! The source is never written to, and nothing is dropped without a word: every row that does not arrive as it was has a warning with
//! a code and its id. Where a source contradicts itself the reading that grants less is taken, and the node is kept.

pub mod headscale;
pub mod report;
pub mod source;

pub use report::{Code, Report, Warning};
pub use source::{Location, Source, SourceError};
