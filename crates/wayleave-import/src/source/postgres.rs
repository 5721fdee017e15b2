//! A PostgreSQL database, as it is at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::cell::Cell;
use super::{SourceError, quoted, read_error};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A transaction that reads only, and sees one moment.
pub(super) struct Moment {
    shown: String,
    connection: PgConnection,
    /// For each table its columns with their types.
    kinds: BTreeMap<String, BTreeMap<String, String>>,
}

impl Moment {
    pub(super) async fn of(options: &PgConnectOptions, shown: &str) -> Result<Self, SourceError> {
        let options = options.clone().application_name("wayleave import");
        let connecting = tokio::time::timeout(PATIENCE, PgConnection::connect_with(&options)).await;
        let silent = |_| SourceError::Silent { at: shown.to_owned(), seconds: PATIENCE.as_secs() };
        let mut connection = connecting.map_err(silent)?.map_err(|error| classify(shown, error))?;
        // Times leave the server as UTC: in another zone the zero time would be a day in the year 1 BC.
        for sql in ["SET TIME ZONE 'UTC'", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"] {
            sqlx::query(sql).execute(&mut connection).await.map_err(read_error(shown, "the database"))?;
        }
        Ok(Self { shown: shown.to_owned(), connection, kinds: BTreeMap::new() })
    }

    pub(super) async fn columns(&mut self) -> Result<BTreeMap<String, Vec<String>>, SourceError> {
        // Of the catalogue, not of the information schema: that one hides tables that the user may not read, as if there were none.
        let sql = "SELECT c.relname::text AS tbl, a.attname::text AS col, format_type(a.atttypid, NULL) AS kind
                   FROM pg_class c
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                   JOIN pg_attribute a ON a.attrelid = c.oid
                   WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')
                     AND a.attnum > 0 AND NOT a.attisdropped
                   ORDER BY c.relname, a.attnum";
        let rows = sqlx::query(sql).fetch_all(&mut self.connection).await;
        let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in rows.map_err(read_error(&self.shown, "the list of tables"))? {
            let (table, column, kind): (String, String, String) = (row.get("tbl"), row.get("col"), row.get("kind"));
            self.kinds.entry(table.clone()).or_default().insert(column.clone(), kind);
            columns.entry(table).or_default().push(column);
        }
        Ok(columns)
    }

    pub(super) async fn rows(&mut self, table: &str, columns: &[String]) -> Result<Vec<Vec<Cell>>, SourceError> {
        let kinds = self.kinds.get(table).cloned().unwrap_or_default();
        let kind = |column: &String| kinds.get(column).map_or("text", String::as_str);
        let list: Vec<String> = columns.iter().map(|column| expression(column, kind(column))).collect();
        let order = if columns.iter().any(|column| column == "id") { " ORDER BY t.id" } else { "" };
        // The table's own column is named: a bare `id` would be the text that it is asked for as.
        let sql = format!("SELECT {} FROM {} t{order}", list.join(", "), quoted(table));
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.connection).await;
        let rows = rows.map_err(read_error(&self.shown, table))?;
        let cell = |row: &PgRow, at: usize, kind: &str| -> Result<Cell, sqlx::Error> {
            if kind == "bytea" {
                return Ok(row.try_get::<Option<Vec<u8>>, _>(at)?.map_or(Cell::Null, Cell::Bytes));
            }
            let Some(text) = row.try_get::<Option<String>, _>(at)? else { return Ok(Cell::Null) };
            let integer = matches!(kind, "bigint" | "integer" | "smallint");
            Ok(text.parse().ok().filter(|_| integer).map_or(Cell::Text(text), Cell::Int))
        };
        let cells = |row: &PgRow| columns.iter().enumerate().map(|(at, column)| cell(row, at, kind(column))).collect();
        rows.iter().map(cells).collect::<Result<_, _>>().map_err(read_error(&self.shown, table))
    }

    pub(super) async fn has_rows(&mut self, table: &str) -> Result<bool, SourceError> {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", quoted(table));
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_optional(&mut self.connection).await;
        row.map(|row| row.is_some()).map_err(read_error(&self.shown, table))
    }

    /// Sequences keep the names that their tables had, so the one that belongs to the column is asked for.
    pub(super) async fn counter(&mut self, table: &str) -> Result<u64, SourceError> {
        let sql = "SELECT pg_sequence_last_value(pg_get_serial_sequence(quote_ident($1), 'id')::regclass)";
        let last: Option<i64> = sqlx::query_scalar(sql)
            .bind(table)
            .fetch_one(&mut self.connection)
            .await
            .map_err(read_error(&self.shown, table))?;
        Ok(last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0))
    }

    pub(super) async fn others(&mut self) -> Result<u64, SourceError> {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let count: i64 = sqlx::query_scalar(sql)
            .fetch_one(&mut self.connection)
            .await
            .map_err(read_error(&self.shown, "the list of connections"))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    pub(super) async fn close(self) {
        // Nothing was written; a server that is gone by now has nothing to roll back.
        self.connection.close().await.ok();
    }
}

/// How a column is asked for, so that it comes as bytes or as a text.
fn expression(column: &str, kind: &str) -> String {
    let name = quoted(column);
    match kind {
        "bytea" => name,
        "timestamp with time zone" => {
            format!("to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'")
        }
        _ => format!("{name}::text"),
    }
}

fn classify(at: &str, error: sqlx::Error) -> SourceError {
    let at = at.to_owned();
    if matches!(error, sqlx::Error::Tls(_)) {
        let what = "TLS with the PostgreSQL server did not come about".to_owned();
        return SourceError::Tls { at, what, mode: "disable, if the way there is safe", source: error };
    }
    let answer = error.as_database_error();
    let answer = answer.map(|answer| (answer.code().unwrap_or_default().into_owned(), answer.message().to_owned()));
    match (answer, error) {
        (_, sqlx::Error::Io(source)) => SourceError::Absent { at, source },
        // The rule that is missing is one for connections without TLS.
        (Some((code, what)), error) if code == "28000" && what.contains("no encryption") => {
            SourceError::Tls { at, what, mode: "require", source: error }
        }
        (Some((code, what)), _) if code == "28000" || code == "28P01" => SourceError::Refused { at, what },
        (Some((code, what)), _) if code == "3D000" => SourceError::NoDatabase { at, what },
        (_, error) => SourceError::Read { what: "the database".to_owned(), at, source: error },
    }
}
