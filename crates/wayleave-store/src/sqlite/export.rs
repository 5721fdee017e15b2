//! The whole database as a document, but for its secrets, and back.
//!
//! The document has every table with its columns as they are in the database, so a table that is new is in it without a word here. Left
//! out are keys' hashes and webhooks' secrets ([`SECRETS`]), everything that is stored as bytes, and what the database keeps for itself. Columns that hold JSON
//! ([`EMBEDDED`]) are in it as what they are.
//!
//! It is read back into an empty database of the same schema or a newer one. What a column without a value would hold is what its table
//! says. A key comes back without its hash, and opens nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Column, Connection, Row, SqliteConnection, TypeInfo, ValueRef};
use wayleave_model::Timestamp;
use wayleave_tailnet::Loaded;

use super::Store;
use crate::error::{DocumentError, StoreError};

/// What a document calls itself.
pub const FORMAT: &str = "wayleave export";

/// Columns that are nobody's business outside: how keys are known again, and what calls are signed with.
const SECRETS: [(&str, &str); 5] = [
    ("auth_keys", "hash"),
    ("auth_keys", "hash_kind"),
    ("api_keys", "hash"),
    ("api_keys", "hash_kind"),
    ("webhooks", "secret"),
];

/// Columns that hold JSON, in whichever table.
const EMBEDDED: [&str; 7] = ["tags", "hostinfo", "endpoints", "vantage", "downs", "losses", "carriers"];

/// Tables that are the database's own.
fn is_ours(table: &str) -> bool {
    !table.starts_with("sqlite_") && !table.starts_with("_sqlx_")
}

/// Everything but secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The name of this format, and its version.
    pub format: String,
    /// The schema of the database that it was made from.
    pub schema: i64,
    /// When it was made.
    pub exported_at: Timestamp,
    /// Rows by table, in the order of their ids.
    pub tables: BTreeMap<String, Vec<Map<String, Value>>>,
}

impl Store {
    /// Everything that is durable, as of one moment.
    ///
    /// # Errors
    ///
    /// The database can't be read.
    pub async fn export(&self, now: Timestamp) -> Result<Document, StoreError> {
        let failed = |source| StoreError::Database { doing: "export", source };
        let mut connection = self.read.acquire().await.map_err(failed)?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        let db = &mut *transaction;
        let mut tables = BTreeMap::new();
        for (table, columns) in schema(db).await.map_err(failed)? {
            let order = if columns.contains(&"id".to_owned()) { "id" } else { "rowid" };
            let rows = sqlx::query(AssertSqlSafe(format!("SELECT * FROM \"{table}\" ORDER BY {order}")));
            let rows = rows.fetch_all(&mut *db).await.map_err(failed)?;
            let rows: Result<Vec<_>, _> = rows.iter().map(|row| fields(&table, row)).collect();
            tables.insert(table, rows.map_err(failed)?);
        }
        let schema = version(db).await.map_err(failed)?;
        Ok(Document { format: FORMAT.to_owned(), schema, exported_at: now, tables })
    }

    /// Writes a document into a database that has nothing yet, in one transaction. `check` may refuse what it comes to.
    ///
    /// # Errors
    ///
    /// There is something already, the document is none or of a newer program, or the database refused. Nothing was written then.
    pub async fn import_document(
        &self,
        document: &Document,
        check: impl FnOnce(Loaded) -> Result<(), String>,
    ) -> Result<(), DocumentError> {
        if document.format != FORMAT {
            return Err(DocumentError::Format(document.format.clone()));
        }
        self.check_empty().await?;
        let failed = |source| StoreError::Database { doing: "import", source };
        let mut transaction = self.begin().await.map_err(failed)?;
        let db = &mut *transaction;
        let known = version(db).await.map_err(failed)?;
        if document.schema > known {
            return Err(DocumentError::Newer { found: document.schema, known });
        }
        let schema = schema(db).await.map_err(failed)?;
        for (table, rows) in &document.tables {
            let columns = schema.get(table).ok_or_else(|| DocumentError::Table(table.clone()))?;
            // An empty database has its sequences.
            sqlx::query(AssertSqlSafe(format!("DELETE FROM \"{table}\""))).execute(&mut *db).await.map_err(failed)?;
            for (at, row) in rows.iter().enumerate() {
                let fault = |column: &str, detail: String| DocumentError::Row {
                    table: table.clone(),
                    row: at + 1,
                    column: column.to_owned(),
                    detail,
                };
                insert(db, table, columns, row, fault).await?;
            }
        }
        let loaded = super::load(db).await?;
        check(loaded).map_err(DocumentError::Content)?;
        transaction.commit().await.map_err(failed)?;
        Ok(())
    }
}

