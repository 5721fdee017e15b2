//! Collisions: the same prefix, or one inside another, advertised by nodes that do not look like one site.
//!
//! Two routers of one site are a pair that stands by for each other; two sites that happen to number their networks alike are not, and
//! whoever is primary takes the others' traffic. The server can't see which it is, so it judges by what the nodes report. Two nodes look
//! like one site, by the first of these that says anything:
//!
//! 1. they share a public address (as STUN or a port mapping found it): one site;
//! 2. they bear the very same tags: one site, since people tag the routers of a site alike;
//! 3. they both know public addresses, and share none: two sites;
//! 4. they have addresses of their own in one network (/24, /64) that is outside of what they collide in: one site;
//! 5. else they are two sites if they belong to different users or bear different tags, and one if not.
//!
//! Sites are put together from pairs: what looks like one site with either of two makes one of the three. A wide prefix that a narrower
//! one of another site is part of is told as an overlap; that may well be wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use wayleave_model::{EndpointKind, GivenName, Node, NodeId, Owner, Prefix, PrefixKind, sanitize_label, via6};

use crate::sites::MAX_SITE;
use crate::tailnet::Tailnet;

/// Nodes that do not look like one site, and advertise overlapping prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The prefix that at least one of them advertises, and the others too or a wider one.
    pub prefix: Prefix,
    /// All advertise this very prefix.
    pub same: bool,
    /// Who, site by site.
    pub parties: Vec<Party>,
}

/// The nodes that look like one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Which nodes, each with what it advertises.
    pub nodes: Vec<(NodeId, Prefix)>,
    /// What they could advertise instead; `None` for IPv6, which has no such form.
    pub instead: Option<Instead>,
}

/// A 4via6 prefix in the place of a prefix that collides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instead {
    /// The site's number.
    pub site: u32,
    /// Its name.
    pub name: GivenName,
    /// It has to be made first.
    pub is_new: bool,
    /// The prefixes, in the order of the nodes'.
    pub prefixes: Vec<Prefix>,
}

/// The sites that were named for nodes in collisions before: one place has one number in all of them.
#[derive(Default)]
struct Given {
    sites: BTreeMap<NodeId, u32>,
}

impl Tailnet {
    /// All collisions, by prefix.
    pub fn collisions(&self) -> Vec<Collision> {
        let advertised = self.routes.rows().filter(|row| row.advertised && can_collide(&row.prefix));
        let prefixes: BTreeSet<Prefix> = advertised.map(|row| row.prefix).collect();
        let mut given = Given::default();
        prefixes.into_iter().filter_map(|prefix| self.collision_of(prefix, &mut given)).collect()
    }

    /// The collision of those who advertise this prefix with one another and with those who advertise a wider one.
    pub(crate) fn collision_about(&self, prefix: Prefix) -> Option<Collision> {
        self.collision_of(prefix, &mut Given::default())
    }

    fn collision_of(&self, prefix: Prefix, given: &mut Given) -> Option<Collision> {
        if !can_collide(&prefix) {
            return None;
        }
        let wider = (1..=prefix.bits()).rev().filter_map(|bits| prefix.widened(bits)).filter(can_collide);
        let holders = wider.flat_map(|wide| {
            let nodes: Vec<NodeId> = self.routes.holders(&wide).collect();
            nodes.into_iter().map(move |node| (node, wide))
        });
        let advertises =
            |(node, wide): &(NodeId, Prefix)| self.routes.row_of(*node, wide).is_some_and(|row| row.advertised);
        let holders: Vec<(NodeId, Prefix)> = holders.filter(advertises).collect();
        let exact = holders.iter().any(|(_, own)| *own == prefix);
        if exact { self.collision(prefix, holders, given) } else { None }
    }

    /// The collision about a prefix, given who advertises it or a wider one.
    fn collision(&self, prefix: Prefix, holders: Vec<(NodeId, Prefix)>, given: &mut Given) -> Option<Collision> {
        if holders.len() < 2 {
            return None;
        }
        let mut parties: Vec<Vec<(NodeId, Prefix)>> = Vec::new();
        for holder in holders {
            let (with, apart): (Vec<_>, Vec<_>) = parties
                .into_iter()
                .partition(|party| party.iter().any(|(other, _)| self.is_one_site(*other, holder.0, &prefix)));
            parties = apart;
            let mut party: Vec<_> = with.into_iter().flatten().collect();
            party.push(holder);
            party.sort_unstable();
            parties.push(party);
        }
        if parties.len() < 2 {
            return None;
        }
        parties.sort_unstable();
        let same = parties.iter().flatten().all(|(_, own)| *own == prefix);
        let mut taken = BTreeSet::new();
        let parties = parties.into_iter().map(|nodes| {
            let instead = self.instead(&nodes, &mut taken, given);
            Party { nodes, instead }
        });
        Some(Collision { prefix, same, parties: parties.collect() })
    }

