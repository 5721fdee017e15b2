//! What only one router is left to carry: whoever takes that one away is asked first (design.md 2).

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::{NodeId, Owner, Prefix, Tag};
use wayleave_routes::{Candidate, Group, Presence, Rank};
use wayleave_tailnet::Tailnet;

use super::super::error::ApiError;
use super::node_ref;

/// Refuses, until it is wanted, what would leave a prefix that is up without any router: for everybody, for those whom grants steer
/// through a group, or as an exit. `once` says what is done to the node, such as `it is deleted`.
pub(in super::super) fn ask_if_last(
    tailnet: &Tailnet,
    node: NodeId,
    prefixes: &[Prefix],
    once: &str,
) -> Result<(), ApiError> {
    last_words(tailnet, node, prefixes, once).map_or(Ok(()), |words| Err(ApiError::confirm(words)))
}

/// The question, where there is one.
pub(in super::super) fn last_words(tailnet: &Tailnet, node: NodeId, prefixes: &[Prefix], once: &str) -> Option<String> {
    let table = tailnet.routes();
    let mut parts = Vec::new();
    let prefixes: BTreeSet<Prefix> = prefixes.iter().copied().collect();
    let (exits, prefixes): (BTreeSet<Prefix>, BTreeSet<Prefix>) = prefixes.into_iter().partition(Prefix::is_exit);
    let alone: BTreeSet<Prefix> =
        prefixes.iter().copied().filter(|prefix| is_last(node, &table.candidates(prefix))).collect();
    let name = node_ref(tailnet, node).name;
    if !alone.is_empty() {
        parts.push(format!(
            "{name} is the only router that is up for {}: once {once} nobody reaches {} any more",
            shown(tailnet, &alone),
            it(&alone)
        ));
    }
    let others = prefixes.difference(&alone).copied().collect();
    parts.extend(words_of_groups(tailnet, &name, once, &last_of_groups(tailnet, node, &others, |_| true)));
    if !exits.is_empty() && is_last_exit(tailnet, node, |_| true) {
        parts.push(format!("{name} is the only exit node that is up: once {once} those who chose it have no way out"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Refuses, until it is wanted, tags that take the last router that is up out of a group.
pub(in super::super) fn ask_if_last_with_tag(
    tailnet: &Tailnet,
    node: NodeId,
    tags: &BTreeSet<Tag>,
) -> Result<(), ApiError> {
    let prefixes = tailnet.routes().rows_of(node).map(|row| row.prefix).collect();
    let left = last_of_groups(tailnet, node, &prefixes, |group| group.is_disjoint(tags));
    let own = tailnet.registry().node(node).map(|node| &node.owner);
    let lost: BTreeSet<&Tag> = match own {
        Some(Owner::Tags { tags: own, .. }) => own.difference(tags).collect(),
        Some(Owner::User(_) | Owner::Nobody) | None => BTreeSet::new(),
    };
    let lost = lost.into_iter().filter(|tag| left.keys().any(|group| group.contains(*tag)));
    let once = format!("it is without {}", lost.map(Tag::to_string).collect::<Vec<_>>().join(" and "));
    let words = words_of_groups(tailnet, &node_ref(tailnet, node).name, &once, &left);
    if words.is_empty() { Ok(()) } else { Err(ApiError::confirm(words.join("; "))) }
}

/// Whether this node is up as an exit, and no other is that fits, for one of the two families.
pub(super) fn is_last_exit(tailnet: &Tailnet, node: NodeId, fits: fn(Rank) -> bool) -> bool {
    let table = tailnet.routes();
    // Exits are never elected, so nobody keeps a list of who offers one.
    let rank = |exit: &Prefix, node| {
        let rank = table.rank_for(node, exit).filter(|rank| !matches!(rank, Rank::Down(_)));
        rank.filter(|_| table.why_no_candidate(node, exit).is_none())
    };
    [Prefix::EXIT_V4, Prefix::EXIT_V6].iter().any(|exit| {
        let mut others = table.rows().filter(|row| row.prefix == *exit && row.node != node);
        rank(exit, node).is_some() && !others.any(|row| rank(exit, row.node).is_some_and(fits))
    })
}

/// The groups that reach some of these prefixes through this node and through nobody else.
fn last_of_groups(
    tailnet: &Tailnet,
    node: NodeId,
    prefixes: &BTreeSet<Prefix>,
    meant: impl Fn(&Group) -> bool,
) -> BTreeMap<Group, BTreeSet<Prefix>> {
    let table = tailnet.routes();
    let mut all: BTreeMap<Group, BTreeSet<Prefix>> = BTreeMap::new();
    for prefix in prefixes {
        for group in table.groups_of(prefix).filter(|group| meant(group)) {
            if is_last(node, &table.candidates_in(prefix, Some(group))) {
                all.entry(Group::clone(group)).or_default().insert(*prefix);
            }
        }
    }
    all
}

fn words_of_groups(
    tailnet: &Tailnet,
    name: &str,
    once: &str,
    groups: &BTreeMap<Group, BTreeSet<Prefix>>,
) -> Vec<String> {
    let words = |(group, prefixes): (&Group, &BTreeSet<Prefix>)| {
        format!(
            "{name} is the only router of {} that is up for {}: once {once} those whom grants steer there do not reach {} any more",
            via(group),
            shown(tailnet, prefixes),
            it(prefixes)
        )
    };
    groups.iter().map(words).collect()
}

/// The tags of a group, as people read them.
pub(super) fn via(group: &Group) -> String {
    group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

/// Whether this candidate is up, and no other could serve: one that is suspect leads nowhere, and one that has not come back since a start
/// may never.
fn is_last(node: NodeId, candidates: &[Candidate]) -> bool {
    let can_serve = |other: &Candidate| {
        !matches!(other.rank, Rank::Down(_) | Rank::Suspect(_)) && other.presence != Presence::Awaited
    };
    let own = candidates.iter().find(|candidate| candidate.node == node);
    own.is_some_and(|own| !matches!(own.rank, Rank::Down(_)))
        && !candidates.iter().any(|other| other.node != node && can_serve(other))
}

fn shown(tailnet: &Tailnet, prefixes: &BTreeSet<Prefix>) -> String {
    prefixes.iter().map(|prefix| tailnet.sites().show(prefix)).collect::<Vec<_>>().join(", ")
}

fn it(prefixes: &BTreeSet<Prefix>) -> &'static str {
    if prefixes.len() == 1 { "it" } else { "them" }
}
