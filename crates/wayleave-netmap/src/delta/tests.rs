use std::time::Duration;

use serde_json::{Value, json};
use wayleave_model::{Prefix, SessionId};
use wayleave_routes::Cause;
use wayleave_tailnet::{Command, Ending, Event};

use crate::rig::Rig;

use super::*;

const P: &str = "10.1.0.0/16";

fn allowed(node: &Value) -> Vec<&str> {
    node["AllowedIPs"].as_array().unwrap().iter().map(|prefix| prefix.as_str().unwrap()).collect()
}

#[test]
fn s1_a_pending_route_is_told_to_nobody_and_an_approved_one_to_all() {
    let mut rig = Rig::new();
    let router = rig.joins(1, &[P]);
    let client = rig.joins(2, &[]);
    let map = rig.full(client);
    assert_eq!(allowed(&map["Peers"][0]), ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]);
    let base = rig.base();
    rig.approve(router, P);
    let told = rig.delta(&base, client).unwrap();
    assert_eq!(allowed(&told["PeersChanged"][0]), ["100.64.0.1/32", "fd7a:115c:a1e0::1/128", P]);
    assert_eq!(told["PeersChanged"][0]["PrimaryRoutes"], json!([P]));
    let own = rig.delta(&base, router).unwrap();
    assert_eq!(own["Node"]["PrimaryRoutes"], json!([P]), "s36: the approved node gets its own update");
    assert!(own.get("PeersChanged").is_none());
}

#[test]
fn s34_a_peers_hostinfo_discloses_no_routes() {
    let mut rig = Rig::new();
    rig.joins(1, &[P]);
    let client = rig.joins(2, &[]);
    assert!(!rig.full(client).to_string().contains("RoutableIPs"));
}

#[test]
fn s36_a_failover_is_two_peers_in_one_message_and_nobody_elses_entry() {
    let mut rig = Rig::new();
    let (r1, r2) = (rig.joins(1, &[P]), rig.joins(2, &[P]));
    let client = rig.joins(3, &[]);
    rig.joins(4, &[]);
    rig.approve(r1, P);
    rig.approve(r2, P);
    let base = rig.base();
    rig.tell(Event::SessionEnded(r1, SessionId::new(1), Ending::Lost(Cause::ConnectionClosed)));
    rig.wait(Duration::from_millis(500));
    let told = rig.delta(&base, client).unwrap();
    let changed = told["PeersChanged"].as_array().unwrap();
    assert_eq!(changed.iter().map(|peer| peer["ID"].as_u64().unwrap()).collect::<Vec<_>>(), [r1.get(), r2.get()]);
    assert!(!allowed(&changed[0]).contains(&P));
    assert!(allowed(&changed[1]).contains(&P));
    assert_eq!(told.as_object().unwrap().len(), 3, "peers, their users, and the time: {told}");
}

#[test]
fn a_standby_is_told_of_its_primarys_route_and_the_primary_of_nobodys() {
    let mut rig = Rig::new();
    let (r1, r2) = (rig.joins(1, &[P]), rig.joins(2, &[P]));
    rig.approve(r1, P);
    rig.approve(r2, P);
    assert!(allowed(&rig.full(r2)["Peers"][0]).contains(&P));
    assert!(!allowed(&rig.full(r1)["Peers"][0]).contains(&P));
    assert!(allowed(&rig.full(r2)["Node"]).contains(&P), "it stands by for it");
    assert!(rig.full(r2)["Node"].get("PrimaryRoutes").is_none());
}

#[test]
fn s37_a_node_that_goes_down_is_a_patch() {
    let mut rig = Rig::new();
    let (gone, client) = (rig.joins(1, &[]), rig.joins(2, &[]));
    let base = rig.base();
    rig.tell(Event::SessionEnded(gone, SessionId::new(1), Ending::Lost(Cause::ConnectionClosed)));
    assert_eq!(rig.delta(&base, client), None, "s39: nobody sees it inside the grace");
    rig.wait(Duration::from_secs(10));
    let told = rig.delta(&base, client).unwrap();
    assert_eq!(told["PeersChangedPatch"][0]["Online"], json!(false));
    assert!(told["PeersChangedPatch"][0].get("LastSeen").is_some());
    assert!(told.get("PeersChanged").is_none());
}

#[test]
fn s38_a_report_that_changes_nothing_tells_nobody_anything() {
    let mut rig = Rig::new();
    let (node, client) = (rig.joins(1, &[P]), rig.joins(2, &[]));
    let base = rig.base();
    rig.reports(1, node, &[P], 41641);
    assert_eq!(rig.delta(&base, client), None);
    rig.reports(1, node, &[P], 41642);
    let told = rig.delta(&base, client).unwrap();
    assert_eq!(told["PeersChangedPatch"][0]["Endpoints"], json!(["10.0.0.1:41642"]));
    assert_eq!(rig.delta(&base, node), None, "it knows its own endpoints");
}

