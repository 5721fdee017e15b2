//! Users, pre-auth keys and API keys.

use std::time::Duration;

use wayleave_model::{ApiKey, ApiKeyId, AuthKey, AuthKeyId, KeyHash, User, UserId, UserRole};

use crate::command::{ImportedKey, NewAuthKey, Outcome, Refusal};
use crate::plan::{Draft, Plan, Write};
use crate::tailnet::Tailnet;

fn check_name(name: &str) -> Result<(), Refusal> {
    let ok = (1..=255).contains(&name.len()) && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    if ok { Ok(()) } else { Err(Refusal::UserName(name.to_owned())) }
}

impl Tailnet {
    pub(crate) fn plan_create_user(
        &self,
        mut draft: Draft,
        name: String,
        display_name: String,
        email: Option<String>,
        role: Option<UserRole>,
    ) -> Result<Plan, Refusal> {
        check_name(&name)?;
        let taken = |text: &str| self.registry.users().any(|u| u.name == text || u.email.as_deref() == Some(text));
        for text in [Some(&name), email.as_ref()].into_iter().flatten() {
            if taken(text) {
                return Err(Refusal::UserExists(text.clone()));
            }
        }
        let id = draft.next_user();
        let email = email.or_else(|| name.contains('@').then(|| name.clone()));
        // Somebody has to own the tailnet: whoever is first.
        let first = self.registry.users().next().is_none();
        let role = role.unwrap_or(if first { UserRole::Owner } else { UserRole::Member });
        draft.write(Write::User(User {
            id,
            name,
            display_name,
            email,
            identity: None,
            picture: String::new(),
            role,
            created_at: draft.now,
        }));
        Ok(draft.done(Outcome::User(id)))
    }

    pub(crate) fn plan_rename_user(&self, mut draft: Draft, user: UserId, name: String) -> Result<Plan, Refusal> {
        check_name(&name)?;
        let old = self.registry.user(user).ok_or(Refusal::NoUser(user))?;
        if self.registry.users().any(|other| other.id != user && other.name == name) {
            return Err(Refusal::UserExists(name));
        }
        draft.write(Write::User(User { name, ..old.clone() }));
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_set_role(&self, mut draft: Draft, user: UserId, role: UserRole) -> Result<Plan, Refusal> {
        let old = self.registry.user(user).ok_or(Refusal::NoUser(user))?;
        draft.write(Write::User(User { role, ..old.clone() }));
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_delete_user(&self, mut draft: Draft, user: UserId) -> Result<Plan, Refusal> {
        let old = self.registry.user(user).ok_or(Refusal::NoUser(user))?;
        if self.registry.user_has_nodes(user) {
            return Err(Refusal::UserHasNodes(old.name.clone()));
        }
        for key in self.registry.auth_keys().filter(|key| key.user == Some(user)) {
            draft.write(Write::DeleteAuthKey(key.id));
        }
        draft.write(Write::DeleteUser(user));
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_create_auth_key(&self, mut draft: Draft, key: NewAuthKey) -> Result<Plan, Refusal> {
        let NewAuthKey { user, hint, hash, reusable, ephemeral, tags, description, lifetime } = key;
        match user {
            Some(user) => drop(self.registry.user(user).ok_or(Refusal::NoUser(user))?),
            None if tags.is_empty() => return Err(Refusal::KeyWithoutOwner),
            None => {}
        }
        let id = draft.next_auth_key();
        let created_at = draft.now;
        draft.write(Write::AuthKey(AuthKey {
            id,
            user,
            hint,
            hash: KeyHash::Sha256(hash),
            reusable,
            ephemeral,
            tags,
            description,
            created_at,
            expires_at: lifetime.map(|lifetime| created_at + lifetime),
            used_at: None,
            revoked_at: None,
        }));
        Ok(draft.done(Outcome::AuthKey(id)))
    }

    pub(crate) fn plan_revoke_auth_key(&self, mut draft: Draft, id: AuthKeyId) -> Result<Plan, Refusal> {
        let key = self.registry.auth_key(id).ok_or(Refusal::NoKey(id.get()))?;
        let revoked_at = key.revoked_at.or(Some(draft.now));
        draft.write(Write::AuthKey(AuthKey { revoked_at, ..key.clone() }));
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_create_api_key(
        mut draft: Draft,
        name: String,
        hash: [u8; 32],
        description: String,
        lifetime: Option<Duration>,
    ) -> Plan {
        let id = draft.next_api_key();
        let created_at = draft.now;
        let expires_at = lifetime.map(|lifetime| created_at + lifetime);
        draft.write(Write::ApiKey(ApiKey {
            id,
            name,
            hash: KeyHash::Sha256(hash),
            user: None,
            description,
            created_at,
            expires_at,
            last_used_at: None,
        }));
        draft.done(Outcome::ApiKey(id))
    }

    /// A key was shown that was known by a slow hash only: from here on it is known by a fast one.
    pub(crate) fn plan_learn_key(&self, mut draft: Draft, key: ImportedKey, hash: [u8; 32]) -> Result<Plan, Refusal> {
        let hash = KeyHash::Sha256(hash);
        match key {
            ImportedKey::Auth(id) => {
                let key = self.registry.auth_key(id).ok_or(Refusal::NoKey(id.get()))?;
                draft.write(Write::AuthKey(AuthKey { hash, ..key.clone() }));
            }
            ImportedKey::Api(id) => {
                let key = self.registry.api_key(id).ok_or(Refusal::NoKey(id.get()))?;
                draft.write(Write::ApiKey(ApiKey { hash, ..key.clone() }));
            }
        }
        Ok(draft.done(Outcome::Done))
    }

    pub(crate) fn plan_delete_api_key(&self, mut draft: Draft, id: ApiKeyId) -> Result<Plan, Refusal> {
        self.registry.api_key(id).ok_or(Refusal::NoKey(id.get()))?;
        draft.write(Write::DeleteApiKey(id));
        Ok(draft.done(Outcome::Done))
    }
}
