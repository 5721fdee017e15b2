//! What is set for prefixes, and what a restart needs to know of routers beside their rows.

use std::collections::BTreeSet;

use sqlx::SqliteConnection;
use wayleave_model::{
    Approver, Failback, FlapRow, NodeId, Prefix, PrefixOverrides, PrefixRow, SeatHolder, Tag, Timestamp,
};

use super::write::{json, signed, time};

pub(super) async fn put_prefix(db: &mut SqliteConnection, row: &PrefixRow) -> Result<(), sqlx::Error> {
    let PrefixRow { prefix, overrides } = row;
    let prefix = prefix.map(|prefix| prefix.to_string()).unwrap_or_default();
    if overrides.is_empty() {
        return sqlx::query("DELETE FROM prefixes WHERE prefix = $1").bind(prefix).execute(db).await.map(drop);
    }
    let PrefixOverrides { when_down, on_withdraw, spread, failback, frozen } = overrides;
    let failback = failback.map(|failback| match failback {
        Failback::After(wait) => i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
        Failback::Never => -1,
    });
    sqlx::query(
        "INSERT INTO prefixes (
             prefix, when_down, on_withdraw, spread, failback_after, frozen_until, frozen_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (prefix) DO UPDATE SET
             when_down = excluded.when_down, on_withdraw = excluded.on_withdraw, spread = excluded.spread,
             failback_after = excluded.failback_after, frozen_until = excluded.frozen_until,
             frozen_by = excluded.frozen_by",
    )
    .bind(prefix)
    .bind(when_down.map(|word| word.word()))
    .bind(on_withdraw.map(|word| word.word()))
    .bind(spread.map(|word| word.word()))
    .bind(failback)
    .bind(time(frozen.as_ref().map(|freeze| freeze.until)))
    .bind(frozen.as_ref().map(|freeze| freeze.by.to_string()))
    .execute(db)
    .await
    .map(drop)
}

/// A person moved a prefix: who is primary, and by whose word, is durable before it is in force.
pub(super) async fn put_move(
    db: &mut SqliteConnection,
    prefix: Prefix,
    to: NodeId,
    by: &Approver,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE routes SET is_primary = (node_id = $2), updated_at = $3
         WHERE prefix = $1 AND deleted_at IS NULL AND is_primary <> (node_id = $2)",
    )
    .bind(prefix.to_string())
    .bind(signed(to.get()))
    .bind(at.as_millis())
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "INSERT INTO seats (
             prefix, tags, node_id, since, moved_by, fallen_back, carriers)
         VALUES ($1, '[]', $2, $3, $4, 0, '[]')
         ON CONFLICT (prefix, tags) DO UPDATE SET
             node_id = excluded.node_id, since = excluded.since, moved_by = excluded.moved_by",
    )
    .bind(prefix.to_string())
    .bind(signed(to.get()))
    .bind(at.as_millis())
    .bind(by.to_string())
    .execute(db)
    .await
    .map(drop)
}

pub(super) async fn put_seat(
    db: &mut SqliteConnection,
    prefix: Prefix,
    group: &BTreeSet<Tag>,
    holder: Option<&SeatHolder>,
) -> Result<(), sqlx::Error> {
    let (prefix, tags) = (prefix.to_string(), json(group));
    let Some(SeatHolder { node, since, moved_by, fallen_back, carriers }) = holder else {
        let gone = sqlx::query("DELETE FROM seats WHERE prefix = $1 AND tags = $2").bind(prefix).bind(tags);
        return gone.execute(db).await.map(drop);
    };
    sqlx::query(
        "INSERT INTO seats (
             prefix, tags, node_id, since, moved_by, fallen_back, carriers)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (prefix, tags) DO UPDATE SET
             node_id = excluded.node_id, since = excluded.since, moved_by = excluded.moved_by,
             fallen_back = excluded.fallen_back, carriers = excluded.carriers",
    )
    .bind(prefix)
    .bind(tags)
    .bind(signed(node.get()))
    .bind(since.as_millis())
    .bind(moved_by.as_ref().map(Approver::to_string))
    .bind(*fallen_back)
    .bind(json(carriers))
    .execute(db)
    .await
    .map(drop)
}

pub(super) async fn put_flaps(
    db: &mut SqliteConnection,
    node: NodeId,
    flaps: Option<&FlapRow>,
) -> Result<(), sqlx::Error> {
    let Some(FlapRow { downs, losses, until, .. }) = flaps.filter(|flaps| !flaps.is_empty()) else {
        let gone = sqlx::query("DELETE FROM flaps WHERE id = $1").bind(signed(node.get()));
        return gone.execute(db).await.map(drop);
    };
    let millis = |times: &[Timestamp]| json(&times.iter().map(|at| at.as_millis()).collect::<Vec<i64>>());
    sqlx::query(
        "INSERT INTO flaps (
             id, downs, losses, until)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (id) DO UPDATE SET
             downs = excluded.downs, losses = excluded.losses, until = excluded.until",
    )
    .bind(signed(node.get()))
    .bind(millis(downs))
    .bind(millis(losses))
    .bind(time(*until))
    .execute(db)
    .await
    .map(drop)
}
