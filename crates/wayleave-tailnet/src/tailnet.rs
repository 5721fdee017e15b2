//! The state machine itself: what is in it, what goes in and what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use wayleave_model::{
    ApiKey, AuthKey, DiscoKey, Endpoint, FlapRow, Hostinfo, Node, NodeId, PathCheck, Prefix, PrefixRow, Route, RouteId,
    SeatRow, SessionId, Timers, Timestamp, User,
};
use wayleave_policy::{CompiledPolicy, People, PolicyError, PolicyFile, Rules};
use wayleave_routes::{Cause, Electorate, Group, Judgement, PrimaryChange, RouteTable, SteeredChange, Testimony};

use crate::command::{Command, LoginToken};
use crate::enrolment::Login;
use crate::guarded::Guarded;
use crate::history::HistoryEntry;
use crate::liveness::{Ending, Liveness};
use crate::loans::{Loan, Loans};
use crate::plan::Committed;
use crate::policy::{self, PolicyRow};
use crate::registry::{Registry, Sequences};
use crate::settings::Settings;
use crate::silence::Silences;
use crate::sites::{Site, SiteHost, Sites};
use crate::snapshot::Snapshot;
use crate::ssh_checks::{SshCheckKey, SshChecks};
use crate::standing::Standings;
use crate::vantage::Homes;

/// What a store has of a tailnet.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// All users.
    pub users: Vec<User>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// The route records that are not marked deleted.
    pub routes: Vec<Route>,
    /// The names of nodes that were deleted, as far as they are remembered.
    pub gone: Vec<(NodeId, String)>,
    /// All pre-auth keys.
    pub auth_keys: Vec<AuthKey>,
    /// All API keys.
    pub api_keys: Vec<ApiKey>,
    /// The policy that was set last.
    pub policy: Option<PolicyRow>,
    /// What was set for prefixes.
    pub prefixes: Vec<PrefixRow>,
    /// How often nodes were lost of late.
    pub flaps: Vec<FlapRow>,
    /// Who carried what.
    pub seats: Vec<SeatRow>,
    /// Which prefixes were last told to be down: for the tailnet as a whole, or for those who go through a group.
    pub down: Vec<(Prefix, Option<Group>)>,
    /// The 4via6 sites.
    pub sites: Vec<Site>,
    /// The hosts that are named at them.
    pub site_hosts: Vec<SiteHost>,
    /// All path checks.
    pub path_checks: Vec<PathCheck>,
    /// The numbers that come next.
    pub sequences: Sequences,
    /// The import that it came from, if it came from one.
    pub imported: Option<Imported>,
}

/// That a tailnet came from another installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// When.
    pub at: Timestamp,
    /// From what, in a few words: `headscale 0.28`.
    pub source: String,
}

/// What a client reports of itself while it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Capability version of the client.
    pub capability: u16,
    /// Its discovery key.
    pub disco_key: Option<DiscoKey>,
    /// Where it can be reached directly. Empty is a report too: nowhere.
    pub endpoints: Vec<Endpoint>,
    /// What it says of itself; absent where it had nothing to say.
    pub hostinfo: Option<Hostinfo>,
}

/// Something that happened. It is told, not asked, and can't be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A plan was committed.
    Committed(Box<Committed>),
    /// The server started, and has loaded what it knows.
    Started,
    /// A node opened a map stream.
    SessionOpened(NodeId, SessionId),
    /// A map stream ended.
    SessionEnded(NodeId, SessionId, Ending),
    /// A session is silent, by this evidence.
    Silent(NodeId, SessionId, Cause),
    /// A silent session has been heard again.
    Answered(NodeId, SessionId),
    /// Something was found out about a node.
    Evidence(NodeId, Testimony),
    /// A node reported.
    Reported(NodeId, Box<Report>),
    /// A witness is to be led through a standby, for a path check. It is not where something speaks against it: see [`Tailnet::may_lend`].
    Lend(Loan),
    /// The loan that serves the check of this prefix has done its work.
    TakeBack(Prefix),
    /// Clients that have come wait for the server at this moment; told again, each second or so, while it is so.
    Busy,
    /// These are the addresses that clients need to reach before they reach anything else.
    Guarded(BTreeMap<IpAddr, Guarded>),
}

