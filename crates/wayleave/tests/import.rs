//! `wayleave import headscale` as it is typed: what it refuses, in which words, and that a refusal touches neither side.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod small;
#[path = "../../wayleave-import/tests/sources/mod.rs"]
mod sources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use small::{NOISE_KEY, SMALL};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tempfile::TempDir;
use wayleave_server::data_dir::DataDir;

/// A folder with a source, a key and a place for the target.
struct Scene {
    folder: TempDir,
}

/// What a command said, and how it ended.
struct Said {
    status: i32,
    out: String,
    err: String,
}

impl Scene {
    async fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("noise.key"), NOISE_KEY).unwrap();
        let scene = Self { folder };
        scene.database("db.sqlite", &format!("{SMALL}{more}")).await;
        scene
    }

    async fn database(&self, name: &str, sql: &str) {
        let options = SqliteConnectOptions::new().filename(self.path(name)).create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options.foreign_keys(false)).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `import headscale`, with these words behind it; paths are below the folder.
    fn import(&self, source: &str, words: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wayleave"));
        command.current_dir(self.folder.path()).env_clear().env("TMPDIR", std::env::temp_dir());
        let output = command.args(["import", "headscale", source, "--data-dir", "data"]).args(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { status: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Every file below the folder but those that are there for a lock. They are read by another process: one that closes a file gives
    /// up every lock that it has on it.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.to_str().unwrap().ends_with("-shm") && path.file_name().unwrap() != "lock" {
                    let bytes = Command::new("cat").arg(&path).output().unwrap().stdout;
                    files.insert(path, bytes);
                }
            }
        }
        files
    }

    /// The import is refused in these words, and nothing is touched, neither source nor target.
    fn refuses(&self, source: &str, words: &[&str], wanted: &[&str]) {
        let before = self.files();
        for check in [&["--check"][..], &[]] {
            let said = self.import(source, &[words, check].concat());
            assert_eq!(said.status, 1, "{source} {words:?}: {}{}", said.out, said.err);
            for part in wanted {
                assert!(said.err.contains(part), "`{part}` is not in: {}", said.err);
            }
            assert!(self.files() == before, "{source} {words:?}: something was touched");
        }
    }
}

const COMPLETE: [&str; 4] = ["--noise-key", "noise.key", "--policy", "database"];

#[tokio::test]
async fn a_source_that_can_not_be_imported_is_refused_and_neither_side_is_touched() {
    let scene = Scene::new("").await;
    scene.database("notes.db", "CREATE TABLE notes (id integer); CREATE TABLE machines_of_others (id integer)").await;
    std::fs::write(scene.path("text.db"), "this is a text, and not a short one either").unwrap();
    std::fs::create_dir(scene.path("folder.db")).unwrap();
    for (source, wanted) in [
        ("none.db", &["there is no file none.db", "config.yaml"][..]),
        ("text.db", &["text.db is no SQLite database", "/var/lib/headscale/db.sqlite"]),
        ("folder.db", &["cannot read folder.db"]),
        ("notes.db", &["notes.db is not Headscale's database", "machines_of_others, notes"]),
        ("postgres://u:secret@127.0.0.1:x/db", &["no address of a PostgreSQL database"]),
    ] {
        scene.refuses(source, &COMPLETE, wanted);
    }
    assert!(!scene.import("postgres://u:secret@127.0.0.1:x/db", &[]).err.contains("secret"));

    let newer = Scene::new("INSERT INTO migrations VALUES ('202801010000-what-comes')").await;
    newer.refuses(
        "db.sqlite",
        &COMPLETE,
        &["newer than this program knows", "202801010000-what-comes", "newer Wayleave"],
    );
    let newer = Scene::new(
        "CREATE TABLE database_versions (id integer, version text, updated_at datetime);
         INSERT INTO database_versions VALUES (1, 'v0.31.0', NULL)",
    )
    .await;
    newer.refuses("db.sqlite", &COMPLETE, &["newer than this program knows", "v0.31.0"]);
    let half = Scene::new("CREATE TABLE users_old (id integer)").await;
    half.refuses("db.sqlite", &COMPLETE, &["an upgrade of db.sqlite was broken off", "users_old", "backup"]);
    let strange = Scene::new("ALTER TABLE nodes DROP COLUMN approved_routes").await;
    strange.refuses("db.sqlite", &COMPLETE, &["of no generation of Headscale that is known"]);

    let damaged = Scene::new("").await;
    let mut bytes = std::fs::read(damaged.path("db.sqlite")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 3000].fill(0x5a);
    std::fs::write(damaged.path("db.sqlite"), bytes).unwrap();
    damaged.refuses("db.sqlite", &COMPLETE, &["the database db.sqlite is damaged", "restore a backup"]);
}

