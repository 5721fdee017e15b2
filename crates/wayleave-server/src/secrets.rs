//! Keys that people and programs show: made from 256 random bits, stored as their SHA-256 only.

use ring::digest::{SHA256, digest};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key that was just made. Its text is shown once.
pub struct NewKey {
    /// The whole key. Secret.
    pub text: String,
    /// The part by which it is told from others. Not secret.
    pub public: String,
    /// SHA-256 of the whole key.
    pub hash: [u8; 32],
}

/// SHA-256 of a key. The keys hold 256 random bits, so a slow hash would guard nothing but cost a server its time.
pub fn hash(text: &str) -> [u8; 32] {
    digest(&SHA256, text.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Random letters and digits; each holds 5.95 bits.
pub(crate) fn random(length: usize) -> String {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        // Bytes from 248 on would favour the first digits.
        let byte: u8 = rand::random();
        if byte < 248 {
            text.push(char::from(DIGITS[usize::from(byte) % DIGITS.len()]));
        }
    }
    text
}

/// Makes a key: a prefix that tells its kind, a public part, and 43 characters of secret (256 bits).
pub fn new_key(kind: &str) -> NewKey {
    let public = format!("{kind}-{}", random(12));
    let text = format!("{public}-{}", random(43));
    NewKey { hash: hash(&text), public, text }
}

/// The unguessable part of the address at which a person approves a login (142 bits).
pub fn login_token() -> String {
    random(24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_are_known_by_their_hash() {
        let (one, other) = (new_key("wl-auth"), new_key("wl-auth"));
        assert_ne!(one.text, other.text);
        assert_eq!(hash(&one.text), one.hash);
        assert!(one.text.starts_with(&one.public) && one.text.len() == one.public.len() + 44);
    }
}
