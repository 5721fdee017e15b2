//! Routes: from two lists on the node, or from a table of rows.

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::Prefix;

use super::super::installation::{self, Installation};
use super::{Node, Route, prefix};
use crate::report::{Code, Warning};

/// One for each (node, prefix).
type Routes = BTreeMap<(u64, Prefix), Route>;

/// The routes, by node and prefix.
pub(super) fn routes(installation: &Installation, nodes: &[Node], warnings: &mut Vec<Warning>) -> Vec<Route> {
    let live: BTreeSet<u64> = nodes.iter().map(|node| node.id).collect();
    let rows = installation.nodes.iter().filter(|row| live.contains(&row.id));
    let table = installation.generation.node_table;
    let mut routes = match &installation.routes {
        None => from_lists(rows, table, warnings),
        Some(stored) => from_rows(stored, rows, table, warnings),
    };
    for route in routes.values_mut().filter(|route| route.enabled && route.prefix.invalid().is_some()) {
        route.enabled = false;
        let prefix = route.prefix.to_string();
        warnings.push(Warning::row(Code::PrefixNotAllowed, table, route.node).prefix(prefix).old("approved"));
    }
    half_exits(&routes, table, warnings);
    routes.into_values().collect()
}

fn appeared(node: u64, prefix: Prefix) -> Route {
    Route {
        id: None,
        node,
        prefix,
        advertised: true,
        enabled: false,
        is_primary: false,
        was_advertised: true,
        created_at: None,
        updated_at: None,
    }
}

/// 0.2 to 0.17, and 0.26 on: advertised is what the client said last, approved is a list beside it.
fn from_lists<'a>(
    rows: impl Iterator<Item = &'a installation::Node>,
    table: &str,
    warnings: &mut Vec<Warning>,
) -> Routes {
    let mut routes = Routes::new();
    for row in rows {
        for (prefix, _) in row.host.advertised.iter().filter_map(|text| prefix::read(text)) {
            routes.entry((row.id, prefix)).or_insert_with(|| appeared(row.id, prefix));
        }
        let mut seen = BTreeSet::new();
        for text in row.enabled.iter().flatten() {
            let about = |code| Warning::row(code, table, row.id);
            let Some((prefix, host_bits)) = prefix::read(text) else {
                warnings.push(about(Code::PrefixInvalid).prefix(text));
                continue;
            };
            if host_bits && !row.host.advertised.contains(text) {
                warnings.push(about(Code::PrefixHostBitsNotServed).prefix(text));
                continue;
            }
            if host_bits {
                warnings.push(about(Code::PrefixHostBits).prefix(text).new_value(prefix.to_string()));
            }
            if !seen.insert(prefix) {
                warnings.push(about(Code::RouteDuplicateMerged).prefix(prefix.to_string()));
                continue;
            }
            let planned = || Route { advertised: false, was_advertised: false, ..appeared(row.id, prefix) };
            routes.entry((row.id, prefix)).or_insert_with(planned).enabled = true;
        }
    }
    routes
}

/// 0.18 to 0.25: a row says all.
fn from_rows<'a>(
    stored: &[installation::Route],
    nodes: impl Iterator<Item = &'a installation::Node>,
    node_table: &str,
    warnings: &mut Vec<Warning>,
) -> Routes {
    let nodes: BTreeMap<u64, &installation::Node> = nodes.map(|node| (node.id, node)).collect();
    let mut kept = Vec::new();
    for row in stored {
        let about = |code| Warning::row(code, "routes", row.id);
        let node = row.node.and_then(|id| nodes.get(&id).copied());
        match (row.deleted, node, prefix::read(&row.prefix)) {
            (true, _, _) => warnings.push(about(Code::RouteSoftDeletedSkipped).prefix(&row.prefix)),
            (false, None, _) => warnings.push(about(Code::RouteOrphanDropped).prefix(&row.prefix)),
            (false, Some(_), None) => warnings.push(about(Code::PrefixInvalid).prefix(&row.prefix)),
            (false, Some(node), Some((prefix, host_bits))) => kept.push((row, node, prefix, host_bits)),
        }
    }
    let clean: BTreeSet<(u64, Prefix)> =
        kept.iter().filter(|(_, _, _, host_bits)| !host_bits).map(|(_, node, prefix, _)| (node.id, *prefix)).collect();
    let mut routes = Routes::new();
    for (row, node, prefix, host_bits) in kept {
        let about = |code| Warning::row(code, "routes", row.id).prefix(&row.prefix);
        let place = (node.id, prefix);
        if host_bits && clean.contains(&place) {
            warnings.push(about(Code::RouteHostBitsDropped));
            continue;
        }
        if host_bits {
            warnings.push(about(Code::PrefixHostBits).new_value(prefix.to_string()));
        }
        // Ids of deleted nodes were used again, and their routes stayed.
        if row.created_at.zip(node.created_at).is_some_and(|(route, node)| route < node) {
            warnings.push(about(Code::RouteOlderThanNode));
        }
        match routes.entry(place) {
            std::collections::btree_map::Entry::Occupied(mut first) => {
                let first = first.get_mut();
                first.advertised |= row.advertised;
                first.enabled |= row.enabled;
                first.is_primary |= row.is_primary;
                warnings.push(about(Code::RouteDuplicateMerged));
            }
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(Route {
                    id: Some(row.id),
                    advertised: row.advertised,
                    enabled: row.enabled,
                    is_primary: row.is_primary,
                    created_at: row.created_at,
                    updated_at: row.updated_at,
                    ..appeared(node.id, prefix)
                });
            }
        }
    }
    for node in nodes.values() {
        for (prefix, _) in node.host.advertised.iter().filter_map(|text| prefix::read(text)) {
            routes.entry((node.id, prefix)).or_insert_with(|| {
                let about = Warning::row(Code::RouteAdvertisedWithoutRow, node_table, node.id);
                warnings.push(about.prefix(prefix.to_string()));
                appeared(node.id, prefix)
            });
        }
    }
    routes
}

fn half_exits(routes: &Routes, table: &str, warnings: &mut Vec<Warning>) {
    for ((node, _), v4) in routes.iter().filter(|((_, prefix), _)| *prefix == Prefix::EXIT_V4) {
        let v6 = routes.get(&(*node, Prefix::EXIT_V6));
        if let Some(half) = v6.filter(|v6| v6.enabled != v4.enabled) {
            let enabled = if half.enabled { half } else { v4 };
            let about = Warning::row(Code::ExitRouteHalfEnabled, table, *node);
            warnings.push(about.old(enabled.prefix.to_string()));
        }
    }
}
