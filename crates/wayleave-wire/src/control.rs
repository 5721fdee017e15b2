//! The JSON of the control protocol.
//!
//! What clients send is read as Go reads it: names in any case, unknown fields passed over, `null` as absent (protocol.md 0.1). The
//! official Rust client spells several names in another case, so this is not a courtesy.
//!
//! What is sent leaves out whatever is unset. Where an empty list means something else than its absence the field is an
//! `Option`. No string is escaped beyond what JSON needs, and nothing is ever `null`: the Rust client can't read either.

mod hostinfo;
mod lenient;
mod map;
mod node;
mod register;

pub use hostinfo::read_hostinfo;
pub use lenient::ReadError;
pub use map::{
    CapGrant, ClientVersion, DerpMap, DerpNode, DerpRegion, DisplayMessage, DnsConfig, DnsRecord, DstPort, FilterRule,
    MapRequest, MapResponse, PingRequest, PingResponse, PortRange, Resolver, SshAction, SshPolicy, SshPrincipal,
    SshRule, UserProfile, map_frame,
};
pub use node::{Node, PeerChange, PeerHostinfo, WireService};
pub use register::{Login, RegisterRequest, RegisterResponse, User};

/// The answer to `GET /key` (protocol.md 1.1). The legacy key is all zeros, which means that there is none; the Rust client needs
/// the field.
pub fn key_response(public: &wayleave_model::MachineKey) -> String {
    let none = wayleave_model::MachineKey::from_bytes([0; 32]);
    format!(r#"{{"legacyPublicKey":"{none}","publicKey":"{public}"}}"#)
}

#[cfg(test)]
mod tests;
