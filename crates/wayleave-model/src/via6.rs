//! 4via6: an IPv4 prefix of a numbered site, written as an IPv6 prefix, so that several sites may use the same IPv4 prefix.
//!
//! The layout (protocol.md 5.7): bytes 0-7 are fd7a:115c:a1e0:0b1a, bytes 8-11 the site, big-endian, bytes 12-15 the IPv4
//! address; the length is 96 and that of the IPv4 prefix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::prefix::{Prefix, VIA6};

/// The 4via6 prefix of `part` at `site`. Clients' own calculator takes sites from 0 to 65535; the format holds 32 bits.
pub fn encode(site: u32, part: Ipv4Net) -> Prefix {
    let mut bytes = VIA6.network().octets();
    bytes[8..12].copy_from_slice(&site.to_be_bytes());
    bytes[12..].copy_from_slice(&part.network().octets());
    let net =
        Ipv6Net::new(Ipv6Addr::from(bytes), 96 + part.prefix_len()).expect("96 and an IPv4 length is at most 128");
    Prefix::containing(IpNet::V6(net))
}

/// The 4via6 prefix of `part` at `site`; `None` if that is IPv6.
pub fn at_site(site: u32, part: &Prefix) -> Option<Prefix> {
    if let IpNet::V4(part) = part.net() { Some(encode(site, part)) } else { None }
}

/// The site and the IPv4 prefix that a 4via6 prefix names. `None` outside the range and for prefixes shorter than /96.
pub fn decode(prefix: &Prefix) -> Option<(u32, Ipv4Net)> {
    let IpNet::V6(net) = prefix.net() else {
        return None;
    };
    if !VIA6.contains(&net) {
        return None;
    }
    let length = net.prefix_len().checked_sub(96)?;
    let octets = net.network().octets();
    let site = u32::from_be_bytes([octets[8], octets[9], octets[10], octets[11]]);
    let address = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    Ipv4Net::new(address, length).ok().map(|part| (site, part))
}

/// How clients address, by way of this prefix, a host that has this address in its own network: by the same where the prefix holds it, by
/// that at the site where a 4via6 prefix does. `None`: it is not behind the prefix.
pub fn address_through(prefix: &Prefix, own: IpAddr) -> Option<IpAddr> {
    if prefix.contains(own) {
        return Some(own);
    }
    let (site, part) = decode(prefix)?;
    match own {
        IpAddr::V4(own) if part.contains(&own) => Some(encode(site, Ipv4Net::from(own)).network()),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // protocol.md 12.5
    #[test]
    fn site_and_part_round_trip() {
        let part: Ipv4Net = "10.1.1.0/24".parse().unwrap();
        let prefix = encode(7, part);
        assert_eq!(prefix.to_string(), "fd7a:115c:a1e0:b1a:0:7:a01:100/120");
        assert_eq!(decode(&prefix), Some((7, part)));
    }

    #[test]
    fn a_host_is_addressed_at_its_site() {
        let through = |prefix: &str, own: &str| address_through(&prefix.parse().unwrap(), own.parse().unwrap());
        let site = "fd7a:115c:a1e0:b1a:0:7:c0a8:100/120";
        for (prefix, own, expected) in [
            ("192.168.1.0/24", "192.168.1.9", Some("192.168.1.9")),
            ("192.168.1.0/24", "192.168.2.9", None),
            (site, "192.168.1.9", Some("fd7a:115c:a1e0:b1a:0:7:c0a8:109")),
            (site, "192.168.2.9", None),
            (site, "fd7a:115c:a1e0:b1a:0:7:c0a8:109", Some("fd7a:115c:a1e0:b1a:0:7:c0a8:109")),
            (site, "fd00::9", None),
        ] {
            assert_eq!(through(prefix, own), expected.map(|text| text.parse().unwrap()), "{own} through {prefix}");
        }
    }

    #[test]
    fn other_prefixes_decode_to_nothing() {
        for text in ["10.0.0.0/8", "fd00::/64", "fd7a:115c:a1e0:b1a::/64", "fd7a:115c:a1e0::/48"] {
            assert_eq!(decode(&text.parse().unwrap()), None, "{text}");
        }
    }
}
