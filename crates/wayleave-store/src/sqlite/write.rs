//! Makes plans and soft facts durable.

use std::collections::BTreeSet;

use sqlx::{Sqlite, SqliteConnection, Transaction};
use wayleave_model::{
    ApiKey, Approval, AuthKey, FlapRow, KeyHash, Node, NodeId, Owner, PathCheck, Prefix, RegisterMethod, Route,
    SeatHolder, Tag, Timestamp, User,
};
use wayleave_tailnet::{Committed, HistoryEntry, Plan, PolicyRow, Sequences, Write};

use super::Store;
use super::states;
use crate::error::StoreError;
use crate::json::{EndpointJson, HostinfoJson, VantageJson};

/// A fact that is already in force and is written behind.
#[derive(Clone, Debug)]
pub enum Soft {
    /// What a node reports of itself.
    Node(Box<Node>),
    /// Who is primary, and what is advertised.
    Route(Route),
    /// Who carries a prefix, in the tailnet as a whole or within a group; `None`: nobody.
    Seat {
        /// Which prefix.
        prefix: Prefix,
        /// The tags of the group; empty for the tailnet as a whole.
        group: BTreeSet<Tag>,
        /// Who.
        holder: Option<SeatHolder>,
    },
    /// How often a node was lost of late; `None`: the node is gone.
    Flaps(NodeId, Option<FlapRow>),
    /// A line of history.
    History(HistoryEntry),
}

/// SQLite's integers are signed; ids stay below 2^53.
pub(super) const fn signed(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) fn time(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_millis)
}

pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("strings, numbers and lists of them always serialize")
}

