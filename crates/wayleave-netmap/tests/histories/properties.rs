//! The invariants of design.md 6, one function each, in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use wayleave_model::{NodeId, OnWithdraw, Prefix, Spread, Timestamp, WhenDown, WitnessChoice};
use wayleave_netmap::{Encoder, full, peers, told};
use wayleave_policy::Steering;
use wayleave_routes::{Because, Rank, Seat, approval};
use wayleave_tailnet::{Loan, Term};

use crate::steps::Step;
use crate::world::{Picture, World, elected};

/// After every step.
pub fn hold(world: &mut World, step: &Step) {
    a_live_router_keeps_its_prefixes_without_control(world);
    at_most_one_primary_for_a_prefix(world);
    a_primary_can_serve(world);
    no_prefix_is_left_on_a_worse_router_while_another_is_steady(world);
    a_primary_moves_only_for_a_named_cause(world);
    the_second_election_comes_to_the_same(world, step);
    withdrawing_disables_after_the_grace(world);
    exits_are_never_elected(world);
    no_live_row_of_a_deleted_node(world);
    what_was_acknowledged_is_stored(world);
    rows_say_what_nodes_advertise(world);
    a_loan_leads_one_witness_through_a_router_that_stands_by(world);
    if world.steps.is_multiple_of(8) {
        for_each_viewer_a_prefix_is_on_at_most_one_peer(world);
        a_loan_is_told_to_its_witness_alone(world);
    }
    // What costs much is looked at more often in some histories than in others.
    if world.seed.is_multiple_of(32) && world.steps.is_multiple_of(17) {
        pieces_say_what_the_full_map_says(world);
    }
    if world.steps.is_multiple_of(5 << (world.seed % 5)) {
        deltas_add_up_to_the_full_map(world);
    }
}

/// Once, when all has happened.
pub fn hold_at_the_end(world: &mut World, history: &[Step], seed: u64) {
    for_each_viewer_a_prefix_is_on_at_most_one_peer(world);
    if seed.is_multiple_of(64) {
        replaying_gives_the_same_table(world, history, seed);
    }
    world.passes(61_000);
    a_prefix_is_on_a_router_that_is_up(world);
}

/// 1, for the tailnet.
fn at_most_one_primary_for_a_prefix(world: &World) {
    let table = world.tailnet.routes();
    for prefix in elected() {
        let broken = table.broken_at(&prefix, world.now);
        assert_eq!(broken, None, "{prefix}");
        let rows = table.rows().filter(|row| row.is_primary && row.prefix == prefix).count();
        assert!(rows <= 1, "{prefix} has {rows} primaries");
    }
}

/// 1, for viewers.
fn for_each_viewer_a_prefix_is_on_at_most_one_peer(world: &mut World) {
    let snapshot = world.tailnet.snapshot();
    for viewer in snapshot.nodes.values() {
        let mut on: BTreeMap<Prefix, NodeId> = BTreeMap::new();
        for (peer, _, told) in peers(snapshot, viewer) {
            for prefix in told.routes.iter().filter(|prefix| !prefix.is_exit()) {
                let other = on.insert(*prefix, peer);
                assert_eq!(other, None, "{} sees {prefix} on {peer} too", viewer.node.id);
                assert!(!viewer.primary.contains(prefix), "a primary sees its own {prefix} on {peer}");
            }
        }
    }
}

/// 2. A primary is advertised, enabled, not deleted, not expired.
fn a_primary_can_serve(world: &World) {
    let table = world.tailnet.routes();
    for row in table.rows().filter(|row| row.is_primary) {
        assert!(row.advertised && row.enabled && row.deleted_at.is_none(), "{row:?}");
        let node = world.tailnet.registry().node(row.node).unwrap();
        assert!(node.expires_at.is_none_or(|end| end > world.now), "{row:?}");
    }
}

/// 3. If a candidate is steady, no prefix is left on one that is drained, suspect or down.
fn no_prefix_is_left_on_a_worse_router_while_another_is_steady(world: &World) {
    let table = world.tailnet.routes();
    for prefix in elected().filter(|prefix| table.frozen(prefix, world.now).is_none()) {
        let candidates = table.candidates(&prefix);
        let seat = table.seat(&prefix).map(|seat| seat.node);
        assert_eq!(seat.is_some(), !candidates.is_empty(), "{prefix} is on somebody if it can be");
        if candidates.iter().any(|c| c.is_steady()) {
            let rank = candidates.iter().find(|c| Some(c.node) == seat).map(|c| c.rank);
            assert!(matches!(rank, Some(Rank::Steady | Rank::Flapping)), "{prefix} is on {seat:?}, {rank:?}");
        }
    }
}

