use std::net::Ipv4Addr;
use std::time::Duration;

use wayleave_model::{
    Addresses, Approval, Approver, Hostinfo, MachineKey, Node, NodeKey, Owner, RegisterMethod, Route, RouteId,
    SessionId, Timestamp, User, UserRole,
};
use wayleave_routes::{Cause, approval};
use wayleave_tailnet::{Command, Ending, Event, Loaded, Settings, Tailnet};

use super::*;
use crate::rig::Rig;

/// What changed since, as a person reads it: a line of viewers, then what they gain, lose, and reach otherwise.
fn since(rig: &mut Rig, before: &Snapshot) -> Vec<String> {
    let after = rig.base();
    let names = Names { before, after: &after };
    let mut lines = Vec::new();
    for Difference { viewers, change } in difference(before, &after, [&BTreeSet::new(); 2]) {
        lines.push(names.nodes(&viewers));
        lines.extend(change.gains.iter().map(|gain| format!("+ {}", names.gain(gain))));
        lines.extend(change.loses.iter().map(|gain| format!("- {}", names.gain(gain))));
        lines.extend(change.moves.iter().map(|moved| format!("~ {}", names.a_move(moved))));
    }
    lines
}

fn set_policy(rig: &mut Rig, text: &str) {
    rig.ask(Command::SetPolicy { text: text.to_owned(), replaces: None, by: "test".to_owned() });
}

#[test]
fn an_approval_is_gained_by_all_who_may_use_it_and_by_nobody_else() {
    let mut rig = Rig::new();
    let router = rig.joins(1, &["10.1.0.0/16"]);
    for n in 2..=6 {
        rig.joins(n, &[]);
    }
    let before = rig.base();
    assert_eq!(since(&mut rig, &before), Vec::<String>::new());
    rig.approve(router, "10.1.0.0/16");
    // The router itself gains nothing: it is there.
    assert_eq!(since(&mut rig, &before), ["5 nodes (anna 5)", "+ 10.1.0.0/16 through n1 on *"]);
}

#[test]
fn a_failover_is_a_move_and_the_last_router_a_loss() {
    let mut rig = Rig::new();
    let (first, second) = (rig.joins(1, &["10.1.0.0/16"]), rig.joins(2, &["10.1.0.0/16"]));
    rig.joins(3, &[]);
    rig.approve(first, "10.1.0.0/16");
    rig.approve(second, "10.1.0.0/16");
    let before = rig.base();
    let lost = |n: u8, node| Event::SessionEnded(node, SessionId::new(n.into()), Ending::Lost(Cause::ConnectionClosed));
    rig.tell(lost(1, first));
    rig.wait(Duration::from_secs(1));
    rig.wait(Duration::from_secs(10));
    // n1 is told of n2 now, and had the prefix itself; n2 has it now.
    assert_eq!(since(&mut rig, &before), ["n3", "~ 10.1.0.0/16 through n2 instead of n1"]);
    let before = rig.base();
    rig.tell(lost(2, second));
    rig.wait(Duration::from_secs(1));
    rig.wait(Duration::from_secs(10));
    assert_eq!(since(&mut rig, &before), ["n1, n3", "- 10.1.0.0/16 through n2 on *"]);
}

#[test]
fn a_narrower_prefix_takes_its_part_from_the_wider_one() {
    let mut rig = Rig::new();
    let (wide, narrow) = (rig.joins(1, &["10.0.0.0/8"]), rig.joins(2, &["10.1.0.0/16"]));
    rig.joins(3, &[]);
    rig.approve(wide, "10.0.0.0/8");
    let before = rig.base();
    rig.approve(narrow, "10.1.0.0/16");
    // n1 is the router of the wide one: it has been in there itself.
    assert_eq!(since(&mut rig, &before), ["n3", "~ 10.1.0.0/16 through n2 instead of n1"]);
}

