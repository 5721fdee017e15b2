//! Webhooks, and what they have not been told yet.
//!
//! A line of history that a webhook wants goes into its queue in the transaction that writes the line, and leaves it once the receiver
//! has taken it, or after so many attempts that it is given up. So a restart loses nothing, and may tell something twice.

use std::fmt;

use sqlx::{Row, SqliteConnection};
use wayleave_model::{NodeId, Prefix, Timestamp};
use wayleave_tailnet::HistoryEntry;

use super::{Store, write};
use crate::error::StoreError;
use crate::rows;

/// Who is told.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Given out once.
    pub id: u64,
    /// Where it is told.
    pub url: String,
    /// What calls are signed with. Secret.
    pub secret: String,
    /// The words of what it is told of; none: of everything.
    pub events: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Without the secret.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, url, secret: _, events, created_at: _ } = self;
        f.debug_struct("Webhook").field("id", id).field("url", url).field("events", events).finish_non_exhaustive()
    }
}

/// A call that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedCall {
    /// Grows with time.
    pub id: u64,
    /// Whom it is for.
    pub webhook: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Of which prefix.
    pub prefix: Option<Prefix>,
    /// Of which node.
    pub node: Option<NodeId>,
    /// What: the word of a line of history.
    pub event: String,
    /// Who had the prefix, where it moved.
    pub from: Option<NodeId>,
    /// Who has it now, where it moved.
    pub to: Option<NodeId>,
    /// Who or what caused it.
    pub cause: String,
    /// What stood against the router that it is about, in words.
    pub evidence: String,
    /// How often it was tried.
    pub attempts: u32,
}

pub(super) async fn put_in_queue(db: &mut SqliteConnection, entry: &HistoryEntry) -> Result<(), sqlx::Error> {
    let HistoryEntry { at, prefix, node, event, evidence: _ } = entry;
    let Some(word) = event.told_as() else { return Ok(()) };
    let (from, to) = event.ends();
    sqlx::query(
        "INSERT INTO webhook_queue (webhook, at, prefix, node_id, event, from_node, to_node, cause, evidence)
         SELECT id, $1, $2, $3, $4, $5, $6, $7, $8 FROM webhooks
         WHERE events = '[]' OR EXISTS (SELECT 1 FROM json_each(events) WHERE value = $4)",
    )
    .bind(at.as_millis())
    .bind(prefix.map(|prefix| prefix.to_string()))
    .bind(node.map(|node| write::signed(node.get())))
    .bind(word)
    .bind(from.map(|node| write::signed(node.get())))
    .bind(to.map(|node| write::signed(node.get())))
    .bind(event.cause())
    .bind(entry.evidence_text())
    .execute(db)
    .await
    .map(drop)
}

impl Store {
    /// Makes a webhook, and gives its number.
    ///
    /// # Errors
    ///
    /// The database refused.
    pub async fn add_webhook(
        &self,
        url: &str,
        secret: &str,
        events: &[String],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query("INSERT INTO webhooks (url, secret, events, created_at) VALUES ($1, $2, $3, $4)")
            .bind(url)
            .bind(secret)
            .bind(write::json(&events))
            .bind(now.as_millis())
            .execute(&self.write)
            .await
            .map_err(|source| StoreError::Database { doing: "make a webhook", source })?;
        Ok(done.last_insert_rowid().cast_unsigned())
    }

