//! A difference in words.

use std::collections::BTreeMap;

use wayleave_model::{NodeId, Owner, Prefix};
use wayleave_tailnet::{NodeView, Snapshot};

use super::{Gain, Move, What};

/// Nodes that are named one by one; of more their owners are.
const NAMED: usize = 3;

/// What nodes of either picture are called.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Before.
    pub before: &'a Snapshot,
    /// After: a node that is in both is called as it is here.
    pub after: &'a Snapshot,
}

impl Names<'_> {
    fn view(&self, node: NodeId) -> Option<&NodeView> {
        self.after.node(node).or_else(|| self.before.node(node)).map(|view| &**view)
    }

    /// The name of a node.
    pub fn node(&self, node: NodeId) -> String {
        self.view(node).map_or_else(|| format!("node {node}"), |view| view.node.given_name.to_string())
    }

    /// A prefix as people read it.
    pub fn prefix(&self, prefix: &Prefix) -> String {
        self.after.sites.show(prefix)
    }

    /// Some nodes: `r1, r2`, or `40 nodes (anna 38, tag:web 2)`.
    pub fn nodes(&self, nodes: &[NodeId]) -> String {
        if nodes.len() <= NAMED {
            return nodes.iter().map(|node| self.node(*node)).collect::<Vec<_>>().join(", ");
        }
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        for node in nodes {
            *owners.entry(self.owner(*node)).or_insert(0) += 1;
        }
        let owners: Vec<String> = owners.iter().map(|(owner, count)| format!("{owner} {count}")).collect();
        format!("{} nodes ({})", nodes.len(), owners.join(", "))
    }

    fn owner(&self, node: NodeId) -> String {
        match self.view(node).map(|view| &view.node.owner) {
            Some(Owner::User(user)) => {
                let known = self.after.users.get(user).or_else(|| self.before.users.get(user));
                known.map_or_else(|| format!("user {user}"), |user| user.name.clone())
            }
            Some(Owner::Tags { tags, .. }) => tags.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
            Some(Owner::Nobody) | None => "nobody".to_owned(),
        }
    }

    /// Something that is gained or lost, in a line.
    pub fn gain(&self, gain: &Gain) -> String {
        let Gain { what, ports } = gain;
        let on = if ports.is_empty() { String::new() } else { format!(" on {ports}") };
        match what {
            What::Peers(nodes) => format!("{}{on}", self.nodes(nodes)),
            What::PeersOfOthers(nodes) => format!("{}, but for nodes of the same user,{on}", self.nodes(nodes)),
            What::OwnNodes => format!("other nodes of the same user{on}"),
            What::Prefix(prefix, router) if ports.is_empty() => {
                format!("{} through {} (answers to what comes from there)", self.prefix(prefix), self.node(*router))
            }
            What::Prefix(prefix, router) => format!("{} through {}{on}", self.prefix(prefix), self.node(*router)),
            What::Exit(exit) => format!("the internet through {}", self.node(*exit)),
        }
    }

    /// A move, in a line.
    pub fn a_move(&self, moved: &Move) -> String {
        format!("{} through {} instead of {}", self.prefix(&moved.prefix), self.node(moved.to), self.node(moved.from))
    }
}