#[test]
fn s4_an_exit_is_told_as_both_halves_and_never_as_primary() {
    let mut rig = Rig::new();
    let exit = rig.joins(1, &["0.0.0.0/0", "::/0"]);
    let client = rig.joins(2, &[]);
    rig.approve(exit, "::/0");
    let map = rig.full(client);
    assert!(allowed(&map["Peers"][0]).ends_with(&["0.0.0.0/0", "::/0"]), "approving either half approves both");
    assert!(map["Peers"][0].get("PrimaryRoutes").is_none());
}

#[test]
fn s41_a_deleted_node_is_removed_from_every_peer() {
    let mut rig = Rig::new();
    let (gone, client) = (rig.joins(1, &[P]), rig.joins(2, &[]));
    rig.approve(gone, P);
    let base = rig.base();
    rig.ask(Command::DeleteNode { node: gone });
    assert_eq!(rig.delta(&base, client).unwrap()["PeersRemoved"], json!([gone.get()]));
    assert_eq!(rig.full(client)["Peers"], json!([]));
}

#[test]
fn a_viewer_that_fell_behind_and_has_no_peers_left_is_told_which_are_gone() {
    let mut rig = Rig::new();
    let (gone, client) = (rig.joins(1, &[]), rig.joins(2, &[]));
    let base = rig.base();
    rig.ask(Command::DeleteNode { node: gone });
    let next = rig.base();
    let map = full_again(&base, (&next, &rig.shared), &rig.cache, client, rig.now).unwrap();
    let map = serde_json::to_value(map).unwrap();
    assert_eq!((map.get("Peers"), &map["PeersRemoved"]), (None, &json!([gone.get()])));
}

#[test]
fn s33_allowed_addresses_hold_the_nodes_own_and_names_have_the_domain() {
    let mut rig = Rig::new();
    rig.joins(1, &[P]);
    let client = rig.joins(2, &[]);
    let map = rig.full(client);
    for node in [&map["Node"], &map["Peers"][0]] {
        let own: Vec<&str> = node["Addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        assert!(allowed(node).starts_with(&own));
        assert!(node["Name"].as_str().unwrap().ends_with(".example.net."));
    }
    let everybody = json!(["100.115.94.0-100.127.255.255", "100.64.0.0-100.115.91.255", "fd7a:115c:a1e0::/48"]);
    assert_eq!(map["PacketFilter"][0]["SrcIPs"], everybody);
}

/// Invariant 9: the deltas that a viewer got add up to the full map it would get now.
#[test]
fn deltas_add_up_to_the_full_map() {
    let mut rig = Rig::new();
    let viewer = rig.joins(1, &[]);
    let mut seen: BTreeMap<u64, Value> = BTreeMap::new();
    let mut base = rig.base();
    let (r2, r3) = (rig.joins(2, &[P]), rig.joins(3, &[P, "0.0.0.0/0", "::/0"]));
    type Step = Box<dyn Fn(&mut Rig)>;
    let steps: Vec<Step> = vec![
        Box::new(move |rig| rig.approve(r2, P)),
        Box::new(move |rig| rig.approve(r3, P)),
        Box::new(move |rig| rig.tell(Event::SessionEnded(r2, SessionId::new(2), Ending::Lost(Cause::StreamEnded)))),
        Box::new(|rig| rig.wait(Duration::from_secs(11))),
        Box::new(move |rig| rig.approve(r3, "0.0.0.0/0")),
        Box::new(move |rig| rig.reports(3, r3, &["0.0.0.0/0", "::/0"], 7)),
        Box::new(move |rig| rig.tell(Event::SessionOpened(r2, SessionId::new(20)))),
        Box::new(|rig| rig.wait(Duration::from_secs(3))),
        Box::new(move |rig| drop(rig.ask(Command::DeleteNode { node: r3 }))),
    ];
    for step in steps {
        step(&mut rig);
        if let Some(told) = rig.delta(&base, viewer) {
            for peer in told["PeersChanged"].as_array().unwrap_or(&Vec::new()) {
                seen.insert(peer["ID"].as_u64().unwrap(), peer.clone());
            }
            for id in told["PeersRemoved"].as_array().unwrap_or(&Vec::new()) {
                seen.remove(&id.as_u64().unwrap());
            }
            for patch in told["PeersChangedPatch"].as_array().unwrap_or(&Vec::new()) {
                let peer = seen.get_mut(&patch["NodeID"].as_u64().unwrap()).unwrap().as_object_mut().unwrap();
                if patch.get("Online") == Some(&json!(true)) {
                    peer.remove("LastSeen");
                }
                for (name, value) in patch.as_object().unwrap() {
                    if name != "NodeID" {
                        peer.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        base = rig.base();
        let whole: BTreeMap<u64, Value> = rig.full(viewer)["Peers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|peer| (peer["ID"].as_u64().unwrap(), peer.clone()))
            .collect();
        assert_eq!(seen, whole);
    }
    let gone: Prefix = P.parse().unwrap();
    assert!(seen.values().all(|peer| peer["ID"] != json!(r3.get())), "{gone}");
}
