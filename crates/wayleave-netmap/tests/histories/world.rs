//! A tailnet, what a store would have of it, the second election beside it, and one client that keeps its map.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use wayleave_model::{
    Approver, Change, DiscoKey, Endpoint, EndpointKind, Failback, Hostinfo, MachineKey, NetInfo, Node, NodeId, NodeKey,
    OnWithdraw, Prefix, PrefixChange, PrefixOverrides, Route, RouteId, SessionId, Spread, Tag, Timestamp, UserId,
    WhenDown, WitnessChoice,
};
use wayleave_netmap::{PeerCache, Pieces, Shared};
use wayleave_routes::{
    Cause, Group, Liveness, PathOutcome, PathRound, PrimaryChange, ProbeRound, Role, Seat, Testimony,
};
use wayleave_tailnet::{
    ApproveMode, Command, Effect, Ending, Event, Loaded, Loan, LoginToken, NewAuthKey, NewPathCheck, Plan,
    Registration, Report, Settings, Snapshot, Tailnet, Term, Write,
};

use crate::properties;
use crate::reference::{COMMON, Check, Facts, Reference, Rules};
use crate::steps::{ELECTED, NODES, PREFIXES, Step};
use crate::viewer::Viewer;

const KEY: [u8; 32] = [9; 32];
/// How often witnesses are asked, in milliseconds: seldom enough for a history to be quick, and before a loss is judged.
const ASKED_EVERY: u64 = 450;
const POLICIES: [&str; 4] = [
    "{}",
    r#"{ "tagOwners": { "tag:a": [], "tag:b": [] }, "autoApprovers": { "routes": { "10.1.0.0/16": ["tag:a"] } },
         "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }] }"#,
    r#"{ "tagOwners": { "tag:a": [], "tag:b": [] },
         "grants": [{ "src": ["autogroup:member"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:a"] },
                    { "src": ["*"], "dst": ["10.2.0.0/16"], "ip": ["*"] }] }"#,
    r#"{ "tagOwners": { "tag:a": [], "tag:b": [] },
         "grants": [{ "src": ["autogroup:member"], "dst": ["10.0.0.0/8"], "ip": ["*"], "via": ["tag:a", "tag:b"] },
                    { "src": ["tag:b"], "dst": ["10.1.0.0/16"], "ip": ["*"] }] }"#,
];

pub struct World {
    pub tailnet: Tailnet,
    pub now: Timestamp,
    pub reference: Reference,
    /// What a store has.
    pub nodes: BTreeMap<NodeId, Node>,
    pub routes: BTreeMap<RouteId, Route>,
    pub loaded: Loaded,
    /// The store takes nothing for now.
    hangs: bool,
    /// Of what waited for it, one after the other is done, with all else in between.
    catches_up: bool,
    /// What it was given before that, and what waits for it.
    pub on_its_way: Option<Plan>,
    waiting: VecDeque<Command>,
    behind: Behind,
    /// Who carried each prefix when that was last looked at.
    carriers: BTreeMap<usize, BTreeSet<NodeId>>,
    /// Moves since they were last looked at.
    pub moves: Vec<PrimaryChange>,
    /// A router that was without control for a while in the last step, and whose witnesses reached it all the time.
    pub held: Option<NodeId>,
    pub viewer: Option<Viewer>,
    pub shared: Arc<Shared>,
    pub cache: PeerCache,
    pub pieces: Pieces,
    pub seed: u64,
    pub steps: usize,
    sessions: u64,
    open: BTreeMap<u8, SessionId>,
    generation: BTreeMap<u8, u8>,
    homes: BTreeMap<u8, u32>,
    /// Where each has addresses, in bits ([`Step::Endpoints`]).
    addresses: BTreeMap<u8, u8>,
}

/// What is in force and not durable yet.
#[derive(Default)]
struct Behind {
    nodes: BTreeSet<NodeId>,
    routes: BTreeSet<RouteId>,
}

pub fn prefix(p: u8) -> Prefix {
    static ALL: LazyLock<Vec<Prefix>> = LazyLock::new(|| PREFIXES.iter().map(|text| text.parse().unwrap()).collect());
    ALL[usize::from(p)]
}

