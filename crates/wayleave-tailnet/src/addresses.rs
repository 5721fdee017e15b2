//! Gives out addresses: the next free one, never the lowest that was just freed, because peers remember addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use wayleave_model::{Addresses, TAILNET_V4, TAILNET_V6};

/// Where addresses come from. Both must be inside the tailnet's ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    v4: Ipv4Net,
    v6: Ipv6Net,
}

/// Why there is no pool, or no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The range is not inside 100.64.0.0/10.
    #[error("{0} is not inside 100.64.0.0/10, the only range that clients route to the tailnet")]
    OutsideV4(Ipv4Net),
    /// The range is not inside fd7a:115c:a1e0::/48, or it is too small.
    #[error("{0} is not inside fd7a:115c:a1e0::/48, or longer than /96")]
    OutsideV6(Ipv6Net),
    /// Every address is taken.
    #[error("no address is free in {0}: delete nodes, or widen the range")]
    Exhausted(Ipv4Net),
}

impl Default for AddressPool {
    fn default() -> Self {
        Self { v4: TAILNET_V4, v6: TAILNET_V6 }
    }
}

/// Ranges inside 100.64.0.0/10 that no node gets (protocol.md 0.3): that of ChromeOS' virtual machines, and those around the
/// address at which clients answer DNS.
const RESERVED: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(100, 115, 92, 0), 23),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 100, 0), 24),
];

/// The IPv6 address at which clients answer DNS (`tsaddr.TailscaleServiceIPv6`).
const SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53);

impl AddressPool {
    /// A pool inside the tailnet's ranges.
    ///
    /// # Errors
    ///
    /// A range is not inside the tailnet's.
    pub fn new(v4: Ipv4Net, v6: Ipv6Net) -> Result<Self, AddressError> {
        if !TAILNET_V4.contains(&v4) {
            return Err(AddressError::OutsideV4(v4));
        }
        if !TAILNET_V6.contains(&v6) || v6.prefix_len() > 96 {
            return Err(AddressError::OutsideV6(v6));
        }
        Ok(Self { v4: v4.trunc(), v6: v6.trunc() })
    }

    /// The range of IPv4 addresses.
    pub const fn v4(&self) -> Ipv4Net {
        self.v4
    }

    /// The next free pair after `cursor`, an offset into the IPv4 range, and the cursor after it. Both of a pair must be free: nodes that
    /// were imported may have one of them only, or two that do not go together.
    ///
    /// # Errors
    ///
    /// Every address is taken.
    pub fn allocate(&self, cursor: u32, taken: &dyn Fn(IpAddr) -> bool) -> Result<(Addresses, u32), AddressError> {
        let base = u32::from(self.v4.network());
        let size = 1_u64 << (32 - self.v4.prefix_len());
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        for step in 0..size {
            let offset = cursor.wrapping_add(step) % size;
            let address = Ipv4Addr::from(base + offset);
            let edge = size > 2 && (offset == 0 || offset == size - 1);
            let v6 = self.v6_for(offset);
            let reserved = v6 == SERVICE_V6 || RESERVED.iter().any(|net| net.contains(&address));
            if edge || reserved || taken(address.into()) || taken(v6.into()) {
                continue;
            }
            let pair = Addresses { v4: Some(address), v6: Some(v6) };
            return Ok((pair, (offset + 1) % size));
        }
        Err(AddressError::Exhausted(self.v4))
    }

    /// The IPv6 address that goes with an IPv4 one: the same offset into its range. Offsets stay below 2^22, far from the 4via6 range.
    fn v6_for(&self, offset: u32) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.v6.network()) + u128::from(offset))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NONE: &dyn Fn(IpAddr) -> bool = &|_| false;

    #[test]
    fn addresses_are_given_in_order_and_a_freed_one_is_not_given_at_once() {
        let pool = AddressPool::default();
        let (first, cursor) = pool.allocate(0, NONE).unwrap();
        assert_eq!(first.v4, Some(Ipv4Addr::new(100, 64, 0, 1)));
        assert_eq!(first.v6, Some("fd7a:115c:a1e0::1".parse().unwrap()));
        let (second, _) = pool.allocate(cursor, NONE).unwrap();
        assert_eq!(second.v4, Some(Ipv4Addr::new(100, 64, 0, 2)));
    }

    #[test]
    fn reserved_ranges_are_left_out() {
        let pool = AddressPool::default();
        for (before, after) in [
            ([100, 115, 91, 255], [100, 115, 94, 0]),
            ([100, 99, 255, 255], [100, 100, 1, 0]),
            ([100, 100, 99, 255], [100, 100, 101, 0]),
        ] {
            let offset = u32::from(Ipv4Addr::from(before)) - u32::from(TAILNET_V4.network());
            let (given, _) = pool.allocate(offset + 1, NONE).unwrap();
            assert_eq!(given.v4, Some(Ipv4Addr::from(after)));
        }
    }

    #[test]
    fn a_full_pool_is_an_error_and_a_hole_is_found() {
        let pool = AddressPool::new("100.64.0.0/30".parse().unwrap(), TAILNET_V6).unwrap();
        let mut taken = BTreeSet::from([Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(100, 64, 0, 2)].map(IpAddr::V4));
        assert!(matches!(pool.allocate(3, &|a| taken.contains(&a)), Err(AddressError::Exhausted(_))));
        taken.remove(&IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1)));
        assert_eq!(pool.allocate(3, &|a| taken.contains(&a)).unwrap().0.v4, Some(Ipv4Addr::new(100, 64, 0, 1)));
    }

    #[test]
    fn a_pair_is_given_only_where_both_are_free_and_neither_is_a_service_of_clients() {
        let pool = AddressPool::default();
        let alone: Ipv6Addr = "fd7a:115c:a1e0::1".parse().unwrap();
        let (given, _) = pool.allocate(1, &|address| address == alone).unwrap();
        assert_eq!(given.v4, Some(Ipv4Addr::new(100, 64, 0, 2)), "a node has only the IPv6 half of the first");
        let (given, _) = pool.allocate(0x53, NONE).unwrap();
        assert_eq!(given.v6, Some("fd7a:115c:a1e0::54".parse().unwrap()));
    }

    #[test]
    fn ranges_outside_the_tailnet_are_refused() {
        assert!(AddressPool::new("10.0.0.0/8".parse().unwrap(), TAILNET_V6).is_err());
        assert!(AddressPool::new(TAILNET_V4, "fd00::/48".parse().unwrap()).is_err());
    }
}
