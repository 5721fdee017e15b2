//! Writes a whole installation into an empty database.

use wayleave_model::SeatRow;
use wayleave_tailnet::{Imported, Loaded, PolicyRow, SiteChange};

use super::{Store, states, write};
use crate::error::{ImportError, StoreError};

/// After so many rows the caller is told how far it is.
const STEP: u64 = 1000;

impl Store {
    /// Whether an installation can be written here.
    ///
    /// # Errors
    ///
    /// There is something already, or the database can't be read.
    pub async fn check_empty(&self) -> Result<(), ImportError> {
        let counted = sqlx::query_as::<_, (String, i64)>(
            "SELECT 'nodes', count(*) FROM nodes UNION ALL SELECT 'users', count(*) FROM users
             UNION ALL SELECT 'route records', count(*) FROM routes
             UNION ALL SELECT 'pre-auth keys', count(*) FROM auth_keys
             UNION ALL SELECT 'API keys', count(*) FROM api_keys
             UNION ALL SELECT 'policies', count(*) FROM policies",
        )
        .fetch_all(&self.write)
        .await
        .map_err(|source| StoreError::Database { doing: "count what is there", source })?;
        let there: Vec<String> = counted
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        if there.is_empty() { Ok(()) } else { Err(ImportError::NotEmpty(there.join(", "))) }
    }

    /// Writes all that a tailnet is made of, in one transaction, into a database that has none of it. `older` are the policies before
    /// the one in force; `progress` is told now and then how many rows were written.
    ///
    /// # Errors
    ///
    /// There is something already, or the database refused. Nothing was written then.
    pub async fn import(
        &self,
        loaded: &Loaded,
        older: &[PolicyRow],
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), ImportError> {
        let Loaded {
            users,
            nodes,
            routes,
            // Of an installation that has no history here.
            gone: _,
            auth_keys,
            api_keys,
            policy,
            prefixes,
            flaps,
            seats,
            // Follows from history, and nothing was told of what is new.
            down: _,
            path_checks,
            site_hosts,
            sites,
            sequences,
            imported,
        } = loaded;
        self.check_empty().await?;
        let failed = |source| StoreError::Database { doing: "import", source };
        let mut transaction = self.begin().await.map_err(failed)?;
        let db = &mut *transaction;
        let mut rows = 0_u64;
        let mut count = || {
            rows += 1;
            if rows.is_multiple_of(STEP) {
                progress(rows);
            }
        };
        for user in users {
            write::put_user(db, user).await.map_err(failed)?;
            count();
        }
        for key in auth_keys {
            write::put_auth_key(db, key).await.map_err(failed)?;
            count();
        }
        for key in api_keys {
            write::put_api_key(db, key).await.map_err(failed)?;
            count();
        }
        for node in nodes {
            write::put_node(db, node).await.map_err(failed)?;
            count();
        }
        for route in routes {
            write::put_route(db, route).await.map_err(failed)?;
            count();
        }
        for row in prefixes {
            states::put_prefix(db, row).await.map_err(failed)?;
            count();
        }
        for row in flaps {
            states::put_flaps(db, row.node, Some(row)).await.map_err(failed)?;
            count();
        }
        for SeatRow { prefix, group, holder } in seats {
            states::put_seat(db, *prefix, group, Some(holder)).await.map_err(failed)?;
            count();
        }
        for check in path_checks {
            write::put_path_check(db, check).await.map_err(failed)?;
            count();
        }
        for policy in older.iter().chain(policy) {
            write::put_policy(db, policy).await.map_err(failed)?;
            count();
        }
        let sites = sites.iter().cloned().map(SiteChange::Put);
        for change in sites.chain(site_hosts.iter().cloned().map(SiteChange::PutHost)) {
            super::sites::put(db, &change).await.map_err(failed)?;
            count();
        }
        write::put_sequences(db, *sequences).await.map_err(failed)?;
        if let Some(Imported { at, source }) = imported {
            sqlx::query("INSERT INTO imports (at, source) VALUES ($1, $2)")
                .bind(at.as_millis())
                .bind(source)
                .execute(&mut *db)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        progress(rows);
        Ok(())
    }
}
