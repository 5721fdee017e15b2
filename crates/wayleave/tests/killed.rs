//! What was acknowledged to a person survives `kill -9` (design.md 6, 11): the real program on a real database, killed at random moments
//! while several people work with it, started again, and asked for all that was acknowledged.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod program;
mod small;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use program::{import, run, serve};

/// So often it is killed.
const KILLS: u32 = 8;
/// So many people work at once. Each has prefixes and users of its own, so that what it was told last is what must be there.
const PEOPLE: u8 = 3;

fn list(folder: &Path, what: &str) -> Vec<serde_json::Value> {
    let said = run(folder, &[what, "list", "--output", "json"]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

/// What somebody was told, and what they asked for last without an answer: that may have come to be, or not.
#[derive(Default)]
struct Told {
    /// Prefixes, and whether they were approved or disabled last.
    routes: BTreeMap<String, bool>,
    users: BTreeMap<String, bool>,
    unanswered: Option<String>,
}

/// Works until it is told to stop, or an answer does not come.
fn work(folder: &Path, person: u8, round: u32, stop: &AtomicBool, told: &mut Told) {
    for turn in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let prefix = format!("10.{}.{}.0/24", 100 + person, turn % 5);
        let user = format!("p{person}r{round}t{turn}");
        let approved = told.routes.get(&prefix).copied().unwrap_or(false);
        let is_user = turn % 3 == 2;
        let words: &[&str] = match (is_user, approved) {
            (true, _) => &["users", "create", &user],
            (false, true) => &["routes", "disable", "--node", "router", &prefix, "--yes"],
            (false, false) => &["routes", "approve", "--node", "router", &prefix],
        };
        let said = run(folder, words);
        if !said.status.success() {
            // Nobody answered: it was killed meanwhile.
            assert!(stop.load(Ordering::Relaxed), "{words:?}: {}", String::from_utf8_lossy(&said.stderr));
            told.unanswered = Some(if is_user { user } else { prefix });
            return;
        }
        if is_user {
            told.users.insert(user, true);
        } else {
            told.routes.insert(prefix, !approved);
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    import(folder).await;
    let all: Vec<Mutex<Told>> = (0..PEOPLE).map(|_| Mutex::default()).collect();
    let mut acknowledged = 0;
    for round in 0..KILLS {
        let mut server = serve(folder);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (person, told) in (0..PEOPLE).zip(&all) {
                let stop = &stop;
                scope.spawn(move || work(folder, person, round, stop, &mut told.lock().unwrap()));
            }
            let moment = RandomState::new().build_hasher().finish() % 800 + 30;
            std::thread::sleep(Duration::from_millis(moment));
            stop.store(true, Ordering::Relaxed);
            // SIGKILL: nothing of it gets to do anything more.
            server.kill().unwrap();
        });
        server.wait().unwrap();

        let mut server = serve(folder);
        let routes = list(folder, "routes");
        let users = list(folder, "users");
        for told in &all {
            let mut told = told.lock().unwrap();
            let Told { routes: asked, users: made, unanswered } = &mut *told;
            for (prefix, approved) in asked.iter_mut() {
                let row = routes.iter().find(|row| row["prefix"] == **prefix);
                let is = row.is_some_and(|row| row["enabled"] == true);
                if unanswered.as_ref() == Some(prefix) {
                    *approved = is;
                }
                assert_eq!(is, *approved, "round {round}: {prefix} is {row:?}");
            }
            for user in made.keys() {
                assert!(users.iter().any(|row| row["name"] == **user), "round {round}: {user} is gone");
            }
            acknowledged += asked.len() + made.len();
            // A first approval that nobody answered may have come to be.
            if let Some(prefix) = unanswered.take().filter(|prefix| prefix.contains('/')) {
                let row = routes.iter().find(|row| row["prefix"] == *prefix);
                asked.insert(prefix, row.is_some_and(|row| row["enabled"] == true));
            }
        }
        server.kill().unwrap();
        server.wait().unwrap();
    }
    assert!(acknowledged > 50, "hardly anything was asked for: {acknowledged}");
}
