//! Who is on whose map: a viewer has a peer on it if some rule lets one of them reach the other, or what the other leads to.
//!
//! Rules connect classes, and the nodes of one user. So a viewer's peers are the members of some classes and some of its user's nodes;
//! pairs of nodes that no rule connects are never looked at.

use wayleave_model::NodeId;

use crate::class::Class;
use crate::compiled::{CompiledPolicy, Standing};

impl CompiledPolicy {
    /// Whether a viewer has a peer on its map. The same in both directions.
    pub fn sees(&self, viewer: NodeId, peer: NodeId) -> bool {
        let (Some(a), Some(b)) = (self.nodes.get(&viewer), self.nodes.get(&peer)) else { return false };
        a.class.connects(&b.class) || a.is_own_to(b)
    }

    /// Everybody that a viewer sees, without itself, in the order of their ids. Costs what there are of them, and of classes.
    pub fn peers(&self, viewer: NodeId) -> Vec<NodeId> {
        let Some(standing) = self.nodes.get(&viewer) else { return Vec::new() };
        let mut all = Vec::new();
        for (_, members) in self.seen_classes(&standing.class) {
            all.extend(members.iter().copied());
        }
        if let Some(user) = standing.user() {
            for node in self.by_user.get(&user).into_iter().flatten() {
                let own = self.nodes.get(node).filter(|own| !standing.class.connects(&own.class));
                if own.is_some_and(|own| standing.is_own_to(own)) {
                    all.push(*node);
                }
            }
        }
        all.sort_unstable();
        all.retain(|node| *node != viewer);
        all
    }

    /// The number of nodes that a viewer sees by what its class may, itself perhaps among them. Costs what there are of classes.
    pub fn seen_by_class(&self, viewer: NodeId) -> usize {
        let class = self.nodes.get(&viewer).map(|standing| &standing.class);
        class.map_or(0, |class| self.seen_classes(class).map(|(_, members)| members.len()).sum())
    }

    /// Whether whose a node is decides whom it sees, beyond what its class may. Costs what there are of classes.
    pub fn tells_users_apart(&self) -> bool {
        self.by_class.values().any(|(class, _)| class.to_own)
    }

    fn seen_classes<'a>(
        &'a self,
        class: &'a Class,
    ) -> impl Iterator<Item = &'a (std::sync::Arc<Class>, imbl::OrdSet<NodeId>)> {
        self.by_class.values().filter(move |(other, _)| class.connects(other))
    }
}

impl Standing {
    /// Whether a rule about one's own nodes connects the two.
    fn is_own_to(&self, other: &Self) -> bool {
        self.user().is_some() && self.user() == other.user() && (self.class.to_own || other.class.to_own)
    }
}
