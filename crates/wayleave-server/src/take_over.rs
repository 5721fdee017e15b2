//! Takes a whole installation into a data folder in which no server runs: its keys and its configuration as files, all else as one
//! transaction.
//!
//! Files come first: a folder with the keys and without the data can be filled again, while a server that finds the data and no keys
//! would make keys of its own, and no client would know it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use wayleave_store::Document;
use wayleave_store::{DocumentError, ImportError, OpenError, Store};
use wayleave_tailnet::{Loaded, PolicyRow, Settings, Tailnet};
use wayleave_wire::PrivateKey;

use crate::clock::Clock;
use crate::data_dir::{DataDir, DataDirError};
use crate::keys::{self, Installed, KeyFileError};

/// The private keys of the installation that comes, as far as it has any.
#[derive(Clone, Debug, Default)]
pub struct ServerKeys {
    /// By which clients know the server.
    pub noise: Option<PrivateKey>,
    /// By which clients know the relay.
    pub derp: Option<PrivateKey>,
}

/// An installation can't be taken in. The folder is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// One key has two roles.
    #[error("the Noise key and the relay's key are the same: each needs one of its own; leave out the relay's")]
    SameKey,
    /// A file that is to be written is there already.
    #[error("there is a file {} already, and the import writes one: move it away first; nothing was changed", .0.display())]
    FileThere(PathBuf),
    /// A file can't be written.
    #[error("cannot write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data folder can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A key file can't be written.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The database can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database does not take it.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The database does not take the export.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// Takes in what another system had. `files` are texts by the names that they get in the folder: `wayleave.toml`, and what it names.
/// `older` are the policies before the one in force; `progress` is told how many rows were written.
///
/// # Errors
///
/// A server runs on the folder, the folder has an installation already, or something can't be written. Nothing was changed then.
pub async fn take_over(
    data_dir: &Path,
    server_keys: ServerKeys,
    files: &[(String, String)],
    loaded: &Loaded,
    older: &[PolicyRow],
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), TakeOverError> {
    run(data_dir, server_keys, files, Content::Rows { loaded, older, progress }).await
}

/// Takes in an export of Wayleave.
///
/// # Errors
///
/// As [`take_over`]; or the export is none that a server could start from.
pub async fn take_over_export(
    data_dir: &Path,
    server_keys: ServerKeys,
    document: &Document,
) -> Result<(), TakeOverError> {
    run(data_dir, server_keys, &[], Content::Document(document)).await
}

/// What is taken in, beside keys.
enum Content<'a> {
    Rows { loaded: &'a Loaded, older: &'a [PolicyRow], progress: &'a mut (dyn FnMut(u64) + Send) },
    Document(&'a Document),
}

async fn run(
    data_dir: &Path,
    server_keys: ServerKeys,
    files: &[(String, String)],
    content: Content<'_>,
) -> Result<(), TakeOverError> {
    let ServerKeys { noise, derp } = server_keys;
    if let (Some(noise), Some(derp)) = (&noise, &derp)
        && noise.expose() == derp.expose()
    {
        return Err(TakeOverError::SameKey);
    }
    let folder = DataDir::take(data_dir)?;
    let store = Store::open(&folder.file("wayleave.db")).await?;
    let done = async {
        store.check_empty().await?;
        let mut installed = Vec::new();
        let mut written = Vec::new();
        let done = async {
            for (name, key) in [("noise.key", noise), ("derp.key", derp)] {
                if let Some(key) = key {
                    installed.push(keys::install(&folder.file(name), &key)?);
                }
            }
            for (name, text) in files {
                let path = folder.file(name);
                put_file(&path, text)?;
                written.push(path);
            }
            match content {
                Content::Rows { loaded, older, progress } => store.import(loaded, older, progress).await?,
                Content::Document(document) => store.import_document(document, servable).await?,
            }
            Ok(())
        };
        let done: Result<(), TakeOverError> = done.await;
        if done.is_err() {
            for path in written {
                // It was made a moment ago; that it can't be deleted would hide why nothing was imported.
                std::fs::remove_file(path).ok();
            }
            installed.into_iter().try_for_each(Installed::undo)?;
        }
        done
    };
    let done = done.await;
    store.close().await;
    done
}

/// Writes a file that is not there yet, for its owner only: a configuration may hold a password.
fn put_file(path: &Path, text: &str) -> Result<(), TakeOverError> {
    let failed = |source: std::io::Error| {
        if source.kind() == ErrorKind::AlreadyExists {
            TakeOverError::FileThere(path.to_owned())
        } else {
            TakeOverError::File { path: path.to_owned(), source }
        }
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Whether a server could start from these rows: their policy is read, and every table comes together.
fn servable(loaded: Loaded) -> Result<(), String> {
    Tailnet::new(Settings::default(), loaded, Clock::default().now()).map(drop).map_err(|error| error.to_string())
}