#[test]
fn viewers_of_a_spread_prefix_move_with_the_router_that_they_use() {
    let mut rig = Rig::new();
    let (first, second) = (rig.joins(1, &["10.1.0.0/16"]), rig.joins(2, &["10.1.0.0/16"]));
    let viewers: Vec<NodeId> = (3..=12).map(|n| rig.joins(n, &[])).collect();
    rig.approve(first, "10.1.0.0/16");
    rig.approve(second, "10.1.0.0/16");
    let prefix: Prefix = "10.1.0.0/16".parse().unwrap();
    let single = rig.base();
    let spread = wayleave_model::Change::Set(wayleave_model::Spread::Balance);
    let change = wayleave_model::PrefixChange { spread, ..wayleave_model::PrefixChange::default() };
    rig.ask(Command::SetPrefix { prefix: Some(prefix), change, by: Approver::Cli });
    let balanced = rig.base();
    let uses = |snapshot: &Snapshot, viewer: &NodeId, router: NodeId| {
        let [viewer, router] = [*viewer, router].map(|id| snapshot.node(id).unwrap());
        crate::told(snapshot, viewer, router).unwrap().primary.contains(&prefix)
    };
    let of_second: Vec<NodeId> = viewers.iter().copied().filter(|viewer| uses(&balanced, viewer, second)).collect();
    assert!(!of_second.is_empty() && of_second.len() < viewers.len(), "it is spread: {of_second:?}");
    let moved = Change { moves: vec![Move { prefix, from: first, to: second }], ..Change::default() };
    assert_eq!(
        difference(&single, &balanced, [&BTreeSet::new(); 2]),
        [Difference { viewers: of_second.clone(), change: moved }]
    );
    let lost = Ending::Lost(Cause::ConnectionClosed);
    rig.tell(Event::SessionEnded(second, SessionId::new(2), lost));
    rig.wait(Duration::from_secs(1));
    let back = Change { moves: vec![Move { prefix, from: second, to: first }], ..Change::default() };
    assert_eq!(
        difference(&balanced, &rig.base(), [&BTreeSet::new(); 2]),
        [Difference { viewers: of_second, change: back }]
    );
}

#[test]
fn a_prefix_that_falls_back_is_reached_through_the_wider_one() {
    let mut rig = Rig::new();
    let (narrow, wide) = (rig.joins(1, &["10.1.0.0/16"]), rig.joins(2, &["10.0.0.0/8"]));
    rig.joins(3, &[]);
    rig.approve(narrow, "10.1.0.0/16");
    rig.approve(wide, "10.0.0.0/8");
    let when_down = wayleave_model::Change::Set(wayleave_model::WhenDown::FallBack);
    let change = wayleave_model::PrefixChange { when_down, ..wayleave_model::PrefixChange::default() };
    rig.ask(Command::SetPrefix { prefix: None, change, by: Approver::Cli });
    let before = rig.base();
    rig.tell(Event::SessionEnded(narrow, SessionId::new(1), Ending::Lost(Cause::ConnectionClosed)));
    rig.wait(Duration::from_secs(1));
    assert_eq!(since(&mut rig, &before), ["n3", "~ 10.1.0.0/16 through n2 instead of n1"]);
}

#[test]
fn a_policy_is_told_in_ports_of_peers_and_of_prefixes() {
    let mut rig = Rig::new();
    let router = rig.joins(1, &["10.1.0.0/16"]);
    rig.approve(router, "10.1.0.0/16");
    let (_, tagged) = (rig.joins(2, &[]), rig.joins(3, &[]));
    set_policy(&mut rig, r#"{"tagOwners": {"tag:db": []}}"#);
    rig.ask(Command::TagNode { node: tagged, tags: BTreeSet::from(["tag:db".parse().unwrap()]) });
    let before = rig.base();
    set_policy(
        &mut rig,
        r#"{"tagOwners": {"tag:db": []}, "acls": [
            {"action": "accept", "src": ["anna@"], "dst": ["tag:db:5432", "10.1.2.0/24:443", "autogroup:self:*"]},
        ]}"#,
    );
    assert_eq!(
        since(&mut rig, &before),
        [
            // What n1 carries itself is not lost to it; it is told with its class all the same.
            "n1, n2",
            "- n3 on 0-5431,5433-65535",
            "- 10.1.0.0/16 through n1 on *",
            "- 10.1.2.0/24 through n1 on 0-442,444-65535",
            "n3",
            "- n1, n2 on *",
            "- 10.1.0.0/16 through n1 on *",
        ]
    );
}

#[test]
fn an_exit_is_gained_by_others_and_lost_when_it_is_gone() {
    let mut rig = Rig::new();
    let exit = rig.joins(1, &["0.0.0.0/0", "::/0"]);
    rig.joins(2, &[]);
    let before = rig.base();
    rig.approve(exit, "0.0.0.0/0");
    assert_eq!(since(&mut rig, &before), ["n2", "+ the internet through n1"]);
    let before = rig.base();
    rig.ask(Command::DeleteNode { node: exit });
    assert_eq!(since(&mut rig, &before), ["n1", "- n2 on *", "n2", "- n1 on *", "- the internet through n1"]);
}

