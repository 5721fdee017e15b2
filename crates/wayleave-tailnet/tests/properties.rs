//! What must always hold, over random histories. Each invariant is a function of its own, named after what it says.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use wayleave_model::{
    Approver, DiscoKey, Endpoint, EndpointKind, Hostinfo, MachineKey, Node, NodeId, NodeKey, Prefix, Route, RouteId,
    SessionId, Timestamp, UserId,
};
use wayleave_routes::{Because, Cause, Rank};
use wayleave_tailnet::{
    ApproveMode, Command, Effect, Ending, Event, Loaded, LoginToken, NewAuthKey, Outcome, Registration, Report,
    Sequences, Settings, Tailnet, Write,
};

const NODES: u8 = 5;
const PREFIXES: [&str; 5] = ["10.1.0.0/16", "10.2.0.0/16", "10.1.7.0/24", "0.0.0.0/0", "::/0"];
const KEY: [u8; 32] = [9; 32];

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Opens(u8),
    Loses(u8, bool),
    EndsAnOldSession(u8),
    FallsSilent(u8),
    Answers(u8),
    Advertises(u8, BTreeSet<usize>),
    Approve(u8, usize),
    Disable(u8, usize),
    ReplaceApproved(u8, BTreeSet<usize>),
    Expire(u8),
    Renew(u8),
    Delete(u8),
    Joins(u8),
    Passes(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    let some = || proptest::collection::btree_set(0..PREFIXES.len(), 0..4);
    prop_oneof![
        6 => node().prop_map(Step::Opens),
        4 => (node(), any::<bool>()).prop_map(|(n, stream)| Step::Loses(n, stream)),
        1 => node().prop_map(Step::EndsAnOldSession),
        2 => node().prop_map(Step::FallsSilent),
        2 => node().prop_map(Step::Answers),
        4 => (node(), some()).prop_map(|(n, p)| Step::Advertises(n, p)),
        5 => (node(), 0..PREFIXES.len()).prop_map(|(n, p)| Step::Approve(n, p)),
        2 => (node(), 0..PREFIXES.len()).prop_map(|(n, p)| Step::Disable(n, p)),
        1 => (node(), some()).prop_map(|(n, p)| Step::ReplaceApproved(n, p)),
        1 => node().prop_map(Step::Expire),
        1 => node().prop_map(Step::Renew),
        1 => node().prop_map(Step::Delete),
        2 => node().prop_map(Step::Joins),
        6 => prop_oneof![0..700_u64, 1000..4000_u64, 30_000..70_000_u64].prop_map(Step::Passes),
        1 => Just(Step::Restart),
    ]
}

/// A tailnet, and what a store would have of it.
struct World {
    tailnet: Tailnet,
    now: Timestamp,
    sessions: u64,
    open: BTreeMap<u8, SessionId>,
    generation: BTreeMap<u8, u8>,
    nodes: BTreeMap<NodeId, Node>,
    routes: BTreeMap<RouteId, Route>,
    loaded: Loaded,
    moves: Vec<(Timestamp, wayleave_routes::PrimaryChange)>,
}

impl World {
    fn new() -> Self {
        let now = Timestamp::from_millis(1_000_000_000);
        let mut world = Self {
            tailnet: Tailnet::new(Settings::default(), Loaded::default(), now).unwrap(),
            now,
            sessions: 0,
            open: BTreeMap::new(),
            generation: BTreeMap::new(),
            nodes: BTreeMap::new(),
            routes: BTreeMap::new(),
            loaded: Loaded::default(),
            moves: Vec::new(),
        };
        world.ask(Command::CreateUser { name: "anna".into(), display_name: String::new(), email: None, role: None });
        world.ask(Command::CreateAuthKey(NewAuthKey {
            user: Some(UserId::new(1)),
            hint: String::new(),
            hash: KEY,
            reusable: true,
            ephemeral: false,
            tags: BTreeSet::new(),
            description: String::new(),
            lifetime: None,
        }));
        for n in 0..NODES {
            world.take(&Step::Joins(n));
        }
        world
    }

