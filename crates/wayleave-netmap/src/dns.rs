//! What a viewer is told of names: what all are told, and the hosts that are named at 4via6 sites.
//!
//! A host is `printer.berlin.<base domain>`, with its 4via6 address. The names are below the tailnet's own domain because clients answer
//! that one themselves, so a record needs no resolver. A viewer has the names of hosts that the policy lets it use, and of those behind
//! itself; whether a router is up for them is of no account, so that a name does not come and go with one.

use std::sync::Arc;

use wayleave_policy::Steering;
use wayleave_tailnet::{NodeView, SiteHost, Snapshot};
use wayleave_wire::control::{DnsConfig, DnsRecord};

use crate::delta::Shared;

/// How names are resolved for a viewer.
pub(crate) fn dns_of(snapshot: &Snapshot, shared: &Shared, viewer: &NodeView) -> Arc<DnsConfig> {
    let mut records = records(snapshot, &shared.base_domain, viewer).peekable();
    // Without MagicDNS clients answer nothing themselves.
    if !shared.dns.proxied || records.peek().is_none() {
        return Arc::clone(&shared.dns);
    }
    let mut dns = DnsConfig::clone(&shared.dns);
    dns.extra_records.extend(records);
    Arc::new(dns)
}

fn records(snapshot: &Snapshot, base_domain: &str, viewer: &NodeView) -> impl Iterator<Item = DnsRecord> {
    let known = snapshot.sites.hosts().filter(|host| !viewer.expired && may_use(snapshot, viewer, host));
    known.filter_map(move |host| {
        let site = snapshot.sites.site(host.site)?;
        Some(DnsRecord {
            name: host_name(&host.name, &site.name, base_domain),
            kind: "AAAA".to_owned(),
            value: host.via6().network().to_string(),
        })
    })
}

/// The name under which a host at a site is published.
pub fn host_name(host: &wayleave_model::GivenName, site: &wayleave_model::GivenName, base_domain: &str) -> String {
    format!("{host}.{site}.{base_domain}")
}

fn may_use(snapshot: &Snapshot, viewer: &NodeView, host: &SiteHost) -> bool {
    let address = host.via6();
    viewer.approved.iter().any(|prefix| !prefix.is_exit() && prefix.covers(&address))
        || snapshot.policy.steering(viewer.node.id, &address) != Steering::Nowhere
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;
    use wayleave_tailnet::{Command, SiteCommand};
    use wayleave_wire::control::DnsConfig;

    use super::*;
    use crate::rig::Rig;

    fn rig() -> Rig {
        let mut rig = Rig::new();
        rig.shared.dns = Arc::new(DnsConfig { proxied: true, ..DnsConfig::default() });
        rig.ask(Command::Sites(SiteCommand::Add { name: "berlin".parse().unwrap(), id: Some(7) }));
        rig
    }

    fn add_host(rig: &mut Rig, name: &str, address: &str) {
        let (name, address) = (name.parse().unwrap(), address.parse().unwrap());
        rig.ask(Command::Sites(SiteCommand::AddHost { site: 7, name, address }));
    }

    fn names(map: &Value) -> Vec<String> {
        let records = map["DNSConfig"]["ExtraRecords"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        records.map(|record| format!("{} {}", text(&record["Name"]), text(&record["Value"]))).collect()
    }

    #[test]
    fn a_named_host_is_published_with_its_4via6_address_and_at_once() {
        let mut rig = rig();
        let viewer = rig.joins(1, &[]);
        assert!(names(&rig.full(viewer)).is_empty());
        let base = rig.base();
        add_host(&mut rig, "printer", "192.168.1.9");
        let wanted = ["printer.berlin.example.net fd7a:115c:a1e0:b1a:0:7:c0a8:109"];
        assert_eq!(names(&rig.delta(&base, viewer).unwrap()), wanted);
        assert_eq!(names(&rig.full(viewer)), wanted);
        let base = rig.base();
        rig.ask(Command::Sites(SiteCommand::RemoveHost { site: 7, name: "printer".parse().unwrap() }));
        let delta = rig.delta(&base, viewer).unwrap();
        assert!(delta["DNSConfig"].is_object() && names(&delta).is_empty());
    }

    #[test]
    fn a_viewer_has_the_names_that_the_policy_lets_it_use() {
        let mut rig = rig();
        let (owned, tagged) = (rig.joins(1, &[]), rig.joins(2, &[]));
        add_host(&mut rig, "printer", "192.168.1.9");
        add_host(&mut rig, "camera", "192.168.2.9");
        let policy = |part: &str| Command::SetPolicy {
            text: format!(
                r#"{{"tagOwners": {{"tag:s": []}}, "acls": [
                    {{"action": "accept", "src": ["anna@"], "dst": ["{part} via berlin:*"]}},
                    {{"action": "accept", "src": ["tag:s"], "dst": ["anna@:22"]}},
                ]}}"#
            ),
            replaces: None,
            by: "test".to_owned(),
        };
        rig.ask(policy("192.168.1.0/24"));
        rig.ask(Command::TagNode { node: tagged, tags: BTreeSet::from(["tag:s".parse().unwrap()]) });
        let base = rig.base();
        assert_eq!(names(&rig.full(owned)), ["printer.berlin.example.net fd7a:115c:a1e0:b1a:0:7:c0a8:109"]);
        assert!(names(&rig.full(tagged)).is_empty());
        rig.ask(policy("192.168.2.0/24"));
        let delta = rig.delta(&base, owned).unwrap();
        assert_eq!(names(&delta), ["camera.berlin.example.net fd7a:115c:a1e0:b1a:0:7:c0a8:209"]);
        assert!(rig.delta(&base, tagged).is_none_or(|delta| delta["DNSConfig"].is_null()));
    }
}
