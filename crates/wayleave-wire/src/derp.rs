//! Relay frames: type, length (big-endian), payload (protocol.md 7.2, 7.3).

use crypto_box::aead::Aead;
use crypto_box::{Nonce, PublicKey, SalsaBox, SecretKey};
use serde::{Deserialize, Serialize};
use wayleave_model::NodeKey;

use crate::private_key::PrivateKey;

/// The largest packet that is relayed.
pub const MAX_PACKET: usize = 64 << 10;
/// The largest introduction of a client.
const MAX_CLIENT_INFO: usize = 256 << 10;
/// The version of the relay protocol that is spoken.
pub const VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"DERP\xf0\x9f\x94\x91";
const HEADER: usize = 5;

mod kind {
    pub(super) const SERVER_KEY: u8 = 0x01;
    pub(super) const CLIENT_INFO: u8 = 0x02;
    pub(super) const SERVER_INFO: u8 = 0x03;
    pub(super) const SEND_PACKET: u8 = 0x04;
    pub(super) const RECV_PACKET: u8 = 0x05;
    pub(super) const KEEP_ALIVE: u8 = 0x06;
    pub(super) const NOTE_PREFERRED: u8 = 0x07;
    pub(super) const PEER_GONE: u8 = 0x08;
    pub(super) const PING: u8 = 0x12;
    pub(super) const PONG: u8 = 0x13;
    pub(super) const RESTARTING: u8 = 0x15;
}

/// What a client sends once it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// A packet for another client.
    SendPacket(NodeKey, Vec<u8>),
    /// This relay is, or is not, the client's home.
    NotePreferred(bool),
    /// A question that is answered with the same bytes.
    Ping([u8; 8]),
    /// The answer to one of ours.
    Pong([u8; 8]),
    /// Something that this relay has no use for, such as the frames of meshes.
    Other(u8),
}

/// What a relay sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer {
    /// A packet from another client.
    RecvPacket(NodeKey, Vec<u8>),
    /// A sign of life.
    KeepAlive,
    /// That client is not here.
    PeerGone(NodeKey, GoneReason),
    /// A question.
    Ping([u8; 8]),
    /// An answer.
    Pong([u8; 8]),
    /// The relay restarts: come back after the first time, try for the second, both in milliseconds.
    Restarting(u32, u32),
}

/// Why a client is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// It was, and left.
    Disconnected,
    /// It is not known here.
    NotHere,
}

/// Why bytes are no frame. Each ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than a frame of its type may be.
    #[error("a relay frame of type {kind:#04x} with {length} bytes, more than it may have")]
    TooLong {
        /// The type.
        kind: u8,
        /// The length that it says.
        length: usize,
    },
    /// Shorter than a frame of its type must be.
    #[error("a relay frame of type {kind:#04x} with {length} bytes, fewer than it must have")]
    TooShort {
        /// The type.
        kind: u8,
        /// The length that it has.
        length: usize,
    },
    /// The first frame is not an introduction.
    #[error("a relay connection that begins with a frame of type {0:#04x}")]
    NotAnIntroduction(u8),
    /// The introduction was not made for this relay, or says what it must not.
    #[error("the introduction of a relay client can't be opened")]
    Introduction,
}

/// Takes one frame off the front of `buffer`: its type and payload. `None`: not all of it is there yet.
fn split(buffer: &mut Vec<u8>, most: usize) -> Result<Option<(u8, Vec<u8>)>, FrameError> {
    let Some(head) = buffer.get(..HEADER) else { return Ok(None) };
    let kind = head[0];
    let length = usize::try_from(u32::from_be_bytes([head[1], head[2], head[3], head[4]])).unwrap_or(usize::MAX);
    if length > most {
        return Err(FrameError::TooLong { kind, length });
    }
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let payload = buffer[HEADER..HEADER + length].to_vec();
    buffer.drain(..HEADER + length);
    Ok(Some((kind, payload)))
}

fn frame(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(HEADER + length);
    out.push(kind);
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    parts.iter().for_each(|part| out.extend(*part));
    out
}

fn eight(kind: u8, payload: &[u8]) -> Result<[u8; 8], FrameError> {
    let bytes = payload.get(..8).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(FrameError::TooShort { kind, length: payload.len() })
}

