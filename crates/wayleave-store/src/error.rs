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

/// A document can't be written into the database. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// There is an installation, or it can't be said whether there is.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// It is something else.
    #[error("this is no export of Wayleave: its format is `{0}`")]
    Format(String),
    /// It was made by a newer program.
    #[error("the export has schema {found}, and this program knows up to {known}: use the newer program that made it")]
    Newer {
        /// Its schema.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// It has a table that there is not.
    #[error("the export has a table `{0}`, and there is none here: was it changed by hand?")]
    Table(String),
    /// A row is not as its table has them.
    #[error("the export, table {table}, row {row}{}: {detail}", if column.is_empty() { String::new() } else { format!(", column {column}") })]
    Row {
        /// The table.
        table: String,
        /// Which row of it, from 1.
        row: usize,
        /// The column; empty: the row as a whole.
        column: String,
        /// What is wrong.
        detail: String,
    },
    /// All together it is no tailnet.
    #[error("what the export holds can't be served: {0}")]
    Content(String),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A copy can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file can't be written.
    #[error("cannot write the copy {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The name can't be told to the database.
    #[error("the name {} is not UTF-8: choose another", .0.display())]
    Name(PathBuf),
    /// The database refused.
    #[error("the database could not be copied: is there room?")]
    Copy(#[source] sqlx::Error),
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