    fn ask(&mut self, command: Command) -> Option<Outcome> {
        let plan = self.tailnet.plan(command, self.now).ok()?;
        for write in plan.writes() {
            match write.clone() {
                Write::Node(node) => drop(self.nodes.insert(node.id, *node)),
                Write::DeleteNode(node) => drop(self.nodes.remove(&node)),
                Write::Route(route) => drop(self.routes.insert(route.id, route)),
                Write::User(user) => self.loaded.users.push(user),
                Write::AuthKey(key) => self.loaded.auth_keys = vec![key],
                Write::Sequences(sequences) => self.loaded.sequences = sequences,
                Write::Policy(policy) => self.loaded.policy = Some(policy.row),
                Write::Prefix(row) => {
                    self.loaded.prefixes.retain(|old| old.prefix != row.prefix);
                    if !row.overrides.is_empty() {
                        self.loaded.prefixes.push(row);
                    }
                }
                Write::Moved { prefix, to, .. } => {
                    for row in self.routes.values_mut().filter(|row| row.prefix == prefix && row.deleted_at.is_none()) {
                        row.is_primary = row.node == to;
                    }
                }
                Write::PathCheck(check) => self.loaded.path_checks = vec![check],
                Write::DeletePathCheck(_)
                | Write::DeleteUser(_)
                | Write::DeleteAuthKey(_)
                | Write::ApiKey(_)
                | Write::DeleteApiKey(_)
                | Write::Site(_)
                | Write::History(_) => {}
            }
        }
        let outcome = plan.outcome().clone();
        self.tell(Event::Committed(Box::new(plan.into_committed())));
        Some(outcome)
    }

    fn tell(&mut self, event: Event) {
        let effects = self.tailnet.apply(event, self.now);
        self.run(effects);
    }

    fn run(&mut self, effects: Vec<Effect>) {
        let mut proposals = Vec::new();
        for effect in effects {
            match effect {
                Effect::Propose(command) => proposals.push(command),
                Effect::PrimaryChanged(change) => self.moves.push((self.now, change)),
                Effect::NodeRow(id) => {
                    if let Some(node) = self.tailnet.registry().node(id) {
                        self.nodes.insert(id, node.clone());
                    }
                }
                Effect::RouteRow(id) => {
                    if let Some(row) = self.tailnet.routes().row(id) {
                        self.routes.insert(id, row.clone());
                    }
                }
                Effect::SeatRow(prefix, group) => {
                    let tags = group.as_ref().map(|group| (**group).clone()).unwrap_or_default();
                    self.loaded.seats.retain(|row| row.prefix != prefix || row.group != tags);
                    self.loaded.seats.extend(self.tailnet.routes().seat_row(&prefix, group.as_ref()));
                }
                Effect::FlapRow(node) => {
                    self.loaded.flaps.retain(|row| row.node != node);
                    self.loaded.flaps.extend(self.tailnet.routes().flaps(node));
                }
                Effect::FellBack { .. }
                | Effect::KeyExpires { .. }
                | Effect::NodeDown(..)
                | Effect::Judged(_)
                | Effect::AskWitnesses(_)
                | Effect::NodeUp(_)
                | Effect::Flapping(_)
                | Effect::CommonLoss(_)
                | Effect::History(_)
                | Effect::LoginSettled(_)
                | Effect::NodeGone(_)
                | Effect::SteeredChanged(_)
                | Effect::SshCheckSettled(_)
                | Effect::PolicyChanged(_) => {}
            }
        }
        for command in proposals {
            self.ask(command);
        }
    }

    fn node(&self, n: u8) -> Option<NodeId> {
        self.tailnet.registry().node_by_key(&self.node_key(n)).map(|node| node.id)
    }