/// Splits a key off the front of a payload.
fn keyed(kind: u8, payload: &[u8]) -> Result<(NodeKey, &[u8]), FrameError> {
    match payload.split_first_chunk::<32>() {
        Some((key, rest)) => Ok((NodeKey::from_bytes(*key), rest)),
        None => Err(FrameError::TooShort { kind, length: payload.len() }),
    }
}

impl FromClient {
    /// Takes the next frame of a client off the front of `buffer`. `None`: not all of it is there yet.
    ///
    /// # Errors
    ///
    /// The bytes are no frame.
    pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>, FrameError> {
        let Some((kind, payload)) = split(buffer, MAX_PACKET + 32)? else { return Ok(None) };
        Ok(Some(match kind {
            kind::SEND_PACKET => {
                let (key, packet) = keyed(kind, &payload)?;
                Self::SendPacket(key, packet.to_vec())
            }
            kind::NOTE_PREFERRED => {
                let byte = payload.first().ok_or(FrameError::TooShort { kind, length: 0 })?;
                Self::NotePreferred(*byte != 0)
            }
            kind::PING => Self::Ping(eight(kind, &payload)?),
            kind::PONG => Self::Pong(eight(kind, &payload)?),
            other => Self::Other(other),
        }))
    }

    /// The bytes of the frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::SendPacket(key, packet) => frame(kind::SEND_PACKET, &[key.as_bytes(), packet]),
            Self::NotePreferred(home) => frame(kind::NOTE_PREFERRED, &[&[u8::from(*home)]]),
            Self::Ping(bytes) => frame(kind::PING, &[bytes]),
            Self::Pong(bytes) => frame(kind::PONG, &[bytes]),
            Self::Other(other) => frame(*other, &[]),
        }
    }
}

impl FromServer {
    /// The bytes of the frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::RecvPacket(key, packet) => frame(kind::RECV_PACKET, &[key.as_bytes(), packet]),
            Self::KeepAlive => frame(kind::KEEP_ALIVE, &[]),
            Self::PeerGone(key, reason) => {
                let reason = match reason {
                    GoneReason::Disconnected => 0,
                    GoneReason::NotHere => 1,
                };
                frame(kind::PEER_GONE, &[key.as_bytes(), &[reason]])
            }
            Self::Ping(bytes) => frame(kind::PING, &[bytes]),
            Self::Pong(bytes) => frame(kind::PONG, &[bytes]),
            Self::Restarting(after, total) => frame(kind::RESTARTING, &[&after.to_be_bytes(), &total.to_be_bytes()]),
        }
    }

    /// Takes the next frame of a relay off the front of `buffer`, as a client. Types that are not known are passed over.
    ///
    /// # Errors
    ///
    /// The bytes are no frame.
    pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>, FrameError> {
        while let Some((kind, payload)) = split(buffer, MAX_PACKET + 32)? {
            return Ok(Some(match kind {
                kind::RECV_PACKET => {
                    let (key, packet) = keyed(kind, &payload)?;
                    Self::RecvPacket(key, packet.to_vec())
                }
                kind::KEEP_ALIVE => Self::KeepAlive,
                kind::PEER_GONE => {
                    let (key, rest) = keyed(kind, &payload)?;
                    let reason = if rest.first() == Some(&1) { GoneReason::NotHere } else { GoneReason::Disconnected };
                    Self::PeerGone(key, reason)
                }
                kind::PING => Self::Ping(eight(kind, &payload)?),
                kind::PONG => Self::Pong(eight(kind, &payload)?),
                kind::RESTARTING => {
                    let [a, b, c, d, e, f, g, h] = eight(kind, &payload)?;
                    Self::Restarting(u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
                }
                _ => continue,
            }));
        }
        Ok(None)
    }
}

/// How a client introduces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInfo {
    /// The version of the relay protocol that it speaks.
    pub version: u32,
    /// It answers our questions. The Rust client spells this in snake case, and says no.
    #[serde(rename = "CanAckPings", alias = "can_ack_pings", skip_serializing_if = "std::ops::Not::not")]
    pub can_ack_pings: bool,
    /// It only looks whether the relay works.
    #[serde(rename = "IsProber", alias = "is_prober", skip_serializing_if = "std::ops::Not::not")]
    pub is_prober: bool,
}

