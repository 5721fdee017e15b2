use std::collections::BTreeMap;

use wayleave_model::{Approver, Route, RouteId, SessionId};
use wayleave_routes::{Cause, Input, PathOutcome, PathRound, Role, Testimony, approval};

use super::*;
use crate::what_if::tests::{P, now, prefix, tailnet};
use crate::{Command, Ending, Event, NewPathCheck};

const TARGET: &str = "10.1.2.3";
const R1: NodeId = NodeId::new(1);
const R2: NodeId = NodeId::new(2);
const R3: NodeId = NodeId::new(3);
const W4: NodeId = NodeId::new(4);
const W5: NodeId = NodeId::new(5);

fn target() -> IpAddr {
    TARGET.parse().unwrap()
}

fn after(seconds: u64) -> Timestamp {
    now() + Duration::from_secs(seconds)
}

fn ask(tailnet: &mut Tailnet, command: Command) {
    let plan = tailnet.plan(command, now()).unwrap();
    tailnet.apply(Event::Committed(Box::new(plan.into_committed())), now());
}

fn set(tailnet: &mut Tailnet, witness: Option<WitnessChoice>, standby: bool) {
    let every = Duration::from_secs(2);
    let new = NewPathCheck { prefix: prefix(P), target: target(), every, witness, standby, by: Approver::Cli };
    ask(tailnet, Command::SetPathCheck(Box::new(new)));
}

/// Routers 1, the primary, and 2; 3 is not approved; 4 and on are clients. The check looks at standbys.
fn checked(witness: Option<WitnessChoice>) -> Tailnet {
    let mut tailnet = tailnet(6);
    set(&mut tailnet, witness, true);
    // The rules' answers stand in the picture.
    tailnet.snapshot();
    tailnet
}

fn loan(router: NodeId, witness: NodeId, term: Term) -> Loan {
    let target = target();
    Loan { prefix: Prefix::host(target), target, router, witness, term }
}

fn of(router: NodeId, witness: NodeId, term: Term) -> Loan {
    Loan { prefix: prefix(P), ..loan(router, witness, term) }
}

/// A row of a node, as a commit brings it.
fn put_row(tailnet: &mut Tailnet, id: u64, node: NodeId, prefix: Prefix, enabled: bool) {
    let row = approval::appeared(RouteId::new(id), node, prefix, now());
    tailnet.route_input(Input::Rows(vec![Route { enabled, ..row }]), now(), &mut Vec::new());
    tailnet.handle_deadline(now());
}

fn lent(tailnet: &mut Tailnet) -> BTreeMap<NodeId, BTreeMap<Prefix, NodeId>> {
    let views = tailnet.snapshot().nodes.clone();
    let all = views.iter().map(|(id, view)| (*id, view.lent.clone()));
    all.filter(|(_, lent)| !lent.is_empty()).collect()
}

fn is_lent(tailnet: &mut Tailnet) -> bool {
    !lent(tailnet).is_empty()
}

fn primary_check(tailnet: &mut Tailnet, outcome: PathOutcome, at: Timestamp) {
    let due = at;
    let round = PathRound { prefix: prefix(P), target: target(), role: Role::Carrier, asked_at: at, due, outcome };
    tailnet.apply(Event::Evidence(R1, Testimony::Path(round)), at);
}

#[test]
fn a_loan_is_one_host_at_one_router_for_one_witness_and_ends_by_itself() {
    let mut tailnet = checked(None);
    tailnet.apply(Event::Lend(of(R2, W4, Term::Short)), now());
    let host = Prefix::host(target());
    assert_eq!(lent(&mut tailnet), BTreeMap::from([(R2, BTreeMap::from([(host, W4)]))]));
    assert_eq!(tailnet.next_deadline(), Some(after(2)));
    tailnet.handle_deadline(after(2));
    assert!(!is_lent(&mut tailnet));
}

