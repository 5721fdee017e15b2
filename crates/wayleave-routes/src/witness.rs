//! Chooses who is asked to look at a router from outside.
//!
//! Servers are asked before desktops, and phones last, since a phone that sleeps testifies to nothing; of different owners where that is
//! possible, since what one owner's network swallows is no news of the router. Among equals each router has an order of its own, so
//! that many routers don't ask the same few.

use std::collections::BTreeSet;

use wayleave_model::{NodeId, Owner, UserId};

/// Somebody who could testify: connected, and let by the policy to use the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// Who.
    pub node: NodeId,
    /// What it runs on; the first that are there are asked.
    pub class: Class,
    /// Whose it is: `None` for tagged nodes, each of which is an owner by itself.
    pub owner: Option<UserId>,
}

/// What a witness runs on, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A tagged node: a server.
    Server,
    /// A person's computer.
    Computer,
    /// A phone, a tablet, a television.
    Phone,
}

impl Class {
    /// The class of a node, from whose it is and the system that it says it runs.
    pub fn of(owner: &Owner, os: &str) -> Self {
        match owner {
            Owner::Tags { .. } => Self::Server,
            Owner::User(_) | Owner::Nobody if matches!(os, "iOS" | "android" | "tvOS") => Self::Phone,
            Owner::User(_) | Owner::Nobody => Self::Computer,
        }
    }
}

/// Chooses at most `most` witnesses for a router. The same applicants, in whatever order, give the same choice.
pub fn choose(router: NodeId, applicants: &[Applicant], most: usize) -> Vec<NodeId> {
    let mut order: Vec<&Applicant> = applicants.iter().filter(|applicant| applicant.node != router).collect();
    order.sort_by_key(|applicant| (applicant.class, mix(router.get(), applicant.node.get()), applicant.node));
    let mut owners = BTreeSet::new();
    let (fresh, again): (Vec<_>, Vec<_>) =
        order.into_iter().partition(|applicant| applicant.owner.is_none_or(|owner| owners.insert(owner)));
    // A second witness of one owner is better than none, and worse than one of anybody else.
    fresh.into_iter().chain(again).take(most).map(|applicant| applicant.node).collect()
}

/// Mixes two numbers into one that looks like neither (the finaliser of SplitMix64).
const fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applicant(node: u64, class: Class, owner: Option<u64>) -> Applicant {
        Applicant { node: NodeId::new(node), class, owner: owner.map(UserId::new) }
    }

    fn chosen(applicants: &[Applicant], most: usize) -> Vec<u64> {
        choose(NodeId::new(1), applicants, most).into_iter().map(NodeId::get).collect()
    }

    #[test]
    fn servers_come_before_computers_and_phones_last() {
        let all = [
            applicant(2, Class::Phone, Some(1)),
            applicant(3, Class::Computer, Some(2)),
            applicant(4, Class::Server, None),
            applicant(5, Class::Server, None),
        ];
        let mut first = chosen(&all, 2);
        first.sort_unstable();
        assert_eq!(first, [4, 5]);
        assert_eq!(chosen(&all, 4)[2..], [3, 2]);
        assert_eq!(chosen(&all[..1], 3), [2], "a phone is better than nobody");
    }

    #[test]
    fn owners_differ_where_possible() {
        let all = [
            applicant(2, Class::Computer, Some(1)),
            applicant(3, Class::Computer, Some(1)),
            applicant(4, Class::Computer, Some(1)),
            applicant(5, Class::Phone, Some(2)),
        ];
        let chosen = chosen(&all, 2);
        assert!(chosen.contains(&5), "{chosen:?}: a phone of somebody else before a second computer of the same");
    }

    #[test]
    fn the_order_of_applicants_does_not_matter_and_a_router_is_no_witness_of_its_own() {
        let mut all: Vec<Applicant> = (1..=20).map(|node| applicant(node, Class::Server, None)).collect();
        let first = chosen(&all, 3);
        all.reverse();
        assert_eq!(chosen(&all, 3), first);
        assert!(!first.contains(&1));
    }

    #[test]
    fn routers_share_the_work_among_equals() {
        let all: Vec<Applicant> = (100..200).map(|node| applicant(node, Class::Server, None)).collect();
        let asked: BTreeSet<NodeId> = (1..=30).flat_map(|router| choose(NodeId::new(router), &all, 3)).collect();
        assert!(asked.len() > 45, "90 questions went to {} of 100", asked.len());
    }
}
