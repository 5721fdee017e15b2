use wayleave_model::{
    Addresses, Endpoint, Hostinfo, MachineKey, NodeKey, RegisterMethod, Route, RouteId, Tag, Timestamp, UserId,
};
use wayleave_routes::approval;

use super::*;
use crate::{Command, Effect, Event, HistoryEvent, Loaded, Report, Settings, SiteCommand};

const AT: Timestamp = Timestamp::from_millis(0);

/// A router: its number, its owner (`1` for a user, else a tag), its endpoints, and what it advertises.
struct Router<'a>(u8, &'a str, &'a [(&'a str, EndpointKind)], &'a [&'a str]);

fn tailnet(routers: &[Router<'_>]) -> Tailnet {
    let mut loaded = Loaded::default();
    for Router(n, owner, endpoints, prefixes) in routers {
        let id = NodeId::new(u64::from(*n));
        let owner = match owner.parse::<u64>() {
            Ok(user) => Owner::User(UserId::new(user)),
            Err(_) => Owner::Tags { tags: BTreeSet::from([owner.parse::<Tag>().unwrap()]), created_by: None },
        };
        let endpoint =
            |(address, kind): &(&str, EndpointKind)| Endpoint { address: address.parse().unwrap(), kind: *kind };
        loaded.nodes.push(Node {
            id,
            machine_key: Some(MachineKey::from_bytes([*n; 32])),
            node_key: NodeKey::from_bytes([*n; 32]),
            disco_key: None,
            owner,
            given_name: format!("r{n}").parse().unwrap(),
            renamed: false,
            addresses: Addresses { v4: None, v6: None },
            register_method: RegisterMethod::Import,
            ephemeral: false,
            auth_key: None,
            expires_at: None,
            created_at: AT,
            last_seen: None,
            drained: false,
            capability: 142,
            hostinfo: Hostinfo::default(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            home_derp: 1,
            vantage: Default::default(),
        });
        for prefix in *prefixes {
            let number = loaded.routes.len() as u64 + 1;
            let row: Route = approval::appeared(RouteId::new(number), id, prefix.parse().unwrap(), AT);
            loaded.routes.push(row);
        }
    }
    loaded.sequences.route = RouteId::new(100);
    Tailnet::new(Settings::default(), loaded, AT).unwrap()
}

/// Collisions as a person would tell them: the prefix, then who is on which side.
fn told(tailnet: &Tailnet) -> Vec<String> {
    let side = |party: &Party| party.nodes.iter().map(|(node, _)| format!("r{node}")).collect::<Vec<_>>().join("+");
    let one = |collision: Collision| {
        let sides: Vec<String> = collision.parties.iter().map(side).collect();
        let kind = if collision.same { "same" } else { "overlap" };
        format!("{} {kind} {}", collision.prefix, sides.join(" / "))
    };
    tailnet.collisions().into_iter().map(one).collect()
}

use EndpointKind::{Local, Stun};

const HOME: &[&str] = &["192.168.1.0/24"];

#[test]
fn sites_are_told_apart_by_what_their_routers_report() {
    let cases: &[(&str, [Router<'_>; 2], bool)] = &[
        (
            "two homes behind two addresses",
            [
                Router(1, "1", &[("192.168.1.2:1", Local), ("203.0.113.1:1", Stun)], HOME),
                Router(2, "1", &[("192.168.1.2:1", Local), ("203.0.113.2:1", Stun)], HOME),
            ],
            true,
        ),
        (
            "one office behind one address",
            [
                Router(1, "1", &[("192.168.1.2:1", Local), ("203.0.113.1:1", Stun)], HOME),
                Router(2, "2", &[("192.168.1.3:1", Local), ("203.0.113.1:9", Stun)], HOME),
            ],
            false,
        ),
        (
            "one site with two uplinks, tagged alike",
            [
                Router(1, "tag:berlin", &[("203.0.113.1:1", Stun)], HOME),
                Router(2, "tag:berlin", &[("203.0.113.2:1", Stun)], HOME),
            ],
            false,
        ),
        (
            "nothing public is known, and a shared address inside the prefix proves nothing",
            [
                Router(1, "tag:a", &[("192.168.1.2:1", Local)], HOME),
                Router(2, "tag:b", &[("192.168.1.3:1", Local)], HOME),
            ],
            true,
        ),
        (
            "a second network that both are in",
            [
                Router(1, "tag:a", &[("192.168.1.2:1", Local), ("10.9.9.1:1", Local)], HOME),
                Router(2, "tag:b", &[("192.168.1.3:1", Local), ("10.9.9.2:1", Local)], HOME),
            ],
            false,
        ),
        ("nothing is known but the owner", [Router(1, "1", &[], HOME), Router(2, "1", &[], HOME)], false),
    ];
    for (what, routers, collide) in cases {
        let found = told(&tailnet(routers));
        let wanted: &[&str] = if *collide { &["192.168.1.0/24 same r1 / r2"] } else { &[] };
        assert_eq!(found, wanted, "{what}");
    }
}

#[test]
fn a_pair_on_one_side_and_a_wider_prefix_on_the_other() {
    let tailnet = tailnet(&[
        Router(1, "tag:a", &[("203.0.113.1:1", Stun)], &["10.1.0.0/16"]),
        Router(2, "tag:a", &[("203.0.113.1:1", Stun)], &["10.1.0.0/16", "172.16.0.0/24"]),
        Router(
            3,
            "tag:b",
            &[("203.0.113.3:1", Stun)],
            &["10.0.0.0/8", "0.0.0.0/0", "fd7a:115c:a1e0:b1a:0:7:a01:0/112"],
        ),
    ]);
    assert_eq!(told(&tailnet), ["10.1.0.0/16 overlap r1+r2 / r3"]);
}

#[test]
fn each_side_is_given_a_site_and_the_prefix_to_use_instead() {
    let mut tailnet = tailnet(&[
        Router(1, "1", &[("203.0.113.1:1", Stun)], &["192.168.1.0/24", "fd7a:115c:a1e0:b1a:0:7:a01:0/112"]),
        Router(2, "1", &[("203.0.113.2:1", Stun)], HOME),
        Router(3, "1", &[("203.0.113.3:1", Stun)], HOME),
    ]);
    let name = "r2".parse().unwrap();
    let plan = tailnet.plan(Command::Sites(SiteCommand::Add { name, id: Some(40) }), AT).unwrap();
    tailnet.apply(Event::Committed(Box::new(plan.into_committed())), AT);
    let [collision] = &tailnet.collisions()[..] else { panic!() };
    let shown: Vec<String> = collision
        .parties
        .iter()
        .map(|party| {
            let Instead { site, name, is_new, prefixes } = party.instead.as_ref().unwrap();
            let [prefix] = &prefixes[..] else { panic!() };
            format!("{name} {site} {} {prefix}", if *is_new { "new" } else { "known" })
        })
        .collect();
    assert_eq!(
        shown,
        [
            "r1 7 new fd7a:115c:a1e0:b1a:0:7:c0a8:100/120",
            "r2 40 known fd7a:115c:a1e0:b1a:0:28:c0a8:100/120",
            "r3 1 new fd7a:115c:a1e0:b1a:0:1:c0a8:100/120",
        ]
    );
}

/// A router reports what it advertises. Returns the collisions that are told of.
fn advertises(tailnet: &mut Tailnet, n: u64, prefixes: &[&str]) -> Vec<String> {
    let node = NodeId::new(n);
    let own = tailnet.registry().node(node).unwrap();
    let routable_ips = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    let report = Report {
        capability: own.capability,
        disco_key: None,
        endpoints: own.endpoints.clone(),
        hostinfo: Some(Hostinfo { hostname: own.given_name.to_string(), routable_ips, ..Hostinfo::default() }),
    };
    let mut effects = tailnet.apply(Event::Reported(node, Box::new(report)), AT);
    let mut told = Vec::new();
    while let Some(effect) = effects.pop() {
        if let Effect::Propose(command) = effect {
            let plan = tailnet.plan(command, AT).unwrap();
            effects.extend(tailnet.apply(Event::Committed(Box::new(plan.into_committed())), AT));
        } else if let Effect::History(entry) = effect
            && matches!(entry.event, HistoryEvent::CollisionFound(_))
        {
            told.push(entry.event.cause());
        }
    }
    told
}

#[test]
fn a_collision_is_told_of_again_where_a_site_is_new_to_it_or_after_it_had_ended() {
    let mut tailnet = tailnet(&[
        Router(1, "1", &[("203.0.113.1:1", Stun)], HOME),
        Router(2, "1", &[("203.0.113.2:1", Stun)], HOME),
        Router(3, "1", &[("203.0.113.3:1", Stun)], &[]),
        Router(4, "1", &[("203.0.113.3:1", Stun)], &[]),
    ]);
    let all = ["r1, r2, r3 do not look like one site"];
    assert_eq!(advertises(&mut tailnet, 3, HOME), all, "a third site");
    assert_eq!(advertises(&mut tailnet, 4, HOME), [] as [&str; 0], "a second router of a site");
    for n in [2, 3, 4] {
        assert_eq!(advertises(&mut tailnet, n, &[]), [] as [&str; 0]);
    }
    assert_eq!(advertises(&mut tailnet, 2, HOME), ["r1, r2 do not look like one site"], "it had ended");
}

#[test]
fn other_tags_make_two_sites_of_one_and_that_is_told() {
    let mut tailnet = tailnet(&[
        Router(1, "tag:a", &[("203.0.113.1:1", Stun)], HOME),
        Router(2, "tag:a", &[("203.0.113.2:1", Stun)], HOME),
    ]);
    let tag = Command::TagNode { node: NodeId::new(2), tags: ["tag:b".parse().unwrap()].into() };
    let plan = tailnet.plan(tag, AT).unwrap();
    let effects = tailnet.apply(Event::Committed(Box::new(plan.into_committed())), AT);
    let told = |effect: &Effect| matches!(effect, Effect::History(entry) if matches!(entry.event, HistoryEvent::CollisionFound(_)));
    assert!(effects.iter().any(told));
}

#[test]
fn a_site_that_has_to_be_made_has_one_number_in_all_collisions_and_no_other_site_has_it() {
    let tailnet = tailnet(&[
        Router(1, "1", &[("203.0.113.1:1", Stun)], &["192.168.1.0/24", "10.0.0.0/8"]),
        Router(2, "1", &[("203.0.113.2:1", Stun)], HOME),
        Router(3, "1", &[("203.0.113.3:1", Stun)], &["10.0.0.0/24"]),
        Router(4, "1", &[("203.0.113.4:1", Stun)], &["10.0.0.0/24"]),
    ]);
    let mut sites: BTreeMap<NodeId, BTreeSet<u32>> = BTreeMap::new();
    for party in tailnet.collisions().into_iter().flat_map(|collision| collision.parties) {
        let site = party.instead.unwrap().site;
        for (node, _) in party.nodes {
            sites.entry(node).or_default().insert(site);
        }
    }
    let all: Vec<u32> = sites.values().flatten().copied().collect();
    assert_eq!(sites.len(), 4);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 4, "{sites:?}");
    assert_eq!(all.len(), 4, "{sites:?}");
}
