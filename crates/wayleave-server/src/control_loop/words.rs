//! What is logged of what the control loop does, in the words of the CLI and the API.

use wayleave_model::NodeId;
use wayleave_routes::Judgement;
use wayleave_tailnet::{Effect, HistoryEntry, Tailnet};

/// A line of the history that was committed. Moves are logged where they happen.
pub(super) fn log_history(entry: &HistoryEntry, tailnet: &Tailnet) {
    let node = entry.node.and_then(|id| tailnet.registry().node(id));
    tracing::info!(
        route.prefix = entry.prefix.map(|prefix| tailnet.sites().show(&prefix)),
        node.name = node.map(|node| node.given_name.to_string()),
        cause = Some(entry.event.cause()).filter(|cause| !cause.is_empty()),
        evidence = Some(entry.evidence_text()).filter(|text| !text.is_empty()),
        "route {}",
        entry.event
    );
}

/// One line for what an operator cares about.
pub(super) fn log(effect: &Effect, tailnet: &Tailnet) {
    let name = |node: NodeId| tailnet.name_of(node);
    match effect {
        Effect::PrimaryChanged(change) => tracing::info!(
            route.prefix = %tailnet.sites().show(&change.prefix),
            from = %change.from.map_or_else(|| "nobody".to_owned(), name),
            to = %change.to.map_or_else(|| "nobody".to_owned(), name),
            because = %change.because,
            "primary changed"
        ),
        Effect::SteeredChanged(change) => tracing::info!(
            route.prefix = %tailnet.sites().show(&change.prefix),
            via = %change.group.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            from = %change.from.map_or_else(|| "nobody".to_owned(), name),
            to = %change.to.map_or_else(|| "nobody".to_owned(), name),
            because = %change.because,
            "primary of a group changed"
        ),
        Effect::FellBack { prefix, group, fallen_back } => {
            let via = group.as_ref().map(|group| group.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
            let prefix = tailnet.sites().show(prefix);
            if *fallen_back {
                tracing::warn!(
                    route.prefix = prefix,
                    via,
                    "every router is down: those who have a wider prefix to use do without this one"
                );
            } else {
                tracing::info!(route.prefix = prefix, via, "a router is steady: the prefix is back");
            }
        }
        Effect::KeyExpires { node, at } => tracing::warn!(
            node.id = %node,
            node.name = %name(*node),
            expires_at = %at,
            "the key of a router ends soon: its routes go then, unless it logs in again or `wayleave nodes expire --never` is said"
        ),
        Effect::PolicyChanged(revision) => tracing::info!(policy.revision = revision, "policy changed"),
        Effect::Judged(Judgement { node, prefix, verdict }) => {
            let is_router = tailnet.routes().rows_of(*node).next().is_some();
            if is_router {
                tracing::info!(
                    node.id = %node,
                    node.name = %name(*node),
                    route.prefix = prefix.map(|prefix| prefix.to_string()),
                    cause = %verdict.cause(),
                    "router {}",
                    verdict.word()
                );
            }
        }
        Effect::AskWitnesses(node) => {
            tracing::debug!(node.id = %node, node.name = %name(*node), "the witnesses of a router are asked");
        }
        Effect::NodeDown(node, cause) => {
            if tailnet.routes().rows_of(*node).next().is_some() {
                tracing::info!(node.id = %node, node.name = %name(*node), %cause, "router down");
            } else {
                tracing::debug!(node.id = %node, node.name = %name(*node), %cause, "node down");
            }
        }
        Effect::NodeUp(node) => {
            if tailnet.routes().rows_of(*node).next().is_some() {
                tracing::info!(node.id = %node, node.name = %name(*node), "router up");
            } else {
                tracing::debug!(node.id = %node, node.name = %name(*node), "node up");
            }
        }
        Effect::Flapping(node) => tracing::warn!(node.id = %node, node.name = %name(*node), "node is flapping"),
        Effect::CommonLoss(nodes) => tracing::warn!(
            sessions = nodes.len(),
            "so many sessions were lost at once that it is this server's side; routes stay where they are"
        ),
        Effect::NodeGone(node) => tracing::info!(node.id = %node.id, node.name = %node.given_name, "node deleted"),
        Effect::LoginSettled(_) => tracing::debug!("login answered"),
        Effect::SshCheckSettled(_) => tracing::debug!("a shell's check was answered or given up"),
        Effect::History(_)
        | Effect::NodeRow(_)
        | Effect::RouteRow(_)
        | Effect::SeatRow(..)
        | Effect::FlapRow(_)
        | Effect::Propose(_) => {}
    }
}
