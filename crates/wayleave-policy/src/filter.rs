//! Packet filters: for each node, what may come to it and to what it leads to, reduced to what concerns it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use wayleave_model::Prefix;

use crate::class::Class;
use crate::ports::Ports;
use crate::rules::{Clause, Index, Rules, To};
use crate::selector::listed;

/// Addresses, prefixes and ranges, as filters list them: sorted, each once.
pub type Sources = Arc<[String]>;

/// Sources with a fingerprint, so that two lists are compared in full only where they are most likely the same.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) sources: Sources,
    print: u64,
}

impl Listed {
    pub(crate) fn new(all: BTreeSet<String>) -> Self {
        // FNV-1a over the texts and what parts them. It only has to tell lists apart quickly, the same way each time.
        let bytes = all.iter().flat_map(|text| text.bytes().chain([0]));
        let print = bytes
            .fold(0xcbf2_9ce4_8422_2325, |print: u64, byte| (print ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { sources: all.into_iter().collect(), print }
    }

    fn says_the_same(&self, other: &Sources) -> bool {
        Arc::ptr_eq(&self.sources, other) || self.sources == *other
    }
}

/// A rule of a packet filter.
#[derive(Clone, Debug, Eq, PartialOrd, Ord)]
pub enum FilterRule {
    /// These sources may send packets there.
    Packets {
        /// From where.
        sources: Sources,
        /// An IP protocol; `None` for TCP, UDP and both ICMPs.
        protocol: Option<u16>,
        /// Where to, and to which ports.
        destinations: Vec<(String, Ports)>,
    },
    /// These sources have capabilities there.
    Capabilities {
        /// Who.
        sources: Sources,
        /// Where.
        destinations: Vec<Prefix>,
        /// Which, each with its values: a list, or null.
        capabilities: Capabilities,
    },
}

impl PartialEq for FilterRule {
    /// Long lists that are shared are not looked through, which the comparison of `Arc` would do for what has no fixed size.
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Sources, b: &Sources| Arc::ptr_eq(a, b) || a == b;
        match (self, other) {
            (
                Self::Packets { sources, protocol, destinations },
                Self::Packets { sources: others, protocol: other, destinations: there },
            ) => protocol == other && destinations == there && same(sources, others),
            (
                Self::Capabilities { sources, destinations, capabilities },
                Self::Capabilities { sources: others, destinations: there, capabilities: other },
            ) => destinations == there && capabilities == other && same(sources, others),
            (Self::Packets { .. }, Self::Capabilities { .. }) | (Self::Capabilities { .. }, Self::Packets { .. }) => {
                false
            }
        }
    }
}

/// Capabilities and their values, to be compared by their text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities(pub Arc<BTreeMap<String, Arc<serde_json::Value>>>);

impl PartialOrd for Capabilities {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Capabilities {
    fn cmp(&self, other: &Self) -> Ordering {
        let text = |own: &Self| own.0.iter().map(|(name, value)| (name.clone(), value.to_string())).collect::<Vec<_>>();
        text(self).cmp(&text(other))
    }
}

/// A rule for all nodes of a class, to be filled in for one.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    from: From,
    kind: TemplateKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    /// What this list of selectors stands for.
    List(Index),
    /// The same user's nodes that match these selectors.
    SameUser(FixedBitSet),
}

#[derive(Clone, Debug)]
enum TemplateKind {
    Packets { protocol: Option<u16>, destinations: Vec<(Place, Ports)> },
    Capabilities { destinations: Vec<Place>, capabilities: Capabilities },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The node's own addresses.
    Own,
    /// The node's own addresses inside this.
    OwnInside(Prefix),
    /// This, as it is.
    Listed(String, Option<Prefix>),
}

impl Template {
    fn packets(from: From, clause: &Clause, class: &Class, concerns: impl Fn(To) -> bool) -> Vec<Self> {
        let mut protocols: Vec<Option<u16>> = Vec::new();
        for traffic in clause.dst.iter().flat_map(|target| target.traffic.iter()) {
            if !protocols.contains(&traffic.protocol) {
                protocols.push(traffic.protocol);
            }
        }
        let mut rules = Vec::new();
        for protocol in protocols {
            let mut destinations = Vec::new();
            for target in clause.dst.iter().filter(|target| concerns(target.to)) {
                let traffic = target.traffic.iter().filter(|traffic| traffic.protocol == protocol);
                for ports in traffic.flat_map(|traffic| &traffic.ports) {
                    destinations.extend(places(target.to, class, true).into_iter().map(|place| (place, *ports)));
                }
            }
            if !destinations.is_empty() {
                rules.push(Self { from: from.clone(), kind: TemplateKind::Packets { protocol, destinations } });
            }
        }
        rules
    }

