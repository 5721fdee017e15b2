//! The store: what survives a restart, in SQLite.
//!
//! One writer connection makes plans durable, each in one transaction, in the order in which they are handed in; readers have
//! connections of their own and never wait for it. The journal is a write-ahead log and every commit is synced, so what was
//! acknowledged survives both `kill -9` and a power loss.
//!
//! Rows are input too: a stored value that can't be read is an error that names table, row and column, never a panic.

mod error;
mod json;
mod rows;
mod sqlite;

pub use error::{BackupError, DocumentError, ImportError, OpenError, StoreError};
pub use rows::HistoryRow;
pub use sqlite::{Document, HistoryFilter, QueuedCall, Soft, Store, Webhook};
