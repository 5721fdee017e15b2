//! Stories: what is given, what happens, what follows, in words. Each file in `stories/` is one, named by its number.
//!
//! A line is one of
//!
//! ```text
//! given NAME...                     nodes that join in this order and are connected
//! tag NAME TAG...                   NAME advertises P...          approve|disable NAME P...
//! policy TEXT                       lose|open|silent|answer|expire|renew|delete NAME
//! wait DURATION                     prefer NAME P N               move P NAME
//! freeze P|all DURATION | unfreeze P    drain|undrain NAME        set P WORD VALUE
//! repeat N ... end                  restart                       home NAME REGION (900 before)
//! old-end|old-silent|old-answer NAME                      what is told of the session before the newest
//! echo NAME answered|missed [late]  probe NAME answered|silent [late]     late: 3 s after it was due
//! > P on NAME[: REASON]             > P on nobody
//! > filter of NAME lets P in         > filter of NAME does not name P
//! > NAME sees P on NAME|nowhere     > NAME is STATE for P         > moved P: A -> B: REASON | > nothing moved
//! ```
//!
//! and `#` begins a remark. An expectation that fails is told with its line.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
#![allow(clippy::disallowed_methods, reason = "the stories are files")]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a story has no word for is passed over")]

use std::collections::{BTreeMap, BTreeSet};

use wayleave_model::{
    Approver, Change, DiscoKey, Endpoint, EndpointKind, FlapRow, Hostinfo, MachineKey, NetInfo, NodeId, NodeKey,
    Prefix, PrefixChange, SessionId, Timestamp, UserId, duration,
};
use wayleave_netmap::told;
use wayleave_policy::FilterRule;
use wayleave_routes::{Cause, PrimaryChange, ProbeRound, Testimony};
use wayleave_tailnet::{
    ApproveMode, Command, Effect, Ending, Event, Loaded, LoginToken, NewAuthKey, Registration, Report, Settings,
    Tailnet,
};

const KEY: [u8; 32] = [9; 32];

struct Story {
    tailnet: Tailnet,
    now: Timestamp,
    names: BTreeMap<String, NodeId>,
    sessions: BTreeMap<String, SessionId>,
    /// Home relay regions of those that have another than all others.
    homes: BTreeMap<String, u32>,
    next: u64,
    /// Moves that no line has told yet.
    moves: Vec<PrimaryChange>,
}

#[test]
fn every_story_comes_out_as_it_says() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stories");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 15, "the stories are in {folder}");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<(usize, &str)> = text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line.split('#').next().unwrap_or_default().trim()))
            .filter(|(_, line)| !line.is_empty())
            .collect();
        Story::new().play(&name, &lines);
    }
}

impl Story {
    fn new() -> Self {
        let now = Timestamp::from_millis(1_000_000_000);
        let tailnet = Tailnet::new(Settings::default(), Loaded::default(), now).unwrap();
        let mut story = Self {
            tailnet,
            now,
            names: BTreeMap::new(),
            sessions: BTreeMap::new(),
            homes: BTreeMap::new(),
            next: 0,
            moves: Vec::new(),
        };
        story.ask(Command::CreateUser { name: "anna".into(), display_name: String::new(), email: None, role: None });
        story.ask(Command::CreateAuthKey(NewAuthKey {
            user: Some(UserId::new(1)),
            hint: String::new(),
            hash: KEY,
            reusable: true,
            ephemeral: false,
            tags: BTreeSet::new(),
            description: String::new(),
            lifetime: None,
        }));
        story
    }

    fn play(&mut self, name: &str, lines: &[(usize, &str)]) {
        let mut at = 0;
        while at < lines.len() {
            let (number, line) = lines[at];
            if let Some(times) = line.strip_prefix("repeat ") {
                let end = lines[at..].iter().position(|(_, line)| *line == "end").expect("repeat has an end") + at;
                for _ in 0..times.parse::<u32>().unwrap() {
                    self.play(name, &lines[at + 1..end]);
                }
                at = end + 1;
                continue;
            }
            let place = format!("{name}:{number}: {line}");
            match line.strip_prefix("> ") {
                Some(expected) => self.expect(&place, expected),
                None => self.happens(&place, line),
            }
            at += 1;
        }
    }

    fn ask(&mut self, command: Command) {
        let plan = self.tailnet.plan(command, self.now).unwrap_or_else(|refusal| panic!("refused: {refusal}"));
        self.tell(Event::Committed(Box::new(plan.into_committed())));
    }

