//! Who gains and who loses, as the API tells it.

use serde::Serialize;
use utoipa::ToSchema;
use wayleave_model::NodeId;
use wayleave_netmap::{Difference, Gain, Move, Names, What, difference};
use wayleave_tailnet::WhatIf;

use super::routes::NodeRef;

/// Viewers that gain and lose the same.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DifferenceBody {
    /// Who, in few words.
    who: String,
    viewers: Vec<NodeRef>,
    /// What they could not reach.
    gains: Vec<GainBody>,
    /// What they can't reach any more.
    loses: Vec<GainBody>,
    /// What they reach through another router.
    moves: Vec<MoveBody>,
}

/// Something that viewers gain or lose.
#[derive(Debug, Serialize, ToSchema)]
struct GainBody {
    /// In words.
    text: String,
    /// `nodes`, `nodes of others`, `own nodes`, `prefix` or `exit`.
    kind: &'static str,
    /// The nodes, or the router or exit.
    nodes: Vec<NodeRef>,
    prefix: Option<String>,
    /// Such as `*`, `22,80-443` or `tcp:22, icmp`; empty for an exit, and for a prefix that only may send to them.
    ports: String,
}

/// A prefix that viewers reach through another router.
#[derive(Debug, Serialize, ToSchema)]
struct MoveBody {
    /// In words.
    text: String,
    prefix: String,
    from: NodeRef,
    to: NodeRef,
}

/// Who gains and who loses from one picture to another. Those who are lost themselves are not spoken of.
pub(super) fn body(what: &WhatIf) -> Vec<DifferenceBody> {
    let WhatIf { before, after, broken: [old, new], down: lost, .. } = what;
    let names = Names { before, after };
    let all = difference(before, after, [old, new]).into_iter().filter_map(|mut found| {
        found.viewers.retain(|viewer| !lost.contains(viewer));
        (!found.viewers.is_empty()).then(|| one(found, &names))
    });
    all.collect()
}

fn one(Difference { viewers, change }: Difference, names: &Names<'_>) -> DifferenceBody {
    let node = |id: NodeId| NodeRef { id: id.get(), name: names.node(id) };
    let gain = |gain: &Gain| {
        let (kind, nodes, prefix) = match &gain.what {
            What::Peers(nodes) => ("nodes", nodes.clone(), None),
            What::PeersOfOthers(nodes) => ("nodes of others", nodes.clone(), None),
            What::OwnNodes => ("own nodes", Vec::new(), None),
            What::Prefix(prefix, router) => ("prefix", vec![*router], Some(prefix.to_string())),
            What::Exit(exit) => ("exit", vec![*exit], None),
        };
        let nodes = nodes.into_iter().map(node).collect();
        GainBody { text: names.gain(gain), kind, nodes, prefix, ports: gain.ports.to_string() }
    };
    let a_move = |moved: &Move| MoveBody {
        text: names.a_move(moved),
        prefix: moved.prefix.to_string(),
        from: node(moved.from),
        to: node(moved.to),
    };
    DifferenceBody {
        who: names.nodes(&viewers),
        viewers: viewers.into_iter().map(node).collect(),
        gains: change.gains.iter().map(gain).collect(),
        loses: change.loses.iter().map(gain).collect(),
        moves: change.moves.iter().map(a_move).collect(),
    }
}
