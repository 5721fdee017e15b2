//! Which policy is to be in force, and whether it can be.
//!
//! Only Headscale's configuration says whether its policy is in a file or in the database, and where. So without it a person has to say. In
//! no case is everything allowed because a policy was not found or does not compile: then the import stops.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use wayleave_model::Timestamp;
use wayleave_policy::{PolicyFile, Surroundings};
use wayleave_tailnet::PolicyRow;

use super::installation::Installation;
use super::old_policy::{self, Format};

/// Where the policy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PolicyAt {
    /// Nobody has said.
    #[default]
    Unknown,
    /// In this file.
    File(PathBuf),
    /// In the database.
    Database,
    /// There is none: everybody may reach everything.
    Nowhere,
    /// It is of no account: one that allows nothing comes in its place.
    DenyAll,
}

/// What allows nothing.
const DENY_ALL: &str = "// Set by an import with --deny-all: nobody may reach anything. Replace it with the policy that is wanted:\n\
                        // wayleave policy set FILE\n{\n  \"acls\": [],\n}\n";

/// A policy that was found, or why there is none that could be in force.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What is to be in force; `None`: nothing is restricted, or there is a `stop`.
    pub text: Option<Arc<str>>,
    /// The same, read.
    pub file: Option<Arc<PolicyFile>>,
    /// When it was set, if the source says so.
    pub set_at: Option<Timestamp>,
    /// Those before it, in their order.
    pub older: Vec<(Arc<str>, Option<Timestamp>)>,
    /// What a person should know of it.
    pub notices: Vec<String>,
    /// Why the import can't go on.
    pub stop: Option<String>,
}

/// Finds the policy and reads it. `randomize_client_port`: the configuration says so, and here the policy does.
pub fn find(installation: &Installation, at: &PolicyAt, randomize_client_port: bool, around: &Surroundings) -> Found {
    let mut found = Found::default();
    let stored = installation.policies.iter();
    let stored = stored.map(|policy| {
        let at = policy.created_at.map(|at| Timestamp::from_millis(at.as_millisecond()));
        (Arc::<str>::from(policy.text.as_str()), at)
    });
    let mut stored: Vec<_> = stored.collect();
    match at {
        PolicyAt::Unknown => {
            let there = match stored.len() {
                0 => "the database holds none",
                _ => "the database holds one, which may or may not be in force",
            };
            found.stop = Some(format!(
                "only Headscale's configuration says which policy is in force ({there}): give its config.yaml with --config, or say \
                 --policy FILE, --policy database, --policy allow-all if there is none, or --deny-all"
            ));
        }
        PolicyAt::DenyAll => {
            found.notices.push("nobody may reach anything until a policy is set (--deny-all)".to_owned());
            found.older = stored;
            found.text = Some(Arc::from(DENY_ALL));
        }
        PolicyAt::Nowhere => {
            found.notices.push("there is no policy: everybody may reach everything, as before".to_owned());
        }
        PolicyAt::Database => match stored.pop() {
            Some((text, set_at)) => {
                found.older = stored;
                found.text = Some(text);
                found.set_at = set_at;
            }
            None => {
                found.notices.push("the database holds no policy: everybody may reach everything, as before".to_owned())
            }
        },
        PolicyAt::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => {
                found.older = stored;
                found.text = Some(text.into());
            }
            Err(error) => {
                found.stop = Some(format!(
                    "cannot read the policy {}: {error}; give another with --policy FILE, or go on with one that allows nothing \
                     (--deny-all)",
                    path.display()
                ));
            }
        },
    }
    translate(installation, at, randomize_client_port, &mut found);
    if let Some(text) = &found.text {
        match PolicyFile::parse(text, around) {
            Ok(file) => {
                let warnings = file.warnings.iter().map(|warning| format!("policy: {}", warning.shown(text)));
                found.notices.extend(warnings.collect::<Vec<_>>());
                found.file = Some(Arc::new(file));
            }
            Err(error) => found.stop = Some(cannot_be_set(&error)),
        }
    }
    found
}

/// Brings the text into the language of today. What was in force there is kept among the older ones where that changed it.
fn translate(installation: &Installation, at: &PolicyAt, randomize_client_port: bool, found: &mut Found) {
    let Some(text) = found.text.clone() else {
        if randomize_client_port && found.stop.is_none() {
            let notice = "randomize_client_port is a matter of the policy here, and there is none: set one with \"randomizeClientPort\": true";
            found.notices.push(notice.to_owned());
        }
        return;
    };
    if *at == PolicyAt::DenyAll {
        return;
    }
    let yaml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml");
    let format = match at {
        PolicyAt::File(path) if yaml(path) => Format::Yaml,
        PolicyAt::File(_) | PolicyAt::Database | PolicyAt::Nowhere | PolicyAt::Unknown | PolicyAt::DenyAll => {
            Format::HuJson
        }
    };
    let users: BTreeSet<String> =
        installation.users.iter().filter(|user| !user.deleted).map(|user| user.name.clone()).collect();
    match old_policy::translate(&text, format, &users, randomize_client_port) {
        Ok(new) => {
            found.notices.extend(new.notices);
            if *new.text != *text {
                if *at == PolicyAt::Database {
                    found.older.push((text, found.set_at.take()));
                }
                found.text = Some(new.text.into());
            }
        }
        Err(error) => {
            found.text = None;
            found.stop = Some(format!(
                "{error}; give another with --policy FILE, or go on with one that allows nothing (--deny-all)"
            ));
        }
    }
}

/// Why a policy can't be in force, as `policy check` shows it, and what to do.
pub fn cannot_be_set(error: &wayleave_policy::PolicyError) -> String {
    format!(
        "the policy can't be set:\n{error}\ncorrect it and give it with --policy FILE, or go on with one that allows nothing (--deny-all)"
    )
}

impl Found {
    /// The rows to be stored: those before, and the one in force.
    pub fn rows(&self, now: Timestamp) -> (Vec<PolicyRow>, Option<PolicyRow>) {
        let row = |revision: usize, text: &Arc<str>, set_at: Option<Timestamp>| PolicyRow {
            revision: revision as u64,
            text: Arc::clone(text),
            set_at: set_at.unwrap_or(now),
            set_by: "import".to_owned(),
        };
        let Some(text) = &self.text else { return (Vec::new(), None) };
        let older = self.older.iter().enumerate().map(|(at, (text, set_at))| row(at + 1, text, *set_at)).collect();
        (older, Some(row(self.older.len() + 1, text, self.set_at)))
    }
}