/// The first frame of a relay: who it is.
pub fn server_key_frame(key: &PrivateKey) -> Vec<u8> {
    frame(kind::SERVER_KEY, &[&MAGIC, &key.public()])
}

/// Takes a client's introduction off the front of `buffer`: who it is and what it says. `None`: not all of it is there yet.
///
/// # Errors
///
/// It is none, or was not made for this relay.
pub fn take_client_info(key: &PrivateKey, buffer: &mut Vec<u8>) -> Result<Option<(NodeKey, ClientInfo)>, FrameError> {
    if buffer.first().is_some_and(|kind| *kind != kind::CLIENT_INFO) {
        return Err(FrameError::NotAnIntroduction(buffer[0]));
    }
    let Some((kind, payload)) = split(buffer, MAX_CLIENT_INFO)? else { return Ok(None) };
    let (node, sealed) = keyed(kind, &payload)?;
    let (nonce, sealed) =
        sealed.split_first_chunk::<24>().ok_or(FrameError::TooShort { kind, length: payload.len() })?;
    let salsa = salsa_box(key, node.as_bytes());
    let json = salsa.decrypt(&Nonce::from(*nonce), sealed).map_err(|_| FrameError::Introduction)?;
    let info = serde_json::from_slice(&json).map_err(|_| FrameError::Introduction)?;
    Ok(Some((node, info)))
}

/// A client's introduction, as a client makes it. `nonce` is random.
pub fn client_info_frame(key: &PrivateKey, server: &[u8; 32], info: &ClientInfo, nonce: [u8; 24]) -> Vec<u8> {
    let json = serde_json::to_vec(info).expect("numbers and flags always serialize");
    let sealed = salsa_box(key, server).encrypt(&Nonce::from(nonce), json.as_slice());
    let sealed = sealed.expect("a few bytes are never too long for a box");
    frame(kind::CLIENT_INFO, &[&key.public(), &nonce, &sealed])
}

