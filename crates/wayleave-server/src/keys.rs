//! The server's own keys: files in the data folder, made once, readable by the server's user only.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use wayleave_wire::PrivateKey;
use zeroize::Zeroizing;

/// A key file can't be used. No text holds any of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be read or written.
    #[error("cannot {doing} the key file {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could have read it.
    #[error("others may read the key file {path}: run `chmod 600 {path}`; if they may have done so, the key is no longer secret", path = .0.display())]
    Open(PathBuf),
    /// It holds no key.
    #[error("the key file {} holds no key: restore it from a backup; without it every client has to log in again", .0.display())]
    Damaged(PathBuf),
}

/// Reads the key in this file, or makes one if the file is not there. A file that is there is never overwritten.
///
/// # Errors
///
/// The file can't be read or written, is open to others, or holds no key.
pub fn load_or_make(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let io = |doing| move |source| KeyFileError::Io { doing, path: path.to_owned(), source };
    match File::open(path) {
        Ok(file) => load(file, path),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = PrivateKey::from_bytes(rand::random());
            make(path, &key)?;
            Ok(key)
        }
        Err(error) => Err(io("read")(error)),
    }
}

/// A key that was put in the place of another, or of none.
#[derive(Debug)]
pub struct Installed {
    path: PathBuf,
    /// Where the key is that was there before.
    before: Option<PathBuf>,
    changed: bool,
}

/// Makes this the key in the file. One that is there already is kept beside it, under the same name with `.replaced` behind it.
///
/// # Errors
///
/// The file can't be read or written, or another key was replaced before.
pub fn install(path: &Path, key: &PrivateKey) -> Result<Installed, KeyFileError> {
    let io = |doing| move |source| KeyFileError::Io { doing, path: path.to_owned(), source };
    let installed = |before, changed| Installed { path: path.to_owned(), before, changed };
    let before = match File::open(path) {
        Ok(file) => {
            if load(file, path)?.expose() == key.expose() {
                return Ok(installed(None, false));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let before = path.with_file_name(format!("{name}.replaced"));
            // A link is refused where the name is taken, so nothing is ever lost.
            std::fs::hard_link(path, &before).map_err(io("keep a copy of"))?;
            Some(before)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(io("read")(error)),
    };
    make(path, key)?;
    Ok(installed(before, true))
}

impl Installed {
    /// Puts back what was there.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn undo(self) -> Result<(), KeyFileError> {
        let Self { path, before, changed } = self;
        let done = match before {
            Some(before) => std::fs::rename(before, &path),
            None if changed => std::fs::remove_file(&path),
            None => Ok(()),
        };
        done.map_err(|source| KeyFileError::Io { doing: "put back", path, source })
    }
}

/// Writes a key: readable by nobody else from its first byte on; and whole under its name, or not there.
fn make(path: &Path, key: &PrivateKey) -> Result<(), KeyFileError> {
    let io = |doing| move |source| KeyFileError::Io { doing, path: path.to_owned(), source };
    let unfinished = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished).map_err(io("make"))?;
    file.write_all(key.expose_text().as_bytes()).map_err(io("write"))?;
    file.write_all(b"\n").and_then(|()| file.sync_all()).map_err(io("write"))?;
    std::fs::rename(&unfinished, path).map_err(io("make"))
}

fn load(file: File, path: &Path) -> Result<PrivateKey, KeyFileError> {
    let io = |doing| move |source| KeyFileError::Io { doing, path: path.to_owned(), source };
    let mode = file.metadata().map_err(io("read"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Open(path.to_owned()));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(1024).read_to_string(&mut text).map_err(|_| KeyFileError::Damaged(path.to_owned()))?;
    text.parse().map_err(|_| KeyFileError::Damaged(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("noise.key");
        let made = load_or_make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_or_make(&path).unwrap().public(), made.public());
    }

    #[test]
    fn a_key_that_is_put_in_the_place_of_another_is_for_its_owner_only_and_can_be_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("noise.key");
        let [first, second] = [1, 2].map(|n| PrivateKey::from_bytes([n; 32]));
        install(&path, &first).unwrap().undo().unwrap();
        assert!(!path.exists(), "there was none before");
        install(&path, &first).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        install(&path, &second).unwrap().undo().unwrap();
        assert_eq!(load_or_make(&path).unwrap().public(), first.public());
        install(&path, &second).unwrap();
        assert_eq!(load_or_make(&path).unwrap().public(), second.public());
        assert_eq!(load_or_make(&folder.path().join("noise.key.replaced")).unwrap().public(), first.public());
        install(&path, &second).unwrap().undo().unwrap();
        assert_eq!(load_or_make(&path).unwrap().public(), second.public(), "nothing was changed, nothing is undone");
        let error = install(&path, &first).unwrap_err();
        assert!(error.to_string().contains("keep a copy of"), "{error}");
    }

    #[test]
    fn an_open_or_damaged_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("noise.key");
        load_or_make(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_or_make(&path), Err(KeyFileError::Open(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "privkey:12").unwrap();
        let error = load_or_make(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Damaged(_)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "privkey:12");
    }
}
