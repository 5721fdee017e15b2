//! STUN, as far as clients use it: a binding request in, the sender's address out (protocol.md 7.8; RFC 5389).

use std::net::{IpAddr, SocketAddr};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;

/// The part of a request that its answer repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionId([u8; 12]);

/// Reads a binding request. `None` for anything else, also for requests without the attribute by which clients name
/// themselves: this is not a STUN server for everybody.
pub fn read_request(packet: &[u8]) -> Option<TransactionId> {
    let header = packet.get(..HEADER)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[..2] != [0, 1] || header[4..8] != COOKIE || packet.len() != HEADER + length {
        return None;
    }
    let mut attributes = &packet[HEADER..];
    let mut ours = false;
    while attributes.len() >= 4 {
        let kind = u16::from_be_bytes([attributes[0], attributes[1]]);
        let length = usize::from(u16::from_be_bytes([attributes[2], attributes[3]]));
        let value = attributes.get(4..4 + length)?;
        ours |= kind == 0x8022 && value == b"tailnode";
        attributes = attributes.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
    }
    let id = header[8..].try_into().ok()?;
    ours.then_some(TransactionId(id))
}

/// The answer: the address that the request came from. An IPv4 address inside an IPv6 one is taken out.
pub fn write_response(id: TransactionId, source: SocketAddr) -> Vec<u8> {
    let mask = [&COOKIE[..], &id.0].concat();
    let (family, mut address) = match source.ip().to_canonical() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    address.iter_mut().zip(&mask).for_each(|(byte, mask)| *byte ^= mask);
    let value_length = if family == 1 { 8_u16 } else { 20 };
    let mut out = vec![1, 1];
    out.extend((value_length + 4).to_be_bytes());
    out.extend(&mask);
    out.extend([0, 0x20]);
    out.extend(value_length.to_be_bytes());
    out.extend([0, family]);
    out.extend((source.port() ^ 0x2112).to_be_bytes());
    out.extend(address);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    // protocol.md 12.6
    const REQUEST: &str = "000100142112a4420102030405060708090a0b0c802200087461696c6e6f646580280004b32c370f";

    #[test]
    fn requests_and_answers_are_those_of_the_vectors() {
        let id = read_request(&hex(REQUEST)).unwrap();
        for (source, answer) in [
            ("203.0.113.7:41641", "0101000c2112a4420102030405060708090a0b0c00200008000183bbea12d545"),
            ("[::ffff:203.0.113.7]:41641", "0101000c2112a4420102030405060708090a0b0c00200008000183bbea12d545"),
            (
                "[2001:db8::7]:41641",
                "010100182112a4420102030405060708090a0b0c00200014000283bb0113a9fa0102030405060708090a0b0b",
            ),
        ] {
            assert_eq!(write_response(id, source.parse().unwrap()), hex(answer), "{source}");
        }
    }

    #[test]
    fn what_is_no_request_of_a_client_gets_no_answer() {
        let good = hex(REQUEST);
        for (at, byte) in [(1, 2), (4, 1), (3, 0x10), (22, 1), (25, 1)] {
            let mut bad = good.clone();
            bad[at] ^= byte;
            assert_eq!(read_request(&bad), None, "byte {at}");
        }
        for length in 0..good.len() {
            assert_eq!(read_request(&good[..length]), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            proptest::prop_assert_eq!(read_request(&bytes), None);
            let _any = read_request(&[hex(REQUEST)[..20].to_vec(), bytes].concat());
        }
    }
}
