//! A SQLite file, by way of a copy.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection, TypeInfo, ValueRef};
use tempfile::TempDir;

use super::cell::Cell;
use super::{SourceError, quoted, read_error};

/// A copy of a database, which goes when this does.
pub(super) struct Copy {
    original: PathBuf,
    /// SHA-256 of the file and of its log, as they were copied.
    digests: [Option<Vec<u8>>; 2],
    shown: String,
    connection: SqliteConnection,
    _folder: TempDir,
}

pub(super) fn cannot_read(path: &Path, error: std::io::Error) -> SourceError {
    if error.kind() == ErrorKind::NotFound {
        return SourceError::Missing(path.to_owned());
    }
    SourceError::Unreadable { path: path.to_owned(), source: error }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Copy {
    pub(super) async fn of(path: &Path) -> Result<Self, SourceError> {
        if !super::is_sqlite(path)? {
            return Err(SourceError::NotSqlite(path.to_owned()));
        }
        let file = File::open(path).map_err(|error| cannot_read(path, error))?;
        if let Some(pid) = holder(&file) {
            return Err(SourceError::InUse { path: path.to_owned(), pid: u32::try_from(pid).ok().map(|_| pid) });
        }
        let journal = beside(path, "-journal");
        if std::fs::metadata(&journal).is_ok_and(|meta| meta.len() > 0) {
            return Err(SourceError::Interrupted { path: path.to_owned(), journal });
        }
        let folder = tempfile::tempdir().map_err(|source| SourceError::Copy { path: std::env::temp_dir(), source })?;
        let copy = folder.path().join("source.db");
        let digests = [
            Some(copy_file(path, &copy)?),
            match copy_file(&beside(path, "-wal"), &beside(&copy, "-wal")) {
                Ok(digest) => Some(digest),
                Err(SourceError::Missing(_)) => None,
                Err(error) => return Err(error),
            },
        ];
        if digests != [digest(path)?, digest(&beside(path, "-wal"))?] {
            return Err(SourceError::Changed(path.to_owned()));
        }
        let options = SqliteConnectOptions::new().filename(&copy).foreign_keys(false);
        let damaged = |error: sqlx::Error| damaged(path, error);
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(damaged)?;
        let verdict: String =
            sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut connection).await.map_err(damaged)?;
        if verdict != "ok" {
            return Err(SourceError::Damaged { path: path.to_owned(), detail: verdict });
        }
        sqlx::query("BEGIN").execute(&mut connection).await.map_err(damaged)?;
        let shown = path.display().to_string();
        Ok(Self { original: path.to_owned(), digests, shown, connection, _folder: folder })
    }

    pub(super) async fn columns(&mut self) -> Result<BTreeMap<String, Vec<String>>, SourceError> {
        let sql = "SELECT t.name AS tbl, c.name AS col FROM sqlite_master t JOIN pragma_table_info(t.name) c
                   WHERE t.type = 'table' ORDER BY t.name, c.cid";
        let rows = sqlx::query(sql).fetch_all(&mut self.connection).await;
        let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in rows.map_err(read_error(&self.shown, "the list of tables"))? {
            columns.entry(row.get("tbl")).or_default().push(row.get("col"));
        }
        Ok(columns)
    }

    pub(super) async fn rows(&mut self, table: &str, columns: &[String]) -> Result<Vec<Vec<Cell>>, SourceError> {
        let list: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let order = if columns.iter().any(|column| column == "id") { "id" } else { "rowid" };
        let sql = format!("SELECT {} FROM {} ORDER BY {order}", list.join(", "), quoted(table));
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.connection).await;
        let rows = rows.map_err(read_error(&self.shown, table))?;
        let cells = |row: &SqliteRow| (0..columns.len()).map(|at| cell(row, at)).collect::<Result<Vec<_>, _>>();
        rows.iter().map(cells).collect::<Result<_, _>>().map_err(read_error(&self.shown, table))
    }

    pub(super) async fn has_rows(&mut self, table: &str) -> Result<bool, SourceError> {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", quoted(table));
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_optional(&mut self.connection).await;
        row.map(|row| row.is_some()).map_err(read_error(&self.shown, table))
    }

    pub(super) async fn counter(&mut self, table: &str) -> Result<u64, SourceError> {
        let failed = |source| SourceError::Read { what: table.to_owned(), at: self.shown.clone(), source };
        let exists: Option<i64> = sqlx::query_scalar("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'")
            .fetch_optional(&mut self.connection)
            .await
            .map_err(failed)?;
        if exists.is_none() {
            return Ok(0);
        }
        let last: Option<i64> = sqlx::query_scalar("SELECT CAST(seq AS INTEGER) FROM sqlite_sequence WHERE name = $1")
            .bind(table)
            .fetch_optional(&mut self.connection)
            .await
            .map_err(failed)?;
        Ok(last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0))
    }

    pub(super) async fn close(self) -> Result<(), SourceError> {
        // It is thrown away: whether it closes in good order is of no account.
        self.connection.close().await.ok();
        if self.digests != [digest(&self.original)?, digest(&beside(&self.original, "-wal"))?] {
            return Err(SourceError::Changed(self.original));
        }
        Ok(())
    }
}