/// 4. A primary moves only for a cause that moves it, and the record names it.
fn a_primary_moves_only_for_a_named_cause(world: &mut World) {
    for change in std::mem::take(&mut world.moves) {
        assert_eq!(change.broken(), None, "{change:?}");
    }
}

/// The election itself: a second one, written apart, has every prefix on the same router.
fn the_second_election_comes_to_the_same(world: &World, step: &Step) {
    for (at, prefix) in elected().enumerate() {
        let own = world.tailnet.routes().seat(&prefix).map(|seat| seat.node.get());
        let other = world.reference.primary.get(&at).copied();
        assert_eq!(own, other, "{prefix} at {} after {step:?}", world.now);
    }
}

/// 5. An event about a node changes only prefixes that it has routes for, or that cover those, and only for viewers that are told of them.
///
/// What the node itself sees is its own business: where it is says which router it is given, and what it offers who may answer it.
pub fn an_event_concerns_only_prefixes_of_its_node(before: &Picture, world: &mut World) {
    let after = Picture::of(world, before.node);
    let table = world.tailnet.routes();
    let concerned = |prefix: &Prefix| {
        // A prefix that has fallen back is on nobody exactly while a wider one can be used.
        let falls_back = table.prefix_settings(prefix).when_down == WhenDown::FallBack;
        // What is lent serves the check of a wider prefix.
        let wider = falls_back || is_host(prefix);
        before
            .own
            .union(&after.own)
            .any(|own| prefix.covers(own) || (prefix.is_exit() && own.is_exit()) || (wider && own.covers(prefix)))
    };
    // Why a router has a prefix is worked out again whenever anybody looks.
    let told_of = |seat: &Seat| (seat.node, seat.carriers.clone(), seat.fallen_back);
    for key in before.seats.keys().chain(after.seats.keys()) {
        let (was, is) = (before.seats.get(key).map(told_of), after.seats.get(key).map(told_of));
        if was == is {
            continue;
        }
        assert!(concerned(&key.0), "{key:?} changed by what happened to {}: {was:?}, {is:?}", before.node);
    }
    let Some(changed) = after.snapshot.changed_since(before.snapshot.version) else { return };
    let (was, is) = (&before.snapshot, &after.snapshot);
    for viewer in was.nodes.values().filter(|viewer| viewer.node.id != before.node) {
        let Some(viewer_after) = is.node(viewer.node.id) else { continue };
        for peer in was.nodes.values() {
            if !changed.contains(&viewer.node.id) && !changed.contains(&peer.node.id) {
                continue;
            }
            let Some(peer_after) = is.node(peer.node.id) else { continue };
            let routes = |told: Option<wayleave_netmap::Told>| told.map(|told| told.routes).unwrap_or_default();
            let (was, is) = (routes(told(was, viewer, peer)), routes(told(is, viewer_after, peer_after)));
            for prefix in was.symmetric_difference(&is) {
                assert!(
                    concerned(prefix),
                    "{prefix} of {} changed for {} by what happened to {}",
                    peer.node.id,
                    viewer.node.id,
                    before.node
                );
            }
        }
    }
}

/// 6. Withdrawing disables, after the grace, unless that is not wanted or the approval was given in advance.
fn withdrawing_disables_after_the_grace(world: &World) {
    let table = world.tailnet.routes();
    let grace = crate::world::settings().routes.withdraw_grace;
    for row in table.rows().filter(|row| row.enabled && !row.advertised && row.was_advertised) {
        let stays = row.approval.as_ref().is_some_and(|approval| approval.in_advance)
            || table.prefix_settings(&row.prefix).on_withdraw == OnWithdraw::Keep;
        let due = world.tailnet.next_deadline().is_some_and(|at| at <= world.now + grace);
        // It can't be disabled before the store answers.
        let waits = world.on_its_way.is_some();
        assert!(stays || due || waits || world.now.since(row.updated_at) <= grace, "{row:?} at {}", world.now);
    }
}

