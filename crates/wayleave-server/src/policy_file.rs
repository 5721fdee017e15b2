//! A policy whose home is a file: taken in at the start, and again when somebody asks for it.
//!
//! What was in force is kept where the file is no policy, or one that fails its own tests. It is in the database, so a server that starts
//! beside a broken file serves the policy that it served before, says so in its log and at `/health`, and goes on.

use std::path::{Path, PathBuf};

use wayleave_tailnet::{Command, Outcome};

use crate::control_loop::{CommandError, Control};

/// The longest policy that is taken in.
const LONGEST: u64 = 16 << 20;

/// A policy file could not be taken in. What was in force is in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// It can't be read.
    #[error("cannot read the policy file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too long.
    #[error("the policy file {} has more than {LONGEST} bytes", .0.display())]
    Long(PathBuf),
    /// It is no policy, fails its own tests, or could not be stored.
    #[error("the policy file {} is not taken in", path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// Why.
        source: CommandError,
    },
}

/// Reads a policy file. A line that is not UTF-8 is refused by what reads it next, with its place.
pub(crate) fn read(path: &Path) -> Result<String, PolicyFileError> {
    let failed = |source| PolicyFileError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > LONGEST {
        return Err(PolicyFileError::Long(path.to_owned()));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Takes in a policy file. Returns the revision that is in force by it; `None` if that was the case before.
///
/// # Errors
///
/// It can't be read, or is refused.
pub async fn take_in(control: &Control, path: &Path) -> Result<Option<u64>, PolicyFileError> {
    let text = read(path)?;
    let refused = |source| PolicyFileError::Refused { path: path.to_owned(), source };
    let in_force = control.read(|tailnet| tailnet.policy_row().map(|row| row.text.clone())).await.map_err(refused)?;
    if in_force.as_deref() == Some(text.as_str()) {
        return Ok(None);
    }
    let command = Command::SetPolicy { text, replaces: None, by: "file".to_owned() };
    let outcome = control.command(command).await.map_err(refused)?;
    Ok(if let Outcome::Policy(revision) = outcome { Some(revision) } else { None })
}