    fn node_key(&self, n: u8) -> NodeKey {
        NodeKey::from_bytes([n + 1 + 50 * self.generation.get(&n).copied().unwrap_or(0); 32])
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Joins(n) => {
                if self.node(*n).is_none() {
                    let hostinfo = Hostinfo { hostname: format!("n{n}"), ..Hostinfo::default() };
                    self.ask(Command::Register(Box::new(Registration {
                        machine_key: MachineKey::from_bytes([n + 1; 32]),
                        node_key: self.node_key(*n),
                        old_node_key: None,
                        auth_key: Some(KEY),
                        expiry: None,
                        followup: None,
                        ephemeral: n % 2 == 1,
                        capability: 142,
                        hostinfo,
                        fresh_token: LoginToken(String::new()),
                    })));
                }
            }
            Step::Opens(n) => {
                if let Some(node) = self.node(*n) {
                    self.sessions += 1;
                    let session = SessionId::new(self.sessions);
                    self.open.insert(*n, session);
                    self.tell(Event::SessionOpened(node, session));
                }
            }
            Step::Loses(n, stream) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.remove(n)) {
                    let cause = if *stream { Cause::StreamEnded } else { Cause::ConnectionClosed };
                    self.tell(Event::SessionEnded(node, session, Ending::Lost(cause)));
                }
            }
            Step::EndsAnOldSession(n) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.get(n)) {
                    let old = SessionId::new(session.get() - 1);
                    self.tell(Event::SessionEnded(node, old, Ending::Lost(Cause::ConnectionClosed)));
                }
            }
            Step::FallsSilent(n) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.get(n).copied()) {
                    self.tell(Event::Silent(node, session, Cause::PingUnanswered));
                }
            }
            Step::Answers(n) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.get(n).copied()) {
                    self.tell(Event::Answered(node, session));
                }
            }
            Step::Advertises(n, which) => {
                if let Some(node) = self.node(*n) {
                    let routable_ips = which.iter().map(|p| PREFIXES[*p].parse().unwrap()).collect();
                    let hostinfo = Hostinfo { hostname: format!("n{n}"), routable_ips, ..Hostinfo::default() };
                    let endpoint = Endpoint { address: ([10, 0, 0, *n], 1).into(), kind: EndpointKind::Local };
                    let disco_key = Some(DiscoKey::from_bytes([*n; 32]));
                    let report =
                        Report { capability: 142, disco_key, endpoints: vec![endpoint], hostinfo: Some(hostinfo) };
                    self.tell(Event::Reported(node, Box::new(report)));
                }
            }
            Step::Approve(n, p) => self.approve(*n, [*p].into(), ApproveMode::Add),
            Step::ReplaceApproved(n, which) => self.approve(*n, which.clone(), ApproveMode::Replace),
            Step::Disable(n, p) => {
                if let Some(node) = self.node(*n) {
                    let prefixes = BTreeSet::from([PREFIXES[*p].parse().unwrap()]);
                    self.ask(Command::DisableRoutes { node, prefixes, by: Approver::Cli });
                }
            }
            Step::Expire(n) => self.expire(*n, Some(self.now)),
            Step::Renew(n) => self.expire(*n, None),
            Step::Delete(n) => {
                if let Some(node) = self.node(*n) {
                    self.ask(Command::DeleteNode { node });
                    self.open.remove(n);
                    *self.generation.entry(*n).or_default() += 1;
                }
            }
            Step::Passes(millis) => {
                let end = self.now + Duration::from_millis(*millis);
                while let Some(at) = self.tailnet.next_deadline().filter(|at| *at <= end) {
                    self.now = at.max(self.now);
                    let effects = self.tailnet.handle_deadline(self.now);
                    self.run(effects);
                    self.forget_the_deleted();
                }
                self.now = end;
            }
            Step::Restart => {
                let loaded = Loaded {
                    nodes: self.nodes.values().cloned().collect(),
                    routes: self.routes.values().filter(|route| route.deleted_at.is_none()).cloned().collect(),
                    ..self.loaded.clone()
                };
                self.tailnet = Tailnet::new(Settings::default(), loaded, self.now).unwrap();
                self.open.clear();
                self.tell(Event::Started);
            }
        }
        self.forget_the_deleted();
    }

    /// An ephemeral node may have gone by itself; its machine joins again with another key.
    fn forget_the_deleted(&mut self) {
        for n in 0..NODES {
            if self.node(n).is_none() && self.open.remove(&n).is_some() {
                *self.generation.entry(n).or_default() += 1;
            }
        }
    }

    fn approve(&mut self, n: u8, which: BTreeSet<usize>, mode: ApproveMode) {
        if let Some(node) = self.node(n) {
            let prefixes = which.iter().map(|p| PREFIXES[*p].parse().unwrap()).collect();
            self.ask(Command::ApproveRoutes { node, prefixes, mode, by: Approver::Cli });
        }
    }

    fn expire(&mut self, n: u8, at: Option<Timestamp>) {
        if let Some(node) = self.node(n) {
            self.ask(Command::ExpireNode { node, at });
        }
    }

    fn prefixes() -> impl Iterator<Item = Prefix> {
        PREFIXES.iter().map(|text| text.parse().unwrap())
    }
}

/// 1. At most one primary for a prefix, in the table and in what viewers are told from.
fn at_most_one_primary_for_a_prefix(world: &mut World) {
    for prefix in World::prefixes() {
        let rows = world.tailnet.routes().rows().filter(|row| row.is_primary && row.prefix == prefix).count();
        assert!(rows <= 1, "{prefix} has {rows} primaries");
        let told = world.tailnet.snapshot().nodes.values().filter(|view| view.primary.contains(&prefix)).count();
        assert_eq!(told, rows, "{prefix}: the snapshot tells of the primary that the table has");
    }
}

/// 2. A primary is advertised, enabled, not deleted, not expired.
fn a_primary_can_serve(world: &World) {
    for row in world.tailnet.routes().rows().filter(|row| row.is_primary) {
        assert!(row.advertised && row.enabled && row.deleted_at.is_none(), "{row:?}");
        assert!(!world.tailnet.routes().is_expired(row.node), "{row:?}");
    }
}

