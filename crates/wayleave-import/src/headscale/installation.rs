//! What every generation comes to: the rows as they are in the source, read but not judged.

use jiff::Timestamp;
use wayleave_model::{DiscoKey, Hostinfo, MachineKey, NodeKey};
use zeroize::Zeroizing;

use super::Generation;
use crate::report::Warning;

/// All that is read of a database.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Which generation it is.
    pub generation: Generation,
    /// Users, or namespaces.
    pub users: Vec<User>,
    /// Pre-auth keys.
    pub auth_keys: Vec<AuthKey>,
    /// API keys.
    pub api_keys: Vec<ApiKey>,
    /// Nodes, or machines, by id.
    pub nodes: Vec<Node>,
    /// Rows of routes, where the generation has a table of them.
    pub routes: Option<Vec<Route>>,
    /// Policies, the newest last.
    pub policies: Vec<Policy>,
    /// Rows that are counted and not carried over.
    pub left_out: LeftOut,
    /// The highest id of each kind that was ever given out.
    pub highest: Highest,
    /// What could not be read.
    pub warnings: Vec<Warning>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Clients keep it.
    pub id: u64,
    /// Not unique from 0.24 on.
    pub name: String,
    /// What is shown.
    pub display_name: String,
    /// Empty for none.
    pub email: String,
    /// Issuer and subject of the identity provider, cleaned as 0.26 does.
    pub provider_identifier: Option<String>,
    /// Kind of provider: `oidc`.
    pub provider: String,
    /// A picture.
    pub profile_pic_url: String,
    /// When the row was made.
    pub created_at: Option<Timestamp>,
    /// The row is marked deleted.
    pub deleted: bool,
}

/// A pre-auth key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthKey {
    /// Its number.
    pub id: u64,
    /// Whose nodes it makes.
    pub user: Option<u64>,
    /// The secret, or what is left of it.
    pub secret: Secret,
    /// May be used more than once.
    pub reusable: bool,
    /// Its nodes go when they are gone.
    pub ephemeral: bool,
    /// It was used; `None` where the generation does not say.
    pub used: Option<bool>,
    /// Tags of its nodes, sorted, each once.
    pub tags: Vec<String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Words on it (0.30).
    pub description: String,
    /// When it was revoked (0.30).
    pub revoked_at: Option<Timestamp>,
}

/// What is kept of a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// All of it, in clear.
    Clear(Zeroizing<String>),
    /// The part by which it is looked up, and the bcrypt hash of the rest.
    Bcrypt {
        /// Not secret.
        prefix: String,
        /// `$2a$10$...`.
        hash: String,
    },
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clear(_) => "clear (hidden)",
            Self::Bcrypt { .. } => "bcrypt (hidden)",
        })
    }
}

/// An API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its number.
    pub id: u64,
    /// Always hashed.
    pub secret: Secret,
    /// Whose it is (0.30).
    pub user: Option<u64>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was last used.
    pub last_seen: Option<Timestamp>,
}

/// A node, or machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Clients keep it as text.
    pub id: u64,
    /// It is a node, not only a request to be one (to 0.14).
    pub registered: bool,
    /// `None`: never stored (0.17), or unreadable.
    pub machine_key: Option<MachineKey>,
    /// Its WireGuard key.
    pub node_key: Option<NodeKey>,
    /// Its discovery key; a node that never polled has none.
    pub disco_key: Option<DiscoKey>,
    /// What the machine calls itself, verbatim.
    pub hostname: String,
    /// Its name in DNS; `None` where the generation has none.
    pub given_name: Option<String>,
    /// Whose it is, as it stands there.
    pub user: Option<u64>,
    /// `cli`, `oidc`, `authkey`; in lower case.
    pub register_method: String,
    /// Tags, sorted, each once.
    pub tags: Vec<String>,
    /// The pre-auth key that it came in with, as it stands there.
    pub auth_key: Option<u64>,
    /// Its addresses, as texts, in their order.
    pub addresses: Vec<String>,
    /// When it was last seen.
    pub last_seen: Option<Timestamp>,
    /// When its key ends.
    pub expires_at: Option<Timestamp>,
    /// When it registered.
    pub created_at: Option<Timestamp>,
    /// The row is marked deleted, which means nothing.
    pub deleted: bool,
    /// What it last said of itself.
    pub host: Host,
    /// The prefixes that are approved, as texts; `None` where the generation has a table of routes.
    pub enabled: Option<Vec<String>>,
}

/// What a client last said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// What it advertises, as texts, in its order.
    pub advertised: Vec<String>,
    /// The tags that it asks for, sorted, each once.
    pub request_tags: Vec<String>,
    /// All of it, as the server keeps it.
    pub info: Hostinfo,
}

/// A row of the table of routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its number.
    pub id: u64,
    /// Whose it is.
    pub node: Option<u64>,
    /// As it stands there.
    pub prefix: String,
    /// The node advertises it.
    pub advertised: bool,
    /// It is approved.
    pub enabled: bool,
    /// The node is the one that carries it.
    pub is_primary: bool,
    /// When the row was made.
    pub created_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Option<Timestamp>,
    /// The row is marked deleted.
    pub deleted: bool,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its number; the highest is in force.
    pub id: u64,
    /// HuJSON, comments and all.
    pub text: String,
    /// When it was set.
    pub created_at: Option<Timestamp>,
}

/// What is not carried over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Machines that were shared with another user (to 0.14): machine and user.
    pub shared_machines: Vec<(u64, Option<u64>)>,
    /// OAuth clients (0.30).
    pub oauth_clients: Vec<u64>,
    /// OAuth tokens (0.30).
    pub oauth_access_tokens: Vec<u64>,
}

/// The highest id of each kind that was ever given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Highest {
    /// Of nodes.
    pub node: u64,
    /// Of users.
    pub user: u64,
    /// Of routes.
    pub route: u64,
    /// Of pre-auth keys.
    pub auth_key: u64,
    /// Of API keys.
    pub api_key: u64,
}