/// An address behind the routers of a prefix.
fn behind(p: u8, host: u8) -> IpAddr {
    [[10, 1, 0, host], [10, 2, 0, host], [10, 1, 7, host]][usize::from(p)].into()
}

pub fn elected() -> impl Iterator<Item = Prefix> {
    (0..ELECTED).map(prefix)
}

/// The prefix of which the configuration says something.
const CONFIGURED: u8 = 2;

/// What it says.
fn configured() -> PrefixOverrides {
    PrefixOverrides {
        when_down: Some(WhenDown::FallBack),
        failback: Some(Failback::After(Duration::from_secs(20))),
        ..PrefixOverrides::default()
    }
}

pub fn settings() -> Settings {
    let mut settings = Settings { common_loss_sessions: COMMON, ..Settings::default() };
    settings.routes.prefixes = [(prefix(CONFIGURED), configured())].into();
    settings
}

/// What there was before an event about a node.
pub struct Picture {
    pub node: NodeId,
    pub snapshot: Snapshot,
    pub own: BTreeSet<Prefix>,
    pub seats: BTreeMap<(Prefix, Option<Group>), Seat>,
}

impl Picture {
    pub fn of(world: &mut World, node: NodeId) -> Self {
        let snapshot = world.tailnet.snapshot().clone();
        let table = world.tailnet.routes();
        let own = table.rows_of(node).map(|row| row.prefix).collect();
        let seats = elected().flat_map(|prefix| {
            let of = table.seats_of(&prefix).map(move |(group, seat)| ((prefix, group.cloned()), seat.clone()));
            of.collect::<Vec<_>>()
        });
        Self { node, snapshot, own, seats: seats.collect() }
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let now = Timestamp::from_millis(1_000_000_000);
        let mut world = Self {
            tailnet: Tailnet::new(settings(), Loaded::default(), now).unwrap(),
            now,
            reference: Reference::default(),
            nodes: BTreeMap::new(),
            routes: BTreeMap::new(),
            loaded: Loaded::default(),
            hangs: false,
            catches_up: false,
            on_its_way: None,
            waiting: VecDeque::new(),
            behind: Behind::default(),
            carriers: BTreeMap::new(),
            moves: Vec::new(),
            held: None,
            viewer: None,
            shared: Arc::new(Shared {
                base_domain: "example.net".into(),
                dns: Arc::default(),
                derp_map: Arc::default(),
            }),
            cache: PeerCache::default(),
            pieces: Pieces::new(2),
            seed,
            steps: 0,
            sessions: 0,
            open: BTreeMap::new(),
            generation: BTreeMap::new(),
            homes: BTreeMap::new(),
            addresses: BTreeMap::new(),
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
        world.connect_viewer();
        world
    }

    pub fn connect_viewer(&mut self) {
        let Some(node) = self.node(if self.seed.is_multiple_of(2) { NODES - 1 } else { 1 }) else { return };
        let snapshot = self.tailnet.snapshot().clone();
        self.viewer = Viewer::connects(node, &snapshot, &self.shared, &self.cache, self.now);
    }

    /// Asks for something, and says whether that can be done. While the store hangs that is not known.
    fn ask(&mut self, command: Command) -> bool {
        let can = self.hangs || self.tailnet.plan(command.clone(), self.now).is_ok();
        self.waiting.push_back(command);
        self.plan_next();
        can
    }

    /// What waits is planned once what is on its way is durable, as in the server.
    fn plan_next(&mut self) {
        while self.on_its_way.is_none() {
            let Some(command) = self.waiting.pop_front() else { return };
            let Ok(plan) = self.tailnet.plan(command, self.now) else { continue };
            if self.hangs && !plan.writes().is_empty() {
                self.on_its_way = Some(plan);
            } else {
                self.commits(plan);
            }
        }
    }

    fn store_answers(&mut self) {
        self.hangs = false;
        self.catches_up = true;
        if let Some(plan) = self.on_its_way.take() {
            self.commits(plan);
        }
        self.plan_next();
        self.catches_up = false;
    }

    fn commits(&mut self, plan: Plan) {
        for write in plan.writes() {
            match write.clone() {
                Write::Node(node) => drop(self.nodes.insert(node.id, *node)),
                Write::DeleteNode(node) => {
                    self.nodes.remove(&node);
                    self.reference.deleted(node.get());
                }
                Write::Route(route) => {
                    let before = self.tailnet.routes().row(route.id);
                    if let (Some(before), Some(at)) = (before, elected().position(|prefix| prefix == route.prefix)) {
                        let by_person = route.approval.as_ref().is_some_and(|approval| approval.by.is_person());
                        if route.enabled && !before.enabled && by_person {
                            self.reference.trusts_again(route.node.get(), at, self.now.as_millis());
                        }
                        if route.priority != before.priority {
                            self.reference.prefers(at);
                        }
                    }
                    self.routes.insert(route.id, route);
                }
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
                Write::PathCheck(check) => {
                    let at = elected().position(|elected| elected == check.prefix).unwrap();
                    let p = u8::try_from(at).unwrap();
                    let target = [97, 98, 99].into_iter().find(|target| behind(p, *target) == check.target);
                    self.reference.sets_check(at, target, self.now.as_millis());
                    self.loaded.path_checks.retain(|old| old.prefix != check.prefix);
                    self.loaded.path_checks.push(check);
                }
                Write::DeletePathCheck(prefix) => {
                    let at = elected().position(|elected| elected == prefix).unwrap();
                    self.reference.sets_check(at, None, self.now.as_millis());
                    self.loaded.path_checks.retain(|old| old.prefix != prefix);
                }
                Write::Moved { prefix, to, .. } => {
                    for row in self.routes.values_mut().filter(|row| row.prefix == prefix && row.deleted_at.is_none()) {
                        row.is_primary = row.node == to;
                    }
                    let at = elected().position(|elected| elected == prefix).unwrap();
                    self.reference.moves(at, to.get());
                }
                _ => {}
            }
        }
        self.tell(Event::Committed(Box::new(plan.into_committed())));
        self.write_behind();
    }

    /// What is in force is written as it is then, and not while a commit is on its way.
    fn write_behind(&mut self) {
        if self.on_its_way.is_some() {
            return;
        }
        let Behind { nodes, routes } = std::mem::take(&mut self.behind);
        for id in nodes {
            self.nodes.extend(self.tailnet.registry().node(id).map(|node| (id, node.clone())));
        }
        for id in routes {
            self.routes.extend(self.tailnet.routes().row(id).map(|row| (id, row.clone())));
        }
    }

    fn tell(&mut self, event: Event) {
        let of = match &event {
            Event::SessionOpened(node, _)
            | Event::SessionEnded(node, ..)
            | Event::Silent(node, ..)
            | Event::Answered(node, _)
            | Event::Evidence(node, _)
            | Event::Reported(node, _) => Some(*node),
            _ => None,
        };
        let before = of.map(|node| Picture::of(self, node));
        let effects = self.tailnet.apply(event, self.now);
        let common = effects.iter().any(|effect| matches!(effect, Effect::CommonLoss(_)));
        if let Some(before) = before.filter(|_| !common) {
            properties::an_event_concerns_only_prefixes_of_its_node(&before, self);
        }
        self.run(effects);
    }

    fn run(&mut self, effects: Vec<Effect>) {
        let mut proposals = Vec::new();
        for effect in effects {
            match effect {
                Effect::Propose(command) => proposals.push(command),
                Effect::PrimaryChanged(change) => self.moves.push(change),
                Effect::NodeRow(id) => drop(self.behind.nodes.insert(id)),
                Effect::RouteRow(id) => drop(self.behind.routes.insert(id)),
                Effect::SeatRow(prefix, group) => {
                    let tags = group.as_ref().map(|group| (**group).clone()).unwrap_or_default();
                    self.loaded.seats.retain(|row| row.prefix != prefix || row.group != tags);
                    self.loaded.seats.extend(self.tailnet.routes().seat_row(&prefix, group.as_ref()));
                }
                Effect::FlapRow(node) => {
                    self.loaded.flaps.retain(|row| row.node != node);
                    self.loaded.flaps.extend(self.tailnet.routes().flaps(node));
                }
                _ => {}
            }
        }
        self.write_behind();
        // What follows is planned at once, with all that happened before it seen.
        if self.catches_up {
            self.forget_the_deleted();
            self.reference_follows();
        }
        for command in proposals {
            self.ask(command);
        }
    }

    /// Whether it has a session.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.open.keys().any(|n| self.node(*n) == Some(node))
    }

