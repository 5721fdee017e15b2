//! Pre-auth keys.

use std::collections::BTreeSet;

use super::super::installation::{AuthKey, Installation, User};
use crate::report::{Code, Warning};

/// All keys. One that could make nodes for nobody is there and revoked.
pub(super) fn auth_keys(installation: &Installation, users: &[User], warnings: &mut Vec<Warning>) -> Vec<AuthKey> {
    // Up to 0.10.1 nothing says that a key was used but the machine that came in with it.
    let used_by: BTreeSet<u64> = installation.nodes.iter().filter_map(|node| node.auth_key).collect();
    let there: BTreeSet<u64> = users.iter().map(|user| user.id).collect();
    let keys = installation.auth_keys.iter().map(|key| {
        let used = key.used.unwrap_or_else(|| used_by.contains(&key.id));
        let user = key.user.filter(|user| there.contains(user));
        if user.is_none() && key.tags.is_empty() {
            let warning = Warning::row(Code::AuthkeyWithoutOwner, "pre_auth_keys", key.id);
            warnings.push(match key.user {
                Some(user) => warning.old(format!("user {user}")),
                None => warning,
            });
        }
        AuthKey { used: Some(used), user, ..key.clone() }
    });
    keys.collect()
}
