//! Opens another system's database for reading, whichever it is, and hands out its tables by the names of their columns.
//!
//! A SQLite file is copied together with its write-ahead log, and the copy is opened: SQLite would write to the original even to read it
//! (the log's index, the recovery of a log). The bytes of the original are hashed before and after. PostgreSQL is read in one
//! transaction that is read-only and sees one moment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;

use crate::source::cell::Cell;

pub mod cell;
mod postgres;
mod sqlite;

/// Where a database is.
#[derive(Clone, Debug)]
pub enum Location {
    /// A file.
    Sqlite(PathBuf),
    /// A server. Holds a password; what is shown of it does not.
    Postgres(Box<PgConnectOptions>),
}

impl Location {
    /// The location without its password.
    pub fn shown(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres(options) => format!(
                "postgres://{}@{}:{}/{}",
                options.get_username(),
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or_else(|| options.get_username())
            ),
        }
    }

    /// A database of PostgreSQL, from its parts. `ssl` is a word of libpq's.
    ///
    /// # Errors
    ///
    /// `ssl` is none of these words.
    pub fn postgres(
        (host, port): (&str, u16),
        database: &str,
        (user, password): (&str, &str),
        ssl: &str,
    ) -> Result<Self, SourceError> {
        let mode = ssl.parse().map_err(|_| SourceError::Url)?;
        let options = PgConnectOptions::new().port(port).database(database).username(user).ssl_mode(mode);
        let options = if host.starts_with('/') { options.socket(host) } else { options.host(host) };
        let options = if password.is_empty() { options } else { options.password(password) };
        Ok(Self::Postgres(Box::new(options)))
    }

    /// What a person wrote: a URL of PostgreSQL, or a path.
    ///
    /// # Errors
    ///
    /// It begins as a URL and is none.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // The library's own text may repeat the URL, and with it the password.
            let options = text.parse().map_err(|_| SourceError::Url)?;
            return Ok(Self::Postgres(Box::new(options)));
        }
        Ok(Self::Sqlite(PathBuf::from(text)))
    }
}

/// Why a source can't be read. In none of these cases was anything written anywhere.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such file.
    #[error("there is no file {}: give the path of the database, a postgres:// address, or the config.yaml that names one", .0.display())]
    Missing(PathBuf),
    /// The file can't be read.
    #[error("cannot read {}: run this as a user who may, or copy the file to where you may", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no SQLite database.
    #[error("{} is no SQLite database: give the database file (Headscale's is usually /var/lib/headscale/db.sqlite), a postgres:// address, or a config.yaml", .0.display())]
    NotSqlite(PathBuf),
    /// The file is damaged.
    #[error("the database {} is damaged ({detail}): restore a backup, or repair a copy with `sqlite3 FILE .recover`, and import that", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// Another program has it open.
    #[error("another program{} has the database {} open: stop Headscale first, then import", who(.pid), path.display())]
    InUse {
        /// Which.
        path: PathBuf,
        /// Its process, where that is known.
        pid: Option<i32>,
    },
    /// A transaction was broken off and is still to be rolled back.
    #[error("the database {} has a transaction that was broken off ({} is there): start and stop Headscale once so that it is rolled back, then import", path.display(), journal.display())]
    Interrupted {
        /// Which.
        path: PathBuf,
        /// The journal.
        journal: PathBuf,
    },
    /// It changed while it was copied.
    #[error("the database {} changed while it was read: stop Headscale first, then import", .0.display())]
    Changed(PathBuf),
    /// No room, or no right, for the copy.
    #[error("cannot copy the database into {}: set TMPDIR to a folder with room for it", path.display())]
    Copy {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address is none.
    #[error("this is no address of a PostgreSQL database: write postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Url,
    /// No server answers.
    #[error("no PostgreSQL server answers at {at}: is it running, and are host and port right?")]
    Absent {
        /// Where.
        at: String,
        /// Why.
        source: std::io::Error,
    },
    /// No server answers in time.
    #[error(
        "the PostgreSQL server at {at} did not answer within {seconds} s: are host and port right, and does a firewall let this machine through?"
    )]
    Silent {
        /// Where.
        at: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The server wants TLS, or has none.
    #[error("{at}: {what}; write ?sslmode={mode} behind the address (in Headscale's configuration: `ssl`)")]
    Tls {
        /// Where.
        at: String,
        /// What is missing.
        what: String,
        /// The mode that would do.
        mode: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// The server refuses the user.
    #[error(
        "the PostgreSQL server at {at} refuses the user: {what}; put the right user and password into the address, or the password into the variable PGPASSWORD"
    )]
    Refused {
        /// Where.
        at: String,
        /// What it says.
        what: String,
    },
    /// The server has no such database.
    #[error("the PostgreSQL server has no database at {at}: {what}; `psql -l` lists those that it has")]
    NoDatabase {
        /// Where.
        at: String,
        /// What it says.
        what: String,
    },
    /// A table can't be read.
    #[error("cannot read {what} of {at}")]
    Read {
        /// What.
        what: String,
        /// Where.
        at: String,
        /// Why.
        source: sqlx::Error,
    },
}

fn who(pid: &Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// A database that is open for reading.
pub struct Source {
    shown: String,
    database: Database,
    columns: BTreeMap<String, Vec<String>>,
}

enum Database {
    Sqlite(Box<sqlite::Copy>),
    Postgres(Box<postgres::Moment>),
}

/// A table, read as a whole.
pub struct Table {
    name: String,
    columns: Arc<[String]>,
    rows: Vec<Vec<Cell>>,
}

/// A row of a table.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    table: &'a Table,
    cells: &'a [Cell],
}

