//! X25519 private keys: the server's own for Noise and for its relay, and clients' in tests.

use std::fmt;
use std::str::FromStr;

use crypto_box::SecretKey;
use wayleave_model::{MachineKey, NodeKey};
use zeroize::Zeroizing;

/// A private key. It shows itself to nobody: [`fmt::Debug`] hides it, and its text has to be asked for by name.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

/// Why a text is not a private key. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a private key is `privkey:` and 64 hex digits")]
pub struct PrivateKeyError;

impl PrivateKey {
    /// The key with these bytes; 32 random ones make a new key.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes. Secret.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text form `privkey:` and 64 hex digits. Secret.
    pub fn expose_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(72));
        text.push_str("privkey:");
        for byte in self.0.iter() {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
            }
        }
        text
    }

    /// The public key as a machine's.
    pub fn machine_key(&self) -> MachineKey {
        MachineKey::from_bytes(self.public())
    }

    /// The public key as a node's; relays name themselves by bare keys of the same kind.
    pub fn node_key(&self) -> NodeKey {
        NodeKey::from_bytes(self.public())
    }

    /// The 32 bytes of the public key.
    pub fn public(&self) -> [u8; 32] {
        *SecretKey::from(*self.0).public_key().as_bytes()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("privkey:(hidden)")
    }
}

impl FromStr for PrivateKey {
    type Err = PrivateKeyError;

    fn from_str(text: &str) -> Result<Self, PrivateKeyError> {
        // The parser of public keys reads the same digits; its error is not passed on.
        let digits = text.trim().strip_prefix("privkey:").ok_or(PrivateKeyError)?;
        let parsed: MachineKey = format!("mkey:{digits}").parse().map_err(|_| PrivateKeyError)?;
        Ok(Self::from_bytes(*parsed.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // protocol.md 12.3
    #[test]
    fn public_key_and_text_follow_from_the_private_key() {
        let text = "privkey:40ab1b58e9076c7a4d9d07291f5edf9d1aa017eb949624ba683317f48a640369";
        let key: PrivateKey = text.parse().unwrap();
        let public = "mkey:50d20b455ecf12bc453f83c2cfdb2a24925d06cf2598dcaa54e91af82ce9f765";
        assert_eq!(key.machine_key().to_string(), public);
        assert_eq!(*key.expose_text(), text);
        assert_eq!(format!("{key:?}"), "privkey:(hidden)");
    }
}
