//! Keys that came with an import, as Headscale stores them: bcrypt of the part behind a prefix.
//!
//! bcrypt is slow by design, and strangers may show keys. So a key is held against it only if its prefix is that of an imported key which
//! still counts; one at a time on the whole server; a few may wait, more are told to come back; and a key that was shown with a wrong
//! secret several times is looked at only every ten seconds. What matched once is known by its SHA-256 from then on, also after a restart.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use wayleave_model::{KeyHash, Timestamp};
use wayleave_tailnet::{Command, ImportedKey, Tailnet};

use crate::app::App;
use crate::control_loop::CommandError;
use crate::secrets;

/// How many may wait for the one that is looked at: two seconds' worth.
const MOST_WAITING: usize = 32;
/// How many wrong secrets for one key are looked at without delay.
const WRONG_AT_ONCE: u32 = 5;
/// How long another wrong one waits then.
const WRONG_EVERY: Duration = Duration::from_secs(10);
/// The greatest cost that is worked out. Headscale's is 10; each one more takes twice as long.
const MOST_COST: u32 = 12;

/// Which kind of key was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Imported {
    /// At registration.
    AuthKey,
    /// At the admin API.
    ApiKey,
}

/// It can't be said whether a key is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LearnError {
    /// Too many are being looked at.
    #[error("this server is busy with other keys; try again in a moment")]
    Busy,
    /// It was found to be right, and could not be remembered.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// The bounds on slow hashes.
pub(crate) struct SlowHashes {
    one: Semaphore,
    waiting: Semaphore,
    /// By key: how many wrong secrets, and when the last was. At most one entry for each imported key.
    wrong: Mutex<BTreeMap<ImportedKey, (u32, Timestamp)>>,
}

impl Default for SlowHashes {
    fn default() -> Self {
        Self { one: Semaphore::new(1), waiting: Semaphore::new(MOST_WAITING), wrong: Mutex::default() }
    }
}

impl SlowHashes {
    fn may_try(&self, key: ImportedKey, now: Timestamp) -> bool {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.get(&key).is_none_or(|(count, last)| *count < WRONG_AT_ONCE || now.since(*last) >= WRONG_EVERY)
    }

    fn was(&self, key: ImportedKey, right: bool, now: Timestamp) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if right {
            wrong.remove(&key);
        } else {
            let (count, last) = wrong.entry(key).or_insert((0, now));
            (*count, *last) = (count.saturating_add(1), now);
        }
    }
}

/// Holds a key that was shown against the imported one of its prefix, and remembers it if it is that one. Returns whether it is.
pub(crate) async fn learn(app: &App, kind: Imported, text: &str) -> Result<bool, LearnError> {
    let Some((prefix, secret)) = split(kind, text) else { return Ok(false) };
    let (prefix, secret) = (prefix.to_owned(), secret.to_owned());
    if find(app, kind, &prefix).await?.is_none() {
        return Ok(false);
    }
    let bounds = &app.slow_hashes;
    let _waits = bounds.waiting.try_acquire().map_err(|_| LearnError::Busy)?;
    let Ok(_turn) = bounds.one.acquire().await else { return Err(LearnError::Busy) };
    // Somebody before it may have shown the same.
    let Some((key, known)) = find(app, kind, &prefix).await? else { return Ok(true) };
    if !bounds.may_try(key, app.control.clock().now()) {
        return Err(LearnError::Busy);
    }
    let verified = tokio::task::spawn_blocking(move || bcrypt::verify(secret, &known)).await;
    let right = matches!(verified, Ok(Ok(true)));
    bounds.was(key, right, app.control.clock().now());
    if right {
        app.control.command(Command::LearnKey { key, hash: secrets::hash(text) }).await?;
        tracing::info!(key = ?key, "an imported key was shown for the first time, and is known by a fast hash now");
    }
    Ok(right)
}