/// Something to be done, outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Plan and commit this: the tailnet itself asks for it.
    Propose(Command),
    /// A prefix moved. Already in force.
    PrimaryChanged(PrimaryChange),
    /// A prefix moved within a group that a grant steers through. Already in force.
    SteeredChanged(SteeredChange),
    /// The policy of this revision is in force.
    PolicyChanged(u64),
    /// A conviction was made, written down, or lifted.
    Judged(Judgement),
    /// A router was lost, or seems so: its witnesses are to be asked at once, and for as long as it is doubted.
    AskWitnesses(NodeId),
    /// A node is down: the first conviction that counts stands.
    NodeDown(NodeId, Cause),
    /// A node that was down is up.
    NodeUp(NodeId),
    /// A node became flapping.
    Flapping(NodeId),
    /// So many sessions were lost at once that it is the server's own side; routes of these nodes stay.
    CommonLoss(BTreeSet<NodeId>),
    /// This line of history is to be written behind.
    History(HistoryEntry),
    /// This node's row is to be written behind.
    NodeRow(NodeId),
    /// This route's row is to be written behind.
    RouteRow(RouteId),
    /// Who carries a prefix, or what is remembered of that, is to be written behind.
    SeatRow(Prefix, Option<Group>),
    /// How often this node was lost of late is to be written behind.
    FlapRow(NodeId),
    /// A prefix was withdrawn from those who have a wider one to use, or came back. Already in force.
    FellBack {
        /// Which.
        prefix: Prefix,
        /// For those who reach it through this group; `None`: for all others.
        group: Option<Group>,
        /// It was withdrawn.
        fallen_back: bool,
    },
    /// The key of a router ends soon.
    KeyExpires {
        /// Whose.
        node: NodeId,
        /// When.
        at: Timestamp,
    },
    /// A login was answered: whoever waits for it may ask again.
    LoginSettled(LoginToken),
    /// A check of a shell was answered, or given up: whoever waits for it may ask again.
    SshCheckSettled(SshCheckKey),
    /// A node is gone: its sessions and its relay connections end.
    NodeGone(Box<Node>),
}

/// The deadlines that are the tailnet's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// A key ends.
    KeyExpires(NodeId),
    /// A router's key ends before long.
    KeyWarning(NodeId),
    /// A home region has been stable for long enough.
    HomeStable(NodeId),
    /// A freeze is over: homes that settled meanwhile count.
    Thaw,
    /// Whoever has not come back since the start is lost.
    StartIsOver,
    /// Logins that nobody answered are forgotten.
    Logins,
    /// The loan that serves the check of this prefix is over.
    LoanEnds(Prefix),
}

/// One tailnet. See the crate's text.
#[derive(Clone, Debug)]
pub struct Tailnet {
    pub(crate) settings: Settings,
    pub(crate) registry: Registry,
    pub(crate) routes: RouteTable,
    pub(crate) liveness: Liveness,
    pub(crate) silences: Silences,
    pub(crate) logins: BTreeMap<LoginToken, Login>,
    pub(crate) ssh_checks: SshChecks,
    pub(crate) sequences: Sequences,
    pub(crate) path_checks: BTreeMap<Prefix, PathCheck>,
    pub(crate) loans: Loans,
    pub(crate) policy_row: Option<PolicyRow>,
    pub(crate) imported: Option<Imported>,
    pub(crate) rules: Arc<Rules>,
    /// The rules changed since the last picture: all answers are to be worked out anew.
    pub(crate) rules_stale: bool,
    pub(crate) electorates: BTreeMap<Group, Electorate>,
    /// Addresses that clients need to reach before they reach anything else.
    pub(crate) guarded: BTreeMap<IpAddr, Guarded>,
    pub(crate) homes: Homes,
    pub(crate) timers: Timers<Due>,
    /// Nodes whose view is to be made anew for the next picture; cleared when it was.
    pub(crate) touched: BTreeSet<NodeId>,
    /// Users changed since the last picture.
    pub(crate) users_touched: bool,
    pub(crate) sites: Arc<Sites>,
    pub(crate) standings: Standings,
    /// Sites changed since the last picture.
    pub(crate) sites_touched: bool,
    pub(crate) snapshot: Snapshot,
}

