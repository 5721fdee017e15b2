//! Private keys as Headscale keeps them: `privkey:` and 64 hex digits, up to 0.22 perhaps without the prefix.

use std::path::{Path, PathBuf};

use wayleave_wire::PrivateKey;
use zeroize::Zeroizing;

/// A key file can't be used. No text holds any of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be read.
    #[error("cannot read the key file {}: give it with --noise-key, or run this as a user who may read it", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds none.
    #[error("{} holds no private key (`privkey:` and 64 hex digits): restore it from a backup", .0.display())]
    NoKey(PathBuf),
}

/// Reads a key.
///
/// # Errors
///
/// The file can't be read, or holds no key.
pub fn read(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let bytes = std::fs::read(path).map_err(|source| KeyFileError::Unreadable { path: path.to_owned(), source })?;
    let bytes = Zeroizing::new(bytes);
    let no_key = || KeyFileError::NoKey(path.to_owned());
    let text = std::str::from_utf8(&bytes).map_err(|_| no_key())?.trim();
    let digits = text.strip_prefix("privkey:").unwrap_or(text);
    let key: PrivateKey = Zeroizing::new(format!("privkey:{digits}")).parse().map_err(|_| no_key())?;
    // All zeros is how an unset key is written.
    if key.expose() == &[0; 32] { Err(no_key()) } else { Ok(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_with_and_without_their_prefix_and_nothing_else_is_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("private.key");
        let digits = "40ab1b58e9076c7a4d9d07291f5edf9d1aa017eb949624ba683317f48a640369";
        for text in
            [format!("privkey:{digits}"), format!("{digits}\n"), format!("  privkey:{}\n", digits.to_uppercase())]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(&read(&path).unwrap().expose_text()[8..], digits);
        }
        for text in [String::new(), "privkey:".to_owned(), digits[1..].to_owned(), "0".repeat(64)] {
            std::fs::write(&path, &text).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::NoKey(_)), "{text}");
            assert!(!error.to_string().contains("40ab1b"), "{error}");
        }
        assert!(matches!(read(&folder.path().join("none")), Err(KeyFileError::Unreadable { .. })));
    }
}