impl Source {
    /// Opens a database.
    ///
    /// # Errors
    ///
    /// It is not there, is none, is damaged, in use, or can't be read.
    pub async fn open(location: &Location) -> Result<Self, SourceError> {
        let shown = location.shown();
        let (database, columns) = match location {
            Location::Sqlite(path) => {
                let mut copy = sqlite::Copy::of(path).await?;
                let columns = copy.columns().await?;
                (Database::Sqlite(Box::new(copy)), columns)
            }
            Location::Postgres(options) => {
                let mut moment = postgres::Moment::of(options, &shown).await?;
                let columns = moment.columns().await?;
                (Database::Postgres(Box::new(moment)), columns)
            }
        };
        Ok(Self { shown, database, columns })
    }

    /// Where it is, without a password.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Which program keeps it: `SQLite` or `PostgreSQL`.
    pub const fn kind(&self) -> &'static str {
        match self.database {
            Database::Sqlite(_) => "SQLite",
            Database::Postgres(_) => "PostgreSQL",
        }
    }

    /// The names of its tables.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// Whether it has this table.
    pub fn has_table(&self, table: &str) -> bool {
        self.columns.contains_key(table)
    }

    /// Whether it has this table with this column.
    pub fn has_column(&self, table: &str, column: &str) -> bool {
        self.columns.get(table).is_some_and(|columns| columns.iter().any(|own| own == column))
    }

    /// Reads a table in the order of its ids; one that is not there has no rows.
    ///
    /// # Errors
    ///
    /// The database can't be read.
    pub async fn table(&mut self, name: &str) -> Result<Table, SourceError> {
        let columns: Arc<[String]> = self.columns.get(name).cloned().unwrap_or_default().into();
        let rows = match &mut self.database {
            _ if columns.is_empty() => Vec::new(),
            Database::Sqlite(copy) => copy.rows(name, &columns).await?,
            Database::Postgres(moment) => moment.rows(name, &columns).await?,
        };
        Ok(Table { name: name.to_owned(), columns, rows })
    }

    /// Whether a table has a row.
    ///
    /// # Errors
    ///
    /// The database can't be read.
    pub async fn has_rows(&mut self, name: &str) -> Result<bool, SourceError> {
        if !self.has_table(name) {
            return Ok(false);
        }
        match &mut self.database {
            Database::Sqlite(copy) => copy.has_rows(name).await,
            Database::Postgres(moment) => moment.has_rows(name).await,
        }
    }

    /// The highest id that the table's counter ever gave out, as far as the database remembers; 0 if it does not.
    ///
    /// # Errors
    ///
    /// The database can't be read.
    pub async fn counter(&mut self, table: &str) -> Result<u64, SourceError> {
        if !self.has_column(table, "id") {
            return Ok(0);
        }
        match &mut self.database {
            Database::Sqlite(copy) => copy.counter(table).await,
            Database::Postgres(moment) => moment.counter(table).await,
        }
    }

    /// How many others are connected, where the database says so.
    ///
    /// # Errors
    ///
    /// The database can't be read.
    pub async fn others(&mut self) -> Result<u64, SourceError> {
        match &mut self.database {
            Database::Sqlite(_) => Ok(0),
            Database::Postgres(moment) => moment.others().await,
        }
    }

    /// Ends the reading, and makes sure that the source is as it was.
    ///
    /// # Errors
    ///
    /// A file changed in between.
    pub async fn close(self) -> Result<(), SourceError> {
        match self.database {
            Database::Sqlite(copy) => copy.close().await,
            Database::Postgres(moment) => {
                moment.close().await;
                Ok(())
            }
        }
    }
}

impl Table {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has this column.
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|own| own == column)
    }

    /// Its rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row { table: self, cells })
    }
}

impl<'a> Row<'a> {
    /// The name of its table.
    pub fn table(&self) -> &'a str {
        &self.table.name
    }

    /// The value of a column; as if it were unset where there is no such column.
    pub fn cell(&self, column: &str) -> &'a Cell {
        let at = self.table.columns.iter().position(|own| own == column);
        at.and_then(|at| self.cells.get(at)).unwrap_or(&Cell::Null)
    }

    /// The value of the first of these columns that exists.
    pub fn first(&self, columns: &[&str]) -> &'a Cell {
        let found = columns.iter().find(|column| self.table.has(column));
        found.map_or(&Cell::Null, |column| self.cell(column))
    }

    /// Whether its table has this column.
    pub fn has(&self, column: &str) -> bool {
        self.table.has(column)
    }

    /// Its id; 0 where it has none.
    pub fn id(&self) -> u64 {
        self.cell("id").number().unwrap_or(0)
    }
}

fn read_error<'a>(at: &'a str, what: &'a str) -> impl FnOnce(sqlx::Error) -> SourceError + 'a {
    move |source| SourceError::Read { what: what.to_owned(), at: at.to_owned(), source }
}

/// A name as both databases quote it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the file is, told from its first bytes; `None` if it is not SQLite's.
///
/// # Errors
///
/// It is not there, or can't be read.
pub fn is_sqlite(path: &Path) -> Result<bool, SourceError> {
    use std::io::Read;
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| sqlite::cannot_read(path, error))?;
    file.take(16).read_to_end(&mut head).map_err(|error| sqlite::cannot_read(path, error))?;
    Ok(head == b"SQLite format 3\0")
}