/// Of design.md 1 and 2: a row says of its node what the node itself last said; and what an auto-approver says yes to does not wait for a
/// person.
fn rows_say_what_nodes_advertise(world: &World) {
    let table = world.tailnet.routes();
    for row in table.rows() {
        let node = world.tailnet.registry().node(row.node).unwrap();
        assert_eq!(row.advertised, node.hostinfo.routable_ips.contains(&row.prefix), "{row:?}");
        let rules = world.tailnet.rules();
        if approval::wants_auto_approval(row) && world.on_its_way.is_none() {
            assert_eq!(rules.auto_approves(&node.owner, &row.prefix), None, "{row:?}");
        }
    }
}

/// 7. Exit routes are never elected.
fn exits_are_never_elected(world: &World) {
    assert!(world.tailnet.routes().seats().all(|(prefix, _)| !prefix.is_exit()));
    assert!(world.tailnet.routes().rows().all(|row| !(row.is_primary && row.prefix.is_exit())));
}

/// 8. No live row of a deleted node.
fn no_live_row_of_a_deleted_node(world: &World) {
    for row in world.tailnet.routes().rows() {
        assert!(world.tailnet.registry().node(row.node).is_some(), "{row:?}");
    }
    for row in world.routes.values().filter(|row| row.deleted_at.is_none()) {
        assert!(world.nodes.contains_key(&row.node), "stored: {row:?}");
    }
}

/// 9, for the table.
fn replaying_gives_the_same_table(world: &World, history: &[Step], seed: u64) {
    let mut again = World::new(seed);
    for step in history {
        again.take(step);
        hold(&mut again, step);
    }
    assert_eq!(format!("{:?}", again.tailnet.routes()), format!("{:?}", world.tailnet.routes()));
}

/// 9, for viewers.
fn deltas_add_up_to_the_full_map(world: &mut World) {
    let Some(mut viewer) = world.viewer.take() else { return world.connect_viewer() };
    let snapshot = world.tailnet.snapshot().clone();
    if viewer.follows(&snapshot, &world.shared, &world.cache, world.now) {
        if world.steps.is_multiple_of(80) {
            let fault = viewer.differs(&snapshot, &world.shared, &world.cache, world.now);
            assert_eq!(fault, None, "what {} was told does not add up", viewer.node);
        }
        world.viewer = Some(viewer);
    } else {
        world.connect_viewer();
    }
}

/// 9, for full maps that are put together from pieces.
fn pieces_say_what_the_full_map_says(world: &mut World) {
    let snapshot = world.tailnet.snapshot().clone();
    let mut encoder = Encoder::new().unwrap();
    for viewer in snapshot.nodes.values() {
        let (at, node) = ((&snapshot, &*world.shared), viewer.node.id);
        let parts = world.pieces.frame(at, &world.cache, node, world.now, &mut encoder).unwrap();
        let Some(parts) = parts else {
            assert!(viewer.expired, "{node} is told something");
            continue;
        };
        let frame = parts.concat();
        assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_le_bytes(), "{node}");
        let map: Value = serde_json::from_slice(&zstd::decode_all(&frame[4..]).unwrap()).unwrap();
        let whole = full(&snapshot, &world.shared, &world.cache, node, world.now).unwrap();
        assert_eq!(map, serde_json::to_value(whole).unwrap(), "{node}");
    }
}

/// 10. If some candidate is reachable, the prefix is on a reachable one within the time that a loss allows.
fn a_prefix_is_on_a_router_that_is_up(world: &World) {
    let table = world.tailnet.routes();
    for prefix in elected().filter(|prefix| table.frozen(prefix, world.now).is_none()) {
        let candidates = table.candidates(&prefix);
        let up = |c: &wayleave_routes::Candidate| !matches!(c.rank, Rank::Down(_));
        if candidates.iter().any(up) {
            let seat = table.seat(&prefix);
            assert!(
                candidates.iter().any(|c| Some(c.node) == seat.map(|s| s.node) && up(c)),
                "{prefix} is on {seat:?}"
            );
        }
        let settings = table.prefix_settings(&prefix);
        for (_, seat) in table.seats_of(&prefix) {
            assert!(!seat.fallen_back || settings.when_down == WhenDown::FallBack, "{prefix}");
            assert!(seat.carriers.is_empty() || settings.spread != Spread::Single, "{prefix}");
        }
    }
}