impl Tailnet {
    /// A tailnet as a store has it. It has not started yet: see [`Event::Started`].
    ///
    /// # Errors
    ///
    /// The policy that was stored is none (any more). Nothing else is put in its place: one that allows less would cut traffic off, one
    /// that allows more would let everybody in.
    pub fn new(mut settings: Settings, loaded: Loaded, now: Timestamp) -> Result<Self, PolicyError> {
        let sites = Arc::new(Sites::new(loaded.sites.iter().cloned(), loaded.site_hosts.iter().cloned()));
        settings.policy.sites = sites.numbers();
        let file = match &loaded.policy {
            Some(row) => Arc::new(PolicyFile::parse(&row.text, &settings.policy)?),
            None => policy::none(),
        };
        let rules = Arc::new(Rules::new(file, Arc::new(People::new(&loaded.users))));
        let mut tailnet = Self {
            routes: RouteTable::new(settings.routes.clone()),
            settings,
            registry: Registry::default(),
            liveness: Liveness::default(),
            silences: Silences::default(),
            logins: BTreeMap::new(),
            ssh_checks: SshChecks::default(),
            sequences: loaded.sequences,
            snapshot: Snapshot::empty(Arc::new(CompiledPolicy::new(Arc::clone(&rules)))),
            path_checks: BTreeMap::new(),
            loans: Loans::default(),
            policy_row: loaded.policy.clone(),
            imported: loaded.imported.clone(),
            rules,
            rules_stale: false,
            electorates: BTreeMap::new(),
            guarded: BTreeMap::new(),
            homes: Homes::default(),
            timers: Timers::new(),
            touched: BTreeSet::new(),
            users_touched: true,
            sites,
            standings: Standings::default(),
            sites_touched: true,
        };
        tailnet.load(loaded, now);
        Ok(tailnet)
    }

    /// Users, nodes and keys.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What people call a node: its name, that of one that was deleted too; what is left to say of one that nobody remembers.
    pub fn name_of(&self, node: NodeId) -> String {
        match (self.registry.node(node), self.registry.gone(node)) {
            (Some(node), _) => node.given_name.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => format!("node {node}"),
        }
    }

    /// Routes, routers and primaries.
    pub const fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// Whether a node is shown as online.
    pub fn is_online(&self, node: NodeId) -> bool {
        self.liveness.is_online(node)
    }

    /// How many map sessions are open.
    pub const fn open_sessions(&self) -> usize {
        self.liveness.open_sessions()
    }

    /// The logins that wait for a person, with since when, and what the machine calls itself.
    pub fn logins(&self) -> impl Iterator<Item = (&LoginToken, Timestamp, &str)> {
        self.logins.iter().map(|(token, login)| (token, login.since, login.registration.hostinfo.hostname.as_str()))
    }

    /// When [`Self::handle_deadline`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let all = [
            self.routes.next_deadline(),
            self.liveness.next_deadline(),
            self.timers.next(),
            self.ssh_checks.next_deadline(),
        ];
        all.into_iter().flatten().min()
    }

    /// The picture of the state as it is; the same as before if nothing changed that readers see.
    pub fn snapshot(&mut self) -> &Snapshot {
        self.refresh();
        &self.snapshot
    }

    /// The picture of the state as it is, for readers who are shown some pictures only, and last the one with this number. It knows what
    /// changed since pictures that they were shown; of one that was between two of those it may name too many nodes.
    pub fn show(&mut self, last: u64) -> &Snapshot {
        self.refresh();
        self.snapshot.join_steps(last);
        &self.snapshot
    }

    /// Every prefix that this node advertises and is approved for; none while its key is expired.
    pub(crate) fn approved_of(&self, node: &Node, expired: bool) -> BTreeSet<Prefix> {
        if expired {
            return BTreeSet::new();
        }
        let rows = self.routes.rows_of(node.id);
        rows.filter(|row| row.advertised && row.enabled && row.prefix.invalid().is_none())
            .map(|row| row.prefix)
            .collect()
    }
}