    pub fn node(&self, n: u8) -> Option<NodeId> {
        self.tailnet.registry().node_by_key(&self.node_key(n)).map(|node| node.id)
    }

    fn node_key(&self, n: u8) -> NodeKey {
        NodeKey::from_bytes([n + 1 + 20 * self.generation.get(&n).copied().unwrap_or(0); 32])
    }

    /// Takes a step, and has the second election follow.
    pub fn take(&mut self, step: &Step) {
        self.steps += 1;
        self.happens(step);
        self.forget_the_deleted();
        self.reference_follows();
    }

    /// Gives the second election its facts, and lets it decide.
    fn reference_follows(&mut self) {
        let table = self.tailnet.routes();
        self.reference.facts.clear();
        for node in self.tailnet.registry().nodes() {
            let expired = node.expires_at.is_some_and(|end| end <= self.now);
            let advertises = table.rows_of(node.id).any(|row| row.advertised);
            let mut facts = Facts { drained: node.drained, expired, advertises, ..Facts::default() };
            for (at, prefix) in elected().enumerate() {
                let Some(row) = table.row_of(node.id, &prefix) else { continue };
                facts.rows.insert(at, row.advertised);
                if row.advertised && row.enabled && !expired {
                    facts.offers.insert(at, i64::from(row.priority));
                }
            }
            self.reference.facts.insert(node.id.get(), facts);
        }
        let all = table.overrides(None);
        for (at, prefix) in elected().enumerate() {
            let own = table.overrides(Some(&prefix));
            let configured = if at == usize::from(CONFIGURED) { configured().failback } else { None };
            let of_all = all.and_then(|all| all.failback);
            let failback = own.and_then(|own| own.failback).or(configured).or(of_all).unwrap_or_default();
            let failback = match failback {
                Failback::After(wait) => i64::try_from(wait.as_millis()).ok(),
                Failback::Never => None,
            };
            let mut freezes = [own, all].into_iter().flatten().filter_map(|of| of.frozen.as_ref());
            let frozen = freezes.any(|freeze| freeze.until > self.now);
            self.reference.rules.insert(at, Rules { failback, frozen });
        }
        self.reference.decide(self.now.as_millis());
        for (at, prefix) in elected().enumerate() {
            let carriers: BTreeSet<NodeId> = self.tailnet.routes().carriers(&prefix).into_iter().collect();
            let before = self.carriers.insert(at, carriers.clone()).unwrap_or_default();
            for node in before.difference(&carriers) {
                self.reference.forgets_misses(node.get(), at, self.now.as_millis());
            }
        }
    }