/// 11. What was acknowledged to a person is what a store has.
fn what_was_acknowledged_is_stored(world: &World) {
    for row in world.tailnet.routes().rows() {
        let stored = &world.routes[&row.id];
        assert_eq!((row.enabled, &row.approval, row.priority), (stored.enabled, &stored.approval, stored.priority));
        // These are written behind, once what is on its way is durable.
        if world.on_its_way.is_none() {
            assert_eq!((row.is_primary, row.advertised), (stored.is_primary, stored.advertised), "{row:?}");
        }
    }
    assert_eq!(world.tailnet.registry().node_count(), world.nodes.len());
    assert_eq!(world.tailnet.routes().all_overrides().count(), world.loaded.prefixes.len());
}

/// Of design.md 4: a loan stands only while the router could carry the prefix and does not, for one who is connected and has no route to it
/// of its own; and one that nobody named is over in two seconds.
fn a_loan_leads_one_witness_through_a_router_that_stands_by(world: &World) {
    let table = world.tailnet.routes();
    let mut targets = Vec::new();
    for (prefix, loan, since) in loans(world) {
        let seat = table.seat(&prefix).map(|seat| seat.node);
        assert!(seat.is_some_and(|seat| seat != loan.router), "{loan:?} while {seat:?} has it");
        let rank = table.rank_for(loan.router, &prefix);
        assert!(!matches!(rank, None | Some(Rank::Down(_) | Rank::Drained)), "{loan:?} through one that is {rank:?}");
        assert!(table.candidates(&prefix).iter().any(|candidate| candidate.node == loan.router), "{loan:?}");
        assert!(world.is_connected(loan.witness) && table.row_of(loan.witness, &prefix).is_none(), "{loan:?}");
        let check = world.tailnet.path_check(&prefix).unwrap();
        assert!(check.standby && check.target == loan.target, "{loan:?} for {check:?}");
        match loan.term {
            Term::Open => assert_eq!(check.witness, Some(WitnessChoice::Node(loan.witness))),
            Term::Short => assert!(world.now.since(since) <= Duration::from_secs(2), "{loan:?} since {since}"),
        }
        assert!(!targets.contains(&loan.target), "{loan:?}");
        targets.push(loan.target);
    }
}

/// Nobody else's map has what is lent, and the witness has it on one peer, that is primary for none of it.
fn a_loan_is_told_to_its_witness_alone(world: &mut World) {
    let snapshot = world.tailnet.snapshot().clone();
    let loans: Vec<Loan> = loans(world).map(|(_, loan, _)| loan).collect();
    for viewer in snapshot.nodes.values() {
        for (peer, _, told) in peers(&snapshot, viewer) {
            let lent = loans.iter().filter(|loan| loan.router == peer && loan.witness == viewer.node.id);
            let hosts: BTreeSet<Prefix> = lent.map(|loan| Prefix::host(loan.target)).collect();
            let led = |host: &Prefix| snapshot.policy.steering(viewer.node.id, host) == Steering::Primary;
            let expected: BTreeSet<Prefix> = hosts.into_iter().filter(led).collect();
            let has: BTreeSet<Prefix> = told.routes.iter().copied().filter(is_host).collect();
            assert_eq!(has, expected, "{} at {peer}", viewer.node.id);
            assert!(!told.primary.iter().any(is_host));
        }
    }
}

fn is_host(prefix: &Prefix) -> bool {
    *prefix == Prefix::host(prefix.network())
}

fn loans(world: &World) -> impl Iterator<Item = (Prefix, Loan, Timestamp)> {
    elected().filter_map(|prefix| world.tailnet.loan(&prefix).map(|(loan, since)| (prefix, loan, since)))
}

/// 12: a live router whose witnesses answer keeps its prefixes through any loss of control shorter than half a minute. What it would
/// have lost anyway, to a router of higher priority say, it loses.
fn a_live_router_keeps_its_prefixes_without_control(world: &mut World) {
    let Some(held) = world.held.take() else { return };
    for change in world.moves.iter().filter(|change| change.from == Some(held)) {
        assert!(!matches!(change.because, Because::IncumbentDown(_)), "{change:?}");
    }
}
