//! Users, and the keys that stand for them.

use std::collections::BTreeSet;

use crate::{ApiKeyId, AuthKeyId, Tag, Timestamp, UserId};

/// What a user is in the tailnet. Policies name roles by `autogroup:` (`autogroup:admin`); nothing else depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserRole {
    /// Whom the tailnet belongs to; counts as an admin too. The first user that is made.
    Owner,
    /// Runs the tailnet.
    Admin,
    /// Runs its users and machines.
    ItAdmin,
    /// Runs its policy, its names and its routes.
    NetworkAdmin,
    /// Pays for it.
    BillingAdmin,
    /// Looks at it.
    Auditor,
    /// Uses it.
    #[default]
    Member,
}

/// Why a text is not a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: use owner, admin, it-admin, network-admin, billing-admin, auditor or member")]
pub struct UserRoleError(String);

const ROLES: [(UserRole, &str); 7] = [
    (UserRole::Owner, "owner"),
    (UserRole::Admin, "admin"),
    (UserRole::ItAdmin, "it-admin"),
    (UserRole::NetworkAdmin, "network-admin"),
    (UserRole::BillingAdmin, "billing-admin"),
    (UserRole::Auditor, "auditor"),
    (UserRole::Member, "member"),
];

impl std::fmt::Display for UserRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(ROLES.iter().find(|(role, _)| role == self).map_or("member", |(_, word)| word))
    }
}

impl std::str::FromStr for UserRole {
    type Err = UserRoleError;

    fn from_str(text: &str) -> Result<Self, UserRoleError> {
        let found = ROLES.iter().find(|(_, word)| *word == text).map(|(role, _)| *role);
        found.ok_or_else(|| UserRoleError(text.to_owned()))
    }
}

/// A person, or what stands for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Given out once.
    pub id: UserId,
    /// The name to log in and to write policy with: `anna`, or `anna@example.com`.
    pub name: String,
    /// The name that clients show. Empty: the login name.
    pub display_name: String,
    /// The e-mail address, if the user has one; policies match it.
    pub email: Option<String>,
    /// Who the user is to the identity provider: its issuer and its subject with a slash between them. `None`: nobody yet; no e-mail
    /// address ever stands in for it.
    pub identity: Option<String>,
    /// The address of a picture, which clients show. Empty: none.
    pub picture: String,
    /// What the user is in the tailnet.
    pub role: UserRole,
    /// When the user was made.
    pub created_at: Timestamp,
}

impl User {
    /// The name by which clients show and policies match the user: the e-mail address, else the name.
    pub fn login_name(&self) -> &str {
        self.email.as_deref().unwrap_or(&self.name)
    }

    /// What clients show: the display name, else the name.
    pub fn shown_name(&self) -> &str {
        if self.display_name.is_empty() { &self.name } else { &self.display_name }
    }
}

/// How a key is known again without being stored.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyHash {
    /// SHA-256 of the whole key. (Keys hold at least 192 random bits, so a slow hash would guard nothing.)
    Sha256([u8; 32]),
    /// As Headscale stored it. The first time that the key is shown it becomes the SHA-256 of what was shown, so that the slow hash is
    /// paid once.
    Bcrypt {
        /// The part of the key by which it is looked up. Not secret.
        prefix: String,
        /// bcrypt of the part behind that, in its own text form (`$2a$10$...`).
        hash: String,
    },
    /// It is not: the key came without its hash, and opens nothing.
    Unknown,
}

impl KeyHash {
    /// The SHA-256 of the whole key, where that is how it is known.
    pub const fn sha256(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Sha256(hash) => Some(hash),
            Self::Bcrypt { .. } | Self::Unknown => None,
        }
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sha256(_) => "Sha256(..)",
            Self::Bcrypt { .. } => "Bcrypt(..)",
            Self::Unknown => "Unknown",
        })
    }
}

/// A key by which machines register without a person. The secret itself is never stored, only its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthKey {
    /// Given out once.
    pub id: AuthKeyId,
    /// Whose nodes it makes; `None` for keys that make tagged nodes only.
    pub user: Option<UserId>,
    /// The first characters of the key, to tell one from another in a list. Not secret.
    pub hint: String,
    /// How the key is known again.
    pub hash: KeyHash,
    /// May register more than one node.
    pub reusable: bool,
    /// Nodes it makes go away when they have been gone for a while.
    pub ephemeral: bool,
    /// Tags of the nodes that it makes. Empty: they belong to the user.
    pub tags: BTreeSet<Tag>,
    /// Words of the person who made it.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it registers nobody. `None`: never.
    pub expires_at: Option<Timestamp>,
    /// When a node last registered with it.
    pub used_at: Option<Timestamp>,
    /// When a person revoked it.
    pub revoked_at: Option<Timestamp>,
}

/// A key for the admin API over the network. The secret itself is never stored, only its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Given out once.
    pub id: ApiKeyId,
    /// The public part of the key, by which it is looked up, listed and named as an approver.
    pub name: String,
    /// How the key is known again.
    pub hash: KeyHash,
    /// Whose it is, where an import said so. It opens the same for everybody.
    pub user: Option<UserId>,
    /// Words of the person who made it.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it opens nothing. `None`: never.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}