/// Our tables and their columns.
async fn schema(db: &mut SqliteConnection) -> Result<BTreeMap<String, Vec<String>>, sqlx::Error> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT t.name, c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c
         WHERE t.type = 'table' ORDER BY t.name, c.cid",
    )
    .fetch_all(db)
    .await?;
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (table, column) in rows.into_iter().filter(|(table, _)| is_ours(table)) {
        tables.entry(table).or_default().push(column);
    }
    Ok(tables)
}

async fn version(db: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(db).await
}

fn fields(table: &str, row: &SqliteRow) -> Result<Map<String, Value>, sqlx::Error> {
    let mut fields = Map::new();
    for column in row.columns() {
        let name = column.name();
        if SECRETS.contains(&(table, name)) {
            continue;
        }
        let raw = row.try_get_raw(name)?;
        let value = match raw.type_info().name() {
            _ if raw.is_null() => Value::Null,
            "INTEGER" => row.try_get::<i64, _>(name)?.into(),
            "TEXT" => {
                let text: String = row.try_get(name)?;
                let embedded = EMBEDDED.contains(&name).then(|| serde_json::from_str(&text).ok()).flatten();
                embedded.unwrap_or(Value::String(text))
            }
            _ => continue,
        };
        fields.insert(name.to_owned(), value);
    }
    Ok(fields)
}

async fn insert(
    db: &mut SqliteConnection,
    table: &str,
    columns: &[String],
    row: &Map<String, Value>,
    fault: impl Fn(&str, String) -> DocumentError,
) -> Result<(), DocumentError> {
    let mut names = Vec::new();
    let mut values = Vec::new();
    for (name, value) in row {
        if !columns.contains(name) || SECRETS.contains(&(table, name.as_str())) {
            return Err(fault(name, "there is no such column".to_owned()));
        }
        names.push(format!("\"{name}\""));
        values.push(value.clone());
    }
    if SECRETS.contains(&(table, "hash")) {
        let id = row.get("id").and_then(Value::as_u64).ok_or_else(|| fault("id", "it is missing".to_owned()))?;
        names.extend(["hash".to_owned(), "hash_kind".to_owned()]);
        values.extend([Value::from(format!("unknown:{id}")), Value::from("unknown")]);
    }
    if names.is_empty() {
        return Err(fault("", "the row is empty".to_owned()));
    }
    let places: Vec<String> = (1..=names.len()).map(|n| format!("${n}")).collect();
    let sql = format!("INSERT INTO \"{table}\" ({}) VALUES ({})", names.join(", "), places.join(", "));
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for (name, value) in names.iter().zip(values) {
        query = match value {
            Value::Null => query.bind(None::<i64>),
            Value::Number(number) => {
                query.bind(number.as_i64().ok_or_else(|| fault(name, format!("{number} is no whole number")))?)
            }
            // Bytes, as the column of a hash has them.
            Value::String(text) if name == "hash" => query.bind(text.into_bytes()),
            Value::String(text) => query.bind(text),
            Value::Bool(flag) => query.bind(i64::from(flag)),
            value @ (Value::Array(_) | Value::Object(_)) => query.bind(value.to_string()),
        };
    }
    query.execute(db).await.map(drop).map_err(|error| fault("", words(&error)))
}

/// What the database says of a row, without the statement.
fn words(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns whose names sound like secrets and are none, or are what they are known by outside.
    const PUBLIC: [&str; 6] = ["machine_key", "node_key", "disco_key", "auth_key_id", "hint", "prefix"];

    #[tokio::test]
    async fn a_column_that_sounds_like_a_secret_is_one_or_is_known_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("wayleave.db")).await.unwrap();
        let mut connection = store.read.acquire().await.unwrap();
        for (table, columns) in schema(&mut connection).await.unwrap() {
            for column in columns {
                let sounds = ["secret", "token", "key", "hash", "pass"].iter().any(|word| column.contains(word));
                let known = PUBLIC.contains(&column.as_str()) || SECRETS.contains(&(table.as_str(), column.as_str()));
                assert!(!sounds || known, "{table}.{column}: is it a secret? Say so in SECRETS, or in PUBLIC above");
            }
        }
    }
}
