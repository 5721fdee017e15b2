//! A tailnet for the tests of this crate.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use wayleave_model::{Approver, Hostinfo, MachineKey, NodeId, NodeKey, SessionId, Timestamp, UserId};
use wayleave_tailnet::{
    ApproveMode, Command, Event, Loaded, Loan, LoginToken, NewAuthKey, NewPathCheck, Outcome, Registration, Report,
    Settings, Snapshot, Tailnet, Term,
};

use crate::cache::PeerCache;
use crate::delta::{Shared, delta, full};

/// A tailnet to which things happen, and a viewer's session on it.
pub(crate) struct Rig {
    pub(crate) tailnet: Tailnet,
    pub(crate) now: Timestamp,
    pub(crate) shared: Shared,
    pub(crate) cache: PeerCache,
}

const KEY: [u8; 32] = [9; 32];

impl Rig {
    pub(crate) fn new() -> Self {
        let now = Timestamp::from_millis(1_000_000);
        let mut rig = Self {
            tailnet: Tailnet::new(Settings::default(), Loaded::default(), now).unwrap(),
            now,
            shared: Shared { base_domain: "example.net".into(), dns: Arc::default(), derp_map: Arc::default() },
            cache: PeerCache::default(),
        };
        rig.ask(Command::CreateUser { name: "anna".into(), display_name: String::new(), email: None, role: None });
        rig.ask(Command::CreateAuthKey(NewAuthKey {
            user: Some(UserId::new(1)),
            hint: String::new(),
            hash: KEY,
            reusable: true,
            ephemeral: false,
            tags: BTreeSet::new(),
            description: String::new(),
            lifetime: None,
        }));
        rig
    }

    pub(crate) fn ask(&mut self, command: Command) -> Outcome {
        let plan = self.tailnet.plan(command, self.now).unwrap();
        let outcome = plan.outcome().clone();
        self.tell(Event::Committed(Box::new(plan.into_committed())));
        outcome
    }

    pub(crate) fn tell(&mut self, event: Event) {
        for effect in self.tailnet.apply(event, self.now) {
            if let wayleave_tailnet::Effect::Propose(command) = effect {
                self.ask(command);
            }
        }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        for effect in self.tailnet.handle_deadline(self.now) {
            if let wayleave_tailnet::Effect::Propose(command) = effect {
                self.ask(command);
            }
        }
    }

    pub(crate) fn hostinfo(n: u8, routes: &[&str]) -> Hostinfo {
        let routable_ips = routes.iter().map(|text| text.parse().unwrap()).collect();
        Hostinfo { hostname: format!("n{n}"), routable_ips, ..Hostinfo::default() }
    }

    pub(crate) fn joins(&mut self, n: u8, routes: &[&str]) -> NodeId {
        let outcome = self.ask(Command::Register(Box::new(Registration {
            machine_key: MachineKey::from_bytes([n; 32]),
            node_key: NodeKey::from_bytes([n; 32]),
            old_node_key: None,
            auth_key: Some(KEY),
            expiry: None,
            followup: None,
            ephemeral: false,
            capability: 142,
            hostinfo: Self::hostinfo(n, routes),
            fresh_token: LoginToken(String::new()),
        })));
        let Outcome::Registered(node) = outcome else { panic!("{outcome:?}") };
        self.tell(Event::SessionOpened(node, SessionId::new(n.into())));
        self.reports(n, node, routes, 41641);
        node
    }

    pub(crate) fn reports(&mut self, n: u8, node: NodeId, routes: &[&str], port: u16) {
        self.tell(Event::Reported(
            node,
            Box::new(Report {
                capability: 142,
                disco_key: Some(wayleave_model::DiscoKey::from_bytes([n; 32])),
                endpoints: vec![wayleave_model::Endpoint {
                    address: format!("10.0.0.{n}:{port}").parse().unwrap(),
                    kind: wayleave_model::EndpointKind::Local,
                }],
                hostinfo: Some(Self::hostinfo(n, routes)),
            }),
        ));
    }

    pub(crate) fn approve(&mut self, node: NodeId, prefix: &str) {
        let prefixes = BTreeSet::from([prefix.parse().unwrap()]);
        self.ask(Command::ApproveRoutes { node, prefixes, mode: ApproveMode::Add, by: Approver::Cli });
    }

    /// Has a prefix checked, also behind routers that stand by, and says how a witness would be led through one of them.
    pub(crate) fn lends(&mut self, prefix: &str, target: &str, router: NodeId, witness: NodeId) -> Loan {
        let (prefix, target) = (prefix.parse().unwrap(), target.parse().unwrap());
        let every = Duration::from_secs(2);
        let check = NewPathCheck { prefix, target, every, witness: None, standby: true, by: Approver::Cli };
        self.ask(Command::SetPathCheck(Box::new(check)));
        Loan { prefix, target, router, witness, term: Term::Short }
    }

    pub(crate) fn full(&mut self, viewer: NodeId) -> Value {
        let now = self.now;
        let snapshot = self.tailnet.snapshot().clone();
        serde_json::to_value(full(&snapshot, &self.shared, &self.cache, viewer, now).unwrap()).unwrap()
    }

    pub(crate) fn base(&mut self) -> Snapshot {
        self.tailnet.snapshot().clone()
    }

    pub(crate) fn delta(&mut self, base: &Snapshot, viewer: NodeId) -> Option<Value> {
        let next = self.tailnet.snapshot().clone();
        let changed = next.changed_since(base.version).unwrap();
        let delta = delta((base, &self.shared), (&next, &self.shared), &changed, &self.cache, viewer, self.now)?;
        Some(serde_json::to_value(delta).unwrap())
    }
}