#[test]
fn a_short_loan_is_given_once_a_minute_however_it_ended_and_whoever_borrows() {
    let mut tailnet = checked(None);
    tailnet.apply(Event::Lend(of(R2, W4, Term::Short)), now());
    tailnet.apply(Event::TakeBack(prefix(P)), after(1));
    assert!(!is_lent(&mut tailnet));
    tailnet.apply(Event::Lend(of(R2, W5, Term::Short)), after(59));
    assert!(!is_lent(&mut tailnet));
    // A check that is set anew does not begin anew.
    set(&mut tailnet, None, true);
    tailnet.apply(Event::Lend(of(R2, W5, Term::Short)), after(59));
    assert!(!is_lent(&mut tailnet));
    tailnet.apply(Event::Lend(of(R2, W5, Term::Short)), after(60));
    assert!(is_lent(&mut tailnet));
    // The end of the first is no end of this one.
    tailnet.handle_deadline(after(61));
    assert!(is_lent(&mut tailnet));
    tailnet.handle_deadline(after(62));
    assert!(!is_lent(&mut tailnet));
}

#[test]
fn a_miss_of_the_primary_ends_a_short_loan_and_starts_none() {
    let mut tailnet = checked(None);
    primary_check(&mut tailnet, PathOutcome::Passed, now());
    tailnet.apply(Event::Lend(of(R2, W4, Term::Short)), now());
    primary_check(&mut tailnet, PathOutcome::Missed, after(1));
    assert!(!is_lent(&mut tailnet));
    tailnet.apply(Event::Lend(of(R2, W4, Term::Short)), after(100));
    assert!(!is_lent(&mut tailnet));
    primary_check(&mut tailnet, PathOutcome::Passed, after(101));
    tailnet.apply(Event::Lend(of(R2, W4, Term::Short)), after(102));
    assert!(is_lent(&mut tailnet));
}

#[test]
fn only_a_witness_that_a_person_named_keeps_a_loan() {
    let mut tailnet = checked(None);
    tailnet.apply(Event::Lend(of(R2, W4, Term::Open)), now());
    assert!(!is_lent(&mut tailnet), "nobody named it");
    let mut tailnet = checked(Some(WitnessChoice::Node(W4)));
    tailnet.apply(Event::Lend(of(R2, W5, Term::Open)), now());
    assert!(!is_lent(&mut tailnet), "another was named");
    tailnet.apply(Event::Lend(of(R2, W4, Term::Open)), now());
    primary_check(&mut tailnet, PathOutcome::Missed, after(1));
    tailnet.handle_deadline(after(1000));
    assert!(is_lent(&mut tailnet));
    set(&mut tailnet, Some(WitnessChoice::Node(W5)), true);
    assert!(!is_lent(&mut tailnet), "another is named now");
}

#[test]
fn what_speaks_against_a_loan_ends_it_in_the_same_step_and_gives_none() {
    type Change = fn(&mut Tailnet);
    let lost = |tailnet: &mut Tailnet, node: NodeId| {
        let ending = Ending::Lost(Cause::ConnectionClosed);
        tailnet.apply(Event::SessionEnded(node, SessionId::new(node.get()), ending), now());
        tailnet.handle_deadline(after(1));
    };
    let disable = |tailnet: &mut Tailnet, node: NodeId| {
        let prefixes = BTreeSet::from([prefix(P)]);
        ask(tailnet, Command::DisableRoutes { node, prefixes, by: Approver::Cli });
    };
    let changes: [(&str, Change); 12] = [
        ("the check is gone", |tailnet| {
            ask(tailnet, Command::RemovePathCheck { prefix: prefix(P), by: Approver::Cli })
        }),
        ("it does not look at standbys", |tailnet| set(tailnet, Some(WitnessChoice::Node(W4)), false)),
        ("the router is the primary", |tailnet| {
            ask(tailnet, Command::MovePrimary { prefix: prefix(P), to: R2, by: Approver::Cli });
        }),
        ("the router is drained", |tailnet| ask(tailnet, Command::DrainNode { node: R2, by: Approver::Cli })),
        ("the router is deleted", |tailnet| ask(tailnet, Command::DeleteNode { node: R2 })),
        ("the witness is deleted", |tailnet| ask(tailnet, Command::DeleteNode { node: W4 })),
        ("the router advertises it no more", |tailnet| {
            let report = crate::Report {
                capability: 142,
                disco_key: None,
                endpoints: Vec::new(),
                hostinfo: Some(wayleave_model::Hostinfo::default()),
            };
            tailnet.apply(Event::Reported(R2, Box::new(report)), now());
        }),
        ("the policy does not let the witness", |tailnet| {
            let text = r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["192.168.0.0/16:*"]}]}"#.to_owned();
            ask(tailnet, Command::SetPolicy { text, replaces: None, by: "test".to_owned() });
            // Its answers come with the picture; whoever is told is told by them at once.
            tailnet.snapshot();
            tailnet.handle_deadline(now());
        }),
        ("the witness is a router of the prefix", |tailnet| {
            put_row(tailnet, 9, W4, prefix(P), false);
        }),
        ("the very host is a route", |tailnet| {
            put_row(tailnet, 9, R3, Prefix::host(target()), true);
        }),
        ("the router is down", |_| {}),
        ("the witness is not connected", |_| {}),
    ];
    for (why, change) in changes {
        let mut tailnet = checked(Some(WitnessChoice::Node(W4)));
        tailnet.apply(Event::Lend(of(R2, W4, Term::Open)), now());
        assert!(is_lent(&mut tailnet), "{why}");
        match why {
            "the router is down" => lost(&mut tailnet, R2),
            "the witness is not connected" => lost(&mut tailnet, W4),
            _ => change(&mut tailnet),
        }
        assert!(!is_lent(&mut tailnet), "{why}");
        tailnet.apply(Event::Lend(of(R2, W4, Term::Open)), after(2));
        assert!(!is_lent(&mut tailnet), "{why}: none is given either");
    }
    // Nobody carries it: there is nothing to be a standby of.
    let mut tailnet = checked(Some(WitnessChoice::Node(W4)));
    [R1, R2].into_iter().for_each(|node| disable(&mut tailnet, node));
    tailnet.apply(Event::Lend(of(R2, W4, Term::Open)), now());
    assert!(!is_lent(&mut tailnet));
}

