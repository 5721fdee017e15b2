//! IP prefixes as routes name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::text::serde_as_text;
use crate::via6;

/// The range that nodes get their IPv4 addresses from: 100.64.0.0/10 (protocol.md 0.3).
pub const TAILNET_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// The range that nodes get their IPv6 addresses from: fd7a:115c:a1e0::/48 (protocol.md 0.3).
pub const TAILNET_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48);
/// The range of 4via6 prefixes: fd7a:115c:a1e0:b1a::/64 (protocol.md 5.7).
pub const VIA6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0xb1a, 0, 0, 0, 0), 64);

/// An IP prefix whose host bits are zero. Ordered by family (IPv4 first), then address, then length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

/// What kind of route a prefix makes. It is told from the prefix alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrefixKind {
    /// `0.0.0.0/0` or `::/0`. One decision covers both; never primary, never elected.
    Exit,
    /// Inside fd7a:115c:a1e0:b1a::/64: an IPv4 prefix of a numbered site.
    Via6,
    /// All else.
    Subnet,
}

/// Why a prefix can't be enabled as a route. Such a prefix is kept as advertised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum InvalidReason {
    /// Inside or containing the tailnet's own range.
    #[error("overlaps the tailnet's own addresses")]
    Tailnet,
    /// Inside or containing 127.0.0.0/8 or ::1/128.
    #[error("overlaps the loopback range")]
    Loopback,
    /// Inside or containing 169.254.0.0/16 or fe80::/10.
    #[error("overlaps the link-local range")]
    LinkLocal,
    /// Inside or containing 224.0.0.0/4 or ff00::/8.
    #[error("overlaps the multicast range")]
    Multicast,
    /// In the 4via6 range, but shorter than /96, so it names no IPv4 prefix.
    #[error("is in the 4via6 range and shorter than /96, so it names no IPv4 prefix")]
    Via6Length,
    /// A 4via6 prefix whose IPv4 part is invalid by itself.
    #[error("is a 4via6 prefix whose IPv4 part is in the tailnet, loopback, link-local or multicast range")]
    Via6Part,
}

/// Why a text is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not an address, a slash and a length.
    #[error("`{text}` is not a prefix: write an address, a slash and a length, such as 10.0.0.0/8 or fd00:1::/64")]
    Syntax {
        /// What was given.
        text: String,
    },
    /// Right but for host bits that are set.
    #[error("`{text}` has host bits set: did you mean `{meant}`?")]
    HostBits {
        /// What was given.
        text: String,
        /// The prefix that holds it.
        meant: Prefix,
    },
}

impl Prefix {
    /// The IPv4 default route, one half of an exit.
    pub const EXIT_V4: Self = Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)));
    /// The IPv6 default route, the other half of an exit.
    pub const EXIT_V6: Self = Self(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)));

    /// The prefix that holds `net`: the same with its host bits cleared.
    pub fn containing(net: IpNet) -> Self {
        Self(net.trunc())
    }

    /// The prefix of this one address: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// The prefix as the type that the library of ranges knows.
    pub const fn net(&self) -> IpNet {
        self.0
    }

    /// The lowest address.
    pub fn network(&self) -> IpAddr {
        self.0.network()
    }

    /// The length in bits: 0 to 32, or 0 to 128.
    pub fn bits(&self) -> u8 {
        self.0.prefix_len()
    }

    /// The prefix of this length that holds it; `None` where that would be a narrower one.
    pub fn widened(&self, bits: u8) -> Option<Self> {
        if bits > self.bits() {
            return None;
        }
        IpNet::new(self.network(), bits).ok().map(Self::containing)
    }

    /// Whether this is a default route.
    pub fn is_exit(&self) -> bool {
        self.0.prefix_len() == 0
    }

    /// Whether `address` is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether the whole of `other` is inside; a prefix covers itself.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The kind of route that this prefix makes.
    pub fn kind(&self) -> PrefixKind {
        match self.0 {
            _ if self.is_exit() => PrefixKind::Exit,
            IpNet::V6(net) if VIA6.contains(&net) => PrefixKind::Via6,
            IpNet::V4(_) | IpNet::V6(_) => PrefixKind::Subnet,
        }
    }

    /// Why this prefix can't be enabled as a route, if it can't (design: "invalid"). Exits are never invalid.
    pub fn invalid(&self) -> Option<InvalidReason> {
        if self.kind() == PrefixKind::Via6 {
            let Some((_, part)) = via6::decode(self) else {
                return Some(InvalidReason::Via6Length);
            };
            let part = Self(IpNet::V4(part));
            return (part.is_exit() || part.invalid().is_some()).then_some(InvalidReason::Via6Part);
        }
        if self.is_exit() {
            return None;
        }
        FORBIDDEN.iter().find(|(net, _)| self.overlaps(&Self(*net))).map(|(_, reason)| *reason)
    }
}

