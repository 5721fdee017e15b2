//! `wayleave export` and `wayleave backup`: all of it at once.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Global, done};
use crate::client::Client;
use crate::output::Format;

/// How an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// JSON.
    #[default]
    Json,
}

/// What to export.
#[derive(Debug, Args)]
pub struct Export {
    /// How to write it.
    #[arg(long, value_enum, default_value_t)]
    format: ExportFormat,
    /// A new file for it. Not said: standard output.
    file: Option<PathBuf>,
}

/// Where to copy the database.
#[derive(Debug, Args)]
pub struct Backup {
    /// A new file for it.
    file: PathBuf,
}

pub async fn export(global: &Global, client: &Client, export: &Export) -> anyhow::Result<()> {
    let Export { format: ExportFormat::Json, file } = export;
    let Some(file) = file else {
        if global.output == Format::Yaml {
            bail!("an export is JSON; `wayleave import wayleave` reads nothing else");
        }
        let mut out = std::io::stdout();
        let written = client.download("/api/v2/export", &mut out).await.and_then(|()| Ok(writeln!(out)?));
        // A reader that has gone wants no more of it.
        let gone = |error: &anyhow::Error| {
            error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
        };
        return written.or_else(|error| if gone(&error) { Ok(()) } else { Err(error) });
    };
    let bytes = whole(client, "/api/v2/export", file).await?;
    let text = format!("everything but secrets is in {} ({bytes} bytes)", file.display());
    done(global, &json!({ "file": file, "bytes": bytes }), &text)
}

pub async fn backup(global: &Global, client: &Client, backup: &Backup) -> anyhow::Result<()> {
    let file = &backup.file;
    let bytes = whole(client, "/api/v2/backup", file).await?;
    let text = format!(
        "the database is in {} ({bytes} bytes); a server starts from it as wayleave.db in its data folder. \
         noise.key and derp.key of this server's folder are not in it: keep a copy of them too",
        file.display()
    );
    done(global, &json!({ "file": file, "bytes": bytes }), &text)
}

/// Writes what an address holds into a new file, for its owner only: whole under its name, or not there.
async fn whole(client: &Client, address: &str, file: &Path) -> anyhow::Result<u64> {
    if file.exists() {
        bail!("{} is there already: give another name, or remove it", file.display());
    }
    let name = file.file_name().with_context(|| format!("{} names no file", file.display()))?;
    let part = file.with_file_name(format!("{}.part", name.to_string_lossy()));
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&part);
    let mut out = opened.with_context(|| format!("cannot write {}", part.display()))?;
    let written = fill(client, address, &mut out).await;
    // A link is refused where the name is taken meanwhile.
    let kept = written.and_then(|bytes| {
        std::fs::hard_link(&part, file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(bytes)
    });
    std::fs::remove_file(&part).ok();
    kept
}

async fn fill(client: &Client, address: &str, out: &mut File) -> anyhow::Result<u64> {
    client.download(address, out).await?;
    out.sync_all()?;
    Ok(out.metadata()?.len())
}
