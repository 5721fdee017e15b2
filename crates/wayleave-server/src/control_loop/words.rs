//! What is logged of what the control loop does, in the words of the CLI and the API.

use wayleave_model::NodeId;
use wayleave_routes::Judgement;
use wayleave_tailnet::{Effect, HistoryEntry, HistoryEvent, Tailnet};

/// A line of the history.
pub(super) fn log_history(entry: &HistoryEntry, tailnet: &Tailnet) {
    let name = |node: Option<NodeId>| node.map_or_else(|| "nobody".to_owned(), |node| tailnet.name_of(node));
    let evidence = Some(entry.evidence_text()).filter(|text| !text.is_empty());
    let cause = Some(entry.event.cause()).filter(|cause| !cause.is_empty());
    let prefix = entry.prefix.map(|prefix| tailnet.sites().show(&prefix));
    match &entry.event {
        HistoryEvent::PrimaryChanged { from, to, because } => {
            let (prefix, from, to) = (prefix.unwrap_or_default(), name(*from), name(*to));
            return tracing::info!(route.prefix = %prefix, %from, %to, %because, evidence, "primary changed");
        }
        HistoryEvent::PrefixDown(_) | HistoryEvent::RedundancyLost(_) | HistoryEvent::CollisionFound(_) => {
            let node = entry.node.map(|node| tailnet.name_of(node));
            return tracing::warn!(route.prefix = prefix, node.name = node, cause, evidence, "{}", entry.event);
        }
        HistoryEvent::PrefixRestored(_) => {
            let node = entry.node.map(|node| tailnet.name_of(node));
            return tracing::info!(route.prefix = prefix, node.name = node, cause, "{}", entry.event);
        }
        // These have a line of their own, of what is done at once.
        HistoryEvent::GroupPrimaryChanged { .. }
        | HistoryEvent::Judged(_)
        | HistoryEvent::FellBack(_)
        | HistoryEvent::CameBack(_)
        | HistoryEvent::KeyExpires(_) => return,
        HistoryEvent::Advertised
        | HistoryEvent::Pending
        | HistoryEvent::Withdrawn
        | HistoryEvent::Approved(_)
        | HistoryEvent::Disabled(_)
        | HistoryEvent::Set(..)
        | HistoryEvent::Held(_)
        | HistoryEvent::Frozen(..)
        | HistoryEvent::Unfrozen(_)
        | HistoryEvent::CheckSet(..)
        | HistoryEvent::CheckRemoved(_)
        | HistoryEvent::Drained(_)
        | HistoryEvent::Undrained(_)
        | HistoryEvent::Deleted(_) => {}
    }
    let node = entry.node.and_then(|id| tailnet.registry().node(id));
    tracing::info!(
        route.prefix = prefix,
        node.name = node.map(|node| node.given_name.to_string()),
        cause,
        evidence,
        "route {}",
        entry.event
    );
}

/// One line for what an operator cares about.
pub(super) fn log(effect: &Effect, tailnet: &Tailnet) {
    let name = |node: NodeId| tailnet.name_of(node);
    match effect {
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
                    route.prefix = prefix.map(|prefix| tailnet.sites().show(&prefix)),
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
        Effect::History(entry) => log_history(entry, tailnet),
        // What it comes to is in the history, with what stood against the router.
        Effect::PrimaryChanged(_)
        | Effect::NodeRow(_)
        | Effect::RouteRow(_)
        | Effect::SeatRow(..)
        | Effect::FlapRow(_)
        | Effect::Propose(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use wayleave_model::Timestamp;
    use wayleave_tailnet::{Loaded, Settings};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, some: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(some)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_becomes_of_a_prefix_is_in_the_log_as_it_is_in_the_history() {
        let now = Timestamp::from_millis(0);
        let tailnet = Tailnet::new(Settings::default(), Loaded::default(), now).unwrap();
        let (lines, prefix) = (Lines::default(), "10.1.0.0/16".parse().ok());
        let into = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || into.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for event in [
                HistoryEvent::Withdrawn,
                HistoryEvent::PrefixDown("ping unanswered".to_owned()),
                HistoryEvent::PrefixRestored(String::new()),
                HistoryEvent::RedundancyLost("connection closed".to_owned()),
                HistoryEvent::CollisionFound("r1, r2 do not look like one site".to_owned()),
            ] {
                let entry = HistoryEntry { at: now, prefix, node: None, event, evidence: Vec::new() };
                log(&Effect::History(entry), &tailnet);
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (line, parts) in lines.iter().zip([
            ["route withdrawn", "10.1.0.0/16"],
            ["prefix down", "cause=\"ping unanswered\""],
            ["prefix restored", "10.1.0.0/16"],
            ["redundancy lost", "cause=\"connection closed\""],
            ["collision found", "do not look like one site"],
        ]) {
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
        assert_eq!(lines.len(), 5, "{text}");
    }
}