#[test]
fn a_standby_that_is_suspect_is_looked_at_so_that_its_recovery_is_seen() {
    let mut tailnet = checked(Some(WitnessChoice::Node(W4)));
    tailnet.apply(Event::Lend(of(R2, W4, Term::Open)), now());
    let standby = |tailnet: &mut Tailnet, outcome, second| {
        let at = after(second);
        let role = Role::Standby;
        let round = PathRound { prefix: prefix(P), target: target(), role, asked_at: at, due: at, outcome };
        tailnet.apply(Event::Evidence(R2, Testimony::Path(round)), at);
    };
    standby(&mut tailnet, PathOutcome::Passed, 1);
    for second in [2, 4, 6] {
        primary_check(&mut tailnet, PathOutcome::Passed, after(second));
        standby(&mut tailnet, PathOutcome::Missed, second + 1);
    }
    primary_check(&mut tailnet, PathOutcome::Passed, after(8));
    let rank = |tailnet: &Tailnet| tailnet.routes().rank_for(R2, &prefix(P)).unwrap();
    assert_eq!(rank(&tailnet), Rank::Suspect(Cause::PathCheckMissed));
    assert!(is_lent(&mut tailnet));
    standby(&mut tailnet, PathOutcome::Passed, 9);
    assert_eq!(rank(&tailnet), Rank::Steady);
}

#[test]
fn the_router_that_carries_the_prefix_or_has_no_approval_lends_nothing() {
    for router in [R1, R3, W5] {
        let mut tailnet = checked(None);
        tailnet.apply(Event::Lend(of(router, W4, Term::Short)), now());
        assert!(!is_lent(&mut tailnet), "{router}");
    }
    let mut tailnet = checked(None);
    tailnet.apply(Event::Lend(loan(R2, W4, Term::Short)), now());
    assert!(!is_lent(&mut tailnet), "there is no check of the host itself");
}

#[test]
fn two_checks_of_one_target_lend_it_once() {
    // A wider prefix through the same routers: while the narrower one is not enabled, both checks may ask for one target.
    let mut tailnet = checked(Some(WitnessChoice::Node(W4)));
    let wide = prefix("10.0.0.0/8");
    put_row(&mut tailnet, 8, R1, wide, true);
    put_row(&mut tailnet, 9, R2, wide, true);
    tailnet.apply(Event::Lend(of(R2, W4, Term::Open)), now());
    let wider = Loan { prefix: wide, ..of(R2, W4, Term::Open) };
    assert!(!tailnet.may_lend(&wider, now()), "the longer route is used");
    tailnet.apply(Event::Lend(wider), now());
    assert_eq!(lent(&mut tailnet).len(), 1);
}
