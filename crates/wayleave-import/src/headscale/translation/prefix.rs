//! Prefixes as Headscale wrote them.

use std::net::IpAddr;

use wayleave_model::{Prefix, PrefixError};

/// The prefix that a text means, and whether it has host bits set; `None` for a text that is no prefix. IPv4 dressed as IPv6 is none: no
/// client takes it.
pub(super) fn read(text: &str) -> Option<(Prefix, bool)> {
    let address: IpAddr = text.split_once('/')?.0.parse().ok()?;
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return None;
    }
    match text.parse::<Prefix>() {
        Ok(prefix) => Some((prefix, false)),
        Err(PrefixError::HostBits { meant, .. }) => Some((meant, true)),
        Err(PrefixError::Syntax { .. }) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_told_and_mapped_addresses_are_no_prefixes() {
        let text = |text| read(text).map(|(prefix, host_bits)| (prefix.to_string(), host_bits));
        assert_eq!(text("10.0.0.0/8"), Some(("10.0.0.0/8".to_owned(), false)));
        assert_eq!(text("10.0.0.1/24"), Some(("10.0.0.0/24".to_owned(), true)));
        assert_eq!(text("FD00:BEEF:0::/48"), Some(("fd00:beef::/48".to_owned(), false)));
        assert_eq!(text("::/0"), Some(("::/0".to_owned(), false)));
        for bad in ["", "invalid Prefix", "10.0.0.0", "10.5.0.0/33", "::ffff:10.8.0.0/120", "fe80::%eth0/64"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
