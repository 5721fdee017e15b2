//! Protocols and ports.

use std::fmt;

/// A range of ports, both ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// All of them.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Whether this port is in it.
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether all of `other` is in it.
    pub const fn covers(&self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            f.write_str("*")
        } else if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// `*`, `22`, `80-443`, or several with commas between.
pub(crate) fn parse_ports(text: &str) -> Result<Vec<Ports>, String> {
    text.split(',').map(|part| parse_range(part.trim())).collect()
}

/// The wording of the errors is the hosted control plane's (conformance cases acl-err03, acl-err07).
fn parse_range(text: &str) -> Result<Ports, String> {
    if text == "*" {
        return Ok(Ports::ALL);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str, which: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse::<u32>().ok() } else { None };
        number.ok_or_else(|| format!("invalid {which} integer"))
    };
    let range = number(first, "first").and_then(|first| Ok((first, number(last, "last")?)));
    let (first, last) = range.map_err(|why| format!("port range {text:?}: {why}"))?;
    let small = |port: u32| u16::try_from(port).map_err(|_| format!("port range {text:?}: a port is at most 65535"));
    let (first, last) = (small(first)?, small(last)?);
    if first > last {
        return Err(format!("port range {text:?}: the first port is above the last"));
    }
    Ok(Ports { first, last })
}

/// An IP protocol by its name or number (IANA's assigned numbers).
pub(crate) fn parse_protocol(text: &str) -> Result<u16, String> {
    let known = [
        ("icmp", 1),
        ("igmp", 2),
        ("ipv4", 4),
        ("ip-in-ip", 4),
        ("tcp", TCP),
        ("egp", 8),
        ("igp", 9),
        ("udp", UDP),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("ipv6-icmp", 58),
        ("sctp", SCTP),
    ];
    if let Some((_, number)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*number);
    }
    match text.parse::<u8>() {
        Ok(number) if !text.starts_with('+') => Ok(number.into()),
        _ => Err(format!("proto {text:?} is not known; use a name such as tcp, udp, icmp, or a number up to 255")),
    }
}

pub(crate) const TCP: u16 = 6;
pub(crate) const UDP: u16 = 17;
pub(crate) const SCTP: u16 = 132;

/// Whether packets of this protocol carry ports.
pub(crate) const fn has_ports(protocol: u16) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// What a rule lets through: a protocol, or the usual ones, and ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Traffic {
    /// `None`: TCP, UDP and both ICMPs.
    pub(crate) protocol: Option<u16>,
    pub(crate) ports: Vec<Ports>,
}

/// An entry of a grant's `ip`: `*`, `22`, `80-443`, `tcp:22`, `icmp:*`.
pub(crate) fn parse_traffic(text: &str) -> Result<Traffic, String> {
    match text.split_once(':') {
        None => Ok(Traffic { protocol: None, ports: parse_ports(text)? }),
        Some(("*", ports)) => Ok(Traffic { protocol: None, ports: parse_ports(ports)? }),
        Some((protocol, ports)) => {
            let protocol = parse_protocol(protocol)?;
            let ports = parse_ports(ports)?;
            check_ports_of(protocol, &ports)?;
            Ok(Traffic { protocol: Some(protocol), ports })
        }
    }
}

/// A protocol without ports can't be narrowed to some.
pub(crate) fn check_ports_of(protocol: u16, ports: &[Ports]) -> Result<(), String> {
    if has_ports(protocol) || ports.iter().all(|ports| *ports == Ports::ALL) {
        Ok(())
    } else {
        Err(format!("protocol {protocol} has no ports; write `*`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_a_star_numbers_ranges_and_lists() {
        let ports = |first, last| Ports { first, last };
        assert_eq!(parse_ports("*"), Ok(vec![Ports::ALL]));
        assert_eq!(parse_ports("22,80-443"), Ok(vec![ports(22, 22), ports(80, 443)]));
        for (bad, why) in [
            ("ssh", "port range \"ssh\": invalid first integer"),
            ("80-x", "port range \"80-x\": invalid last integer"),
            ("", "port range \"\": invalid first integer"),
            ("-1", "port range \"-1\": invalid first integer"),
            ("+1", "port range \"+1\": invalid first integer"),
        ] {
            assert_eq!(parse_ports(bad), Err(why.to_owned()));
        }
        for bad in ["99999", "443-80", "99999999999999"] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grants_traffic_is_a_protocol_and_ports() {
        let ports = |first, last| Ports { first, last };
        assert_eq!(parse_traffic("tcp:22"), Ok(Traffic { protocol: Some(6), ports: vec![ports(22, 22)] }));
        assert_eq!(parse_traffic("47"), Ok(Traffic { protocol: None, ports: vec![ports(47, 47)] }));
        assert_eq!(parse_traffic("icmp:*"), Ok(Traffic { protocol: Some(1), ports: vec![Ports::ALL] }));
        assert!(parse_traffic("icmp:22").is_err());
        assert!(parse_traffic("smoke:*").is_err());
    }
}
