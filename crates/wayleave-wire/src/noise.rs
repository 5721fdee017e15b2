//! Noise, as control connections use it: `Noise_IK_25519_ChaChaPoly_BLAKE2s`, the client as initiator, then records
//! (protocol.md 1.4, 1.5).
//!
//! The handshake is plain Noise and done by the `snow` library. The records are not: the counter stands big-endian in the nonce
//! where Noise has it little-endian, so the two keys are taken out after the split and records are sealed here.

mod handshake;
mod record;

pub use handshake::{HandshakeError, Initiation, Initiator, Session, accept, initiate, read_response};
pub use record::{MAX_PLAINTEXT, Opener, RecordError, Sealer};

/// Types of frames: the first byte, or the third of an initiation.
pub(crate) mod frame {
    pub(crate) const INITIATION: u8 = 1;
    pub(crate) const RESPONSE: u8 = 2;
    pub(crate) const ERROR: u8 = 3;
    pub(crate) const RECORD: u8 = 4;
}

/// The frame that refuses a handshake with a text; legal only instead of a response. It is not authenticated.
pub fn error_frame(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(1024)];
    let mut out = vec![frame::ERROR];
    out.extend(u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    out.extend(text);
    out
}
