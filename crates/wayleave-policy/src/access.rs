//! What a node may send where: to a peer itself, and to places behind routers. The answers are the same for all nodes of a class, so what
//! is asked for one of them holds for all, but for what is among the nodes of one user.

use std::collections::BTreeMap;
use std::fmt;

use wayleave_model::{NodeId, Prefix};

use crate::compiled::CompiledPolicy;
use crate::ports::{Ports, TCP, Traffic, UDP};
use crate::rules::To;

const ICMP: u16 = 1;
const ICMP_V6: u16 = 58;

/// Protocols, and ports of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet(BTreeMap<u16, Vec<Ports>>);

impl PortSet {
    /// Whether nothing gets through.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the two together.
    pub fn extend(&mut self, other: &Self) {
        for (protocol, ranges) in &other.0 {
            self.add(*protocol, ranges);
        }
    }

    /// What is in this one and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let none = Vec::new();
        let left = self.0.iter().map(|(protocol, own)| {
            let out = other.0.get(protocol).unwrap_or(&none);
            (*protocol, own.iter().flat_map(|range| subtract(*range, out)).collect::<Vec<_>>())
        });
        Self(left.filter(|(_, ranges)| !ranges.is_empty()).collect())
    }

    fn add(&mut self, protocol: u16, ranges: &[Ports]) {
        let own = self.0.entry(protocol).or_default();
        own.extend_from_slice(ranges);
        own.sort_unstable();
        let mut merged: Vec<Ports> = Vec::with_capacity(own.len());
        for range in own.drain(..) {
            match merged.last_mut() {
                Some(last) if range.first <= last.last.saturating_add(1) => last.last = last.last.max(range.last),
                Some(_) | None => merged.push(range),
            }
        }
        *own = merged;
    }

    fn let_through(&mut self, traffic: &[Traffic]) {
        for Traffic { protocol, ports } in traffic {
            match protocol {
                Some(protocol) => self.add(*protocol, ports),
                // A rule about ports lets ICMP through as a whole.
                None => {
                    self.add(TCP, ports);
                    self.add(UDP, ports);
                    self.add(ICMP, &[Ports::ALL]);
                    self.add(ICMP_V6, &[Ports::ALL]);
                }
            }
        }
    }
}

/// A range less others that are sorted and apart.
fn subtract(range: Ports, out: &[Ports]) -> Vec<Ports> {
    let mut left = Vec::new();
    let mut first = Some(range.first);
    for cut in out.iter().filter(|cut| cut.first <= range.last && range.first <= cut.last) {
        let Some(from) = first else { break };
        if cut.first > from {
            left.push(Ports { first: from, last: cut.first - 1 });
        }
        first = cut.last.checked_add(1).filter(|next| *next <= range.last);
    }
    left.extend(first.map(|first| Ports { first, last: range.last }));
    left
}

/// `*`, `22,80-443` where TCP and UDP agree, else a protocol before each: `tcp:22, icmp`.
impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ranges: &[Ports]| ranges.iter().map(Ports::to_string).collect::<Vec<_>>().join(",");
        let usual = self.0.keys().all(|protocol| [TCP, UDP, ICMP, ICMP_V6].contains(protocol));
        if let (Some(tcp), Some(udp), true) = (self.0.get(&TCP), self.0.get(&UDP), usual)
            && tcp == udp
        {
            return f.write_str(&list(tcp));
        }
        let named = self.0.iter().filter(|(protocol, _)| **protocol != ICMP_V6 || !self.0.contains_key(&ICMP));
        let texts: Vec<String> = named
            .map(|(protocol, ranges)| match (*protocol, list(ranges).as_str()) {
                (ICMP | ICMP_V6, _) => "icmp".to_owned(),
                (TCP, ranges) => format!("tcp:{ranges}"),
                (UDP, ranges) => format!("udp:{ranges}"),
                (other, "*") => format!("protocol {other}"),
                (other, ranges) => format!("protocol {other}:{ranges}"),
            })
            .collect();
        f.write_str(&texts.join(", "))
    }
}

/// What one node may send to another itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Whoever the two belong to.
    pub always: PortSet,
    /// If both belong to one user, this too.
    pub same_user: PortSet,
}

