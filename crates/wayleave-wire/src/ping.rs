//! What the server asks a client to do: answer, or ping somebody (protocol.md 6.3).

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::control::PingRequest;

/// A request that only has to be answered at `url`. Every request needs a `url` of its own: a client passes over one that it just
/// saw. It should have the authority that the client itself used, so that the answer comes over the connection that is open.
pub fn head(url: String) -> PingRequest {
    PingRequest { url, url_is_noise: true, ..PingRequest::default() }
}

/// A control-to-node echo: the client answers with the same body.
pub fn echo(url: String, body: &str) -> PingRequest {
    let request = format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    PingRequest {
        url,
        url_is_noise: true,
        types: "c2n".to_owned(),
        payload: STANDARD.encode(request),
        ..PingRequest::default()
    }
}

/// Whom a client pings for the server, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerPing {
    /// Through WireGuard, answered by the peer itself. It proves the data path up to the peer.
    Tsmp,
    /// A real echo through WireGuard; to an address behind a router it proves the whole path.
    Icmp,
    /// Discovery only. It proves no WireGuard.
    Disco,
}

/// Has a client ping an address. A time-out is never told: silence within the server's own deadline is the answer.
pub fn peer(url: String, how: PeerPing, address: IpAddr) -> PingRequest {
    let types = match how {
        PeerPing::Tsmp => "TSMP",
        PeerPing::Icmp => "ICMP",
        PeerPing::Disco => "disco",
    };
    PingRequest { url, url_is_noise: true, types: types.to_owned(), ip: Some(address), ..PingRequest::default() }
}
