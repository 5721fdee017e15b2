//! What readers see of a tailnet: an immutable picture that shares with the one before all that did not change.
//!
//! Every picture has a number. `changes` says which nodes changed from one number to the next, so a reader that was brought to an older
//! picture looks at those nodes only. It remembers a bounded number of steps; who fell behind further than that starts anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use wayleave_model::{MachineKey, Node, NodeId, NodeKey, Prefix, SessionId, User, UserId};
use wayleave_policy::CompiledPolicy;
use wayleave_routes::Group;

use crate::choices::Choices;
use crate::sites::Sites;

/// How many steps back a reader may be and still be told of the difference. A reader that is further behind gets everything,
/// which costs less than so many small steps.
const REMEMBERED_STEPS: usize = 4096;

/// A node as readers see it: what is stored of it, and what follows from it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// What is stored.
    pub node: Node,
    /// It is shown as online.
    pub online: bool,
    /// Its key has expired.
    pub expired: bool,
    /// Its newest session, while it is open.
    pub session: Option<SessionId>,
    /// The routes that it advertises and is approved for, exits among them. Empty while its key is expired.
    pub approved: BTreeSet<Prefix>,
    /// Those of them that it is primary for.
    pub primary: BTreeSet<Prefix>,
    /// What it carries for those who reach it through a group that a grant steers through.
    pub steered: BTreeMap<Group, BTreeSet<Prefix>>,
    /// What viewers choose from, for prefixes of it that not all reach through the primary.
    pub choices: BTreeMap<Prefix, Arc<Choices>>,
    /// Hosts that are lent to one viewer each, for path checks, by host. Others are not told of them.
    pub lent: BTreeMap<Prefix, NodeId>,
    /// It has a row that it advertises, so its liveness is watched closely.
    pub is_router: bool,
}

/// A picture of the tailnet.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows by one with every picture.
    pub version: u64,
    /// All nodes.
    pub nodes: OrdMap<NodeId, Arc<NodeView>>,
    /// All users.
    pub users: OrdMap<UserId, Arc<User>>,
    /// The 4via6 sites, and the hosts at them.
    pub sites: Arc<Sites>,
    /// Nodes by WireGuard key.
    pub by_node_key: OrdMap<NodeKey, NodeId>,
    /// Machines that have a node, and how many.
    pub machines: OrdMap<MachineKey, u32>,
    /// The answers of the policy for this picture.
    pub policy: Arc<CompiledPolicy>,
    /// Grows when the rules changed, and with them the answers for nodes that did not. What a change of one node does to answers about
    /// others concerns the pairs with that node, and filters.
    pub policy_version: u64,
    /// By the picture that a step led to.
    changes: OrdMap<u64, Step>,
}

/// What changed on the way to a picture.
#[derive(Clone, Debug)]
struct Step {
    /// The picture that it led away from.
    from: u64,
    nodes: Arc<BTreeSet<NodeId>>,
}

impl Snapshot {
    /// The picture before anything is known.
    pub fn empty(policy: Arc<CompiledPolicy>) -> Self {
        Self {
            version: 0,
            nodes: OrdMap::new(),
            users: OrdMap::new(),
            sites: Arc::default(),
            by_node_key: OrdMap::new(),
            machines: OrdMap::new(),
            policy,
            policy_version: 0,
            changes: OrdMap::new(),
        }
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&Arc<NodeView>> {
        self.nodes.get(&id)
    }

    /// The node with this WireGuard key, if it belongs to this machine.
    pub fn node_of(&self, key: &NodeKey, machine: &MachineKey) -> Option<&Arc<NodeView>> {
        let view = self.nodes.get(self.by_node_key.get(key)?)?;
        (view.node.machine_key.as_ref() == Some(machine)).then_some(view)
    }

    /// The nodes that came, went or changed since an older picture. `None`: too long ago to say.
    pub fn changed_since(&self, version: u64) -> Option<BTreeSet<NodeId>> {
        if version >= self.version {
            return Some(BTreeSet::new());
        }
        let mut steps = self.changes.range(version + 1..).map(|(_, step)| step).peekable();
        if steps.peek().is_none_or(|first| first.from > version) {
            return None;
        }
        Some(steps.flat_map(|step| step.nodes.iter().copied()).collect())
    }

    /// Takes all steps since an older picture for one: nobody is to be told what was between. So who was told of few of many pictures can
    /// be told of the difference for longer.
    pub(crate) fn join_steps(&mut self, since: u64) {
        if since + 1 >= self.version {
            return;
        }
        let Some(nodes) = self.changed_since(since) else { return };
        let (kept, _) = self.changes.split(&(since + 1));
        self.changes = kept;
        self.changes.insert(self.version, Step { from: since, nodes: Arc::new(nodes) });
    }

    /// The next picture, after these nodes changed. Says nothing of what they became: the caller puts that in.
    pub(crate) fn step(&mut self, changed: BTreeSet<NodeId>) {
        let from = self.version;
        self.version += 1;
        self.changes.insert(self.version, Step { from, nodes: Arc::new(changed) });
        if self.changes.len() > REMEMBERED_STEPS
            && let Some(oldest) = self.changes.get_min().map(|(to, _)| *to)
        {
            self.changes.remove(&oldest);
        }
    }

    pub(crate) fn put(&mut self, view: NodeView) {
        let id = view.node.id;
        self.remove(id);
        self.by_node_key.insert(view.node.node_key, id);
        if let Some(machine) = view.node.machine_key {
            *self.machines.entry(machine).or_insert(0) += 1;
        }
        self.nodes.insert(id, Arc::new(view));
    }

    pub(crate) fn remove(&mut self, id: NodeId) {
        let Some(old) = self.nodes.remove(&id) else { return };
        self.by_node_key.remove(&old.node.node_key);
        if let Some(machine) = old.node.machine_key {
            match self.machines.get(&machine) {
                Some(count) if *count > 1 => drop(self.machines.insert(machine, count - 1)),
                _ => drop(self.machines.remove(&machine)),
            }
        }
    }
}