const fn v4(a: u8, b: u8, len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), len))
}

const fn v6(first: u16, last: u16, len: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last), len))
}

const FORBIDDEN: [(IpNet, InvalidReason); 8] = [
    (IpNet::V4(TAILNET_V4), InvalidReason::Tailnet),
    (IpNet::V6(TAILNET_V6), InvalidReason::Tailnet),
    (v4(127, 0, 8), InvalidReason::Loopback),
    (v6(0, 1, 128), InvalidReason::Loopback),
    (v4(169, 254, 16), InvalidReason::LinkLocal),
    (v6(0xfe80, 0, 10), InvalidReason::LinkLocal),
    (v4(224, 0, 4), InvalidReason::Multicast),
    (v6(0xff00, 0, 8), InvalidReason::Multicast),
];

/// The library's own parser takes leading zeros, which others read as octal; the standard library's takes none.
fn parse_net(text: &str) -> Option<IpNet> {
    let (address, bits) = text.split_once('/')?;
    let plain = bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    if plain { IpNet::new(address.parse().ok()?, bits.parse().ok()?).ok() } else { None }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let net = parse_net(text).ok_or_else(|| PrefixError::Syntax { text: text.to_owned() })?;
        let prefix = Self::containing(net);
        if prefix.0 == net { Ok(prefix) } else { Err(PrefixError::HostBits { text: text.to_owned(), meant: prefix }) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

serde_as_text!(Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_refused_with_the_prefix_that_was_meant() {
        assert_eq!(
            "10.0.0.5/8".parse::<Prefix>().unwrap_err().to_string(),
            "`10.0.0.5/8` has host bits set: did you mean `10.0.0.0/8`?"
        );
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "x/8", "10.0.0.0/-1", "010.0.0.0/8"] {
            assert!(matches!(bad.parse::<Prefix>(), Err(PrefixError::Syntax { .. })), "{bad}");
        }
    }

    #[test]
    fn kind_is_told_from_the_prefix() {
        assert_eq!(p("0.0.0.0/0").kind(), PrefixKind::Exit);
        assert_eq!(p("::/0").kind(), PrefixKind::Exit);
        assert_eq!(p("fd7a:115c:a1e0:b1a:0:7:a01:100/120").kind(), PrefixKind::Via6);
        assert_eq!(p("fd7a:115c:a1e0::/48").kind(), PrefixKind::Subnet);
        assert_eq!(p("10.0.0.0/8").kind(), PrefixKind::Subnet);
    }

    #[test]
    fn prefixes_that_no_router_may_carry_are_invalid_with_the_reason() {
        for (text, reason) in [
            ("100.64.0.0/10", InvalidReason::Tailnet),
            ("100.100.0.0/24", InvalidReason::Tailnet),
            ("100.0.0.0/8", InvalidReason::Tailnet),
            ("0.0.0.0/1", InvalidReason::Tailnet),
            ("fd7a:115c:a1e0::1/128", InvalidReason::Tailnet),
            ("fc00::/7", InvalidReason::Tailnet),
            ("127.0.0.1/32", InvalidReason::Loopback),
            ("::1/128", InvalidReason::Loopback),
            ("169.254.0.0/16", InvalidReason::LinkLocal),
            ("fe80::/64", InvalidReason::LinkLocal),
            ("224.0.0.0/24", InvalidReason::Multicast),
            ("ff02::/16", InvalidReason::Multicast),
            ("fd7a:115c:a1e0:b1a::/64", InvalidReason::Via6Length),
            ("fd7a:115c:a1e0:b1a:0:7:7f00:0/104", InvalidReason::Via6Part),
            ("fd7a:115c:a1e0:b1a:0:7::/96", InvalidReason::Via6Part),
        ] {
            assert_eq!(p(text).invalid(), Some(reason), "{text}");
        }
        for text in
            ["10.0.0.0/8", "192.168.77.0/24", "0.0.0.0/0", "::/0", "fd00::/64", "fd7a:115c:a1e0:b1a:0:7:a01:100/120"]
        {
            assert_eq!(p(text).invalid(), None, "{text}");
        }
    }

    #[test]
    fn order_is_family_then_address_then_length() {
        let mut all = [p("fd00::/64"), p("10.1.0.0/16"), p("10.0.0.0/16"), p("10.0.0.0/8")];
        all.sort();
        assert_eq!(all, [p("10.0.0.0/8"), p("10.0.0.0/16"), p("10.1.0.0/16"), p("fd00::/64")]);
    }
}
