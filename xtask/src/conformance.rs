//! Conformance: what the hosted control plane answered, compared with what the policy engine answers.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::e2e::Tally;
use crate::{say, top};

/// Where the captured cases are: beside the repository, unless `WAYLEAVE_CONFORMANCE` says otherwise.
pub fn folder() -> PathBuf {
    let said = std::env::var_os("WAYLEAVE_CONFORMANCE").filter(|path| !path.is_empty()).map(PathBuf::from);
    said.unwrap_or_else(|| top().join("../shared/conformance"))
}

/// Compares, and counts the cases. Where there are no cases, that is said, and counted as one skipped.
pub fn tests() -> anyhow::Result<Tally> {
    let check = folder().join("check");
    if !check.exists() {
        say(&format!(
            "SKIPPED: conformance: there is no {} (WAYLEAVE_CONFORMANCE says where the cases are)",
            check.display()
        ));
        return Ok(Tally { skipped: 1, ..Tally::default() });
    }
    let binary = crate::e2e::build_server()?;
    let out = Command::new(&check).arg(&binary).output().with_context(|| format!("cannot run {}", check.display()))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let last = text.lines().last().unwrap_or_default();
    let count = |word: &str| {
        let words: Vec<&str> = last.split([' ', ',']).filter(|text| !text.is_empty()).collect();
        let at = words.iter().position(|text| *text == word)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    let (Some(passed), Some(failed)) = (count("passed"), count("failed")) else {
        bail!("the comparison ended with {last:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    };
    if failed > 0 {
        say(&text);
    }
    say(last);
    Ok(Tally { passed, failed, ..Tally::default() })
}
