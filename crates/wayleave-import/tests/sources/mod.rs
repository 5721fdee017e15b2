//! Databases of every generation of Headscale, as SQL, with what must come out of each: they lie beside the repository, or where
//! `WAYLEAVE_HEADSCALE_SAMPLES` says. They are not part of it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tempfile::TempDir;
use wayleave_import::Location;

/// Every sample by name.
pub const SQLITE: [&str; 16] = [
    "v012",
    "v016",
    "v017",
    "v018",
    "v022",
    "v023",
    "v025",
    "v026",
    "v028",
    "v029",
    "v030dev",
    "edge_016",
    "edge_022",
    "edge_028",
    "edge_mixed",
    "edge_halfway",
];
/// Those for PostgreSQL.
pub const POSTGRES: [&str; 2] = ["pg_v022", "pg_v028"];

/// Where the samples are; `None`, and said loudly, where there are none.
pub fn folder() -> Option<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let beside = || top.join("../shared/headscale-samples");
    let folder = std::env::var_os("WAYLEAVE_HEADSCALE_SAMPLES").map_or_else(beside, PathBuf::from);
    if folder.join("v012.sql").exists() {
        return Some(folder);
    }
    let all = SQLITE.len() + POSTGRES.len();
    skipped(&format!("{all} samples, for there are none in {}: set WAYLEAVE_HEADSCALE_SAMPLES", folder.display()));
    None
}

/// Says that a test was not run, where it is seen also when output is captured.
pub fn skipped(why: &str) {
    use std::io::Write;
    writeln!(std::io::stderr().lock(), "\n==== SKIPPED: {why} ====\n").ok();
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A sample as a SQLite file.
pub async fn sqlite(folder: &Path, name: &str, to: &Path) -> PathBuf {
    let sql = std::fs::read_to_string(folder.join(format!("{name}.sql"))).unwrap();
    let path = to.join(format!("{name}.db"));
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true).foreign_keys(false);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    path
}

/// A PostgreSQL cluster of its own, on a socket; it ends with this.
pub struct Cluster {
    folder: TempDir,
    bin: PathBuf,
    as_other: bool,
}

impl Cluster {
    /// Starts one; `None`, and said loudly, where there is no PostgreSQL.
    pub fn start() -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let bin = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
        let Some(bin) = bin else {
            skipped("what needs PostgreSQL, for /usr/lib/postgresql/*/bin/initdb is not there");
            return None;
        };
        // A path for a socket may have 107 characters.
        let folder = tempfile::Builder::new().prefix("wlpg").tempdir_in("/tmp").unwrap();
        let as_other = is_root();
        if as_other {
            let owned = Command::new("chown").arg("postgres").arg(folder.path()).status().unwrap().success();
            if !owned {
                skipped("what needs PostgreSQL, for it refuses to run as root, and there is no user `postgres`");
                return None;
            }
        }
        let cluster = Self { folder, bin, as_other };
        let data = cluster.data();
        cluster
            .run("initdb", &["-D", &data, "-U", "headscale", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]);
        cluster.hba("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c fsync=off -c timezone=America/New_York",
            cluster.port(),
            cluster.folder.path().display()
        );
        let log = cluster.folder.path().join("log");
        cluster.run("pg_ctl", &["-D", &data, "-l", log.to_str().unwrap(), "-o", &options, "-w", "start"]);
        Some(cluster)
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().to_owned()
    }

    /// A port that is free here, made from the folder's name so that clusters of other tests have others.
    pub fn port(&self) -> u16 {
        let name = self.folder.path().to_string_lossy().into_owned();
        20_000 + name.bytes().fold(0_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 10_000
    }

    /// Who may connect how, from now on if it runs already.
    pub fn hba(&self, rules: &str) {
        let path = PathBuf::from(self.data()).join("pg_hba.conf");
        std::fs::write(&path, rules).unwrap();
        if PathBuf::from(self.data()).join("postmaster.pid").exists() {
            self.run("pg_ctl", &["-D", &self.data(), "reload"]);
        }
    }

    fn command(&self, program: &str) -> Command {
        let path = self.bin.join(program);
        if !self.as_other {
            return Command::new(path);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path).current_dir("/");
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.command(program).args(arguments).output().unwrap();
        let text = || String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{program}: {}", text());
    }

    /// The address of a database over TCP, with this user and password.
    pub fn tcp(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port())
    }

    /// The address of a database over the socket.
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://headscale@{folder}:{}/{database}", self.port())
    }

    /// Runs SQL.
    pub async fn sql(&self, database: &str, sql: String) {
        let mut connection = sqlx::PgConnection::connect(&self.url(database)).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// A sample as a database.
    pub async fn load(&self, folder: &Path, name: &str) -> Location {
        self.sql("postgres", format!("CREATE DATABASE {name}")).await;
        self.sql(name, std::fs::read_to_string(folder.join(format!("{name}.sql"))).unwrap()).await;
        Location::parse(&self.url(name)).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.command("pg_ctl").args(["-D", &self.data(), "-m", "immediate", "stop"]).output().ok();
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
