//! The program as it is typed, in a folder of its own.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use crate::small::{NOISE_KEY, SMALL};

fn wayleave(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayleave"));
    command.current_dir(folder).env_clear().env("TMPDIR", std::env::temp_dir());
    command
}

/// What came of a command.
pub fn run(folder: &Path, words: &[&str]) -> Output {
    wayleave(folder).args(words).args(["--data-dir", "data"]).output().unwrap()
}

/// A server on what is in the folder, once it answers.
pub fn serve(folder: &Path) -> Child {
    let mut command = wayleave(folder);
    command.args(["serve", "--data-dir", "data", "--set", "listen=127.0.0.1:0"]);
    let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !run(folder, &["users", "list"]).status.success() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not start: {:?}", server.try_wait());
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

/// Imports a tailnet of a few nodes, of which one is called `router`.
pub async fn import(folder: &Path) {
    std::fs::write(folder.join("noise.key"), NOISE_KEY).unwrap();
    let options = SqliteConnectOptions::new().filename(folder.join("db.sqlite")).create_if_missing(true);
    let mut source = SqliteConnection::connect_with(&options.foreign_keys(false)).await.unwrap();
    sqlx::raw_sql(SMALL).execute(&mut source).await.unwrap();
    source.close().await.unwrap();
    let said = run(folder, &["import", "headscale", "db.sqlite", "--noise-key", "noise.key", "--policy", "allow-all"]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}
