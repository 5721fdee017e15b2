//! A copy of the database while it is in use.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Store;
use crate::error::BackupError;

impl Store {
    /// Writes a copy of the database as of one moment into a new file, for its owner only. Commits go on meanwhile.
    ///
    /// # Errors
    ///
    /// The file is there already or can't be written. What was written of it is removed.
    pub async fn backup(&self, path: &Path) -> Result<(), BackupError> {
        let file = |source| BackupError::File { path: path.to_owned(), source };
        // Readable by nobody else from its first byte on; SQLite takes an empty file.
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(path).map_err(file)?;
        let done = self.copy_into(path).await;
        if done.is_err() {
            drop(std::fs::remove_file(path));
        }
        done
    }

    async fn copy_into(&self, path: &Path) -> Result<(), BackupError> {
        let name = path.to_str().ok_or_else(|| BackupError::Name(path.to_owned()))?;
        // A reader sees one moment, and in a write-ahead log it holds nobody up (sqlite.org/lang_vacuum.html).
        sqlx::query("VACUUM INTO $1").bind(name).execute(&self.read).await.map_err(BackupError::Copy)?;
        let copied = std::fs::File::open(path).and_then(|file| file.sync_all());
        copied.map_err(|source| BackupError::File { path: path.to_owned(), source })
    }
}
