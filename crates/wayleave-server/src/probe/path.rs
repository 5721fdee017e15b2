//! Path checks: a witness pings an address behind each router that carries a prefix: the primary, those of groups, and those that viewers are
//! spread over. Behind each looks somebody who goes through it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until, timeout};
use wayleave_model::{NodeId, PathCheck, Prefix, WitnessChoice};
use wayleave_netmap::goes_through;
use wayleave_routes::{PathOutcome, PathRound, Role, Testimony};
use wayleave_tailnet::{Event, NodeView, Snapshot, Tailnet};
use wayleave_wire::ping::PeerPing;

use super::{Word, reach, standby, tunnel_stands};
use crate::app::App;

/// How often the list of checks is looked at for new ones.
const LOOK: Duration = Duration::from_millis(500);
/// So many witnesses that know no way are asked in one check.
const MOST_TRIES: usize = 8;
/// So many witnesses that don't reach the router itself are asked in one check.
const MOST_APART: usize = 2;
/// Others' addresses that are asked for when the target does not answer.
const MOST_OTHERS: usize = 3;

/// What one check came to.
#[derive(Clone, Debug)]
pub(crate) struct PathReport {
    /// Who carried the prefix, or a part of its viewers.
    pub(crate) router: NodeId,
    /// Who was asked. `None`: nobody could be.
    pub(crate) witness: Option<NodeId>,
    /// What came of it. `None`: nothing can be said.
    pub(crate) outcome: Option<PathOutcome>,
    /// The round trip, where there was one.
    pub(crate) latency: Option<Duration>,
}

/// Runs every check when it is due.
pub(super) async fn checks(app: Arc<App>) {
    let mut due: BTreeMap<Prefix, Instant> = BTreeMap::new();
    loop {
        let now = Instant::now();
        let Ok(all) = app.control.read(|tailnet| tailnet.path_checks().cloned().collect::<Vec<_>>()).await else {
            return;
        };
        due.retain(|prefix, _| all.iter().any(|check| check.prefix == *prefix));
        for check in all {
            let at = due.entry(check.prefix).or_insert(now);
            if *at <= now {
                // Its own time, not that of whoever was late: a check that was held up is not made up for.
                *at = now + check.every;
                let app = Arc::clone(&app);
                tokio::spawn(async move {
                    let reports = run_check(&app, check.prefix).await;
                    standby::look(&app, check.prefix, reports.first()).await;
                });
            }
        }
        let next = due.values().min().map_or(now + LOOK, |at| (*at).min(now + LOOK));
        tokio::select! {
            () = app.stop.cancelled() => return,
            () = sleep_until(next) => {}
        }
    }
}

/// What a check needs to know.
struct Task {
    check: PathCheck,
    router: NodeId,
    router_name: String,
    /// Addresses of other candidates inside the prefix: if one of them answers through the router, its leg is alive.
    others: Vec<IpAddr>,
}

impl Task {
    /// One for each router that carries the prefix, the primary's first. None: there is no such check, nobody carries the prefix, or the
    /// target can't be reached through it as things are.
    fn all(tailnet: &Tailnet, prefix: &Prefix) -> Vec<Self> {
        let Some(check) = tailnet.path_check(prefix) else { return Vec::new() };
        if tailnet.target_fault(prefix, check.target).is_some() {
            return Vec::new();
        }
        let routers = tailnet.routes().carriers(prefix).into_iter();
        routers.map(|router| Self::behind(tailnet, check, router)).collect()
    }

    fn behind(tailnet: &Tailnet, check: &PathCheck, router: NodeId) -> Self {
        let router_name = tailnet.name_of(router);
        let holders = tailnet.routes().holders(&check.prefix).filter(|node| *node != router);
        let others = holders.filter_map(|node| tailnet.routes().own_address(node, &check.prefix));
        let others = others.filter(|address| *address != check.target).take(MOST_OTHERS).collect();
        Self { check: check.clone(), router, router_name, others }
    }
}