/// The relay's answer to an introduction; it has to be its second frame. `nonce` is random.
pub fn server_info_frame(key: &PrivateKey, client: &NodeKey, nonce: [u8; 24]) -> Vec<u8> {
    let json = format!(r#"{{"version":{VERSION}}}"#);
    let sealed = salsa_box(key, client.as_bytes()).encrypt(&Nonce::from(nonce), json.as_bytes());
    let sealed = sealed.expect("a few bytes are never too long for a box");
    frame(kind::SERVER_INFO, &[&nonce, &sealed])
}

fn salsa_box(key: &PrivateKey, other: &[u8; 32]) -> SalsaBox {
    SalsaBox::new(&PublicKey::from(*other), &SecretKey::from(*key.expose()))
}

/// Reads the two frames with which a relay begins, as a client: its key, from the first; the second is passed over once it is
/// there. `None`: not all of it is there yet.
///
/// # Errors
///
/// It is no relay.
pub fn take_server_key(buffer: &mut Vec<u8>) -> Result<Option<[u8; 32]>, FrameError> {
    let Some((kind, payload)) = split(buffer, 1024)? else { return Ok(None) };
    if kind != kind::SERVER_KEY {
        return Err(FrameError::NotAnIntroduction(kind));
    }
    let key = payload.strip_prefix(&MAGIC).and_then(|rest| rest.first_chunk::<32>());
    key.map(|key| Some(*key)).ok_or(FrameError::TooShort { kind, length: payload.len() })
}

/// Whether a packet is one of path discovery, which must get through where data may be dropped (protocol.md 7.4).
pub fn is_disco(packet: &[u8]) -> bool {
    packet.len() >= 62 && packet.starts_with(b"TS\xf0\x9f\x92\xac")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: u8) -> PrivateKey {
        PrivateKey::from_bytes(std::array::from_fn(|i| first + u8::try_from(i).unwrap()))
    }

    fn nonce(first: u8) -> [u8; 24] {
        std::array::from_fn(|i| first + u8::try_from(i).unwrap())
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    // protocol.md 12.7
    const CLIENT_INFO: &str = "0200000068 79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a
        000102030405060708090a0b0c0d0e0f1011121314151617
        4420879f49f8e8d9a63aea9d2e2cd40f549e5a954f6354a1d587155588dbb424 2177946faf2df6e51bd501a2a7640d0e";
    const SERVER_INFO: &str = "0300000035 18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f
        2d4ab84f6c5193cdb63ed5d87f5ed99edf9d649efc6b28369cd54dc224";

    #[test]
    fn the_introduction_has_the_bytes_of_the_vectors() {
        let (server, client) = (key(0x00), key(0x40));
        let info = ClientInfo { version: 2, can_ack_pings: true, is_prober: false };
        assert_eq!(client_info_frame(&client, &server.public(), &info, nonce(0)), hex(CLIENT_INFO));
        assert_eq!(server_info_frame(&server, &client.node_key(), nonce(0x18)), hex(SERVER_INFO));
        let mut buffer = hex(CLIENT_INFO);
        buffer.push(0x12);
        assert_eq!(take_client_info(&server, &mut buffer).unwrap(), Some((client.node_key(), info)));
        assert_eq!(buffer, [0x12], "what follows stays");
        let mut first = server_key_frame(&server);
        assert_eq!(first[..13], hex("0100000028 44455250f09f9491"));
        assert_eq!(take_server_key(&mut first).unwrap(), Some(server.public()));
    }

    #[test]
    fn an_introduction_for_another_relay_is_refused() {
        assert_eq!(take_client_info(&key(0x11), &mut hex(CLIENT_INFO)), Err(FrameError::Introduction));
        assert_eq!(take_client_info(&key(0x00), &mut vec![4]), Err(FrameError::NotAnIntroduction(4)));
    }

    #[test]
    fn the_rust_clients_introduction_is_read() {
        let json = r#"{"can_ack_pings":false,"is_prober":true,"mesh_key":"none","version":2}"#;
        let info: ClientInfo = serde_json::from_str(json).unwrap();
        assert_eq!(info, ClientInfo { version: 2, can_ack_pings: false, is_prober: true });
    }

    #[test]
    fn frames_round_trip_and_wait_for_their_last_byte() {
        let node = key(0x40).node_key();
        for sent in [
            FromClient::SendPacket(node, vec![1, 2, 3]),
            FromClient::NotePreferred(true),
            FromClient::Ping([1, 2, 3, 4, 5, 6, 7, 8]),
            FromClient::Pong([8; 8]),
            FromClient::Other(0x10),
        ] {
            let bytes = sent.to_bytes();
            for cut in 0..bytes.len() {
                assert_eq!(FromClient::take(&mut bytes[..cut].to_vec()).unwrap(), None);
            }
            assert_eq!(FromClient::take(&mut bytes.clone()).unwrap(), Some(sent));
        }
        for sent in [
            FromServer::RecvPacket(node, vec![9; 100]),
            FromServer::KeepAlive,
            FromServer::PeerGone(node, GoneReason::NotHere),
            FromServer::PeerGone(node, GoneReason::Disconnected),
            FromServer::Restarting(1000, 10_000),
        ] {
            assert_eq!(FromServer::take(&mut sent.to_bytes()).unwrap(), Some(sent));
        }
        assert_eq!(FromServer::Restarting(1000, 10_000).to_bytes(), hex("1500000008 000003e8 00002710"));
        assert_eq!(FromServer::Pong([1, 2, 3, 4, 5, 6, 7, 8]).to_bytes(), hex("1300000008 0102030405060708"));
    }

    #[test]
    fn lengths_are_bounded_and_the_largest_packet_passes() {
        let node = key(0x40).node_key();
        let largest = FromClient::SendPacket(node, vec![0; MAX_PACKET]);
        assert_eq!(FromClient::take(&mut largest.to_bytes()).unwrap(), Some(largest));
        let mut long = vec![4, 0, 1, 0, 33];
        assert_eq!(FromClient::take(&mut long), Err(FrameError::TooLong { kind: 4, length: 65_569 }));
        let mut short = vec![4, 0, 0, 0, 1, 0];
        assert_eq!(FromClient::take(&mut short), Err(FrameError::TooShort { kind: 4, length: 1 }));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(take_client_info(&key(0), &mut bytes.clone()));
            drop(FromServer::take(&mut bytes.clone()));
            while let Ok(Some(_)) = FromClient::take(&mut bytes) {}
        }
    }
}
