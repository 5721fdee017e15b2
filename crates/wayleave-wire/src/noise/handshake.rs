//! The handshake, both sides of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use wayleave_model::MachineKey;

use super::frame;
use super::record::{Opener, Sealer};
use crate::capability::CapabilityVersion;
use crate::private_key::PrivateKey;

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
const INITIATION_LEN: usize = 101;
const RESPONSE_LEN: usize = 51;

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The header is not base64 of 101 bytes.
    #[error("the handshake header is not standard base64 of 101 bytes")]
    Encoding,
    /// The message has another type or length.
    #[error("the handshake message has another type or length than this protocol has")]
    Shape,
    /// The other side holds another key than the one that was used, or somebody changed the message.
    #[error(
        "the handshake message does not fit this server's key; if the server's key was changed, restart the client"
    )]
    Crypto,
}

/// The first message of a client, not opened yet.
#[derive(Clone, Debug)]
pub struct Initiation {
    version: CapabilityVersion,
    payload: [u8; 96],
}

/// A handshake that is complete.
pub struct Session {
    /// The client's capability version, as its first message has it.
    pub version: CapabilityVersion,
    /// Who is at the other end.
    pub peer: MachineKey,
    /// Seals what this side sends.
    pub sealer: Sealer,
    /// Opens what this side receives.
    pub opener: Opener,
}

impl Initiation {
    /// Reads the value of `X-Tailscale-Handshake`.
    ///
    /// # Errors
    ///
    /// It is not base64, or not an initiation.
    pub fn from_header(value: &str) -> Result<Self, HandshakeError> {
        // 101 bytes are 136 characters; more is refused before it is decoded.
        if value.len() > 200 {
            return Err(HandshakeError::Encoding);
        }
        let bytes = STANDARD.decode(value.trim()).map_err(|_| HandshakeError::Encoding)?;
        Self::from_bytes(&bytes)
    }

    /// Reads the 101 bytes of an initiation.
    ///
    /// # Errors
    ///
    /// They are not one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HandshakeError> {
        let bytes: &[u8; INITIATION_LEN] = bytes.try_into().map_err(|_| HandshakeError::Shape)?;
        let (head, payload) = bytes.split_at(5);
        if head[2] != frame::INITIATION || u16::from_be_bytes([head[3], head[4]]) != 96 {
            return Err(HandshakeError::Shape);
        }
        let payload = payload.try_into().map_err(|_| HandshakeError::Shape)?;
        Ok(Self { version: CapabilityVersion(u16::from_be_bytes([head[0], head[1]])), payload })
    }

    /// The capability version that the client says it has.
    pub const fn version(&self) -> CapabilityVersion {
        self.version
    }
}

/// Hands out the bytes that were given in, once: the handshake's one use of randomness is the ephemeral key.
struct Given([u8; 32]);

impl Random for Given {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        if out.len() != 32 || self.0 == [0; 32] {
            return Err(snow::Error::Rng);
        }
        out.copy_from_slice(&std::mem::take(&mut self.0));
        Ok(())
    }
}

struct Resolver {
    ephemeral: [u8; 32],
    inner: DefaultResolver,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Given(self.ephemeral)))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        self.inner.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.inner.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        self.inner.resolve_cipher(choice)
    }
}

fn builder<'a>(ephemeral: [u8; 32], prologue: &'a [u8], private: &'a PrivateKey) -> Result<Builder<'a>, snow::Error> {
    let params: NoiseParams = PATTERN.parse()?;
    let resolver = Resolver { ephemeral, inner: DefaultResolver };
    Builder::with_resolver(params, Box::new(resolver)).prologue(prologue)?.local_private_key(private.expose())
}

fn prologue(version: CapabilityVersion) -> String {
    format!("Tailscale Control Protocol v{version}")
}

/// Answers a client's first message: the 51 bytes to send, and the session. `ephemeral` is 32 random bytes for this handshake only.
///
/// # Errors
///
/// The client used another key than `private`'s, or the message was changed.
pub fn accept(
    private: &PrivateKey,
    initiation: &Initiation,
    ephemeral: [u8; 32],
) -> Result<([u8; RESPONSE_LEN], Session), HandshakeError> {
    let prologue = prologue(initiation.version);
    let failed = |_| HandshakeError::Crypto;
    let mut state =
        builder(ephemeral, prologue.as_bytes(), private).and_then(Builder::build_responder).map_err(failed)?;
    let mut nothing = [0; 64];
    state.read_message(&initiation.payload, &mut nothing).map_err(failed)?;
    let mut response = [0; RESPONSE_LEN];
    response[0] = frame::RESPONSE;
    response[2] = 48;
    let written = state.write_message(&[], &mut response[3..]).map_err(failed)?;
    if written != 48 {
        return Err(HandshakeError::Crypto);
    }
    let (receive, send) = state.dangerously_get_raw_split();
    Ok((response, session(&state, initiation.version, &send, &receive)?))
}

/// A client's side of a handshake that waits for the answer.
pub struct Initiator {
    state: HandshakeState,
    version: CapabilityVersion,
}