    /// The 4via6 prefixes that a site's routers could advertise: at the site that one of them advertises something at already, else at
    /// one that is named as one of them is, else at one that would have to be made.
    fn instead(&self, nodes: &[(NodeId, Prefix)], taken: &mut BTreeSet<u32>, given: &mut Given) -> Option<Instead> {
        let parts: Vec<_> = nodes
            .iter()
            .filter_map(|(_, prefix)| if let IpNet::V4(part) = prefix.net() { Some(part) } else { None })
            .collect();
        if parts.len() != nodes.len() {
            return None;
        }
        let advertised = nodes.iter().flat_map(|(node, _)| self.routes.rows_of(*node)).filter(|row| row.advertised);
        let at = advertised
            .filter_map(|row| via6::decode(&row.prefix))
            .map(|(site, _)| site)
            .find(|site| !taken.contains(site));
        let names: Vec<&GivenName> =
            nodes.iter().filter_map(|(node, _)| self.registry.node(*node)).map(|node| &node.given_name).collect();
        let named = || names.iter().find_map(|name| self.sites.named(name.as_str())).map(|site| site.id);
        let before = || nodes.iter().find_map(|(node, _)| given.sites.get(node)).copied();
        let known = at.or_else(|| before().or_else(named).filter(|site| !taken.contains(site)));
        let is_free = |id: &u32| {
            let is_given = taken.contains(id) || given.sites.values().any(|site| site == id);
            self.sites.site(*id).is_none() && !is_given && !self.is_in_use(*id)
        };
        let site = known.or_else(|| (1..=MAX_SITE).find(is_free))?;
        taken.insert(site);
        for (node, _) in nodes {
            given.sites.entry(*node).or_insert(site);
        }
        let (name, is_new) = match self.sites.site(site) {
            Some(site) => (site.name.clone(), false),
            None => (self.new_site_name(names.first().copied()?), true),
        };
        Some(Instead { site, name, is_new, prefixes: parts.into_iter().map(|part| via6::encode(site, part)).collect() })
    }

    /// Somebody advertises prefixes at a site of this number, which has no name yet.
    fn is_in_use(&self, site: u32) -> bool {
        self.routes.rows().any(|row| row.advertised && via6::decode(&row.prefix).is_some_and(|(used, _)| used == site))
    }

    fn new_site_name(&self, node: &GivenName) -> GivenName {
        let is_number = node.as_str().bytes().all(|byte| byte.is_ascii_digit());
        let lettered = if is_number { sanitize_label(&format!("site-{node}")) } else { None };
        let name = lettered.unwrap_or_else(|| node.clone());
        let mut tries = std::iter::once(name.clone()).chain((2..).map(|number| name.numbered(number)));
        tries.find(|name| self.sites.named(name.as_str()).is_none()).unwrap_or(name)
    }

    /// See the module's text.
    fn is_one_site(&self, a: NodeId, b: NodeId, prefix: &Prefix) -> bool {
        let (Some(a), Some(b)) = (self.registry.node(a), self.registry.node(b)) else { return true };
        let (public_a, public_b) = (public(a), public(b));
        if a.id == b.id || !public_a.is_disjoint(&public_b) {
            return true;
        }
        if let (Owner::Tags { tags: a, .. }, Owner::Tags { tags: b, .. }) = (&a.owner, &b.owner)
            && a == b
        {
            return true;
        }
        if !public_a.is_empty() && !public_b.is_empty() {
            return false;
        }
        let networks =
            |node: &Node| -> BTreeSet<Prefix> { networks(node).filter(|network| !network.overlaps(prefix)).collect() };
        !networks(a).is_disjoint(&networks(b)) || a.owner == b.owner
    }
}

fn can_collide(prefix: &Prefix) -> bool {
    prefix.kind() == PrefixKind::Subnet && prefix.invalid().is_none()
}

/// The addresses under which others on the internet see a node.
fn public(node: &Node) -> BTreeSet<IpAddr> {
    let seen = |kind| matches!(kind, EndpointKind::Stun | EndpointKind::Portmapped | EndpointKind::Stun4LocalPort);
    node.endpoints.iter().filter(|endpoint| seen(endpoint.kind)).map(|endpoint| endpoint.address.ip()).collect()
}

/// The networks that a node has addresses of its own in.
fn networks(node: &Node) -> impl Iterator<Item = Prefix> {
    let own = node.endpoints.iter().filter(|endpoint| endpoint.kind == EndpointKind::Local);
    own.filter_map(|endpoint| {
        let address = endpoint.address.ip();
        Prefix::host(address).widened(if address.is_ipv4() { 24 } else { 64 })
    })
}

#[cfg(test)]
mod tests;
