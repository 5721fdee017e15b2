use wayleave_model::{
    Addresses, Hostinfo, MachineKey, Node, NodeKey, Owner, RegisterMethod, Route, RouteId, SessionId, UserId,
};
use wayleave_routes::approval;

use super::*;
use crate::{Loaded, Settings};

pub(crate) const P: &str = "10.1.0.0/16";

pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(1_000_000)
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// So many nodes that are connected, the first two of them routers of [`P`], approved; a third advertises it too.
pub(crate) fn tailnet(count: u8) -> Tailnet {
    let at = Timestamp::from_millis(0);
    let mut loaded = Loaded::default();
    for n in 1..=count {
        let id = NodeId::new(n.into());
        loaded.nodes.push(Node {
            id,
            machine_key: Some(MachineKey::from_bytes([n; 32])),
            node_key: NodeKey::from_bytes([n; 32]),
            disco_key: None,
            owner: Owner::User(UserId::new(1)),
            given_name: format!("n{n}").parse().unwrap(),
            renamed: false,
            addresses: Addresses { v4: None, v6: None },
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
        if n <= 3 {
            let row = approval::appeared(RouteId::new(n.into()), id, prefix(P), at);
            loaded.routes.push(Route { enabled: n <= 2, ..row });
        }
    }
    loaded.sequences.route = RouteId::new(10);
    let mut tailnet = Tailnet::new(Settings::default(), loaded, now()).unwrap();
    tailnet.apply(Event::Started, now());
    for n in 1..=u64::from(count) {
        tailnet.apply(Event::SessionOpened(NodeId::new(n), SessionId::new(n)), now());
    }
    tailnet
}

fn down(nodes: &[u64]) -> Assumption {
    Assumption::Down(nodes.iter().copied().map(NodeId::new).collect())
}

fn moved(from: Option<u64>, to: Option<u64>, because: Because) -> Moved {
    Moved {
        prefix: prefix(P),
        group: None,
        from: from.map(NodeId::new),
        to: to.map(NodeId::new),
        because,
        rank: to.map(|_| Rank::Steady),
    }
}

#[test]
fn a_lost_router_is_replaced_in_the_copy_and_nothing_changes_in_the_tailnet() {
    let mut tailnet = tailnet(4);
    let version = tailnet.snapshot().version;
    let what = tailnet.what_if(vec![down(&[1])], now()).unwrap();
    assert_eq!(what.moves, [moved(Some(1), Some(2), Because::IncumbentDown(Cause::ConnectionClosed))]);
    assert!(what.before.node(NodeId::new(1)).unwrap().online && !what.after.node(NodeId::new(1)).unwrap().online);
    assert_eq!(tailnet.snapshot().version, version);
    assert_eq!(tailnet.routes().seat(&prefix(P)).unwrap().node, NodeId::new(1));
}

#[test]
fn a_router_that_is_online_and_does_not_answer_carries_nothing_in_either() {
    let mut tailnet = tailnet(4);
    let lost = Ending::Lost(Cause::ConnectionClosed);
    tailnet.apply(Event::SessionEnded(NodeId::new(2), SessionId::new(2), lost), now());
    tailnet.handle_deadline(now() + Duration::from_secs(1));
    let silent = Event::Silent(NodeId::new(1), SessionId::new(1), Cause::PingUnanswered);
    tailnet.apply(silent, now() + Duration::from_secs(40));
    let what = tailnet.what_if(vec![down(&[1])], now() + Duration::from_secs(41)).unwrap();
    assert!(what.before.node(NodeId::new(1)).unwrap().online, "it is shown so");
    assert!(what.broken.iter().all(|broken| broken.contains(&(NodeId::new(1), prefix(P)))));
    let what = tailnet.what_if(vec![Assumption::approved(NodeId::new(3), prefix(P))], now()).unwrap();
    assert_eq!(
        what.moves.iter().map(|moved| (moved.to, moved.rank)).collect::<Vec<_>>(),
        [(Some(NodeId::new(3)), Some(Rank::Steady))]
    );
}

#[test]
fn cases_are_put_together() {
    let tailnet = tailnet(4);
    let (first, third) = (NodeId::new(1), NodeId::new(3));
    let disabled = Assumption::disabled(first, prefix(P));
    let both = tailnet.what_if(vec![disabled.clone(), down(&[2])], now()).unwrap();
    // n2 is all that is left, and keeps what nobody else can carry.
    assert_eq!(both.moves.iter().map(|moved| moved.to).collect::<Vec<_>>(), [Some(NodeId::new(2))]);
    let third_approved = Assumption::approved(third, prefix(P));
    let all = tailnet.what_if(vec![disabled, third_approved, down(&[2])], now()).unwrap();
    assert_eq!(all.moves.iter().map(|moved| moved.to).collect::<Vec<_>>(), [Some(third)]);
}

#[test]
fn the_loss_of_most_is_played_to_its_end() {
    let tailnet = tailnet(12);
    let what = tailnet.what_if(vec![down(&[1, 4, 5, 6, 7, 8, 9, 10])], now()).unwrap();
    assert_eq!(what.moves, [moved(Some(1), Some(2), Because::IncumbentDown(Cause::NotBack))]);
}

#[test]
fn what_would_be_refused_is() {
    let tailnet = tailnet(4);
    let refused = |assumption| tailnet.what_if(vec![assumption], now()).unwrap_err();
    assert!(matches!(refused(Assumption::policy("{".to_owned())), Refusal::Policy(_)));
    assert_eq!(refused(down(&[9])), Refusal::NoNode(NodeId::new(9)));
}

/// Three routers of [`P`]: the first in one group, the others in another, and a fourth node whose grants steer it through that.
pub(crate) fn steered() -> Tailnet {
    let mut tailnet = tailnet(4);
    let ask = |tailnet: &mut Tailnet, command: Command| {
        let plan = tailnet.plan(command, now()).unwrap();
        tailnet.apply(Event::Committed(Box::new(plan.into_committed())), now());
    };
    for (node, tag) in [(1, "tag:one"), (2, "tag:two"), (3, "tag:two"), (4, "tag:b")] {
        ask(&mut tailnet, Command::TagNode { node: NodeId::new(node), tags: [tag.parse().unwrap()].into() });
    }
    let text = r#"{
        "tagOwners": { "tag:one": [], "tag:two": [], "tag:b": [] },
        "acls": [{ "action": "accept", "src": ["tag:b"], "dst": ["tag:one:*", "tag:two:*"] }],
        "grants": [{ "src": ["tag:b"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:two"] }],
    }"#;
    ask(&mut tailnet, Command::SetPolicy { text: text.to_owned(), replaces: None, by: "cli".to_owned() });
    let (prefixes, mode) = ([prefix(P)].into(), ApproveMode::Add);
    ask(&mut tailnet, Command::ApproveRoutes { node: NodeId::new(3), prefixes, mode, by: Approver::Cli });
    tailnet
}

#[test]
fn a_move_within_a_group_is_said_to_be_that() {
    let tailnet = steered();
    let what = tailnet.what_if(vec![down(&[2])], now()).unwrap();
    let group: BTreeSet<_> = ["tag:two".parse().unwrap()].into();
    let because = Because::IncumbentDown(Cause::ConnectionClosed);
    assert_eq!(what.moves, [Moved { group: Some(group.into()), ..moved(Some(2), Some(3), because) }]);
}
