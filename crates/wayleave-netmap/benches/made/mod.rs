//! Tailnets that are measured, each made once: clients join, routers are approved, and one thing happens.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wayleave_model::{
    Approver, DiscoKey, Endpoint, EndpointKind, Hostinfo, MachineKey, NodeId, NodeKey, Prefix, SessionId, Timestamp,
    UserId,
};
use wayleave_netmap::{PeerCache, Shared};
use wayleave_routes::Cause;
use wayleave_tailnet::{
    ApproveMode, Command, Effect, Ending, Event, Loaded, LoginToken, NewAuthKey, Outcome, Registration, Report,
    Settings, Snapshot, Tailnet,
};

pub(crate) const SIZES: [u64; 3] = [100, 1_000, 10_000];
/// Carries a prefix that the next node carries as well. So do two more for each two hundred nodes.
pub(crate) const ROUTER: NodeId = NodeId::new(1);
/// Who looks: no router.
pub(crate) const VIEWER: NodeId = NodeId::new(50);
/// When all of it is told.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(2_000_000);

const KEY: [u8; 32] = [9; 32];

/// A tailnet as it is, and as it is after something happened.
pub(crate) struct Made {
    pub(crate) shared: Shared,
    pub(crate) cache: PeerCache,
    pub(crate) before: Snapshot,
    /// [`ROUTER`] was lost, and the next node has its prefix.
    pub(crate) failed_over: Snapshot,
    /// Another node has another endpoint.
    pub(crate) moved: Snapshot,
    /// Other rules, which allow all that the ones before did.
    pub(crate) ruled: Snapshot,
}

/// The tailnet of this many nodes.
pub(crate) fn made(nodes: u64) -> &'static Made {
    static ALL: [OnceLock<Made>; SIZES.len()] = [const { OnceLock::new() }; SIZES.len()];
    let at = SIZES.iter().position(|size| *size == nodes).unwrap();
    ALL[at].get_or_init(|| Maker::new(nodes).made())
}

#[derive(Clone)]
struct Maker {
    tailnet: Tailnet,
    now: Timestamp,
}

impl Maker {
    fn new(nodes: u64) -> Self {
        let now = Timestamp::from_millis(1_000_000);
        let tailnet = Tailnet::new(Settings::default(), Loaded::default(), now).unwrap();
        let mut maker = Self { tailnet, now };
        maker.ask(Command::CreateUser { name: "anna".into(), display_name: String::new(), email: None, role: None });
        maker.ask(Command::CreateAuthKey(NewAuthKey {
            user: Some(UserId::new(1)),
            hint: String::new(),
            hash: KEY,
            reusable: true,
            ephemeral: false,
            tags: BTreeSet::new(),
            description: String::new(),
            lifetime: None,
        }));
        for n in 1..=nodes {
            maker.joins(n);
        }
        // Longer than any hold that a start or a new session brings.
        maker.now = maker.now + Duration::from_secs(600);
        maker.due();
        maker
    }

    fn made(mut self) -> Made {
        let before = self.tailnet.snapshot().clone();
        let after = |what: &dyn Fn(&mut Self)| {
            let mut next = self.clone();
            what(&mut next);
            next.tailnet.snapshot().clone()
        };
        let failed_over = after(&|next| {
            let session = SessionId::new(ROUTER.get());
            next.tell(Event::SessionEnded(ROUTER, session, Ending::Lost(Cause::ConnectionClosed)));
            next.now = next.now + wayleave_routes::Settings::default().lost_after;
            next.due();
        });
        let moved = after(&|next| next.reports(NodeId::new(60), 4242));
        let ruled = after(&|next| {
            let everything = "\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"*:*\"]";
            let text = format!("{{\"acls\": [{{{everything}}}]}}");
            next.ask(Command::SetPolicy { text, replaces: None, by: "cli".into() });
        });
        let shared = Shared { base_domain: "example.net".into(), dns: Arc::default(), derp_map: Arc::default() };
        Made { shared, cache: PeerCache::default(), before, failed_over, moved, ruled }
    }

    fn ask(&mut self, command: Command) -> Outcome {
        let plan = self.tailnet.plan(command, self.now).unwrap();
        let outcome = plan.outcome().clone();
        self.tell(Event::Committed(Box::new(plan.into_committed())));
        outcome
    }

    fn tell(&mut self, event: Event) {
        let effects = self.tailnet.apply(event, self.now);
        self.propose(effects);
    }

    fn due(&mut self) {
        let effects = self.tailnet.handle_deadline(self.now);
        self.propose(effects);
    }

    fn propose(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Propose(command) = effect {
                self.ask(command);
            }
        }
    }

    fn joins(&mut self, n: u64) {
        let outcome = self.ask(Command::Register(Box::new(Registration {
            machine_key: MachineKey::from_bytes(key(1, n)),
            node_key: NodeKey::from_bytes(key(2, n)),
            old_node_key: None,
            auth_key: Some(KEY),
            expiry: None,
            followup: None,
            ephemeral: false,
            capability: 142,
            hostinfo: hostinfo(n),
            fresh_token: LoginToken(String::new()),
        })));
        let Outcome::Registered(node) = outcome else { panic!("{outcome:?}") };
        assert_eq!(node.get(), n, "ids are given in the order of joining");
        self.tell(Event::SessionOpened(node, SessionId::new(n)));
        self.reports(node, 41_641);
        if let Some(prefix) = carried(n) {
            let prefixes = BTreeSet::from([prefix]);
            self.ask(Command::ApproveRoutes { node, prefixes, mode: ApproveMode::Add, by: Approver::Cli });
        }
    }

    fn reports(&mut self, node: NodeId, port: u16) {
        let n = node.get();
        let at = |address: String| Endpoint { address: address.parse().unwrap(), kind: EndpointKind::Local };
        let (high, low) = (n / 256, n % 256);
        let endpoints = vec![at(format!("172.16.{high}.{low}:{port}")), at(format!("198.18.{high}.{low}:{port}"))];
        let disco_key = Some(DiscoKey::from_bytes(key(3, n)));
        let report = Report { capability: 142, disco_key, endpoints, hostinfo: Some(hostinfo(n)) };
        self.tell(Event::Reported(node, Box::new(report)));
    }
}

/// Bytes that no compression makes smaller, as those of a key are.
fn key(kind: u64, n: u64) -> [u8; 32] {
    let mut state = kind << 32 | n;
    let mut out = [0; 32];
    for part in out.chunks_exact_mut(8) {
        // One step of SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        part.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    out
}

/// The first two nodes of each two hundred carry a prefix of their own.
fn carried(n: u64) -> Option<Prefix> {
    let (pair, at) = ((n - 1) / 200, (n - 1) % 200);
    (at < 2).then(|| format!("10.{pair}.0.0/16").parse().unwrap())
}

fn hostinfo(n: u64) -> Hostinfo {
    Hostinfo {
        hostname: format!("node-{n}"),
        os: "linux".into(),
        os_version: "6.12".into(),
        client_version: "1.102.5".into(),
        routable_ips: carried(n).into_iter().collect(),
        ..Hostinfo::default()
    }
}