/// Runs one check now, behind each router that carries the prefix, and tells the route table. What came of the primary is the first; none:
/// there is nothing to be checked.
pub(crate) async fn run_check(app: &App, prefix: Prefix) -> Vec<PathReport> {
    let tasks = app.control.read(move |tailnet| Task::all(tailnet, &prefix)).await.unwrap_or_default();
    let snapshot = app.control.snapshot();
    let reports = tasks.into_iter().map(|task| run(app, task, &snapshot));
    join_all(reports).await
}

async fn run(app: &App, task: Task, snapshot: &Snapshot) -> PathReport {
    let mut report = PathReport { router: task.router, witness: None, outcome: None, latency: None };
    let Some(view) = snapshot.node(task.router) else { return report };
    let within = app.options.evidence.path_within;
    let prefix = task.check.prefix;
    // Who goes through another router, or is led through a standby, says nothing of this one.
    let free = |witness: &NodeView| {
        goes_through(snapshot, witness, &prefix, view) && !app.witnesses.is_led(&prefix, witness.node.id)
    };
    let named = |witness: &NodeView| is_named(app, &task.check, witness) && free(witness);
    let mut witnesses = app.witnesses.behind(view, snapshot, named);
    if witnesses.is_empty() && task.check.standby {
        let any = PathCheck { witness: None, ..task.check.clone() };
        witnesses = app.witnesses.behind(view, snapshot, |witness| is_named(app, &any, witness) && free(witness));
    }
    let mut apart = 0;
    for witness in witnesses.into_iter().take(MOST_TRIES) {
        let asked_at = app.control.clock().now();
        let due = asked_at + within;
        let mut target = pin!(reach(app, witness, PeerPing::Icmp, task.check.target, within));
        let (word, spared, stands) = match timeout(within / 3, &mut target).await {
            Ok(word) => (word, false, true),
            // Where the router itself is not reached it is no news of what is behind it, and is judged as that (design.md 4).
            Err(_) => {
                let rest = within.mul_f64(2.0 / 3.0);
                tokio::join!(
                    target,
                    others_answer(app, witness, &task.others, rest),
                    tunnel_stands(app, view, witness, rest)
                )
            }
        };
        let outcome = match word {
            Word::Reached(answer) => {
                // The client names the node that it routed to: one that went through another router is no news of this one.
                if !answer.node_name.is_empty() && answer.node_name != task.router_name {
                    continue;
                }
                report.latency = Duration::try_from_secs_f64(answer.latency_seconds).ok();
                PathOutcome::Passed
            }
            Word::Silent if spared => PathOutcome::Spared,
            Word::Silent if !stands => {
                apart += 1;
                if apart >= MOST_APART { break } else { continue }
            }
            Word::Silent => PathOutcome::Missed,
            Word::NoPeer => {
                // One that has not got its map yet may know the way as soon as it has.
                if app.sessions.has(witness, snapshot.version) == Some(true) {
                    app.witnesses.accepts_no_routes(witness);
                }
                continue;
            }
            Word::Nothing => continue,
        };
        report.witness = Some(witness);
        report.outcome = Some(outcome);
        let target = task.check.target;
        let round = PathRound { prefix, target, role: Role::Carrier, asked_at, due, outcome };
        tracing::trace!(node.id = %task.router, route.prefix = %prefix, ?outcome, "a path check is over");
        app.control.event(Event::Evidence(task.router, Testimony::Path(round))).await;
        break;
    }
    report
}

/// Whether a client is one of those that are asked: whom the check names, else whom the configuration does, else any.
pub(super) fn is_named(app: &App, check: &PathCheck, view: &NodeView) -> bool {
    match &check.witness {
        None => app.options.evidence.witness.as_ref().is_none_or(|tag| view.node.owner.has_tag(tag)),
        Some(WitnessChoice::Tag(tag)) => view.node.owner.has_tag(tag),
        Some(WitnessChoice::Node(node)) => view.node.id == *node,
    }
}

/// Whether something else behind the router answers.
async fn others_answer(app: &App, witness: NodeId, others: &[IpAddr], within: Duration) -> bool {
    let words = others.iter().map(|address| reach(app, witness, PeerPing::Icmp, *address, within));
    join_all(words).await.into_iter().any(|word| matches!(word, Word::Reached(_)))
}