/// The places that a node may send to, wherever they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    everywhere: PortSet,
    some: BTreeMap<Prefix, PortSet>,
}

impl Places {
    /// What may be reached inside a prefix: the prefix itself, or parts of it, each with its ports.
    pub fn within(&self, prefix: &Prefix) -> BTreeMap<Prefix, PortSet> {
        let mut all: BTreeMap<Prefix, PortSet> = BTreeMap::new();
        if !self.everywhere.is_empty() {
            all.insert(*prefix, self.everywhere.clone());
        }
        for (place, ports) in self.some.iter().filter(|(place, _)| place.overlaps(prefix)) {
            let narrower = if place.covers(prefix) { prefix } else { place };
            all.entry(*narrower).or_default().extend(ports);
        }
        all
    }
}

impl CompiledPolicy {
    /// What a viewer may send to a peer itself.
    pub fn access(&self, viewer: NodeId, peer: NodeId) -> Access {
        let mut access = Access::default();
        let (Some(from), Some(to)) = (self.nodes.get(&viewer), self.nodes.get(&peer)) else { return access };
        let (from, to) = (&from.class, &to.class);
        for clause in from.from.ones().map(|at| &self.rules.clauses[at]) {
            // It may be a source because of what it leads to.
            if from.key.matches.is_disjoint(&clause.src) {
                continue;
            }
            for target in &clause.dst {
                let itself = match target.to {
                    To::Any => clause.via.is_none() || to.key.carries(clause, target.to),
                    To::Nodes(at) | To::Addresses(at, _) => clause.via.is_none() && to.key.matches.contains(at),
                    To::SameUser => {
                        if from.key.is_owned && to.key.is_owned {
                            access.same_user.let_through(&target.traffic);
                        }
                        false
                    }
                    To::Internet => false,
                };
                if itself {
                    access.always.let_through(&target.traffic);
                }
            }
        }
        access
    }

    /// The places that a viewer may send to, as far as rules go: whether and through whom it gets there is [`Self::steering`]'s.
    pub fn places(&self, viewer: NodeId) -> Places {
        let mut places = Places::default();
        let Some(from) = self.nodes.get(&viewer).map(|standing| &standing.class) else { return places };
        for clause in from.from.ones().map(|at| &self.rules.clauses[at]) {
            if from.key.matches.is_disjoint(&clause.src) {
                continue;
            }
            for target in &clause.dst {
                match target.to {
                    To::Any => places.everywhere.let_through(&target.traffic),
                    To::Addresses(_, prefix) => places.some.entry(prefix).or_default().let_through(&target.traffic),
                    To::Nodes(_) | To::SameUser | To::Internet => {}
                }
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::parse_traffic;

    fn set(texts: &[&str]) -> PortSet {
        let mut set = PortSet::default();
        set.let_through(&texts.iter().map(|text| parse_traffic(text).unwrap()).collect::<Vec<_>>());
        set
    }

    #[test]
    fn sets_are_shown_in_as_few_words_as_it_takes() {
        for (texts, shown) in [
            (&["*"][..], "*"),
            (&["22", "80-443", "81"], "22,80-443"),
            (&["tcp:22", "udp:53"], "tcp:22, udp:53"),
            (&["icmp:*"], "icmp"),
            (&["47"], "47"),
            (&["47:*"], "protocol 47"),
            (&["tcp:22", "tcp:23"], "tcp:22-23"),
        ] {
            assert_eq!(set(texts).to_string(), shown);
        }
    }

    #[test]
    fn what_is_left_is_what_the_other_has_not() {
        for (own, out, left) in [
            (&["*"][..], &["tcp:22"][..], "tcp:0-21,23-65535, icmp, udp:*"),
            (&["tcp:20-30"], &["tcp:20-22", "tcp:25", "tcp:30-40"], "tcp:23-24,26-29"),
            (&["22"], &["*"], ""),
            (&["tcp:*"], &["tcp:65535"], "tcp:0-65534"),
        ] {
            let mut shown: Vec<String> =
                set(own).without(&set(out)).to_string().split(", ").map(str::to_owned).collect();
            let mut wanted: Vec<String> = left.split(", ").map(str::to_owned).collect();
            shown.sort();
            wanted.sort();
            assert_eq!(shown, wanted);
        }
    }
}