/// The value as SQLite stores it, whatever the column was declared as.
fn cell(row: &SqliteRow, at: usize) -> Result<Cell, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    let kind = value.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "INTEGER" | "INT4" | "INT8" | "BOOLEAN" => Cell::Int(row.try_get_unchecked(at)?),
        "REAL" => Cell::Real(row.try_get_unchecked(at)?),
        "TEXT" | "DATETIME" | "DATE" | "TIME" => {
            let bytes: Vec<u8> = row.try_get_unchecked(at)?;
            String::from_utf8(bytes).map_or_else(|error| Cell::Bytes(error.into_bytes()), Cell::Text)
        }
        _ => Cell::Bytes(row.try_get_unchecked(at)?),
    })
}

fn damaged(path: &Path, error: sqlx::Error) -> SourceError {
    let detail = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    SourceError::Damaged { path: path.to_owned(), detail }
}

/// Copies a file for nobody else to read, and gives its SHA-256.
fn copy_file(from: &Path, to: &Path) -> Result<Vec<u8>, SourceError> {
    let mut read = File::open(from).map_err(|error| cannot_read(from, error))?;
    let failed = |source| SourceError::Copy { path: to.parent().unwrap_or(to).to_owned(), source };
    let mut write = File::create(to).map_err(failed)?;
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = read.read(&mut buffer).map_err(|error| cannot_read(from, error))?;
        if count == 0 {
            return Ok(hash.finish().as_ref().to_vec());
        }
        hash.update(&buffer[..count]);
        write.write_all(&buffer[..count]).map_err(failed)?;
    }
}

/// SHA-256 of a file; `None` if it is not there.
fn digest(path: &Path) -> Result<Option<Vec<u8>>, SourceError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot_read(path, error)),
    };
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).map_err(|error| cannot_read(path, error))?;
        if count == 0 {
            return Ok(Some(hash.finish().as_ref().to_vec()));
        }
        hash.update(&buffer[..count]);
    }
}

/// Whoever holds a lock on the file: its process, or -1 where the kernel does not tell. A server that keeps its log beside the database
/// holds a shared lock for as long as it runs; asking changes nothing.
fn holder(file: &File) -> Option<i32> {
    // Where SQLite puts its locks: the pending byte at 2^30 and 511 bytes behind it (sqlite.org/fileformat.html, 1.6).
    let wanted = i16::try_from(libc::F_WRLCK).ok()?;
    let from_start = i16::try_from(libc::SEEK_SET).ok()?;
    let mut lock = libc::flock { l_type: wanted, l_whence: from_start, l_start: 1 << 30, l_len: 512, l_pid: 0 };
    // SAFETY: the descriptor is open, and the structure is this command's own and lives on.
    #[expect(unsafe_code, reason = "the standard library has no word for this question to the kernel")]
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    (answer == 0 && i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid)
}