/// Nodes as a store has them: every tenth is a router of a prefix of its own; of the others half are anna's.
fn crowd(count: u16) -> Loaded {
    let at = Timestamp::from_millis(0);
    let name = "anna".to_owned();
    let anna = User {
        id: UserId::new(1),
        name,
        display_name: String::new(),
        email: None,
        role: UserRole::Owner,
        identity: None,
        picture: String::new(),
        created_at: at,
    };
    let mut loaded = Loaded { users: vec![anna], ..Loaded::default() };
    for n in 1..=count {
        let id = NodeId::new(n.into());
        let tags = |tag: &str| Owner::Tags { tags: BTreeSet::from([tag.parse().unwrap()]), created_by: None };
        let owner = match n % 10 {
            0 => tags("tag:r"),
            1..=5 => Owner::User(UserId::new(1)),
            _ => tags("tag:w"),
        };
        let mut key = [0; 32];
        key[..2].copy_from_slice(&n.to_be_bytes());
        let [high, low] = n.to_be_bytes();
        loaded.nodes.push(Node {
            id,
            machine_key: Some(MachineKey::from_bytes(key)),
            node_key: NodeKey::from_bytes(key),
            disco_key: None,
            owner,
            given_name: format!("n{n}").parse().unwrap(),
            renamed: false,
            addresses: Addresses { v4: Some(Ipv4Addr::new(100, 64, high, low)), v6: None },
            register_method: RegisterMethod::Import,
            ephemeral: false,
            auth_key: None,
            expires_at: None,
            created_at: at,
            last_seen: None,
            drained: false,
            capability: 142,
            hostinfo: Hostinfo::default(),
            endpoints: Vec::new(),
            home_derp: 1,
            vantage: Default::default(),
        });
        if n % 10 == 0 {
            let approved = Approval { by: Approver::Cli, at, refused: false, in_advance: false };
            loaded.routes.push(Route {
                enabled: true,
                is_primary: true,
                approval: Some(approved),
                ..approval::appeared(RouteId::new(n.into()), id, format!("10.{high}.{low}.0/24").parse().unwrap(), at)
            });
        }
    }
    loaded
}

/// What is worked out is classes, not pairs: however many nodes there are, the groups of viewers stay few.
#[test]
fn three_thousand_nodes_are_compared_by_their_classes() {
    let now = Timestamp::from_millis(1_000_000);
    let mut tailnet = Tailnet::new(Settings::default(), crowd(3_000), now).unwrap();
    tailnet.apply(Event::Started, now);
    let before = tailnet.snapshot().clone();
    let text = r#"{"tagOwners": {"tag:r": [], "tag:w": []}, "acls": [
        {"action": "accept", "src": ["anna@"], "dst": ["10.0.0.0/8:443", "tag:w:22"]},
        {"action": "accept", "src": ["tag:w"], "dst": ["10.1.0.0/16:*"]},
    ]}"#;
    let plan = tailnet.plan(Command::SetPolicy { text: text.into(), replaces: None, by: "test".into() }, now).unwrap();
    tailnet.apply(Event::Committed(Box::new(plan.into_committed())), now);
    let after = tailnet.snapshot().clone();
    let found = difference(&before, &after, [&BTreeSet::new(); 2]);
    assert_eq!(found.len(), 3);
    assert_eq!(found.iter().map(|difference| difference.viewers.len()).sum::<usize>(), 3_000);
    let of = |n: u64| found.iter().find(|difference| difference.viewers.contains(&NodeId::new(n))).unwrap();
    assert_eq!(of(1).viewers.len(), 1_500);
    assert_eq!(of(6).viewers.len(), 1_200);
    assert_eq!(of(10).viewers.len(), 300);
    assert!(of(1).change.gains.is_empty() && of(1).change.loses.iter().all(|gain| !gain.ports.is_empty()));
}

#[test]
fn a_router_that_is_online_and_broken_leads_nobody_anywhere() {
    let mut rig = Rig::new();
    let router = rig.joins(1, &["10.1.0.0/16"]);
    let viewer = rig.joins(2, &[]);
    rig.approve(router, "10.1.0.0/16");
    let now = rig.base();
    let prefix: Prefix = "10.1.0.0/16".parse().unwrap();
    let (whole, broken) = (BTreeSet::new(), BTreeSet::from([(router, prefix)]));
    let found = difference(&now, &now, [&whole, &broken]);
    assert_eq!(found.iter().map(|found| found.viewers.clone()).collect::<Vec<_>>(), [[viewer]]);
    let Change { gains, loses, moves } = &found[0].change;
    assert_eq!((gains.len(), loses.len(), moves.len()), (0, 1, 0));
    assert_eq!(loses[0].what, What::Prefix(prefix, router));
    assert_eq!(difference(&now, &now, [&broken, &broken]), []);
}