/// 3. If a candidate is steady, no prefix is left on one that is drained, suspect or down.
fn no_prefix_is_left_on_a_dead_router_while_another_is_steady(world: &World) {
    for prefix in World::prefixes() {
        let candidates = world.tailnet.routes().candidates(&prefix);
        let seat = world.tailnet.routes().seat(&prefix).map(|seat| seat.node);
        assert_eq!(seat.is_some(), !prefix.is_exit() && !candidates.is_empty(), "{prefix} is on somebody if it can be");
        if candidates.iter().any(wayleave_routes::Candidate::is_steady) && !prefix.is_exit() {
            let rank = candidates.iter().find(|c| Some(c.node) == seat).map(|c| c.rank);
            assert!(matches!(rank, Some(Rank::Steady | Rank::Flapping)), "{prefix} is on {seat:?}, {rank:?}");
        }
    }
}

/// 4. A primary moves only for a cause that moves it, and the record names it.
fn a_primary_moves_only_for_a_named_cause(world: &mut World) {
    for (_, change) in std::mem::take(&mut world.moves) {
        assert_ne!(change.from, change.to);
        let named = match change.because {
            Because::IncumbentDown(_)
            | Because::IncumbentSuspect(_)
            | Because::IncumbentFlapping
            | Because::HigherPriority
            | Because::IncumbentGone(_) => change.from.is_some() || change.because == Because::HigherPriority,
            Because::OnlyCandidate | Because::JoinedFirst | Because::BetterRank => change.from.is_none(),
            Because::MovedBy(_) => true,
            Because::NoCandidate => change.to.is_none(),
            Because::Incumbent | Because::Frozen | Because::LastKnown | Because::IncumbentDrained => false,
        };
        assert!(named, "{change:?}");
    }
}

/// 6. Withdrawing disables, after the grace, unless the approval was given in advance.
fn withdrawing_disables_after_the_grace(world: &World) {
    let grace = Settings::default().routes.withdraw_grace;
    for row in world.tailnet.routes().rows().filter(|row| row.enabled && !row.advertised && row.was_advertised) {
        let in_advance = row.approval.as_ref().is_some_and(|approval| approval.in_advance);
        assert!(in_advance || world.now.since(row.updated_at) <= grace, "{row:?} at {}", world.now);
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

/// 11. What was acknowledged to a person is what a store has.
fn what_was_acknowledged_is_stored(world: &World) {
    for row in world.tailnet.routes().rows() {
        let stored = &world.routes[&row.id];
        assert_eq!((row.enabled, &row.approval), (stored.enabled, &stored.approval));
        assert_eq!((row.is_primary, row.advertised), (stored.is_primary, stored.advertised), "{row:?}");
    }
    assert_eq!(world.tailnet.registry().node_count(), world.nodes.len());
}

fn check(world: &mut World) {
    at_most_one_primary_for_a_prefix(world);
    a_primary_can_serve(world);
    no_prefix_is_left_on_a_dead_router_while_another_is_steady(world);
    a_primary_moves_only_for_a_named_cause(world);
    withdrawing_disables_after_the_grace(world);
    exits_are_never_elected(world);
    no_live_row_of_a_deleted_node(world);
    what_was_acknowledged_is_stored(world);
}

fn table(world: &World) -> String {
    format!("{:?}", world.tailnet.routes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_over_random_histories(history in proptest::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        check(&mut world);
        for step in &history {
            world.take(step);
            check(&mut world);
        }
    }

    /// 9. Replaying the recorded inputs gives the same table.
    #[test]
    fn replaying_a_history_gives_the_same_table(history in proptest::collection::vec(step(), 1..80)) {
        let run = || {
            let mut world = World::new();
            history.iter().for_each(|step| world.take(step));
            table(&world)
        };
        prop_assert_eq!(run(), run());
    }

    /// 10. If a router stays up, its prefix is on one that is up once the time that a loss allows is over.
    #[test]
    fn a_prefix_is_on_a_router_that_is_up(history in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &history {
            world.take(step);
        }
        world.take(&Step::Passes(60_000));
        for prefix in World::prefixes().filter(|prefix| !prefix.is_exit()) {
            let candidates = world.tailnet.routes().candidates(&prefix);
            let up = |c: &wayleave_routes::Candidate| !matches!(c.rank, Rank::Down(_));
            if candidates.iter().any(up) {
                let seat = world.tailnet.routes().seat(&prefix).map(|seat| seat.node);
                prop_assert!(candidates.iter().any(|c| Some(c.node) == seat && up(c)), "{} is on {:?}", prefix, seat);
            }
        }
    }
}

/// Ids are never given out twice, also not over a restart.
#[test]
fn ids_are_never_used_again() {
    let mut world = World::new();
    let first = world.node(0).unwrap();
    world.take(&Step::Delete(0));
    world.take(&Step::Restart);
    world.take(&Step::Joins(0));
    assert_ne!(world.node(0), Some(first));
    assert!(world.loaded.sequences.node > Sequences::default().node);
}
