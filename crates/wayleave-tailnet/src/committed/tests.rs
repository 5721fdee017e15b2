use wayleave_model::{Approver, Hostinfo};
use wayleave_routes::RouteState;

use super::*;
use crate::command::ApproveMode;
use crate::tailnet::{Event, Report};
use crate::what_if::tests::{P, now, prefix, tailnet};

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// What a node that advertises these prefixes reports.
fn report(prefixes: &[&str]) -> Report {
    let hostinfo = Hostinfo { routable_ips: prefixes.iter().map(|p| prefix(p)).collect(), ..Hostinfo::default() };
    Report { capability: 142, disco_key: None, endpoints: Vec::new(), hostinfo: Some(hostinfo) }
}

fn advertises(tailnet: &mut Tailnet, node: NodeId, prefixes: &[&str], at: Timestamp) -> Vec<Effect> {
    tailnet.apply(Event::Reported(node, Box::new(report(prefixes))), at)
}

/// What the tailnet asks itself for.
fn proposed(effects: &[Effect]) -> Vec<Command> {
    let commands =
        effects.iter().filter_map(|e| if let Effect::Propose(command) = e { Some(command.clone()) } else { None });
    commands.collect()
}

fn told(effects: &[Effect]) -> Vec<&'static str> {
    let entries =
        effects.iter().filter_map(|e| if let Effect::History(entry) = e { Some(entry.event.word()) } else { None });
    entries.collect()
}

/// A plan that is on its way to the store.
fn planned(tailnet: &Tailnet, command: Command, at: Timestamp) -> Event {
    Event::Committed(Box::new(tailnet.plan(command, at).unwrap().into_committed()))
}

fn ask(tailnet: &mut Tailnet, command: Command, at: Timestamp) -> Vec<Effect> {
    let event = planned(tailnet, command, at);
    tailnet.apply(event, at)
}

/// Four nodes of which the first advertises [`P`] and is approved, an auto-approver for its `10.2.0.0/16`, and none for the rest.
fn approving() -> (Tailnet, NodeId) {
    let mut tailnet = tailnet(4);
    let text = r#"{ "autoApprovers": { "routes": { "10.2.0.0/16": ["tag:r"] } }, "tagOwners": { "tag:r": [] } }"#;
    ask(&mut tailnet, Command::SetPolicy { text: text.to_owned(), replaces: None, by: "cli".to_owned() }, now());
    let node = NodeId::new(1);
    ask(&mut tailnet, Command::TagNode { node, tags: ["tag:r".parse().unwrap()].into() }, now());
    advertises(&mut tailnet, node, &[P], now());
    (tailnet, node)
}

#[test]
fn a_prefix_that_is_withdrawn_while_its_row_is_committed_is_not_served() {
    let (mut tailnet, node) = approving();
    for (new, approved) in [("10.2.0.0/16", true), ("10.3.0.0/16", false)] {
        let effects = advertises(&mut tailnet, node, &[P, new], now());
        let [command] = &proposed(&effects)[..] else { panic!("{effects:?}") };
        let committed = planned(&tailnet, command.clone(), now());
        advertises(&mut tailnet, node, &[P], now() + SECOND);
        let effects = tailnet.apply(committed, now() + SECOND * 4);
        let row = tailnet.routes().row_of(node, &prefix(new)).unwrap();
        assert!(!row.advertised && row.was_advertised && row.enabled == approved, "{row:?}");
        assert!(tailnet.routes().seat(&prefix(new)).is_none());
        assert_eq!(told(&effects)[0], "withdrawn");
        assert!(effects.contains(&Effect::RouteRow(row.id)), "what was stored is not what is so");
        // The grace runs from then on.
        assert_eq!(proposed(&tailnet.handle_deadline(now() + SECOND * 5)), []);
        let due = proposed(&tailnet.handle_deadline(now() + SECOND * 6));
        assert_eq!(due.len(), usize::from(approved), "{due:?}");
    }
}

#[test]
fn a_prefix_that_is_withdrawn_before_its_row_is_planned_gets_none() {
    let (mut tailnet, node) = approving();
    let effects = advertises(&mut tailnet, node, &[P, "10.2.0.0/16"], now());
    advertises(&mut tailnet, node, &[P], now());
    let plan = tailnet.plan(proposed(&effects).remove(0), now()).unwrap();
    assert_eq!(plan.writes(), []);
}

#[test]
fn a_prefix_that_comes_back_while_it_is_being_disabled_is_asked_about() {
    for (again, approved) in [("10.2.0.0/16", true), (P, false)] {
        let (mut tailnet, node) = approving();
        let effects = advertises(&mut tailnet, node, &[again], now());
        proposed(&effects).into_iter().for_each(|command| drop(ask(&mut tailnet, command, now())));
        advertises(&mut tailnet, node, &[], now());
        let due = proposed(&tailnet.handle_deadline(now() + SECOND * 2));
        let disabled = due.into_iter().map(|command| planned(&tailnet, command, now() + SECOND * 2));
        let disabled: Vec<_> = disabled.collect();
        let effects = advertises(&mut tailnet, node, &[again], now() + SECOND * 3);
        assert_eq!(told(&effects).iter().filter(|word| **word == "pending").count(), 0, "it is approved still");
        let effects: Vec<_> = disabled.into_iter().flat_map(|event| tailnet.apply(event, now() + SECOND * 4)).collect();
        assert_eq!(told(&effects).contains(&"pending"), !approved, "what nobody says yes to waits, and that is told");
        let asked = proposed(&effects);
        assert_eq!(asked.len(), 1, "{effects:?}");
        ask(&mut tailnet, asked[0].clone(), now() + SECOND * 4);
        let row = tailnet.routes().row_of(node, &prefix(again)).unwrap();
        assert_eq!((row.advertised, row.enabled), (true, approved));
    }
}

#[test]
fn what_is_approved_while_the_grace_of_a_withdrawal_runs_is_approved_in_advance() {
    let (mut tailnet, node) = approving();
    advertises(&mut tailnet, node, &[], now());
    let prefixes: BTreeSet<_> = [prefix(P)].into();
    let approve = Command::ApproveRoutes { node, prefixes, mode: ApproveMode::Add, by: Approver::Cli };
    ask(&mut tailnet, approve.clone(), now() + SECOND);
    assert_eq!(proposed(&tailnet.handle_deadline(now() + SECOND * 3)), []);
    let row = tailnet.routes().row_of(node, &prefix(P)).unwrap();
    assert!(row.enabled);
    assert_eq!(tailnet.routes().state(row), RouteState::PreApproved);
    // Said once more it is no news.
    assert_eq!(tailnet.plan(approve, now() + SECOND * 4).unwrap().writes(), []);
}

#[test]
fn that_a_primary_stops_advertising_and_begins_again_is_told_once_each() {
    let (mut tailnet, node) = approving();
    let count = |effects: &[Effect], word| told(effects).into_iter().filter(|told| *told == word).count();
    let effects = advertises(&mut tailnet, node, &[], now());
    assert_eq!((count(&effects, "withdrawn"), count(&effects, "primary changed")), (1, 1));
    let effects = advertises(&mut tailnet, node, &[P], now() + SECOND);
    assert_eq!((count(&effects, "advertised"), count(&effects, "pending")), (1, 0));
}
