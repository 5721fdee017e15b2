//! 4via6 sites.

use sqlx::SqliteConnection;
use wayleave_tailnet::{Site, SiteChange, SiteHost};

pub(super) async fn put(db: &mut SqliteConnection, change: &SiteChange) -> Result<(), sqlx::Error> {
    match change {
        SiteChange::Put(Site { id, name, created_at }) => {
            let sql = "INSERT INTO sites (id, name, created_at) VALUES ($1, $2, $3)
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, created_at = excluded.created_at";
            sqlx::query(sql).bind(i64::from(*id)).bind(name.as_str()).bind(created_at.as_millis()).execute(db).await
        }
        SiteChange::Remove(id) => sqlx::query("DELETE FROM sites WHERE id = $1").bind(i64::from(*id)).execute(db).await,
        SiteChange::PutHost(SiteHost { site, name, address, created_at }) => {
            let sql = "INSERT INTO site_hosts (site, name, address, created_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (site, name) DO UPDATE SET address = excluded.address, created_at = excluded.created_at";
            let query = sqlx::query(sql).bind(i64::from(*site)).bind(name.as_str()).bind(address.to_string());
            query.bind(created_at.as_millis()).execute(db).await
        }
        SiteChange::RemoveHost(site, name) => {
            let sql = "DELETE FROM site_hosts WHERE site = $1 AND name = $2";
            sqlx::query(sql).bind(i64::from(*site)).bind(name.as_str()).execute(db).await
        }
    }
    .map(drop)
}