    /// All webhooks, in the order in which they were made.
    ///
    /// # Errors
    ///
    /// The database can't be read, or holds a value that is none.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        let failed = |source| StoreError::Database { doing: "read webhooks", source };
        let found = sqlx::query("SELECT * FROM webhooks ORDER BY id").fetch_all(&self.read).await.map_err(failed)?;
        found.iter().map(rows::webhook_from_row).collect()
    }

    /// Removes a webhook and all that waits for it. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// The database refused.
    pub async fn remove_webhook(&self, id: u64) -> Result<bool, StoreError> {
        let failed = |source| StoreError::Database { doing: "remove a webhook", source };
        let mut transaction = self.begin().await.map_err(failed)?;
        write::about(&mut transaction, "DELETE FROM webhook_queue WHERE webhook = $1", id).await.map_err(failed)?;
        let sql = "DELETE FROM webhooks WHERE id = $1";
        let done = sqlx::query(sql).bind(write::signed(id)).execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(done.rows_affected() > 0)
    }

    /// The webhooks that have a call that is due.
    ///
    /// # Errors
    ///
    /// The database can't be read.
    pub async fn webhooks_due(&self, now: Timestamp) -> Result<Vec<u64>, StoreError> {
        let sql = "SELECT id FROM webhooks
            WHERE EXISTS (SELECT 1 FROM webhook_queue WHERE webhook = webhooks.id AND not_before <= $1) ORDER BY id";
        let due = sqlx::query(sql)
            .bind(now.as_millis())
            .fetch_all(&self.read)
            .await
            .map_err(|source| StoreError::Database { doing: "read which webhooks are to be told", source })?;
        Ok(due.iter().map(|row| row.get::<i64, _>("id").cast_unsigned()).collect())
    }

    /// The oldest call of a webhook that is due, with the webhook; `None`: there is none, or the webhook was removed.
    ///
    /// # Errors
    ///
    /// The database can't be read, or holds a value that is none.
    pub async fn next_call(&self, webhook: u64, now: Timestamp) -> Result<Option<(Webhook, QueuedCall)>, StoreError> {
        let failed = |source| StoreError::Database { doing: "read what a webhook is to be told", source };
        let call =
            sqlx::query("SELECT * FROM webhook_queue WHERE webhook = $1 AND not_before <= $2 ORDER BY id LIMIT 1")
                .bind(write::signed(webhook))
                .bind(now.as_millis())
                .fetch_optional(&self.read)
                .await
                .map_err(failed)?;
        let found = sqlx::query("SELECT * FROM webhooks WHERE id = $1")
            .bind(write::signed(webhook))
            .fetch_optional(&self.read)
            .await
            .map_err(failed)?;
        let (Some(call), Some(found)) = (call, found) else { return Ok(None) };
        Ok(Some((rows::webhook_from_row(&found)?, rows::call_from_row(&call)?)))
    }

    /// How many calls wait for each webhook.
    ///
    /// # Errors
    ///
    /// The database can't be read.
    pub async fn calls_waiting(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        let rows =
            sqlx::query("SELECT webhook, count(*) AS waiting FROM webhook_queue GROUP BY webhook ORDER BY webhook")
                .fetch_all(&self.read)
                .await
                .map_err(|source| StoreError::Database { doing: "count what waits for webhooks", source })?;
        let number = |row: &sqlx::sqlite::SqliteRow, column: &str| row.get::<i64, _>(column).cast_unsigned();
        Ok(rows.iter().map(|row| (number(row, "webhook"), number(row, "waiting"))).collect())
    }

    /// Takes a call out of the queue: it was taken by the receiver, or is given up.
    ///
    /// # Errors
    ///
    /// The database refused.
    pub async fn call_done(&self, id: u64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM webhook_queue WHERE id = $1")
            .bind(write::signed(id))
            .execute(&self.write)
            .await
            .map(drop)
            .map_err(|source| StoreError::Database { doing: "take a call out of the queue", source })
    }

    /// Notes that a call failed, and when it is to be tried again.
    ///
    /// # Errors
    ///
    /// The database refused.
    pub async fn call_failed(&self, id: u64, attempts: u32, not_before: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE webhook_queue SET attempts = $2, not_before = $3 WHERE id = $1")
            .bind(write::signed(id))
            .bind(i64::from(attempts))
            .bind(not_before.as_millis())
            .execute(&self.write)
            .await
            .map(drop)
            .map_err(|source| StoreError::Database { doing: "put a call back into the queue", source })
    }
}
