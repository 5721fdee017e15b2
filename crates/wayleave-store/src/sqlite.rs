//! The SQLite database: opening, loading, reading.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, SqlSafeStr, SqliteConnection};
use wayleave_model::{NodeId, Prefix, Timestamp};
use wayleave_tailnet::{Loaded, Sequences};

use crate::error::{OpenError, StoreError};
use crate::rows::{self, HistoryRow};

/// The lines of history by which prefixes were last told to be down, of the tailnet as a whole and of each group, which is how a cause begins
/// (`via tag:a: CAUSE`); none of what has been told to be restored since.
macro_rules! told_down {
    () => {
        "SELECT id, prefix, cause FROM (
             SELECT max(id) AS id, prefix, event, cause FROM history
             WHERE event IN ('prefix down', 'prefix restored') AND prefix IS NOT NULL
             GROUP BY prefix,
                 CASE WHEN cause LIKE 'via tag:%' THEN substr(cause, 1, instr(cause || ': ', ': ') - 1) END
         ) WHERE event = 'prefix down' ORDER BY id"
    };
}

mod backup;
mod export;
mod import;
mod sites;
mod states;
mod webhooks;
mod write;

pub use export::Document;
pub use webhooks::{QueuedCall, Webhook};
pub use write::Soft;

/// A database that is open. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    /// One connection: SQLite has one writer.
    pub(crate) write: SqlitePool,
    read: SqlitePool,
}

/// Which lines of history to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct HistoryFilter {
    /// Only of this prefix.
    pub prefix: Option<Prefix>,
    /// Only of this node: as the one concerned, or on either side of a move.
    pub node: Option<NodeId>,
    /// Only of this time and after it.
    pub since: Option<Timestamp>,
    /// Only from before this time.
    pub until: Option<Timestamp>,
    /// Only older than the line of this number.
    pub before: Option<u64>,
    /// At most so many, the newest.
    pub limit: u32,
}

fn migrator() -> Migrator {
    let steps = [
        (1, "first", include_str!("../migrations/0001_first.sql")),
        (2, "policy", include_str!("../migrations/0002_policy.sql")),
        (3, "prefixes", include_str!("../migrations/0003_prefixes.sql")),
        (4, "path_checks", include_str!("../migrations/0004_path_checks.sql")),
        (5, "import", include_str!("../migrations/0005_import.sql")),
        (6, "sites", include_str!("../migrations/0006_sites.sql")),
        (7, "evidence", include_str!("../migrations/0007_evidence.sql")),
        (8, "standby_checks", include_str!("../migrations/0008_standby_checks.sql")),
        (9, "path_words", include_str!("../migrations/0009_path_words.sql")),
        (10, "gone_nodes", include_str!("../migrations/0010_gone_nodes.sql")),
    ];
    let step = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(steps.into_iter().map(step).collect())
}

impl Store {
    /// Opens the database in this file, made if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// The file can't be read or written, is locked, damaged, or written by a newer program. Nothing was changed then.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(3));
        let open = |most| SqlitePoolOptions::new().max_connections(most).idle_timeout(None).max_lifetime(None);
        let write = open(1).connect_with(options.clone()).await.map_err(|error| classify(path, error))?;
        check(path, &write).await?;
        let migrator = migrator();
        let known = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
        if let Some(found) = schema(path, &write).await?.filter(|found| *found > known) {
            return Err(OpenError::Newer { path: path.to_owned(), found, known });
        }
        migrator.run(&write).await.map_err(|source| OpenError::Migrate { path: path.to_owned(), source })?;
        let read = open(4).connect_with(options.read_only(true)).await.map_err(|error| classify(path, error))?;
        Ok(Self { write, read })
    }

    /// Reads all that a tailnet is made of.
    ///
    /// # Errors
    ///
    /// The database can't be read, or holds a value that is none.
    pub async fn load(&self) -> Result<Loaded, StoreError> {
        let failed = |source| StoreError::Database { doing: "load a table", source };
        load(&mut *self.write.acquire().await.map_err(failed)?).await
    }

    /// Reads lines of history, the newest first.
    ///
    /// # Errors
    ///
    /// The database can't be read, or holds a value that is none.
    pub async fn history(&self, filter: HistoryFilter) -> Result<Vec<HistoryRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM history
             WHERE ($1 IS NULL OR prefix = $1)
               AND ($2 IS NULL OR node_id = $2 OR from_node = $2 OR to_node = $2)
               AND ($3 IS NULL OR at >= $3)
               AND ($4 IS NULL OR at < $4)
               AND ($5 IS NULL OR id < $5)
             ORDER BY id DESC LIMIT $6",
        )
        .bind(filter.prefix.map(|prefix| prefix.to_string()))
        .bind(filter.node.map(|node| write::signed(node.get())))
        .bind(filter.since.map(Timestamp::as_millis))
        .bind(filter.until.map(Timestamp::as_millis))
        .bind(filter.before.map(write::signed))
        .bind(i64::from(filter.limit))
        .fetch_all(&self.read)
        .await
        .map_err(|source| StoreError::Database { doing: "read the history", source })?;
        rows.iter().map(rows::history_from_row).collect()
    }

    /// Whether anything is asked of the database right now: by a statement, or by a connection that opens or closes.
    pub fn is_busy(&self) -> bool {
        [&self.write, &self.read].iter().any(|pool| pool.size() as usize > pool.num_idle())
    }

    /// Ends all connections; what was handed in before is durable then.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// All that a tailnet is made of, as this connection sees it.
