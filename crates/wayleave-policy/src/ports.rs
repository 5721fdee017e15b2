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

/// `*`, `22`, `80-443`, or several with commas between, as in an entry of `acls`.
pub(crate) fn parse_ports(text: &str) -> Result<Vec<Ports>, String> {
    text.split(',').map(parse_range).collect()
}

/// One range. The rules and the wording are those of Go's `tailcfg.ParseHostPortRange`
/// (`tailcfg/proto_port_range.go` of the client, v1.102.5).
fn parse_range(text: &str) -> Result<Ports, String> {
    if text == "*" {
        return Ok(Ports::ALL);
    }
    if text.is_empty() {
        return Err(format!("invalid port list: {text:?}"));
    }
    let wrong = |why: &str| format!("port range {text:?}: {why}");
    if text.matches('-').count() > 1 {
        return Err(wrong("too many dashes(-)"));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first = port(first).ok_or_else(|| wrong("invalid first integer"))?;
    let last = port(last).ok_or_else(|| wrong("invalid last integer"))?;
    if first == 0 {
        return Err(wrong("first port must be >0, or use '*' for wildcard"));
    }
    if first > last {
        return Err(wrong("first port must be >= last port"));
    }
    Ok(Ports { first, last })
}

/// A number of at most 16 bits, in digits only.
pub(crate) fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// An IP protocol by its name or number; 0 and no text at all are the usual ones. The names and the wording are those of Go's
/// `ipproto.Proto` (`types/ipproto/ipproto.go` of the client, v1.102.5). Case is of no account.
pub(crate) fn parse_protocol(text: &str) -> Result<Option<u16>, String> {
    let known = [
        ("ah", 51),
        ("dccp", 33),
        ("egp", 8),
        ("esp", 50),
        ("gre", 47),
        ("icmp", ICMP),
        ("icmpv4", ICMP),
        ("icmpv6", ICMP_V6),
        ("igmp", 2),
        ("igp", 9),
        ("ip-in-ip", 4),
        ("ipv4", 4),
        ("ipv6-icmp", ICMP_V6),
        ("sctp", SCTP),
        ("tcp", TCP),
        ("tsmp", 99),
        ("udp", UDP),
    ];
    if let Some((_, number)) = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        return Ok(Some(*number));
    }
    match port(text) {
        _ if text.is_empty() => Ok(None),
        Some(number) if number < 256 => Ok((number > 0).then_some(number)),
        _ => Err(format!("proto name {text:?} not known; use protocol number 0-255")),
    }
}

pub(crate) const ICMP: u16 = 1;
pub(crate) const ICMP_V6: u16 = 58;
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

/// An entry of a grant's `ip`: `*`, `22`, `80-443`, `tcp:22`, `icmp:*`; no lists (Go's `tailcfg.ParseProtoPortRanges`).
pub(crate) fn parse_traffic(text: &str) -> Result<Traffic, String> {
    if text.is_empty() {
        return Err("empty string".to_owned());
    }
    let text = text.to_ascii_lowercase();
    let (protocol, ports) = text.rsplit_once(':').unwrap_or(("*", &text));
    let ports = vec![parse_range(ports)?];
    let protocol = match protocol {
        "" => return Err("empty protocol".to_owned()),
        "*" => None,
        protocol => parse_protocol(protocol)?,
    };
    if let Some(protocol) = protocol {
        check_ports_of(protocol, &ports)?;
    }
    Ok(Traffic { protocol, ports })
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
            ("80-", "port range \"80-\": invalid last integer"),
            ("-1", "port range \"-1\": invalid first integer"),
            ("+1", "port range \"+1\": invalid first integer"),
            (" 22", "port range \" 22\": invalid first integer"),
            ("99999", "port range \"99999\": invalid first integer"),
            ("1-99999999999999", "port range \"1-99999999999999\": invalid last integer"),
            ("1-2-3", "port range \"1-2-3\": too many dashes(-)"),
            ("0", "port range \"0\": first port must be >0, or use '*' for wildcard"),
            ("0-65535", "port range \"0-65535\": first port must be >0, or use '*' for wildcard"),
            ("443-80", "port range \"443-80\": first port must be >= last port"),
            ("", "invalid port list: \"\""),
        ] {
            assert_eq!(parse_ports(bad), Err(why.to_owned()));
        }
        assert_eq!(parse_ports("22,ssh"), Err("port range \"ssh\": invalid first integer".to_owned()));
    }

    #[test]
    fn protocols_are_named_as_the_client_names_them() {
        for (text, number) in [("TCP", 6), ("icmpv6", 58), ("dccp", 33), ("tsmp", 99), ("255", 255), ("006", 6)] {
            assert_eq!(parse_protocol(text), Ok(Some(number)));
        }
        assert_eq!(parse_protocol("0"), Ok(None));
        for bad in ["ssh", "256", "-1", "+6", " tcp"] {
            assert_eq!(parse_protocol(bad), Err(format!("proto name {bad:?} not known; use protocol number 0-255")));
        }
    }

    #[test]
    fn a_grants_traffic_is_a_protocol_and_ports() {
        let ports = |first, last| Ports { first, last };
        assert_eq!(parse_traffic("tcp:22"), Ok(Traffic { protocol: Some(6), ports: vec![ports(22, 22)] }));
        assert_eq!(parse_traffic("47"), Ok(Traffic { protocol: None, ports: vec![ports(47, 47)] }));
        assert_eq!(parse_traffic("icmp:*"), Ok(Traffic { protocol: Some(1), ports: vec![Ports::ALL] }));
        assert_eq!(parse_traffic("0:80"), Ok(Traffic { protocol: None, ports: vec![ports(80, 80)] }));
        for (bad, why) in [
            ("", "empty string"),
            (":80", "empty protocol"),
            ("tcp:", "invalid port list: \"\""),
            ("80,443", "port range \"80,443\": invalid first integer"),
            ("tcp:80,443", "port range \"80,443\": invalid first integer"),
            ("tcp:80:90", "proto name \"tcp:80\" not known; use protocol number 0-255"),
            ("smoke:*", "proto name \"smoke\" not known; use protocol number 0-255"),
        ] {
            assert_eq!(parse_traffic(bad), Err(why.to_owned()));
        }
        assert!(parse_traffic("icmp:22").is_err());
    }
}
