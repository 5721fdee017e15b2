//! Public keys in Tailscale's text forms: a prefix, a colon and 64 lower-case hex digits (protocol.md 0.2).

use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text does not start as keys of this kind do.
    #[error("a key of this kind starts with `{expected}`")]
    Prefix {
        /// The prefix that was wanted, with its colon.
        expected: &'static str,
    },
    /// What follows the prefix is not 64 hex digits.
    #[error("after `{expected}` a key has 64 hex digits")]
    Hex {
        /// The prefix that was wanted, with its colon.
        expected: &'static str,
    },
}

fn parse_hex(text: &str, prefix: &'static str) -> Result<[u8; 32], KeyError> {
    let hex = text.strip_prefix(prefix).ok_or(KeyError::Prefix { expected: prefix })?;
    let wrong = KeyError::Hex { expected: prefix };
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(wrong);
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digit = |b: u8| (b as char).to_digit(16);
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = (high << 4 | low) as u8,
            _ => return Err(wrong),
        }
    }
    Ok(bytes)
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The text prefix of this kind of key, with its colon.
            pub const PREFIX: &'static str = $prefix;

            /// The key with these 32 bytes (Curve25519, as on the wire).
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the key.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Whether this is the all-zero key, which means "unset" on the wire.
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 32]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:02x}{:02x}{:02x}.."), self.0[0], self.0[1], self.0[2])
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                parse_hex(text, $prefix).map(Self)
            }
        }

        serde_as_text!($name);
    };
}

public_key!(
    /// A machine's public key: the identity of a client's Noise connection; also the server's own Noise key. One for each
    /// state directory.
    MachineKey,
    "mkey:"
);
public_key!(
    /// A node's public WireGuard key. It rotates; the node stays the same.
    NodeKey,
    "nodekey:"
);
public_key!(
    /// A node's public discovery key, new at each start of the client.
    DiscoKey,
    "discokey:"
);

#[cfg(test)]
mod tests {
    use super::*;

    // protocol.md 12.3
    const VECTOR: &str = "50d20b455ecf12bc453f83c2cfdb2a24925d06cf2598dcaa54e91af82ce9f765";

    #[test]
    fn keys_round_trip_through_text() {
        let text = format!("mkey:{VECTOR}");
        let key: MachineKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(key.as_bytes()[..3], [0x50, 0xd2, 0x0b]);
    }

    #[test]
    fn upper_case_hex_is_read_and_lower_case_is_written() {
        let key: NodeKey = format!("nodekey:{}", VECTOR.to_uppercase()).parse().unwrap();
        assert_eq!(key.to_string(), format!("nodekey:{VECTOR}"));
    }

    #[test]
    fn wrong_prefix_length_and_digits_are_refused() {
        assert_eq!(format!("mkey:{VECTOR}").parse::<NodeKey>(), Err(KeyError::Prefix { expected: "nodekey:" }));
        for bad in ["", "ab", &VECTOR[1..], &format!("{VECTOR}00"), &VECTOR.replace('5', "g"), &"é".repeat(32)] {
            assert_eq!(format!("mkey:{bad}").parse::<MachineKey>(), Err(KeyError::Hex { expected: "mkey:" }), "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_whole_key() {
        let key: NodeKey = format!("nodekey:{VECTOR}").parse().unwrap();
        assert_eq!(format!("{key:?}"), "nodekey:50d20b..");
    }
}
