//! Node attributes, and the address pools that are given out with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use wayleave_model::{Owner, Prefix};

use crate::class::ClassKey;
use crate::rules::Rules;

/// What the hosted control plane adds for a node that may use Funnel (conformance case nodeattrs-attr-c1-funnel).
const FUNNEL: [&str; 2] =
    ["https://tailscale.com/cap/funnel-ports?ports=443,8443,10000", "https://tailscale.com/cap/warn-funnel-no-https"];

pub(crate) fn of_class(rules: &Rules, class: &ClassKey) -> BTreeMap<String, Arc<serde_json::Value>> {
    let null = Arc::new(serde_json::Value::Null);
    let mut all: BTreeMap<String, Arc<serde_json::Value>> = BTreeMap::new();
    for (entry, targets) in rules.file.node_attributes.iter().zip(&rules.attribute_targets) {
        if class.matches.is_disjoint(targets) {
            continue;
        }
        for (name, value) in &entry.attributes {
            if name == "funnel" {
                all.extend(FUNNEL.iter().map(|name| ((*name).to_owned(), Arc::clone(&null))));
            }
            // The values of several entries are put together, in the order of the text.
            match (all.get_mut(name).map(Arc::make_mut), value.as_ref()) {
                (Some(serde_json::Value::Array(own)), serde_json::Value::Array(more)) => {
                    own.extend(more.iter().cloned())
                }
                (_, _) => drop(all.insert(name.clone(), Arc::clone(value))),
            }
        }
    }
    all
}

impl Rules {
    /// The ranges that new nodes of this owner get their IPv4 address from; empty where the policy names none.
    pub fn address_pool(&self, owner: &Owner) -> Vec<Prefix> {
        let matches = self.matches_owner(owner);
        let entries = self.file.node_attributes.iter().zip(&self.attribute_targets);
        let fits = entries.filter(|(_, targets)| !matches.is_disjoint(targets));
        fits.flat_map(|(entry, _)| entry.pool.iter().copied()).collect()
    }
}