impl Store {
    /// Makes the writes of a plan durable, all or none.
    ///
    /// # Errors
    ///
    /// The database refused; nothing was written.
    pub async fn commit(&self, plan: Plan) -> Result<Committed, StoreError> {
        if plan.writes().is_empty() {
            return Ok(plan.into_committed());
        }
        let failed = |source| StoreError::Database { doing: "commit", source };
        let mut transaction = self.begin().await.map_err(failed)?;
        for write in plan.writes() {
            apply(&mut transaction, write).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(plan.into_committed())
    }

    /// Writes facts that are in force already, all or none.
    ///
    /// # Errors
    ///
    /// The database refused; nothing was written.
    pub async fn write_behind(&self, facts: Vec<Soft>) -> Result<(), StoreError> {
        let failed = |source| StoreError::Database { doing: "write behind", source };
        let mut transaction = self.begin().await.map_err(failed)?;
        for fact in facts {
            match fact {
                Soft::Node(node) => put_node(&mut transaction, &node).await,
                Soft::Route(route) => put_route(&mut transaction, &route).await,
                Soft::Seat { prefix, group, holder } => {
                    states::put_seat(&mut transaction, prefix, &group, holder.as_ref()).await
                }
                Soft::Flaps(node, flaps) => states::put_flaps(&mut transaction, node, flaps.as_ref()).await,
                Soft::History(entry) => put_history(&mut transaction, &entry).await,
            }
            .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// Forgets history before `before`, and all but the newest `most` lines; but none by which a prefix was last told to be down, since it is
    /// still to be told that it is up again. Returns how many lines went.
    ///
    /// # Errors
    ///
    /// The database refused.
    pub async fn prune_history(&self, before: Timestamp, most: u32) -> Result<u64, StoreError> {
        let sql = concat!(
            "DELETE FROM history WHERE (at < $1 OR id <= (SELECT max(id) FROM history) - $2)
             AND id NOT IN (SELECT id FROM (",
            told_down!(),
            "))"
        );
        let done = sqlx::query(sql)
            .bind(before.as_millis())
            .bind(i64::from(most))
            .execute(&self.write)
            .await
            .map_err(|source| StoreError::Database { doing: "prune the history", source })?;
        Ok(done.rows_affected())
    }

    /// Writes something that changes nothing, for whoever was refused before and wants to know whether the database takes anything again.
    ///
    /// # Errors
    ///
    /// The database refused.
    pub async fn try_writing(&self) -> Result<(), StoreError> {
        let failed = |source| StoreError::Database { doing: "try to write", source };
        let mut transaction = self.begin().await.map_err(failed)?;
        // A number in the file's header that nothing here uses. SQLite writes the page although the number is the same.
        sqlx::query("PRAGMA user_version = 0").execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.write.begin_with("BEGIN IMMEDIATE").await
    }
}

async fn apply(db: &mut SqliteConnection, write: &Write) -> Result<(), sqlx::Error> {
    match write {
        Write::User(user) => put_user(db, user).await,
        Write::DeleteUser(id) => about(db, "DELETE FROM users WHERE id = $1", id.get()).await,
        Write::Node(node) => put_node(db, node).await,
        Write::DeleteNode(id) => {
            let sql = "INSERT OR REPLACE INTO gone_nodes (id, name) SELECT id, given_name FROM nodes WHERE id = $1";
            about(db, sql, id.get()).await?;
            // History goes back only so far, and ids grow.
            about(db, "DELETE FROM gone_nodes WHERE id <= $1 - 100000", id.get()).await?;
            about(db, "DELETE FROM nodes WHERE id = $1", id.get()).await
        }
        Write::Route(route) => put_route(db, route).await,
        Write::PathCheck(check) => put_path_check(db, check).await,
        Write::DeletePathCheck(prefix) => {
            let sql = "DELETE FROM path_checks WHERE prefix = $1";
            sqlx::query(sql).bind(prefix.to_string()).execute(db).await.map(drop)
        }
        Write::AuthKey(key) => put_auth_key(db, key).await,
        Write::DeleteAuthKey(id) => about(db, "DELETE FROM auth_keys WHERE id = $1", id.get()).await,
        Write::ApiKey(key) => put_api_key(db, key).await,
        Write::DeleteApiKey(id) => about(db, "DELETE FROM api_keys WHERE id = $1", id.get()).await,
        Write::Prefix(row) => states::put_prefix(db, row).await,
        Write::Moved { prefix, to, by, at } => states::put_move(db, *prefix, *to, by, *at).await,
        Write::Policy(policy) => put_policy(db, &policy.row).await,
        Write::Site(change) => super::sites::put(db, change).await,
        Write::Sequences(sequences) => put_sequences(db, *sequences).await,
        Write::History(entry) => put_history(db, entry).await,
    }
}

/// Does something about the row with this id.
pub(super) async fn about(db: &mut SqliteConnection, sql: &'static str, id: u64) -> Result<(), sqlx::Error> {
    sqlx::query(sql).bind(signed(id)).execute(db).await.map(drop)
}

pub(super) async fn put_user(db: &mut SqliteConnection, user: &User) -> Result<(), sqlx::Error> {
    let User { id, name, display_name, email, identity, picture, role, created_at } = user;
    sqlx::query(
        "INSERT INTO users (
             id, name, display_name, email, role, created_at, identity, picture)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (id) DO UPDATE SET
             name = excluded.name, display_name = excluded.display_name, email = excluded.email,
             role = excluded.role, created_at = excluded.created_at, identity = excluded.identity,
             picture = excluded.picture",
    )
    .bind(signed(id.get()))
    .bind(name)
    .bind(display_name)
    .bind(email)
    .bind(role.to_string())
    .bind(created_at.as_millis())
    .bind(identity)
    .bind(picture)
    .execute(db)
    .await
    .map(drop)
}

pub(super) async fn put_policy(db: &mut SqliteConnection, row: &PolicyRow) -> Result<(), sqlx::Error> {
    let PolicyRow { revision, text, set_at, set_by } = row;
    sqlx::query("INSERT INTO policies (revision, text, set_at, set_by) VALUES ($1, $2, $3, $4)")
        .bind(signed(*revision))
        .bind(&**text)
        .bind(set_at.as_millis())
        .bind(set_by)
        .execute(db)
        .await
        .map(drop)
}

pub(super) async fn put_path_check(db: &mut SqliteConnection, check: &PathCheck) -> Result<(), sqlx::Error> {
    let PathCheck { prefix, target, every, witness, standby, set_at, set_by } = check;
    sqlx::query(
        "INSERT INTO path_checks (prefix, target, every_millis, witness, standby, set_at, set_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (prefix) DO UPDATE SET
             target = excluded.target, every_millis = excluded.every_millis, witness = excluded.witness,
             standby = excluded.standby, set_at = excluded.set_at, set_by = excluded.set_by",
    )
    .bind(prefix.to_string())
    .bind(target.to_string())
    .bind(i64::try_from(every.as_millis()).unwrap_or(i64::MAX))
    .bind(witness.as_ref().map(ToString::to_string))
    .bind(standby)
    .bind(set_at.as_millis())
    .bind(set_by.to_string())
    .execute(db)
    .await
    .map(drop)
}

pub(super) async fn put_node(db: &mut SqliteConnection, node: &Node) -> Result<(), sqlx::Error> {
    let Node {
        id,
        machine_key,
        node_key,
        disco_key,
        owner,
        given_name,
        renamed,
        addresses,
        register_method,
        auth_key,
        ephemeral,
        expires_at,
        created_at,
        last_seen,
        drained,
        capability,
        hostinfo,
        endpoints,
        home_derp,
        vantage,
    } = node;
    let none = BTreeSet::new();
    let (owner, user, tags) = match owner {
        Owner::User(user) => ("user", Some(*user), &none),
        Owner::Tags { tags, created_by } => ("tags", *created_by, tags),
        Owner::Nobody => ("nobody", None, &none),
    };
    let method = match register_method {
        RegisterMethod::AuthKey => "auth_key",
        RegisterMethod::Interactive => "interactive",
        RegisterMethod::Oidc => "oidc",
        RegisterMethod::Import => "import",
    };
    let endpoints: Vec<EndpointJson> = endpoints.iter().copied().map(EndpointJson::from_model).collect();
    sqlx::query(
        "INSERT INTO nodes (
             id, machine_key, node_key, disco_key, owner, user_id, tags, given_name, renamed, ipv4,
             ipv6, register_method, ephemeral, expires_at, created_at, last_seen, drained,
             capability, hostinfo, endpoints, home_derp, auth_key_id, vantage)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)
         ON CONFLICT (id) DO UPDATE SET
             machine_key = excluded.machine_key, node_key = excluded.node_key, disco_key =
             excluded.disco_key, owner = excluded.owner, user_id = excluded.user_id, tags =
             excluded.tags, given_name = excluded.given_name, renamed = excluded.renamed, ipv4 =
             excluded.ipv4, ipv6 = excluded.ipv6, register_method = excluded.register_method,
             ephemeral = excluded.ephemeral, expires_at = excluded.expires_at, created_at =
             excluded.created_at, last_seen = excluded.last_seen, drained = excluded.drained,
             capability = excluded.capability, hostinfo = excluded.hostinfo, endpoints =
             excluded.endpoints, home_derp = excluded.home_derp, auth_key_id = excluded.auth_key_id,
             vantage = excluded.vantage",
    )
    .bind(signed(id.get()))
    .bind(machine_key.map(|key| key.to_string()))
    .bind(node_key.to_string())
    .bind(disco_key.map(|key| key.to_string()))
    .bind(owner)
    .bind(user.map(|user| signed(user.get())))
    .bind(json(tags))
    .bind(given_name.as_str())
    .bind(*renamed)
    .bind(addresses.v4.map(|address| address.to_string()))
    .bind(addresses.v6.map(|address| address.to_string()))
    .bind(method)
    .bind(*ephemeral)
    .bind(time(*expires_at))
    .bind(created_at.as_millis())
    .bind(time(*last_seen))
    .bind(*drained)
    .bind(i64::from(*capability))
    .bind(json(&HostinfoJson::from_model(hostinfo)))
    .bind(json(&endpoints))
    .bind(i64::from(*home_derp))
    .bind(auth_key.map(|key| signed(key.get())))
    .bind(json(&VantageJson::from_model(vantage)))
    .execute(db)
    .await
    .map(drop)
}

pub(super) async fn put_route(db: &mut SqliteConnection, route: &Route) -> Result<(), sqlx::Error> {
    let Route {
        id,
        node,
        prefix,
        advertised,
        enabled,
        is_primary,
        created_at,
        updated_at,
        deleted_at,
        approval,
        priority,
        had_endpoint,
        was_advertised,
        path_passed,
        path_failed_at,
    } = route;
    let (by, at, refused, in_advance) = match approval {
        Some(Approval { by, at, refused, in_advance }) => {
            (Some(by.to_string()), Some(at.as_millis()), *refused, *in_advance)
        }
        None => (None, None, false, false),
    };
    sqlx::query(
        "INSERT INTO routes (
             id, node_id, prefix, advertised, enabled, is_primary, created_at, updated_at,
             deleted_at, approval_by, approval_at, refused, in_advance, priority, had_endpoint,
             was_advertised, path_ok, path_failed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         ON CONFLICT (id) DO UPDATE SET
             node_id = excluded.node_id, prefix = excluded.prefix, advertised = excluded.advertised,
             enabled = excluded.enabled, is_primary = excluded.is_primary, created_at =
             excluded.created_at, updated_at = excluded.updated_at, deleted_at =
             excluded.deleted_at, approval_by = excluded.approval_by, approval_at =
             excluded.approval_at, refused = excluded.refused, in_advance = excluded.in_advance,
             priority = excluded.priority, had_endpoint = excluded.had_endpoint, was_advertised =
             excluded.was_advertised, path_ok = excluded.path_ok, path_failed_at =
             excluded.path_failed_at",
    )
    .bind(signed(id.get()))
    .bind(signed(node.get()))
    .bind(prefix.to_string())
    .bind(*advertised)
    .bind(*enabled)
    .bind(*is_primary)
    .bind(created_at.as_millis())
    .bind(updated_at.as_millis())
    .bind(time(*deleted_at))
    .bind(by)
    .bind(at)
    .bind(refused)
    .bind(in_advance)
    .bind(i64::from(*priority))
    .bind(*had_endpoint)
    .bind(*was_advertised)
    .bind(*path_passed)
    .bind(time(*path_failed_at))
    .execute(db)
    .await
    .map(drop)
}

/// How a key is known again, as the columns `hash_kind`, `hash` and `prefix` have it. A hash that is not known needs a filler of
/// its own, because `hash` is unique.
fn hash_columns(hash: &KeyHash, id: u64) -> (&'static str, Vec<u8>, Option<&str>) {
    match hash {
        KeyHash::Sha256(hash) => ("sha256", hash.to_vec(), None),
        KeyHash::Bcrypt { prefix, hash } => ("bcrypt", hash.as_bytes().to_vec(), Some(prefix)),
        KeyHash::Unknown => ("unknown", format!("unknown:{id}").into_bytes(), None),
    }
}

pub(super) async fn put_auth_key(db: &mut SqliteConnection, key: &AuthKey) -> Result<(), sqlx::Error> {
    let AuthKey {
        id,
        user,
        hint,
        hash,
        reusable,
        ephemeral,
        tags,
        description,
        created_at,
        expires_at,
        used_at,
        revoked_at,
    } = key;
    let (kind, bytes, prefix) = hash_columns(hash, id.get());
    sqlx::query(
        "INSERT INTO auth_keys (
             id, user_id, hint, hash, reusable, ephemeral, tags, description, created_at,
             expires_at, used_at, revoked_at, hash_kind, prefix)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         ON CONFLICT (id) DO UPDATE SET
             user_id = excluded.user_id, hint = excluded.hint, hash = excluded.hash, reusable =
             excluded.reusable, ephemeral = excluded.ephemeral, tags = excluded.tags, description =
             excluded.description, created_at = excluded.created_at, expires_at =
             excluded.expires_at, used_at = excluded.used_at, revoked_at = excluded.revoked_at,
             hash_kind = excluded.hash_kind, prefix = excluded.prefix",
    )
    .bind(signed(id.get()))
    .bind(user.map(|user| signed(user.get())))
    .bind(hint)
    .bind(bytes)
    .bind(*reusable)
    .bind(*ephemeral)
    .bind(json(tags))
    .bind(description)
    .bind(created_at.as_millis())
    .bind(time(*expires_at))
    .bind(time(*used_at))
    .bind(time(*revoked_at))
    .bind(kind)
    .bind(prefix)
    .execute(db)
    .await
    .map(drop)
}

pub(super) async fn put_api_key(db: &mut SqliteConnection, key: &ApiKey) -> Result<(), sqlx::Error> {
    let ApiKey { id, name, hash, user, description, created_at, expires_at, last_used_at } = key;
    let (kind, bytes, prefix) = hash_columns(hash, id.get());
    sqlx::query(
        "INSERT INTO api_keys (
             id, name, hash, description, created_at, expires_at, last_used_at, hash_kind, prefix,
             user_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (id) DO UPDATE SET
             name = excluded.name, hash = excluded.hash, description = excluded.description,
             created_at = excluded.created_at, expires_at = excluded.expires_at, last_used_at =
             excluded.last_used_at, hash_kind = excluded.hash_kind, prefix = excluded.prefix,
             user_id = excluded.user_id",
    )
    .bind(signed(id.get()))
    .bind(name)
    .bind(bytes)
    .bind(description)
    .bind(created_at.as_millis())
    .bind(time(*expires_at))
    .bind(time(*last_used_at))
    .bind(kind)
    .bind(prefix)
    .bind(user.map(|user| signed(user.get())))
    .execute(db)
    .await
    .map(drop)
}

pub(super) async fn put_sequences(db: &mut SqliteConnection, sequences: Sequences) -> Result<(), sqlx::Error> {
    let Sequences { node, user, route, auth_key, api_key, address } = sequences;
    let all = [
        ("node", node.get()),
        ("user", user.get()),
        ("route", route.get()),
        ("auth_key", auth_key.get()),
        ("api_key", api_key.get()),
        ("address", u64::from(address)),
    ];
    for (name, next) in all {
        sqlx::query(
            "INSERT INTO sequences (
             name, next)
         VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET
             next = excluded.next",
        )
        .bind(name)
        .bind(signed(next))
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

async fn put_history(db: &mut SqliteConnection, entry: &HistoryEntry) -> Result<(), sqlx::Error> {
    let HistoryEntry { at, prefix, node, event, evidence: _ } = entry;
    let (from, to) = event.ends();
    sqlx::query(
        "INSERT INTO history (at, prefix, node_id, event, from_node, to_node, cause, evidence)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(at.as_millis())
    .bind(prefix.map(|prefix| prefix.to_string()))
    .bind(node.map(|node| signed(node.get())))
    .bind(event.word())
    .bind(from.map(|node| signed(node.get())))
    .bind(to.map(|node| signed(node.get())))
    .bind(event.cause())
    .bind(entry.evidence_text())
    .execute(&mut *db)
    .await?;
    super::webhooks::put_in_queue(db, entry).await
}

#[cfg(test)]
mod tests {
    use wayleave_tailnet::{Group, HistoryEvent};

    use super::*;

    #[tokio::test]
    async fn a_try_writes_to_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("own.db")).await.unwrap();
        let log = || std::fs::metadata(folder.path().join("own.db-wal")).unwrap().len();
        let before = log();
        store.try_writing().await.unwrap();
        let once = log();
        assert!(once > before, "one page more: {before} -> {once}");
        store.try_writing().await.unwrap();
        assert!(log() > once, "also where nothing has changed since");
    }

    #[tokio::test]
    async fn what_was_last_told_to_be_down_is_loaded_and_outlives_the_history() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("own.db")).await.unwrap();
        let (p, q): (Prefix, Prefix) = ("10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap());
        let down = |cause: &str| HistoryEvent::PrefixDown(cause.to_owned());
        let restored = |cause: &str| HistoryEvent::PrefixRestored(cause.to_owned());
        let told = [
            (p, down("connection closed")),
            (q, down("no candidate")),
            (q, down("via tag:a: not back")),
            (p, down("via tag:a,tag:b: not back")),
            (p, restored("")),
            (q, restored("via tag:a")),
            (q, HistoryEvent::Pending),
        ];
        let entry = |(prefix, event)| HistoryEntry::new(Timestamp::from_millis(1000), Some(prefix), None, event);
        store.write_behind(told.map(|told| Soft::History(entry(told))).into()).await.unwrap();
        let both: Group = BTreeSet::from(["tag:a".parse().unwrap(), "tag:b".parse().unwrap()]).into();
        let loaded = [(q, None), (p, Some(both))];
        assert_eq!(store.load().await.unwrap().down, loaded);
        assert_eq!(store.prune_history(Timestamp::from_millis(2000), 0).await.unwrap(), 5);
        assert_eq!(store.load().await.unwrap().down, loaded);
    }
}