/// The imported key of this prefix, if it still counts and is not known by a fast hash yet.
async fn find(app: &App, kind: Imported, prefix: &str) -> Result<Option<(ImportedKey, String)>, CommandError> {
    let (now, prefix) = (app.control.clock().now(), prefix.to_owned());
    let matches = move |hash: &KeyHash, expires_at: Option<Timestamp>| match hash {
        KeyHash::Bcrypt { prefix: own, hash } if *own == prefix && expires_at.is_none_or(|at| at > now) => {
            (cost(hash) <= MOST_COST).then(|| hash.clone())
        }
        KeyHash::Bcrypt { .. } | KeyHash::Sha256(_) | KeyHash::Unknown => None,
    };
    let question = move |tailnet: &Tailnet| match kind {
        Imported::AuthKey => tailnet
            .registry()
            .auth_keys()
            .filter(|key| key.revoked_at.is_none() && (key.reusable || key.used_at.is_none()))
            .find_map(|key| Some((ImportedKey::Auth(key.id), matches(&key.hash, key.expires_at)?))),
        Imported::ApiKey => tailnet
            .registry()
            .api_keys()
            .find_map(|key| Some((ImportedKey::Api(key.id), matches(&key.hash, key.expires_at)?))),
    };
    app.control.read(question).await
}

/// The cost that a bcrypt text names: `$2a$10$...`.
fn cost(hash: &str) -> u32 {
    hash.split('$').nth(2).and_then(|cost| cost.parse().ok()).unwrap_or(u32::MAX)
}

/// Prefix and secret of a key in one of the forms that Headscale had. The newer ones have fixed widths, and both parts may hold hyphens;
/// the older ones of API keys have a full stop between the two, and a prefix of 7 or 10 characters.
fn split(kind: Imported, text: &str) -> Option<(&str, &str)> {
    let newer = match kind {
        Imported::AuthKey => "hskey-auth-",
        Imported::ApiKey => "hskey-api-",
    };
    if let Some(rest) = text.strip_prefix(newer) {
        let (prefix, secret) = rest.split_at_checked(12)?;
        return Some((prefix, secret.strip_prefix('-').filter(|secret| secret.len() == 64)?));
    }
    match kind {
        Imported::AuthKey => None,
        // bcrypt looks at 72 bytes only, so a longer one is none.
        Imported::ApiKey => text.split_once('.').filter(|(_, secret)| (1..=72).contains(&secret.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_key_is_taken_apart_by_its_widths() {
        let secret = "-_".repeat(32);
        let newer = format!("hskey-api-Z-EF_hJRI8RE-{secret}");
        assert_eq!(split(Imported::ApiKey, &newer), Some(("Z-EF_hJRI8RE", secret.as_str())));
        assert_eq!(split(Imported::AuthKey, &newer), None, "a key of the other kind");
        assert_eq!(split(Imported::ApiKey, "e3l3H3s.abc.def"), Some(("e3l3H3s", "abc.def")), "the first full stop");
        assert_eq!(split(Imported::AuthKey, "75f954aeb7a72b4d5c18e07074a7718a57cb2f0fab02cfb6"), None);
        for broken in
            ["hskey-api-", "hskey-api-ééééééé", "hskey-api-123456789012x", "hskey-api-123456789012-short", "wl-api-1"]
        {
            assert_eq!(split(Imported::ApiKey, broken), None, "{broken}");
        }
    }

    #[test]
    fn a_key_with_many_wrong_secrets_waits_and_others_do_not() {
        let bounds = SlowHashes::default();
        let key = |id| ImportedKey::Auth(wayleave_model::AuthKeyId::new(id));
        let now = Timestamp::from_millis(0);
        for _ in 0..WRONG_AT_ONCE {
            assert!(bounds.may_try(key(1), now));
            bounds.was(key(1), false, now);
        }
        assert!(!bounds.may_try(key(1), now) && bounds.may_try(key(2), now));
        assert!(bounds.may_try(key(1), now + WRONG_EVERY));
        bounds.was(key(1), true, now);
        assert!(bounds.may_try(key(1), now));
    }

    #[test]
    fn a_cost_that_would_hold_the_server_up_is_seen() {
        assert_eq!(cost("$2a$10$VubQIuBzBmEMIfitkXvWAe"), 10);
        assert!(cost("$2a$31$VubQIuBzBmEMIfitkXvWAe") > MOST_COST && cost("nonsense") > MOST_COST);
    }
}