#[tokio::test]
async fn a_source_in_use_is_refused_and_what_its_log_holds_is_read_once_it_is_not() {
    let scene = Scene::new("").await;
    let options = SqliteConnectOptions::new().filename(scene.path("db.sqlite")).journal_mode(SqliteJournalMode::Wal);
    let mut headscale = SqliteConnection::connect_with(&options).await.unwrap();
    let rename = "PRAGMA wal_autocheckpoint = 0; UPDATE nodes SET given_name = 'only-in-the-log'";
    sqlx::raw_sql(rename).execute(&mut headscale).await.unwrap();
    scene.refuses("db.sqlite", &COMPLETE, &["has the database db.sqlite open", "stop Headscale first"]);
    // What a server that was killed leaves: the file, and the log beside it.
    std::fs::create_dir(scene.path("left")).unwrap();
    for name in ["db.sqlite", "db.sqlite-wal"] {
        std::fs::copy(scene.path(name), scene.path("left").join(name)).unwrap();
    }
    headscale.close().await.unwrap();
    let before = scene.files();
    let said = scene.import("left/db.sqlite", &[&COMPLETE[..], &["--check"]].concat());
    assert_eq!(said.status, 0, "{}", said.err);
    assert!(scene.files() == before, "the log is as it was");
    let said = scene.import("left/db.sqlite", &COMPLETE);
    assert_eq!(said.status, 0, "{}", said.err);
    let stored = std::fs::read(scene.path("data/wayleave.db")).unwrap();
    assert!(stored.windows(15).any(|part| part == b"only-in-the-log"));

    std::fs::write(scene.path("db.sqlite-journal"), "a transaction that was broken off").unwrap();
    scene.refuses("db.sqlite", &COMPLETE, &["broken off", "db.sqlite-journal", "start and stop Headscale once"]);
}

#[tokio::test]
async fn what_only_the_configuration_says_has_to_be_said() {
    let scene = Scene::new("").await;
    scene.refuses("db.sqlite", &["--policy", "database"], &["Noise key", "--noise-key", "noise.private_key_path"]);
    scene.refuses("db.sqlite", &["--noise-key", "noise.key"], &["which policy is in force", "--config", "--deny-all"]);
    scene.refuses("db.sqlite", &[], &["- only Headscale's configuration", "- the server's Noise key"]);
    std::fs::write(scene.path("empty.key"), "privkey:").unwrap();
    scene.refuses("db.sqlite", &["--noise-key", "empty.key"], &["empty.key holds no private key"]);
    let keyed = ["--noise-key", "noise.key", "--policy"];
    scene.refuses("db.sqlite", &[&keyed[..], &["none.hujson"]].concat(), &["cannot read the policy none.hujson"]);

    std::fs::write(scene.path("wrong.hujson"), "{\n  \"acls\": [{\"action\": \"accept\", \"src\": [\"group:x\"]}],\n}")
        .unwrap();
    let wrong = [&keyed[..], &["wrong.hujson"]].concat();
    scene.refuses("db.sqlite", &wrong, &["the policy can't be set:\nline 2, column", "^", "--deny-all"]);
    let tests = r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
        "tests": [{"src": "anna@", "deny": ["100.64.0.7:22"]}]}"#;
    std::fs::write(scene.path("fails.hujson"), tests).unwrap();
    scene.refuses(
        "db.sqlite",
        &[&keyed[..], &["fails.hujson"]].concat(),
        &["the policy can't be set", "100.64.0.7:22"],
    );

    for (name, text, wanted) in [
        (
            "unknown.yaml",
            "server_url: http://x\nacl_polcy_path: a.hujson\n",
            &["acl_polcy_path", "acl_policy_path"][..],
        ),
        ("empty.yaml", "server_url: http://x\npolicy:\n  mode: database\n", &["names no database"]),
        ("broken.yaml", "server_url: [", &["broken.yaml"]),
    ] {
        std::fs::write(scene.path(name), text).unwrap();
        scene.refuses(name, &[], wanted);
    }

    let said = scene.import("db.sqlite", &["--noise-key", "noise.key", "--deny-all", "--output", "json"]);
    assert_eq!(said.status, 0, "{}", said.err);
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["written"], true);
    assert_eq!(report["counts"]["policies"]["written"], 2, "the one that was in force is kept behind it");
    assert!(!said.out.contains("40ab1b58"), "no secret is in a report");
}

#[tokio::test]
async fn a_target_that_is_in_use_or_not_empty_is_left_as_it_is() {
    let scene = Scene::new("").await;
    let taken = DataDir::take(&scene.path("data")).unwrap();
    let before = scene.files();
    let said = scene.import("db.sqlite", &COMPLETE);
    assert_eq!(said.status, 1);
    assert!(
        said.err.contains("another server runs on the data folder data") && said.err.contains("stop it first"),
        "{}",
        said.err
    );
    assert!(scene.files() == before);
    assert_eq!(scene.import("db.sqlite", &[&COMPLETE[..], &["--check"]].concat()).status, 0, "a check needs no target");
    drop(taken);

    let said = scene.import("db.sqlite", &COMPLETE);
    assert_eq!(said.status, 0, "{}", said.err);
    assert_eq!(std::fs::read_to_string(scene.path("data/noise.key")).unwrap().trim(), NOISE_KEY);
    let before = scene.files();
    let said = scene.import("db.sqlite", &COMPLETE);
    assert_eq!(said.status, 1);
    assert!(said.err.contains("there is an installation already (1 nodes, 1 users"), "{}", said.err);
    assert!(scene.files() == before, "a second import changes nothing");
}

