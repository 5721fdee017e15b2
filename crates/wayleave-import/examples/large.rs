//! Makes a database of Headscale 0.25 with many nodes and three routes for each, moves it over into an empty data folder, and prints how long
//! each step took: `cargo run -p wayleave-import --example large [NODES]`. 10,000 nodes are to take less than 10 s.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use wayleave_import::Location;
use wayleave_import::headscale::{PolicyAt, Setup, prepare};
use wayleave_server::Clock;
use wayleave_server::take_over::{ServerKeys, take_over};

const TABLES: &str = "
    CREATE TABLE migrations (id text PRIMARY KEY);
    INSERT INTO migrations VALUES ('202502070949');
    CREATE TABLE users (id integer PRIMARY KEY, name text, display_name text, email text, provider_identifier text,
        provider text, profile_pic_url text, created_at datetime, updated_at datetime, deleted_at datetime);
    INSERT INTO users (id, name, created_at) VALUES (1, 'anna', '2025-01-01 00:00:00+00:00');
    CREATE TABLE pre_auth_keys (id integer PRIMARY KEY, key text, user_id integer, reusable numeric, ephemeral numeric,
        used numeric, tags text, created_at datetime, expiration datetime);
    CREATE TABLE api_keys (id integer PRIMARY KEY, prefix text, hash blob, created_at datetime, expiration datetime,
        last_seen datetime);
    CREATE TABLE nodes (id integer PRIMARY KEY, machine_key text, node_key text, disco_key text, endpoints text,
        host_info text, ipv4 text, ipv6 text, hostname text, given_name varchar(63), user_id integer,
        register_method text, forced_tags text, auth_key_id integer, last_seen datetime, expiry datetime,
        created_at datetime, updated_at datetime, deleted_at datetime);
    CREATE TABLE routes (id integer PRIMARY KEY, created_at datetime, updated_at datetime, deleted_at datetime,
        node_id integer, prefix text, advertised numeric, enabled numeric, is_primary numeric);";

/// Nodes 1 to `$N`, each with three prefixes of its own: two approved, one that waits.
const ROWS: &str = r#"
    INSERT INTO nodes (id, machine_key, node_key, disco_key, host_info, ipv4, ipv6, hostname, given_name, user_id,
        register_method, created_at)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $N)
    SELECT i, printf('mkey:%064x', i), printf('nodekey:%064x', i), printf('discokey:%064x', i),
        printf('{"OS":"linux","IPNVersion":"1.80.0","RoutableIPs":["10.%d.%d.0/26","10.%d.%d.64/26","10.%d.%d.128/26"],' ||
            '"NetInfo":{"PreferredDERP":4}}', i/256, i%256, i/256, i%256, i/256, i%256),
        printf('100.64.%d.%d', i/256, i%256), printf('fd7a:115c:a1e0::%x', i + 4096), printf('host-%d', i % 7000),
        printf('host-%d', i % 7000), 1, 'cli', '2025-01-01 00:00:00+00:00' FROM n;
    INSERT INTO routes (node_id, prefix, advertised, enabled, is_primary, created_at, updated_at)
    SELECT id, printf('10.%d.%d.%d/26', id/256, id%256, j * 64), 1, j < 2, j < 2, '2025-01-01 00:00:00+00:00',
        '2025-01-01 00:00:00+00:00'
    FROM nodes, (SELECT 0 AS j UNION ALL SELECT 1 UNION ALL SELECT 2);"#;

async fn source(path: &Path, nodes: u32) -> Result<(), sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).foreign_keys(false);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let sql = format!("BEGIN; {TABLES} {} COMMIT;", ROWS.replace("$N", &nodes.to_string()));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nodes: u32 = std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("db.sqlite");
    source(&path, nodes).await?;
    let mut out = std::io::stdout();
    let setup = Setup { policy: PolicyAt::Nowhere, ..Setup::default() };
    let start = Instant::now();
    let prepared = prepare(&Location::Sqlite(path), &setup, Clock::default().now(), &mut |_| {}).await?;
    let (read, rows) = (start.elapsed(), &prepared.rows);
    let target = folder.path().join("data");
    take_over(&target, ServerKeys::default(), &[], rows, &prepared.older, &mut |_| {}).await?;
    let (nodes, routes, warnings) = (rows.nodes.len(), rows.routes.len(), prepared.report.warnings.len());
    writeln!(out, "{nodes} nodes, {routes} routes, {warnings} warnings")?;
    writeln!(out, "read {:.2} s, written {:.2} s", read.as_secs_f64(), (start.elapsed() - read).as_secs_f64())?;
    Ok(())
}