    fn capabilities(from: From, clause: &Clause, class: &Class, concerns: impl Fn(To) -> bool) -> Option<Self> {
        let concerned = clause.dst.iter().filter(|target| concerns(target.to));
        let destinations: Vec<Place> = concerned.flat_map(|target| places(target.to, class, false)).collect();
        if clause.app.is_empty() || destinations.is_empty() {
            return None;
        }
        let capabilities = Capabilities(Arc::new(clause.app.iter().cloned().collect()));
        Some(Self { from, kind: TemplateKind::Capabilities { destinations, capabilities } })
    }

    fn reverse(from: From, name: &str) -> Self {
        let capabilities = [(name.to_owned(), Arc::new(serde_json::Value::Null))].into();
        let capabilities = Capabilities(Arc::new(capabilities));
        Self { from, kind: TemplateKind::Capabilities { destinations: vec![Place::Own], capabilities } }
    }
}

/// How a destination is listed for nodes of a class.
fn places(to: To, class: &Class, packets: bool) -> Vec<Place> {
    match to {
        To::Any if packets => vec![Place::Listed("*".to_owned(), None)],
        To::Any | To::Nodes(_) | To::SameUser => vec![Place::Own],
        To::Addresses(_, prefix) if packets => vec![Place::Listed(listed(&prefix), Some(prefix))],
        To::Addresses(at, prefix) => {
            let mut places = vec![Place::OwnInside(prefix)];
            if class.key.leads_to.contains(at) {
                places.push(Place::Listed(listed(&prefix), Some(prefix)));
            }
            places
        }
        To::Internet => internet().map(|prefix| Place::Listed(listed(&prefix), Some(prefix))).collect(),
    }
}

/// What an exit leads to: all addresses but those of private and local networks, which are what a client that is an exit keeps from others
/// too (`removeFromDefaultRoute` in `ipn/ipnlocal/local.go` of 1.102.5). No default route is ever listed: it would open the exit's own
/// network too.
pub(crate) fn internet() -> impl Iterator<Item = Prefix> {
    let kept_out: [([u8; 4], u8); 8] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 168, 0, 0], 16),
        ([224, 0, 0, 0], 3),
    ];
    let mut left = vec![Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)];
    for (network, length) in kept_out {
        let out = Ipv4Net::new_assert(Ipv4Addr::from(network), length);
        left = left.into_iter().flat_map(|net| without(net, out)).collect();
    }
    // Everything that is given out of IPv6 is inside 2000::/3.
    let six = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
    left.into_iter().map(IpNet::V4).chain([IpNet::V6(six)]).map(Prefix::containing)
}

/// The first net less the second, as nets.
fn without(net: Ipv4Net, out: Ipv4Net) -> Vec<Ipv4Net> {
    if out.contains(&net) {
        Vec::new()
    } else if net.contains(&out) {
        let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
        halves.flat_map(|half| without(half, out)).collect()
    } else {
        vec![net]
    }
}

impl Class {
    /// The rules for its nodes.
    pub(crate) fn template(&self, rules: &Rules) -> &Arc<[Template]> {
        self.template.get_or_init(|| {
            let mut all = Vec::new();
            for (at, clause) in rules.clauses.iter().enumerate() {
                let list = || From::List(clause.sources);
                if self.to.contains(at) {
                    let concerns = |to| self.is_at(clause, to);
                    all.extend(Template::packets(list(), clause, self, concerns));
                    all.extend(Template::capabilities(list(), clause, self, concerns));
                }
                let itself = !self.key.matches.is_disjoint(&clause.src);
                if itself {
                    let back = || From::List(clause.destinations);
                    let nodes = !rules.source_lists[clause.destinations].is_empty();
                    all.extend(clause.reverse.iter().filter(|_| nodes).map(|name| Template::reverse(back(), name)));
                }
                let same_user = clause.dst.iter().any(|target| target.to == To::SameUser);
                if same_user && self.key.is_owned {
                    let own = || From::SameUser(clause.src.clone());
                    let concerns = |to| to == To::SameUser;
                    all.extend(Template::packets(own(), clause, self, concerns));
                    all.extend(Template::capabilities(own(), clause, self, concerns));
                    if itself {
                        let everyone = || From::SameUser(FixedBitSet::new());
                        all.extend(clause.reverse.iter().map(|name| Template::reverse(everyone(), name)));
                    }
                }
            }
            all.into()
        })
    }

    /// Whether this destination of a clause concerns its nodes.
    pub(crate) fn is_at(&self, clause: &Clause, to: To) -> bool {
        if clause.via.is_some() {
            return self.key.carries(clause, to);
        }
        match to {
            To::Any => true,
            To::Nodes(at) => self.key.matches.contains(at),
            To::Addresses(at, _) => self.key.matches.contains(at) || self.key.leads_to.contains(at),
            To::SameUser => false,
            To::Internet => self.key.is_exit,
        }
    }
}

/// What filling in needs to know of who is there.
pub(crate) trait Inhabitants {
    /// What this list of selectors stands for.
    fn sources(&self, list: Index) -> Listed;
    /// The addresses of the same user's nodes that match these selectors; no selectors: of all.
    fn same_user(&self, selectors: &FixedBitSet) -> Listed;
}