    fn tell(&mut self, event: Event) {
        let effects = self.tailnet.apply(event, self.now);
        self.run(effects);
    }

    fn run(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Propose(command) => {
                    if let Ok(plan) = self.tailnet.plan(command, self.now) {
                        self.tell(Event::Committed(Box::new(plan.into_committed())));
                    }
                }
                Effect::PrimaryChanged(change) => self.moves.push(change),
                _ => {}
            }
        }
    }

    fn node(&self, place: &str, name: &str) -> NodeId {
        *self.names.get(name).unwrap_or_else(|| panic!("{place}: nobody is called {name}"))
    }

    fn name(&self, node: Option<NodeId>) -> String {
        let known = node.and_then(|node| self.names.iter().find(|(_, id)| **id == node));
        known.map_or("nobody".to_owned(), |(name, _)| name.clone())
    }

    fn joins(&mut self, name: &str) {
        let n = u8::try_from(self.names.len() + 1).unwrap();
        let hostinfo = Hostinfo { hostname: name.to_owned(), ..Hostinfo::default() };
        self.ask(Command::Register(Box::new(Registration {
            machine_key: MachineKey::from_bytes([n; 32]),
            node_key: NodeKey::from_bytes([n; 32]),
            old_node_key: None,
            auth_key: Some(KEY),
            expiry: None,
            followup: None,
            ephemeral: false,
            capability: 142,
            hostinfo,
            fresh_token: LoginToken(String::new()),
        })));
        let id = self.tailnet.registry().node_by_key(&NodeKey::from_bytes([n; 32])).unwrap().id;
        self.names.insert(name.to_owned(), id);
        self.opens(name);
        self.reports(name, id, BTreeSet::new());
    }

    fn opens(&mut self, name: &str) {
        self.next += 1;
        let session = SessionId::new(self.next);
        self.sessions.insert(name.to_owned(), session);
        self.tell(Event::SessionOpened(self.names[name], session));
    }

    fn reports(&mut self, name: &str, node: NodeId, routable_ips: BTreeSet<Prefix>) {
        let preferred_derp = self.homes.get(name).copied().unwrap_or(900);
        let net_info = Some(NetInfo { preferred_derp, ..NetInfo::default() });
        let hostinfo = Hostinfo { hostname: name.to_owned(), routable_ips, net_info, ..Hostinfo::default() };
        let endpoint = Endpoint { address: ([192, 0, 2, 1], 1).into(), kind: EndpointKind::Stun };
        let disco_key = Some(DiscoKey::from_bytes([7; 32]));
        let report = Report { capability: 142, disco_key, endpoints: vec![endpoint], hostinfo: Some(hostinfo) };
        self.tell(Event::Reported(node, Box::new(report)));
    }

    fn happens(&mut self, place: &str, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let by = Approver::Cli;
        let prefixes =
            |words: &[&str]| -> BTreeSet<Prefix> { words.iter().map(|text| text.parse().unwrap()).collect() };
        let lost = Ending::Lost(Cause::ConnectionClosed);
        match words[..] {
            ["given", ref names @ ..] => names.iter().for_each(|name| self.joins(name)),
            ["policy", ..] => {
                let text = line.trim_start_matches("policy").trim().to_owned();
                self.ask(Command::SetPolicy { text, replaces: None, by: "cli".to_owned() });
            }
            [name, "advertises", ref routes @ ..] => {
                let node = self.node(place, name);
                self.reports(name, node, prefixes(routes));
            }
            ["home", name, region] => {
                let node = self.node(place, name);
                self.homes.insert(name.to_owned(), region.parse().unwrap());
                let routes = self.tailnet.registry().node(node).unwrap().hostinfo.routable_ips.clone();
                self.reports(name, node, routes);
            }
            ["approve", name, ref routes @ ..] => {
                let node = self.node(place, name);
                self.ask(Command::ApproveRoutes { node, prefixes: prefixes(routes), mode: ApproveMode::Add, by });
            }
            ["approve-routes", name, ref routes @ ..] => {
                let node = self.node(place, name);
                self.ask(Command::ApproveRoutes { node, prefixes: prefixes(routes), mode: ApproveMode::Replace, by });
            }
            ["disable", name, ref routes @ ..] => {
                let node = self.node(place, name);
                self.ask(Command::DisableRoutes { node, prefixes: prefixes(routes), by });
            }
            ["tag", name, ref tags @ ..] => {
                let tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
                self.ask(Command::TagNode { node: self.node(place, name), tags });
            }
            ["lose", name] => self.tell(Event::SessionEnded(self.node(place, name), self.sessions[name], lost)),
            ["old-end", name] => {
                let old = SessionId::new(self.sessions[name].get() - 1);
                self.tell(Event::SessionEnded(self.node(place, name), old, lost));
            }
            ["old-silent", name] => {
                let old = SessionId::new(self.sessions[name].get() - 1);
                self.tell(Event::Silent(self.node(place, name), old, Cause::PingUnanswered));
            }
            ["old-answer", name] => {
                let old = SessionId::new(self.sessions[name].get() - 1);
                self.tell(Event::Answered(self.node(place, name), old));
            }
            ["echo", name, word, ref late @ ..] => {
                let due = self.due(late);
                let (session, answered) = (self.sessions[name], word == "answered");
                self.tell(Event::Evidence(self.node(place, name), Testimony::Echo { session, answered, due }));
            }
            ["probe", name, word, ref late @ ..] => {
                let due = self.due(late);
                let (answered, silent) = if word == "answered" { (3, 0) } else { (0, 3) };
                let round = ProbeRound { session: Some(self.sessions[name]), due, answered, silent };
                self.tell(Event::Evidence(self.node(place, name), Testimony::Probe(round)));
            }
            ["open", name] => self.opens(name),
            ["silent", name] => {
                self.tell(Event::Silent(self.node(place, name), self.sessions[name], Cause::PingUnanswered));
            }
            ["answer", name] => self.tell(Event::Answered(self.node(place, name), self.sessions[name])),
            ["expire", name] => {
                self.ask(Command::ExpireNode { node: self.node(place, name), at: Some(self.now) });
            }
            ["renew", name] => self.ask(Command::ExpireNode { node: self.node(place, name), at: None }),
            ["delete", name] => self.ask(Command::DeleteNode { node: self.node(place, name) }),
            ["wait", time] => self.waits(duration::parse(time).unwrap()),
            ["prefer", name, prefix, priority] => {
                let (node, prefix) = (self.node(place, name), prefix.parse().unwrap());
                self.ask(Command::Prefer { node, prefix, priority: priority.parse().unwrap(), by });
            }
            ["move", prefix, name] => {
                self.ask(Command::MovePrimary { prefix: prefix.parse().unwrap(), to: self.node(place, name), by });
            }
            ["freeze", prefix, time] => {
                let prefix = (prefix != "all").then(|| prefix.parse().unwrap());
                self.ask(Command::Freeze { prefix, lifetime: duration::parse(time).unwrap(), by });
            }
            ["unfreeze", prefix] => self.ask(Command::Unfreeze { prefix: Some(prefix.parse().unwrap()), by }),
            ["drain", name] => self.ask(Command::DrainNode { node: self.node(place, name), by }),
            ["undrain", name] => self.ask(Command::UndrainNode { node: self.node(place, name), by }),
            ["set", prefix, word, value] => {
                let none = PrefixChange::default();
                let change = match word {
                    "when_down" => PrefixChange { when_down: Change::Set(value.parse().unwrap()), ..none },
                    "on_withdraw" => PrefixChange { on_withdraw: Change::Set(value.parse().unwrap()), ..none },
                    "spread" => PrefixChange { spread: Change::Set(value.parse().unwrap()), ..none },
                    "failback_after" => PrefixChange { failback: Change::Set(value.parse().unwrap()), ..none },
                    _ => panic!("{place}: there is no such setting"),
                };
                self.ask(Command::SetPrefix { prefix: Some(prefix.parse().unwrap()), change, by });
            }
            ["restart"] => self.restarts(),
            _ => panic!("{place}: no such line"),
        }
    }

    /// When something was due that is looked at now.
    fn due(&self, late: &[&str]) -> Timestamp {
        if late == ["late"] { self.now - std::time::Duration::from_secs(3) } else { self.now }
    }

    fn waits(&mut self, time: std::time::Duration) {
        let end = self.now + time;
        while let Some(at) = self.tailnet.next_deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            let effects = self.tailnet.handle_deadline(self.now);
            self.run(effects);
        }
        self.now = end;
    }

    fn restarts(&mut self) {
        let table = self.tailnet.routes();
        let nodes: Vec<_> = self.tailnet.registry().nodes().cloned().collect();
        let flaps: Vec<FlapRow> = nodes.iter().filter_map(|node| table.flaps(node.id)).collect();
        let seats = table.prefixes().flat_map(|prefix| {
            table.seats_of(prefix).filter_map(|(group, _)| table.seat_row(prefix, group)).collect::<Vec<_>>()
        });
        let prefixes = table.all_overrides().map(|(prefix, overrides)| wayleave_model::PrefixRow {
            prefix: prefix.copied(),
            overrides: overrides.clone(),
        });
        let loaded = Loaded {
            users: self.tailnet.registry().users().cloned().collect(),
            routes: table.rows().cloned().collect(),
            policy: self.tailnet.policy_row().cloned(),
            prefixes: prefixes.collect(),
            seats: seats.collect(),
            flaps,
            nodes,
            ..Loaded::default()
        };
        self.tailnet = Tailnet::new(Settings::default(), loaded, self.now).unwrap();
        self.tell(Event::Started);
    }

    fn expect(&mut self, place: &str, expected: &str) {
        let (head, reason) = match expected.split_once(": ") {
            Some((head, reason)) => (head, Some(reason)),
            None => (expected, None),
        };
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            ["nothing", "moved"] => assert_eq!(self.moves, [], "{place}"),
            ["moved", prefix] => {
                assert!(!self.moves.is_empty(), "{place}: nothing moved");
                let PrimaryChange { prefix: of, from, to, because } = self.moves.remove(0);
                let told = format!("{} -> {}: {because}", self.name(from), self.name(to));
                assert_eq!((of.to_string().as_str(), told.as_str()), (prefix, reason.unwrap_or_default()), "{place}");
            }
            [prefix, "on", name] => {
                let seat = self.tailnet.routes().seat(&prefix.parse().unwrap());
                assert_eq!(self.name(seat.map(|seat| seat.node)), name, "{place}");
                if let (Some(reason), Some(seat)) = (reason, seat) {
                    assert_eq!(seat.because.to_string(), reason, "{place}");
                }
            }
            ["filter", "of", name, "lets", prefix, "in"] => {
                assert!(self.filter(place, name).contains(prefix), "{place}: {:?}", self.filter(place, name));
            }
            ["filter", "of", name, "does", "not", "name", prefix] => {
                assert!(!self.filter(place, name).contains(prefix), "{place}: {:?}", self.filter(place, name));
            }
            [viewer, "sees", prefix, "nowhere"] => assert_eq!(self.sees(place, viewer, prefix), [""; 0], "{place}"),
            [viewer, "sees", prefix, "on", name] => assert_eq!(self.sees(place, viewer, prefix), [name], "{place}"),
            [name, "is", state, "for", prefix] => {
                let table = self.tailnet.routes();
                let row = table.row_of(self.node(place, name), &prefix.parse().unwrap());
                let row = row.unwrap_or_else(|| panic!("{place}: there is no such route"));
                assert_eq!(table.state(row).word(), state, "{place}");
            }
            _ => panic!("{place}: no such expectation"),
        }
    }

    /// The destinations that a node's packet filter names.
    fn filter(&mut self, place: &str, name: &str) -> BTreeSet<String> {
        let node = self.node(place, name);
        let rules = self.tailnet.snapshot().policy.filter(node);
        let named = rules.iter().flat_map(|rule| match rule {
            FilterRule::Packets { destinations, .. } => {
                destinations.iter().map(|(to, _)| to.clone()).collect::<Vec<_>>()
            }
            FilterRule::Capabilities { destinations, .. } => destinations.iter().map(Prefix::to_string).collect(),
        });
        named.collect()
    }

    /// The peers on which a viewer sees a prefix.
    fn sees(&mut self, place: &str, viewer: &str, prefix: &str) -> Vec<String> {
        let (id, prefix): (NodeId, Prefix) = (self.node(place, viewer), prefix.parse().unwrap());
        let snapshot = self.tailnet.snapshot().clone();
        let me = snapshot.node(id).unwrap();
        let on = snapshot
            .nodes
            .values()
            .filter(|peer| told(&snapshot, me, peer).is_some_and(|t| t.routes.contains(&prefix)));
        on.map(|peer| self.name(Some(peer.node.id))).collect()
    }
}
