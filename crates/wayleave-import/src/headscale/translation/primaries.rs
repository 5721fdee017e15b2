//! Who carries a prefix at first. What the source had marked is kept where it can be; the election takes over once nodes connect.

use std::collections::BTreeMap;

use wayleave_model::Prefix;

use super::super::generation::Family;
use super::Route;
use crate::report::{Code, Warning};

/// Leaves at most one mark for each prefix, on a node that advertises it and is approved for it. Exits get none.
pub(super) fn choose(routes: &mut [Route], family: Family, warnings: &mut Vec<Warning>) {
    let mut candidates: BTreeMap<Prefix, Vec<usize>> = BTreeMap::new();
    for (at, route) in routes.iter_mut().enumerate() {
        if route.prefix.is_exit() {
            if let (true, Some(id)) = (route.is_primary, route.id) {
                warnings.push(Warning::row(Code::PrimaryOnExitIgnored, "routes", id).prefix(route.prefix.to_string()));
            }
            route.is_primary = false;
        } else if route.advertised && route.enabled {
            candidates.entry(route.prefix).or_default().push(at);
        } else {
            // Withdrawing and disabling left the mark where it was.
            route.is_primary = false;
        }
    }
    let stored = matches!(family, Family::MachineRoutes | Family::NodeRoutes);
    for (prefix, mut of_prefix) in candidates {
        of_prefix.sort_by_key(|at| routes[*at].node);
        let marked: Vec<usize> = of_prefix.iter().copied().filter(|at| routes[*at].is_primary).collect();
        let about = |code| Warning::table(code, "routes").prefix(prefix.to_string());
        if let [first, others @ ..] = marked.as_slice() {
            if !others.is_empty() {
                warnings.push(about(Code::MultiplePrimaries).new_value(format!("node {}", routes[*first].node)));
            }
            for other in others {
                routes[*other].is_primary = false;
            }
        } else if let Some(first) = of_prefix.first() {
            if stored {
                warnings.push(about(Code::PrimaryElected).new_value(format!("node {}", routes[*first].node)));
            }
            routes[*first].is_primary = true;
        }
    }
}
