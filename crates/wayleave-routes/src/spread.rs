//! Who is primary for one viewer, where a prefix is spread over several routers (design.md 3).
//!
//! Two questions. Which routers share the prefix is one of ranks and time, and the same for all: `carriers`. Which of them a viewer uses is
//! [`choose`], a function of the viewer's place and the prefix alone, so that no viewer is ever told of one prefix at two peers, and none
//! moves but when the carriers change or its own place does.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use wayleave_model::{Failback, NodeId, Place, Prefix, Spread, Timestamp};

use crate::election::{Candidate, Presence, Rank, Terms};

/// The routers that share a prefix, and when the next one joins unless something changes.
///
/// By region every steady router does, at once. Balanced, one that was not steady joins after `failback_after`; at once where there is no
/// other, so that a prefix that has just been spread, or was on nobody, is shared by all that are steady. A frozen prefix stays with those
/// that share it, as long as they are candidates.
pub(crate) fn carriers(
    spread: Spread,
    before: Option<&BTreeSet<NodeId>>,
    terms: Terms,
    candidates: &[Candidate],
    now: Timestamp,
) -> (BTreeSet<NodeId>, Option<Timestamp>) {
    if spread == Spread::Single {
        return (BTreeSet::new(), None);
    }
    let was = |node: &NodeId| before.is_some_and(|before| before.contains(node));
    let kept: BTreeSet<NodeId> = candidates.iter().map(|c| c.node).filter(was).collect();
    // Where none of them is left there is nothing that could stay: it is given out, as a frozen prefix that is on nobody is.
    if terms.frozen && !kept.is_empty() {
        return (kept, None);
    }
    // Nobody is led to one that is not there, but those who use it already while it is waited for.
    let all_steady = || candidates.iter().filter(|c| c.rank == Rank::Steady);
    let steady = || all_steady().filter(|c| c.presence == Presence::Here || was(&c.node));
    let stay: BTreeSet<NodeId> = steady().map(|c| c.node).filter(was).collect();
    if spread == Spread::Region || stay.is_empty() {
        let here: BTreeSet<NodeId> = steady().map(|c| c.node).collect();
        let nobody = here.is_empty();
        return (if nobody { all_steady().map(|c| c.node).collect() } else { here }, None);
    }
    let Failback::After(wait) = terms.failback else { return (stay, None) };
    let joins = |c: &&Candidate| c.steady_since.map(|since| since + wait);
    let (mut all, mut next) = (stay.clone(), None::<Timestamp>);
    for candidate in steady().filter(|c| !stay.contains(&c.node)) {
        match joins(&candidate) {
            Some(at) if at <= now => drop(all.insert(candidate.node)),
            at => next = next.into_iter().chain(at).min(),
        }
    }
    (all, next)
}

/// A router that shares a prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Carrier {
    /// The node.
    pub node: NodeId,
    /// Its home relay region. 0: not known.
    pub region: u32,
    /// Higher is preferred.
    pub priority: i32,
}

/// Whom viewers choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// How.
    pub spread: Spread,
    /// The primary.
    pub primary: NodeId,
    /// Those that share the prefix, in the order of joining.
    pub carriers: Vec<Carrier>,
}

/// Whom a viewer uses, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeId,
    /// Why it.
    pub because: ChosenBecause,
}

/// Why a viewer uses the router that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBecause {
    /// It is the primary, for all.
    Primary,
    /// No router is steady: the primary, for all.
    NobodySteady,
    /// The viewer has no home relay region yet: the primary.
    NoHome,
    /// It is in the viewer's home relay region.
    HomeRegion(u32),
    /// None is in the viewer's home relay region; this one's is the nearest, by so many microseconds of the viewer's own measuring.
    Nearest {
        /// Its relay region.
        region: u32,
        /// How far, in microseconds.
        micros: u64,
    },
    /// The viewer has measured the way to none of the routers' relay regions: the primary.
    NothingMeasured,
    /// A hash of viewer and prefix.
    Balanced,
    /// It was that when the prefix was frozen; a home that has settled since would have another.
    Frozen,
}

impl fmt::Display for ChosenBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::NobodySteady => f.write_str("primary, since no router is steady"),
            Self::NoHome => f.write_str("primary, since the viewer has no home region yet"),
            Self::HomeRegion(region) => write!(f, "in the viewer's home region {region}"),
            Self::Nearest { region, micros } => {
                write!(f, "nearest, in region {region} at {}.{} ms", micros / 1000, micros % 1000 / 100)
            }
            Self::NothingMeasured => {
                f.write_str("primary, since the viewer has measured the way to no router's region")
            }
            Self::Balanced => f.write_str("balanced"),
            Self::Frozen => f.write_str("frozen, as it was before a home moved"),
        }
    }
}

/// Whom a viewer uses for a prefix.
pub fn choose(field: &Field, prefix: &Prefix, viewer: NodeId, place: &Place) -> Choice {
    let primary = |because| Choice { node: field.primary, because };
    if field.spread == Spread::Single {
        return primary(ChosenBecause::Primary);
    }
    let preferred = |c: &&Carrier| (Reverse(c.priority), c.node);
    if field.carriers.is_empty() {
        return primary(ChosenBecause::NobodySteady);
    }
    if field.spread == Spread::Balance {
        let highest = field.carriers.iter().map(|c| c.priority).max();
        let sharing = field.carriers.iter().filter(|c| Some(c.priority) == highest);
        let node = sharing.map(|c| c.node).max_by_key(|node| (weight(viewer, prefix, *node), *node));
        return node.map_or_else(
            || primary(ChosenBecause::NobodySteady),
            |node| Choice { node, because: ChosenBecause::Balanced },
        );
    }
    if place.region == 0 {
        return primary(ChosenBecause::NoHome);
    }
    if let Some(home) = field.carriers.iter().filter(|c| c.region == place.region).min_by_key(preferred) {
        return Choice { node: home.node, because: ChosenBecause::HomeRegion(place.region) };
    }
    let far = |c: &Carrier| place.latency.get(&c.region).copied();
    let nearest = field.carriers.iter().filter_map(|c| Some((far(c)?, c)));
    match nearest.min_by_key(|(micros, c)| (*micros, preferred(c))) {
        Some((micros, c)) => Choice { node: c.node, because: ChosenBecause::Nearest { region: c.region, micros } },
        None => primary(ChosenBecause::NothingMeasured),
    }
}

/// The weight of a router in the lot of a viewer and a prefix: whoever weighs most is used, so that one that goes moves only those that used
/// it (rendezvous hashing).
///
/// It is FNV-1a with the last step of SplitMix64, so that the last byte reaches every bit. It has to be the same on every server and in every
/// version.
fn weight(viewer: NodeId, prefix: &Prefix, router: NodeId) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    take(&viewer.get().to_be_bytes());
    match prefix.network() {
        IpAddr::V4(address) => take(&address.octets()),
        IpAddr::V6(address) => take(&address.octets()),
    }
    take(&[prefix.bits()]);
    take(&router.get().to_be_bytes());
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
