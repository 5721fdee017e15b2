//! `/machine/register` (protocol.md 2.1).

use serde::{Deserialize, Serialize};
use wayleave_model::{Hostinfo, NodeKey, Timestamp};

use super::hostinfo::WireHostinfo;
use super::lenient::{self, ReadError};

/// A client asks to be let in, let in again, or let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterRequest {
    /// Capability version.
    pub version: u16,
    /// The key to register. `None`: unset, which no client sends.
    pub node_key: Option<NodeKey>,
    /// The key before a rotation.
    pub old_node_key: Option<NodeKey>,
    /// The pre-auth key that it brought. Secret.
    pub auth_key: Option<String>,
    /// The expiry that it asks for. Go's zero time, which every request holds, is none; a time in the past is a log-out.
    pub expiry: Option<Timestamp>,
    /// The address that it waits for a person at; empty for none.
    pub followup: String,
    /// It wants to be deleted once it is gone.
    pub ephemeral: bool,
    /// What it says of itself.
    pub hostinfo: Hostinfo,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wire {
    version: i64,
    #[serde(rename = "nodekey")]
    node_key: String,
    #[serde(rename = "oldnodekey")]
    old_node_key: String,
    auth: WireAuth,
    expiry: String,
    followup: String,
    hostinfo: WireHostinfo,
    ephemeral: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireAuth {
    #[serde(rename = "authkey")]
    auth_key: String,
}

impl RegisterRequest {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// It is not JSON, or a field has another type than the protocol gives it.
    pub fn from_wire(json: &[u8]) -> Result<Self, ReadError> {
        let Wire { version, node_key, old_node_key, auth, expiry, followup, hostinfo, ephemeral } =
            lenient::read(json)?;
        let expiry = expiry.parse::<Timestamp>().ok().filter(|_| !expiry.starts_with("0001-01-01T00:00:00"));
        Ok(Self {
            version: u16::try_from(version).unwrap_or(0),
            node_key: lenient::key(&node_key, NodeKey::is_zero),
            old_node_key: lenient::key(&old_node_key, NodeKey::is_zero),
            auth_key: (!auth.auth_key.is_empty()).then_some(auth.auth_key),
            expiry,
            followup,
            ephemeral,
            hostinfo: hostinfo.into_model(&[]),
        })
    }
}

/// The answer. Every field is sent every time: the Rust client fails on a missing one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegisterResponse {
    /// Whose node it is.
    pub user: User,
    /// The login that it is.
    pub login: Login,
    /// The client has to make itself a new node key.
    pub node_key_expired: bool,
    /// The device is approved. Together with an `auth_url` it must be false.
    pub machine_authorized: bool,
    /// Where a person approves the login; empty for none.
    #[serde(rename = "AuthURL")]
    pub auth_url: String,
    /// Why it is refused; empty if it is not. The client shows this text as it is.
    pub error: String,
}

/// A user, as a registration answers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct User {
    /// The id; 0 where there is no user yet.
    #[serde(rename = "ID")]
    pub id: u64,
    /// What clients show.
    pub display_name: String,
}

/// A login, as a registration answers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Login {
    /// The id; that of the user.
    #[serde(rename = "ID")]
    pub id: u64,
    /// Who vouches for it.
    pub provider: String,
    /// The name to log in with.
    pub login_name: String,
    /// What clients show.
    pub display_name: String,
}