async fn load(db: &mut SqliteConnection) -> Result<Loaded, StoreError> {
    Ok(Loaded {
        users: all(db, "SELECT * FROM users ORDER BY id", rows::user_from_row).await?,
        nodes: all(db, "SELECT * FROM nodes ORDER BY id", rows::node_from_row).await?,
        gone: all(db, "SELECT * FROM gone_nodes ORDER BY id", rows::gone_from_row).await?,
        routes: all(db, "SELECT * FROM routes WHERE deleted_at IS NULL ORDER BY id", rows::route_from_row).await?,
        auth_keys: all(db, "SELECT * FROM auth_keys ORDER BY id", rows::auth_key_from_row).await?,
        api_keys: all(db, "SELECT * FROM api_keys ORDER BY id", rows::api_key_from_row).await?,
        policy: all(db, "SELECT revision AS id, * FROM policies ORDER BY revision DESC LIMIT 1", rows::policy_from_row)
            .await?
            .pop(),
        prefixes: all(db, "SELECT * FROM prefixes ORDER BY prefix", rows::prefix_from_row).await?,
        flaps: all(db, "SELECT * FROM flaps ORDER BY id", rows::flaps_from_row).await?,
        seats: all(db, "SELECT * FROM seats ORDER BY id", rows::seat_from_row).await?,
        down: all(db, told_down!(), rows::down_from_row).await?,
        sites: all(db, "SELECT * FROM sites ORDER BY id", rows::site_from_row).await?,
        site_hosts: all(db, "SELECT rowid AS id, * FROM site_hosts ORDER BY site, name", rows::site_host_from_row)
            .await?,
        path_checks: all(db, "SELECT rowid AS id, * FROM path_checks ORDER BY prefix", rows::path_check_from_row)
            .await?,
        sequences: sequences(db).await?,
        imported: all(db, "SELECT * FROM imports ORDER BY id DESC LIMIT 1", rows::import_from_row).await?.pop(),
    })
}

async fn all<T>(
    db: &mut SqliteConnection,
    sql: &'static str,
    from_row: fn(&sqlx::sqlite::SqliteRow) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let rows = sqlx::query(sql).fetch_all(db).await;
    let rows = rows.map_err(|source| StoreError::Database { doing: "load a table", source })?;
    rows.iter().map(from_row).collect()
}

async fn sequences(db: &mut SqliteConnection) -> Result<Sequences, StoreError> {
    let rows = sqlx::query("SELECT name, next FROM sequences").fetch_all(db).await;
    let rows = rows.map_err(|source| StoreError::Database { doing: "load the sequences", source })?;
    let mut sequences = Sequences::default();
    for row in rows {
        let (name, next): (String, i64) = (row.get("name"), row.get("next"));
        let invalid = || StoreError::Value {
            table: "sequences",
            row: next,
            column: "next",
            detail: format!("`{name}` = {next}"),
        };
        let number = u64::try_from(next).map_err(|_| invalid())?;
        match name.as_str() {
            "node" => sequences.node = NodeId::new(number),
            "user" => sequences.user = wayleave_model::UserId::new(number),
            "route" => sequences.route = wayleave_model::RouteId::new(number),
            "auth_key" => sequences.auth_key = wayleave_model::AuthKeyId::new(number),
            "api_key" => sequences.api_key = wayleave_model::ApiKeyId::new(number),
            "address" => sequences.address = u32::try_from(number).map_err(|_| invalid())?,
            _ => return Err(invalid()),
        }
    }
    Ok(sequences)
}

/// Whether the file is whole, and ours to write.
async fn check(path: &Path, pool: &SqlitePool) -> Result<(), OpenError> {
    let verdict: Result<String, _> = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await;
    let verdict = verdict.map_err(|error| classify(path, error))?;
    if verdict != "ok" {
        return Err(OpenError::Damaged { path: path.to_owned(), detail: verdict });
    }
    for sql in ["BEGIN IMMEDIATE", "ROLLBACK"] {
        sqlx::query(sql).execute(pool).await.map_err(|error| classify(path, error))?;
    }
    Ok(())
}

/// The schema that the file has; `None` if it has none yet.
async fn schema(path: &Path, pool: &SqlitePool) -> Result<Option<i64>, OpenError> {
    let exists: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'")
            .fetch_optional(pool)
            .await
            .map_err(|error| classify(path, error))?;
    if exists.is_none() {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(pool)
        .await
        .map_err(|error| classify(path, error))
}

/// What SQLite's primary result code means for the person who runs the server (sqlite.org/rescode.html).
fn classify(path: &Path, error: sqlx::Error) -> OpenError {
    let path: PathBuf = path.to_owned();
    let code = error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        Some(5 | 6) => OpenError::Locked(path),
        Some(8) => OpenError::ReadOnly(path),
        Some(11 | 26) => {
            let detail = error.as_database_error().map(|error| error.message().to_owned()).unwrap_or_default();
            OpenError::Damaged { path, detail }
        }
        Some(14) => OpenError::Access {
            path,
            hint: "is the folder there, and may the server's user write to it?",
            source: error,
        },
        _ => OpenError::Access { path, hint: "see the cause", source: error },
    }
}