#[tokio::test]
async fn a_configuration_names_all_that_a_move_takes() {
    let scene = Scene::new("").await;
    let config = "server_url: https://hs.example.net\nnoise:\n  private_key_path: noise.key\n\
                  database:\n  type: sqlite\n  sqlite:\n    path: db.sqlite\npolicy:\n  mode: database\n";
    std::fs::write(scene.path("config.yaml"), config).unwrap();
    let said = scene.import("config.yaml", &["--check", "--output", "json"]);
    assert_eq!(said.status, 0, "{}", said.err);
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        report["generation"],
        "Headscale 0.26 or 0.27 (schema D-nodes.approved_routes), last migration 202505141324"
    );
    assert_eq!(report["auto_approvable"][0]["prefix"], "10.2.0.0/24");
    assert_eq!(report["settings"].as_array().unwrap().iter().filter(|s| s["key"] == "server_url").count(), 1);
    assert!(!scene.path("data").exists());
    std::fs::create_dir(scene.path("data")).unwrap();
    std::fs::write(scene.path("data/wayleave.toml"), "listen = \"127.0.0.1:1\"\n").unwrap();
    let said = scene.import("db.sqlite", &["--config", "config.yaml"]);
    assert!(said.status == 1 && said.err.contains("wayleave.toml already"), "{}", said.err);
    assert!(!scene.path("data/noise.key").exists(), "the key was taken back");
    std::fs::remove_file(scene.path("data/wayleave.toml")).unwrap();
    let said = scene.import("db.sqlite", &["--config", "config.yaml"]);
    assert_eq!(said.status, 0, "{}", said.err);
    let text = std::fs::read_to_string(scene.path("data/wayleave.toml")).unwrap();
    assert!(text.contains("server_url = \"https://hs.example.net\""), "{text}");
}

#[tokio::test]
async fn a_postgres_that_can_not_be_asked_says_why() {
    let scene = Scene::new("").await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let absent = format!("postgres://headscale:secret@127.0.0.1:{free}/headscale");
    scene.refuses(&absent, &COMPLETE, &["no PostgreSQL server answers", "is it running"]);
    let Some(cluster) = sources::Cluster::start() else { return };
    cluster.sql("postgres", "CREATE USER other PASSWORD 'c0rrect'".to_owned()).await;
    cluster.sql("postgres", "CREATE DATABASE strange".to_owned()).await;
    cluster.sql("strange", "CREATE TABLE notes (id bigint)".to_owned()).await;
    let url = |password, database| cluster.tcp("other", password, database);
    scene.refuses(&url("wrong", "postgres"), &COMPLETE, &["refuses the user", "password", "PGPASSWORD"]);
    scene.refuses(&url("c0rrect", "none"), &COMPLETE, &["has no database at", "psql -l"]);
    scene.refuses(&url("c0rrect", "strange"), &COMPLETE, &["is not Headscale's database", "notes"]);
    cluster.sql("postgres", "CREATE DATABASE closed".to_owned()).await;
    cluster.sql("closed", "CREATE TABLE nodes (id bigint); CREATE TABLE users (id bigint)".to_owned()).await;
    scene.refuses(&url("c0rrect", "closed"), &COMPLETE, &["cannot read", "permission denied for table"]);
    let tls = format!("{}?sslmode=require", url("c0rrect", "postgres"));
    scene.refuses(&tls, &COMPLETE, &["TLS", "sslmode=disable"]);
    cluster.hba("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n");
    scene.refuses(&url("c0rrect", "postgres"), &COMPLETE, &["no encryption", "sslmode=require"]);
    for said in [scene.import(&url("c0rrect", "postgres"), &COMPLETE), scene.import(&absent, &COMPLETE)] {
        assert!(!said.err.contains("c0rrect") && !said.err.contains("secret"), "{}", said.err);
    }
}

/// The cluster's own tests of a whole import are beside the samples; this one is that the binary takes an address too.
#[tokio::test]
async fn a_postgres_is_imported_by_its_address() {
    let Some(folder) = sources::folder() else { return };
    let Some(cluster) = sources::Cluster::start() else { return };
    let scene = Scene::new("").await;
    cluster.load(&folder, "pg_v028").await;
    let said = scene.import(&cluster.url("pg_v028"), &COMPLETE);
    assert_eq!(said.status, 0, "{}", said.err);
    assert!(Path::new(&scene.path("data/wayleave.db")).exists());
}
