//! What can go wrong with a database, in words for the person who runs it.

use std::path::PathBuf;

/// The database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file, or its folder, can't be read or written.
    #[error("cannot open the database {}: {hint}", path.display())]
    Access {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// Somebody else holds it.
    #[error("the database {} is locked by another program: stop that one first (`fuser` names it)", .0.display())]
    Locked(PathBuf),
    /// It can be read but not written.
    #[error("the database {} is read-only: give the server's user write access to the file and its folder", .0.display())]
    ReadOnly(PathBuf),
    /// The file is no SQLite database, or it is damaged.
    #[error("the database {} is damaged ({detail}): restore a backup; nothing was changed", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says of it.
        detail: String,
    },
    /// It was written by a newer program.
    #[error("the database {} has schema {found}, and this program knows up to {known}: use the newer program that wrote it; nothing was changed", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// The schema can't be brought up to date.
    #[error("cannot bring the schema of {} up to date; nothing was changed", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: sqlx::migrate::MigrateError,
    },
}

/// An installation can't be written into the database.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is one.
    #[error(
        "there is an installation already ({0}): import into an empty data folder (another --data-dir); nothing was changed"
    )]
    NotEmpty(String),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A read or a commit failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused.
    #[error("the database refused to {doing}")]
    Database {
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// A stored value can't be read.
    #[error("table {table}, row {row}: the value of {column} is invalid: {detail}")]
    Value {
        /// The table.
        table: &'static str,
        /// The id of the row.
        row: i64,
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}