    fn happens(&mut self, step: &Step) {
        let now = self.now.as_millis();
        match step {
            Step::Joins(n) => self.joins(*n),
            Step::Opens(n) => {
                if let Some(node) = self.node(*n) {
                    self.sessions += 1;
                    let session = SessionId::new(self.sessions);
                    self.open.insert(*n, session);
                    self.reference.opens(node.get(), session.get(), now);
                    self.tell(Event::SessionOpened(node, session));
                }
            }
            Step::Loses(n, stream) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.remove(n)) {
                    let cause = if *stream { Cause::StreamEnded } else { Cause::ConnectionClosed };
                    self.reference.loses(node.get(), session.get(), now);
                    self.tell(Event::SessionEnded(node, session, Ending::Lost(cause)));
                }
            }
            Step::Storm(which, gap) => {
                for n in (0..NODES).filter(|n| which & (1 << n) != 0) {
                    self.happens(&Step::Loses(n, false));
                    self.reference_follows();
                    self.passes(*gap);
                }
            }
            Step::EndsAnOldSession(n) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.get(n)) {
                    let old = SessionId::new(session.get() - 1);
                    self.tell(Event::SessionEnded(node, old, Ending::Lost(Cause::ConnectionClosed)));
                }
            }
            Step::Doubted(n) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.get(n).copied()) {
                    self.reference.is_unheard(node.get(), session.get(), now);
                    self.tell(Event::Evidence(node, Testimony::Doubted(session)));
                }
            }
            Step::Uplink(which, gap, wait) => {
                let all = || (0..NODES).filter(|n| which & (1 << n) != 0);
                for n in all() {
                    self.happens(&Step::Doubted(n));
                    self.reference_follows();
                    self.passes(*gap);
                }
                self.passes(*wait);
                for n in all() {
                    self.happens(&Step::FallsSilent(n));
                    self.reference_follows();
                    self.passes(*gap);
                }
            }
            Step::FallsSilent(n) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.get(n).copied()) {
                    self.reference.falls_silent(node.get(), session.get(), now);
                    self.tell(Event::Silent(node, session, Cause::PingUnanswered));
                }
            }
            Step::Answers(n) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.get(n).copied()) {
                    self.reference.answers(node.get(), session.get());
                    self.tell(Event::Answered(node, session));
                }
            }
            Step::Alive(n) => self.alive(*n),
            Step::Echo(n, answered, late) => {
                if let (Some(node), Some(session)) = (self.node(*n), self.open.get(n).copied()) {
                    let due = self.due(*late);
                    self.reference.echo(node.get(), session.get(), *answered, *late, now);
                    self.tell(Event::Evidence(node, Testimony::Echo { session, answered: *answered, due }));
                }
            }
            Step::Probe(n, word, late) => {
                if let Some(node) = self.node(*n) {
                    let (answered, silent) = [(2, 1), (0, 3), (0, 0)][usize::from(*word)];
                    let reached = (answered + silent > 0).then_some(answered > silent);
                    let session = self.open.get(n).copied();
                    let round = ProbeRound { session, due: self.due(*late), answered, silent };
                    if self.tailnet.routes().liveness(node).is_some() {
                        self.reference.probe(node.get(), reached, *late, now);
                    }
                    self.tell(Event::Evidence(node, Testimony::Probe(round)));
                }
            }
            Step::Endpoints(n, which) => {
                self.addresses.insert(*n, *which);
                if let Some(node) = self.node(*n) {
                    let routes = self.tailnet.registry().node(node).unwrap().hostinfo.routable_ips.clone();
                    self.reports(*n, routes);
                }
            }
            Step::Check(p, Some(target)) => self.sets_check(*p, *target, false, None),
            Step::Check(p, None) => {
                self.ask(Command::RemovePathCheck { prefix: prefix(*p), by: Approver::Cli });
            }
            Step::ChecksStandbys(p, named) => {
                let witness = named.and_then(|n| self.node(n)).map(WitnessChoice::Node);
                self.sets_check(*p, 99, true, witness);
            }
            Step::Lends(p, n, witness, open) => {
                let check = self.tailnet.path_check(&prefix(*p)).map(|check| check.target);
                let (router, witness) = (self.node(*n), self.node(*witness));
                let term = if *open { Term::Open } else { Term::Short };
                if let (Some(target), Some(router), Some(witness)) = (check, router, witness) {
                    self.tell(Event::Lend(Loan { prefix: prefix(*p), target, router, witness, term }));
                }
            }
            Step::TakesBack(p) => self.tell(Event::TakeBack(prefix(*p))),
            Step::Path(n, p, outcome, late) => self.checks(*n, *p, *outcome, *late),
            Step::StalePath(n, p) => {
                if let Some(node) = self.node(*n) {
                    let carries = self.carries(*p, node);
                    let round = |role, asked_at, target| PathRound {
                        prefix: prefix(*p),
                        target: behind(*p, target),
                        role,
                        asked_at,
                        due: self.now,
                        outcome: PathOutcome::Missed,
                    };
                    let other = if carries { Role::Standby } else { Role::Carrier };
                    let before = self.tailnet.routes().seat(&prefix(*p)).map_or(self.now, |seat| seat.since);
                    let role = if carries { Role::Carrier } else { Role::Standby };
                    let mut stale = vec![round(other, self.now, 99), round(role, self.now, 97)];
                    let of = prefix(*p);
                    let seats = self.tailnet.routes().seats_of(&of).map(|(_, seat)| seat);
                    let mut own = seats.filter(|seat| seat.node == node || seat.carriers.contains(&node));
                    let new = own.all(|seat| seat.node == node && seat.since >= before);
                    drop(own);
                    if carries && new {
                        stale.push(round(Role::Carrier, before - Duration::from_millis(1), 99));
                    }
                    stale.into_iter().for_each(|round| self.tell(Event::Evidence(node, Testimony::Path(round))));
                }
            }
            Step::LosesControl(n, stream, millis, still) => self.loses_control(*n, *stream, *millis, *still),
            Step::Advertises(n, which) => {
                let routes = (0..5).filter(|p| which & (1 << p) != 0).map(prefix).collect();
                self.reports(*n, routes);
            }
            Step::MovesHome(n, home) => {
                self.homes.insert(*n, *home);
                if let Some(node) = self.node(*n) {
                    let routes = self.tailnet.registry().node(node).unwrap().hostinfo.routable_ips.clone();
                    self.reports(*n, routes);
                }
            }
            Step::Approve(n, p) => self.approve(*n, [prefix(*p)].into(), ApproveMode::Add),
            Step::ReplaceApproved(n, which) => {
                let all = (0..5).filter(|p| which & (1 << p) != 0).map(prefix).collect();
                self.approve(*n, all, ApproveMode::Replace);
            }
            Step::Passes(millis) => self.passes(*millis),
            Step::StandsStill(millis) => {
                self.now = self.now + Duration::from_millis(*millis);
                let effects = self.tailnet.handle_deadline(self.now);
                self.run(effects);
            }
            Step::StoreHangs => self.hangs = true,
            Step::StoreAnswers => self.store_answers(),
            Step::Restart => {
                self.store_answers();
                self.restarts();
            }
            Step::Delete(n) => {
                if let Some(node) = self.node(*n) {
                    self.ask(Command::DeleteNode { node });
                    if self.node(*n).is_none() {
                        self.open.remove(n);
                        *self.generation.entry(*n).or_default() += 1;
                    }
                }
            }
            Step::Disable(..)
            | Step::Prefer(..)
            | Step::Set(..)
            | Step::Freeze(..)
            | Step::Unfreeze(_)
            | Step::Move(..)
            | Step::Drain(_)
            | Step::Undrain(_)
            | Step::Tag(..)
            | Step::Policy(_)
            | Step::Expire(_)
            | Step::Renew(_) => self.person_says(step),
        }
    }

    fn due(&self, late: bool) -> Timestamp {
        if late { self.now - Duration::from_millis(251) } else { self.now }
    }

    fn sets_check(&mut self, p: u8, target: u8, standby: bool, witness: Option<WitnessChoice>) {
        let (prefix, target_address) = (prefix(p), behind(p, target));
        let (every, by) = (Duration::from_secs(2), Approver::Cli);
        let check = NewPathCheck { prefix, target: target_address, every, witness, standby, by };
        self.ask(Command::SetPathCheck(Box::new(check)));
    }

    /// Whether a node carries a prefix, for all, for a group or for some. Groups and spreads are nothing that the second election knows of.
    fn carries(&self, p: u8, node: NodeId) -> bool {
        self.reference.primary.get(&usize::from(p)) == Some(&node.get())
            || self.tailnet.routes().carries(node, &prefix(p))
    }

    fn checks(&mut self, n: u8, p: u8, outcome: u8, late: bool) {
        let Some(node) = self.node(n) else { return };
        let Some(check) = self.tailnet.path_check(&prefix(p)) else { return };
        let (target, at) = (check.target, usize::from(p));
        let number = if target == behind(p, 98) { 98 } else { 99 };
        let carries = self.carries(p, node);
        let role = if carries { Role::Carrier } else { Role::Standby };
        let (told, outcome) = [
            (Check::Passed, PathOutcome::Passed),
            (Check::Spared, PathOutcome::Spared),
            (Check::Missed, PathOutcome::Missed),
        ][usize::from(outcome)];
        self.reference.checked(node.get(), at, number, told, carries, late, self.now.as_millis());
        let due = self.due(late);
        let round = PathRound { prefix: prefix(p), target, role, asked_at: self.now, due, outcome };
        self.tell(Event::Evidence(node, Testimony::Path(round)));
    }

    fn alive(&mut self, n: u8) {
        let Some(node) = self.node(n) else { return };
        if self.tailnet.routes().liveness(node).is_some() {
            self.reference.alive(node.get(), self.now.as_millis());
        }
        self.tell(Event::Evidence(node, Testimony::Alive { asked_at: self.now }));
    }

    /// Control to a router is lost and comes back; its witnesses, who are asked again and again, reach it all the while.
    fn loses_control(&mut self, n: u8, stream: bool, millis: u64, still: u64) {
        let Some(node) = self.node(n).filter(|_| self.open.contains_key(&n)) else { return };
        // One that was accused before is held only if it was answered for all the while.
        let table = self.tailnet.routes();
        let is_grace = |liveness| matches!(liveness, Liveness::Grace { .. });
        if table.down_cause(node).is_some() || table.is_doubted(node) || table.liveness(node).is_some_and(is_grace) {
            return;
        }
        self.moves.clear();
        if stream {
            self.happens(&Step::Loses(n, true));
        } else {
            // The watch tells a doubt before it tells silence, and witnesses are asked then.
            self.alive(n);
            self.reference_follows();
            self.passes(200);
            self.happens(&Step::FallsSilent(n));
        }
        self.reference_follows();
        for at in 0..millis / ASKED_EVERY {
            if still > 0 && at > 0 && at == millis / ASKED_EVERY / 2 {
                self.happens(&Step::StandsStill(still));
                self.reference_follows();
            }
            self.passes(ASKED_EVERY);
            self.alive(n);
            self.reference_follows();
        }
        self.happens(&if stream { Step::Opens(n) } else { Step::Answers(n) });
        self.reference_follows();
        self.held = Some(node);
    }

    fn person_says(&mut self, step: &Step) {
        let by = Approver::Cli;
        let of = |n: &u8| self.node(*n);
        let command = match step {
            Step::Disable(n, p) => of(n).map(|node| Command::DisableRoutes { node, prefixes: [prefix(*p)].into(), by }),
            Step::Prefer(n, p, priority) => {
                of(n).map(|node| Command::Prefer { node, prefix: prefix(*p), priority: *priority, by })
            }
            Step::Set(p, what) => Some(Command::SetPrefix { prefix: p.map(prefix), change: change(*what), by }),
            Step::Freeze(p, seconds) => {
                Some(Command::Freeze { prefix: p.map(prefix), lifetime: Duration::from_secs(*seconds), by })
            }
            Step::Unfreeze(p) => Some(Command::Unfreeze { prefix: p.map(prefix), by }),
            Step::Move(p, n) => of(n).map(|to| Command::MovePrimary { prefix: prefix(*p), to, by }),
            Step::Drain(n) => of(n).map(|node| Command::DrainNode { node, by }),
            Step::Undrain(n) => of(n).map(|node| Command::UndrainNode { node, by }),
            Step::Tag(n, tag) => {
                let tags: BTreeSet<Tag> =
                    ["tag:a", "tag:b"].iter().take(usize::from(*tag)).map(|t| t.parse().unwrap()).collect();
                of(n).map(|node| Command::TagNode { node, tags })
            }
            Step::Policy(which) => Some(Command::SetPolicy {
                text: POLICIES[usize::from(*which)].to_owned(),
                replaces: None,
                by: "cli".to_owned(),
            }),
            Step::Expire(n) => of(n).map(|node| Command::ExpireNode { node, at: Some(self.now) }),
            Step::Renew(n) => of(n).map(|node| Command::ExpireNode { node, at: None }),
            _ => None,
        };
        if let Some(command) = command {
            let done = self.ask(command);
            assert!(done || !matches!(step, Step::Policy(_)), "every policy here is one");
        }
    }

    fn joins(&mut self, n: u8) {
        if self.node(n).is_some() {
            return;
        }
        let hostinfo = Hostinfo { hostname: format!("n{n}"), ..Hostinfo::default() };
        self.ask(Command::Register(Box::new(Registration {
            machine_key: MachineKey::from_bytes([n + 1; 32]),
            node_key: self.node_key(n),
            old_node_key: None,
            auth_key: Some(KEY),
            expiry: None,
            followup: None,
            ephemeral: n == 4,
            capability: 142,
            hostinfo,
            fresh_token: LoginToken(String::new()),
        })));
    }

    fn reports(&mut self, n: u8, routable_ips: BTreeSet<Prefix>) {
        let Some(node) = self.node(n) else { return };
        let home = self.homes.get(&n).copied().unwrap_or(900);
        let net_info = Some(NetInfo { preferred_derp: home, ..NetInfo::default() });
        let hostinfo = Hostinfo { hostname: format!("n{n}"), routable_ips, net_info, ..Hostinfo::default() };
        let which = self.addresses.get(&n).copied().unwrap_or(8);
        let all = [[10, 1, 0, n], [10, 2, 0, n], [10, 1, 7, n], [10, 0, 0, n]];
        let own = all.into_iter().enumerate().filter(|(at, _)| which & (1 << at) != 0);
        let endpoints = own.map(|(_, ip)| Endpoint { address: (ip, 1).into(), kind: EndpointKind::Local });
        let endpoints: Vec<Endpoint> = endpoints.collect();
        let inside = |(at, prefix): (usize, Prefix)| {
            endpoints.iter().any(|endpoint| prefix.contains(endpoint.address.ip())).then_some(at)
        };
        let inside = elected().enumerate().filter_map(inside).collect();
        self.reference.reports(node.get(), (!endpoints.is_empty()).then_some(inside));
        let disco_key = Some(DiscoKey::from_bytes([n; 32]));
        let report = Report { capability: 142, disco_key, endpoints, hostinfo: Some(hostinfo) };
        self.tell(Event::Reported(node, Box::new(report)));
    }

    fn approve(&mut self, n: u8, prefixes: BTreeSet<Prefix>, mode: ApproveMode) {
        if let Some(node) = self.node(n) {
            self.ask(Command::ApproveRoutes { node, prefixes, mode, by: Approver::Cli });
        }
    }

    /// Time goes by, from one deadline to the next; the second election stops at its own too.
    pub fn passes(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        loop {
            let own = self.tailnet.next_deadline().filter(|at| *at <= end);
            let other = self.reference.next().map(Timestamp::from_millis).filter(|at| *at <= end);
            let Some(at) = own.into_iter().chain(other).min() else { break };
            self.now = at.max(self.now);
            if own.is_some_and(|own| own <= self.now) {
                let effects = self.tailnet.handle_deadline(self.now);
                self.run(effects);
                self.forget_the_deleted();
            }
            self.reference_follows();
        }
        self.now = end;
    }

    fn restarts(&mut self) {
        let table = self.tailnet.routes();
        let seats = elected().flat_map(|prefix| {
            let all = table.seats_of(&prefix).flat_map(|(_, seat)| seat.carriers.iter().copied().chain([seat.node]));
            all.collect::<Vec<_>>()
        });
        let primaries: BTreeSet<u64> = seats.map(NodeId::get).collect();
        let loaded = Loaded {
            nodes: self.nodes.values().cloned().collect(),
            routes: self.routes.values().filter(|route| route.deleted_at.is_none()).cloned().collect(),
            ..self.loaded.clone()
        };
        self.tailnet = Tailnet::new(settings(), loaded, self.now).unwrap();
        // Pictures are numbered anew.
        self.pieces = Pieces::new(2);
        self.open.clear();
        self.reference.restarts(&primaries, self.now.as_millis());
        self.tell(Event::Started);
        self.connect_viewer();
    }

    /// An ephemeral node may have gone by itself; its machine joins again with another key.
    fn forget_the_deleted(&mut self) {
        for n in 0..NODES {
            if self.node(n).is_none() && self.open.remove(&n).is_some() {
                *self.generation.entry(n).or_default() += 1;
            }
        }
    }
}

fn change(what: u8) -> PrefixChange {
    let none = PrefixChange::default();
    match what {
        0 => PrefixChange { when_down: Change::Set(WhenDown::FallBack), ..none },
        1 => PrefixChange { when_down: Change::Set(WhenDown::Keep), ..none },
        2 => PrefixChange { on_withdraw: Change::Set(OnWithdraw::Keep), ..none },
        3 => PrefixChange { on_withdraw: Change::Set(OnWithdraw::Disable), ..none },
        4 => PrefixChange { spread: Change::Set(Spread::Region), ..none },
        5 => PrefixChange { spread: Change::Set(Spread::Balance), ..none },
        6 => PrefixChange { spread: Change::Set(Spread::Single), ..none },
        7 => PrefixChange { failback: Change::Set(Failback::Never), ..none },
        8 => PrefixChange { failback: Change::Set(Failback::After(Duration::from_secs(5))), ..none },
        _ => PrefixChange {
            when_down: Change::Reset,
            on_withdraw: Change::Reset,
            spread: Change::Reset,
            failback: Change::Reset,
        },
    }
}