/// Fills in the rules of a class for one node. They stand in an order that follows from what they say and not from where it is written:
/// a policy that is put into another order changes no filter.
pub(crate) fn fill_in(templates: &[Template], own: &[IpAddr], there: &dyn Inhabitants) -> Vec<FilterRule> {
    let mut rules: Vec<(u64, FilterRule)> = Vec::new();
    // What has the same sources and protocol is one rule (conformance cases acl-mr02 and acl-mr12).
    let mut merged: BTreeMap<(u64, Option<u16>), Vec<usize>> = BTreeMap::new();
    for template in templates {
        let listed = match &template.from {
            From::List(list) => there.sources(*list),
            From::SameUser(selectors) => there.same_user(selectors),
        };
        if listed.sources.is_empty() {
            continue;
        }
        match &template.kind {
            TemplateKind::Packets { protocol, destinations } => {
                let filled = destinations
                    .iter()
                    .flat_map(|(place, ports)| fill_in_place(place, own).into_iter().map(|text| (text, *ports)));
                let filled: Vec<(String, Ports)> = filled.collect();
                if filled.is_empty() {
                    continue;
                }
                let alike = merged.entry((listed.print, *protocol)).or_default();
                let same = alike.iter().copied().find(|at| match rules.get(*at) {
                    Some((_, FilterRule::Packets { sources, .. })) => listed.says_the_same(sources),
                    Some((_, FilterRule::Capabilities { .. })) | None => false,
                });
                match same.and_then(|at| rules.get_mut(at)) {
                    Some((_, FilterRule::Packets { destinations, .. })) => destinations.extend(filled),
                    Some((_, FilterRule::Capabilities { .. })) | None => {
                        alike.push(rules.len());
                        let (sources, protocol) = (listed.sources, *protocol);
                        rules.push((listed.print, FilterRule::Packets { sources, protocol, destinations: filled }));
                    }
                }
            }
            TemplateKind::Capabilities { destinations, capabilities } => {
                let destinations: BTreeSet<Prefix> = destinations
                    .iter()
                    .flat_map(|place| match place {
                        Place::Own => own.iter().copied().map(Prefix::host).collect(),
                        Place::OwnInside(prefix) => own_inside(own, prefix),
                        Place::Listed(_, prefix) => prefix.iter().copied().collect(),
                    })
                    .collect();
                if !destinations.is_empty() {
                    let (sources, capabilities) = (listed.sources, capabilities.clone());
                    let destinations = destinations.into_iter().collect();
                    rules.push((listed.print, FilterRule::Capabilities { sources, destinations, capabilities }));
                }
            }
        }
    }
    for (_, rule) in &mut rules {
        if let FilterRule::Packets { destinations, .. } = rule {
            destinations.sort();
        }
    }
    rules.sort_by(|(a_print, a), (b_print, b)| a_print.cmp(b_print).then_with(|| a.in_order(b)));
    rules.into_iter().map(|(_, rule)| rule).collect()
}

impl FilterRule {
    /// The order of rules whose sources have one fingerprint, and so most likely are the same: those are looked at last, for they are long.
    fn in_order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (
                Self::Packets { sources, protocol, destinations },
                Self::Packets { sources: other_sources, protocol: other_protocol, destinations: other_destinations },
            ) => (protocol, destinations, sources).cmp(&(other_protocol, other_destinations, other_sources)),
            (
                Self::Capabilities { sources, destinations, capabilities },
                Self::Capabilities { sources: other_sources, destinations: other_destinations, capabilities: other },
            ) => (destinations, capabilities, sources).cmp(&(other_destinations, other, other_sources)),
            (Self::Packets { .. }, Self::Capabilities { .. }) => Ordering::Less,
            (Self::Capabilities { .. }, Self::Packets { .. }) => Ordering::Greater,
        }
    }
}

fn own_inside(own: &[IpAddr], prefix: &Prefix) -> Vec<Prefix> {
    own.iter().filter(|address| prefix.contains(**address)).copied().map(Prefix::host).collect()
}

fn fill_in_place(place: &Place, own: &[IpAddr]) -> Vec<String> {
    match place {
        Place::Own => own.iter().map(IpAddr::to_string).collect(),
        Place::OwnInside(prefix) => own_inside(own, prefix).iter().map(listed).collect(),
        Place::Listed(text, _) => vec![text.clone()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_internet_is_everything_but_what_is_private_or_reserved() {
        let all: Vec<Prefix> = internet().collect();
        let inside = |address: &str| all.iter().any(|prefix| prefix.contains(address.parse().unwrap()));
        for public in
            ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "2606:4700::1"]
        {
            assert!(inside(public), "{public}");
        }
        for kept in
            ["10.1.1.1", "100.64.0.1", "127.0.0.1", "192.168.1.1", "172.16.0.1", "224.0.0.1", "fd7a::1", "fe80::1"]
        {
            assert!(!inside(kept), "{kept}");
        }
        assert!(all.iter().all(|prefix| !prefix.is_exit()));
    }
}