/// Begins a handshake as a client: the 101 bytes to send, and what reads the answer.
///
/// # Errors
///
/// A key is none.
pub fn initiate(
    private: &PrivateKey,
    server: &MachineKey,
    version: CapabilityVersion,
    ephemeral: [u8; 32],
) -> Result<([u8; INITIATION_LEN], Initiator), HandshakeError> {
    let prologue = prologue(version);
    let failed = |_| HandshakeError::Crypto;
    let mut state = builder(ephemeral, prologue.as_bytes(), private)
        .and_then(|builder| builder.remote_public_key(server.as_bytes()))
        .and_then(Builder::build_initiator)
        .map_err(failed)?;
    let mut out = [0; INITIATION_LEN];
    out[..2].copy_from_slice(&version.0.to_be_bytes());
    out[2] = frame::INITIATION;
    out[4] = 96;
    let written = state.write_message(&[], &mut out[5..]).map_err(failed)?;
    if written == 96 { Ok((out, Initiator { state, version })) } else { Err(HandshakeError::Crypto) }
}

/// Reads the server's answer of 51 bytes.
///
/// # Errors
///
/// It is no answer to this handshake.
pub fn read_response(initiator: Initiator, response: &[u8]) -> Result<Session, HandshakeError> {
    let Initiator { mut state, version } = initiator;
    if response.len() != RESPONSE_LEN || response[0] != frame::RESPONSE || response[1..3] != [0, 48] {
        return Err(HandshakeError::Shape);
    }
    let mut nothing = [0; 64];
    state.read_message(&response[3..], &mut nothing).map_err(|_| HandshakeError::Crypto)?;
    let (send, receive) = state.dangerously_get_raw_split();
    session(&state, version, &send, &receive)
}

fn session(
    state: &HandshakeState,
    version: CapabilityVersion,
    send: &[u8; 32],
    receive: &[u8; 32],
) -> Result<Session, HandshakeError> {
    let peer = state.get_remote_static().and_then(|key| <[u8; 32]>::try_from(key).ok());
    let peer = MachineKey::from_bytes(peer.ok_or(HandshakeError::Crypto)?);
    Ok(Session { version, peer, sealer: Sealer::new(send), opener: Opener::new(receive) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: u8) -> [u8; 32] {
        std::array::from_fn(|i| first + u8::try_from(i).unwrap())
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    // protocol.md 12.1
    const HEADER: &str = "AHEBAGBnXdV07XeJMQs9LnaB83kLRmx3OxUh/s82V3lYNx6lL34j4i47xyKI+og/6+z6yOR6i2xU2sf+c6rPIQgYeM/TTcLIYeh81tngJWtkNLgAKiNKeDrr1uRxms+DP1XRvTs=";
    const RESPONSE: &str =
        "020030358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254697cebd4ecec77c9b0626f7c0199a7bd";

    #[test]
    fn both_sides_make_the_bytes_of_the_vectors() {
        let server = PrivateKey::from_bytes(key(0x00));
        let client = PrivateKey::from_bytes(key(0x40));
        let version = CapabilityVersion(113);
        let (sent, initiator) = initiate(&client, &server.machine_key(), version, key(0x60)).unwrap();
        let initiation = Initiation::from_header(HEADER).unwrap();
        assert_eq!(STANDARD.encode(sent), HEADER);
        assert_eq!(initiation.version(), version);
        let (response, mut ours) = accept(&server, &initiation, key(0x20)).unwrap();
        assert_eq!(response.to_vec(), hex(RESPONSE));
        assert_eq!(ours.peer, client.machine_key());
        let mut theirs = read_response(initiator, &response).unwrap();
        let mut wire = Vec::new();
        ours.sealer.seal(b"hello", &mut wire).unwrap();
        assert_eq!(wire, hex("0400156ed8a31ae2217af342f754acbba75df05f26e93b8e"), "protocol.md 12.2");
        theirs.opener.feed(&wire);
        assert_eq!(theirs.opener.next().unwrap().as_deref(), Some(&b"hello"[..]));
        wire.clear();
        theirs.sealer.seal(b"hello", &mut Vec::new()).unwrap();
        theirs.sealer.seal(b"hello", &mut wire).unwrap();
        assert_eq!(wire, hex("0400156a4eda769d24d2cd9ebd3766c7960b1aee5f63d278"));
    }

    #[test]
    fn a_message_for_another_server_is_refused() {
        let other = PrivateKey::from_bytes(key(0x11));
        let initiation = Initiation::from_header(HEADER).unwrap();
        assert_eq!(accept(&other, &initiation, key(0x20)).err(), Some(HandshakeError::Crypto));
    }

    #[test]
    fn another_version_than_the_messages_own_breaks_the_handshake() {
        let server = PrivateKey::from_bytes(key(0x00));
        let mut initiation = Initiation::from_header(HEADER).unwrap();
        initiation.version = CapabilityVersion(142);
        assert_eq!(accept(&server, &initiation, key(0x20)).err(), Some(HandshakeError::Crypto));
    }

    #[test]
    fn a_low_order_point_is_refused() {
        let server = PrivateKey::from_bytes(key(0x00));
        let mut bytes = STANDARD.decode(HEADER).unwrap();
        bytes[5..37].fill(0);
        let initiation = Initiation::from_bytes(&bytes).unwrap();
        assert_eq!(accept(&server, &initiation, key(0x20)).err(), Some(HandshakeError::Crypto));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..140), text in ".{0,220}") {
            let server = PrivateKey::from_bytes(key(0x00));
            drop(Initiation::from_header(&text));
            if let Ok(initiation) = Initiation::from_bytes(&bytes) {
                proptest::prop_assert!(accept(&server, &initiation, key(0x20)).is_err());
            }
        }
    }
}
