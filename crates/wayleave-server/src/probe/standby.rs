//! The standby's check: a witness, and nobody else, is led to a check's target through a router that stands by, and asked for it there.
//!
//! ```text
//! the standby itself is asked for the target: only one that accepts no routes ("no matching peer") would answer for its own leg
//! the witness pings the standby over the tailnet, so that their tunnel stands
//! Event::Lend  -->  the picture has it  -->  the witness's map has gone out and is acknowledged  -->  it pings the target
//! Event::TakeBack, where nobody named the witness
//! ```
//!
//! Whether a loan is given, and what ends it, is the tailnet's to say. Meanwhile, and for a moment after it, the witness is not asked about the
//! primary: what it pings goes through the standby.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use wayleave_model::{NodeId, PathCheck, Prefix, Timestamp};
use wayleave_policy::Steering;
use wayleave_routes::{PathOutcome, PathRound, Role, Testimony};
use wayleave_tailnet::{Event, Loan, NodeView, Snapshot, Tailnet, Term};
use wayleave_wire::ping::PeerPing;

use super::path::{PathReport, is_named};
use super::{Word, reach, tunnel_stands};
use crate::app::App;

/// How long a client may take to do what a new map says, once it has it. A ping before that would go the old way; its answer names the
/// router, and another is asked for.
const SETTLES: Duration = Duration::from_millis(250);
/// Less time than that is not worth a question.
const LEAST: Duration = Duration::from_millis(500);
/// How long a map may take to a client.
const DELIVERED: Duration = Duration::from_secs(1);
/// How often it is looked whether it has arrived.
const LOOK: Duration = Duration::from_millis(10);
/// How long after a loan its witness is not asked about the primary.
const AFTER: Duration = Duration::from_secs(1);
/// How long a named witness looks behind one of several standbys before it turns to the next. Each turn is a new map for it.
const TURN: Duration = Duration::from_secs(10);

/// What is to be looked at.
struct Task {
    check: PathCheck,
    primary: NodeId,
    /// Those that stand by, whoever waits longest first.
    standbys: Vec<NodeId>,
    /// The loan that there is, and since when.
    loan: Option<(Loan, Timestamp)>,
}

impl Task {
    fn find(tailnet: &Tailnet, prefix: &Prefix, now: Timestamp) -> Option<Self> {
        let check = tailnet.path_check(prefix).filter(|check| check.standby)?.clone();
        let table = tailnet.routes();
        let primary = table.seat(prefix)?.node;
        let carriers = table.carriers(prefix);
        let loan = tailnet.loan(prefix);
        let stays = loan.filter(|(loan, since)| loan.term == Term::Open && now.since(*since) < TURN);
        let candidates = table.candidates(prefix).into_iter().map(|candidate| candidate.node);
        // Who carries the prefix for some is looked behind by them.
        let mut standbys: Vec<NodeId> = candidates.filter(|node| !carriers.contains(node)).collect();
        standbys.sort_by_key(|node| {
            let has_turn = stays.is_some_and(|(loan, _)| loan.router == *node);
            (!has_turn, table.path_record(*node, prefix).at, *node)
        });
        Some(Self { check, primary, standbys, loan })
    }

    /// Who is led through a standby, and for how long: a witness that a person named, as long as somebody else can look at the primary;
    /// else whoever has just reached the target through the primary, for a moment.
    fn lead(&self, app: &App, snapshot: &Snapshot, standby: &NodeView, report: Option<&PathReport>) -> Option<Loan> {
        let PathCheck { prefix, target, .. } = &self.check;
        let loan = |witness, term| Loan { prefix: *prefix, target: *target, router: standby.node.id, witness, term };
        if self.check.witness.is_some() {
            // Who is steered through a group can't be led elsewhere.
            let free = |view: &NodeView| snapshot.policy.steering(view.node.id, prefix) == Steering::Primary;
            let named = app.witnesses.behind(standby, snapshot, |view| is_named(app, &self.check, view) && free(view));
            let current = self.loan.map(|(loan, _)| loan).filter(|loan| loan.term == Term::Open);
            let current = current.map(|loan| loan.witness).filter(|witness| named.contains(witness));
            let witness = current.or_else(|| named.first().copied())?;
            let tag = app.options.evidence.witness.as_ref();
            let other = |view: &NodeView| {
                view.node.id != witness && tag.is_none_or(|tag| view.node.owner.has_tag(tag)) && free(view)
            };
            if !app.witnesses.behind(snapshot.node(self.primary)?, snapshot, other).is_empty() {
                return Some(loan(witness, Term::Open));
            }
        }
        let report = report.filter(|report| report.outcome == Some(PathOutcome::Passed))?;
        Some(loan(report.witness?, Term::Short))
    }
}

/// Looks behind one of those that stand by for a prefix, where its check asks for that. `report` is what came of the primary's check.
pub(super) async fn look(app: &App, prefix: Prefix, report: Option<&PathReport>) {
    let Some(_alone) = app.witnesses.looks(prefix) else { return };
    let now = app.control.clock().now();
    let Ok(task) = app.control.read(move |tailnet| Task::find(tailnet, &prefix, now)).await else { return };
    // What the tailnet ended itself.
    let lasting = task.as_ref().and_then(|task| task.loan).map(|(loan, _)| loan.witness);
    app.witnesses.led_only(prefix, lasting, AFTER);
    let Some(task) = task else { return };
    let snapshot = app.control.snapshot();
    for standby in &task.standbys {
        let Some(view) = snapshot.node(*standby) else { continue };
        let within = app.options.evidence.path_within;
        let accepts = match reach(app, *standby, PeerPing::Icmp, task.check.target, within).await {
            Word::NoPeer => false,
            // It would answer, or not, through the primary.
            Word::Reached(_) | Word::Silent => true,
            Word::Nothing => continue,
        };
        let current = task.loan.map(|(loan, _)| loan).filter(|loan| loan.router == *standby);
        match task.lead(app, &snapshot, view, report).filter(|_| !accepts) {
            Some(loan) => return led(app, view, loan, current == Some(loan)).await,
            None if current.is_some() => give_back(app, prefix).await,
            None => {}
        }
    }
}

/// Leads a witness, and asks it.
async fn led(app: &App, standby: &NodeView, loan: Loan, is_old: bool) {
    let Loan { prefix, target, router, witness, term } = loan;
    let within = app.options.evidence.path_within;
    if !is_old {
        let now = app.control.clock().now();
        if !app.control.read(move |tailnet| tailnet.may_lend(&loan, now)).await.unwrap_or(false) {
            return;
        }
        if !tunnel_stands(app, standby, witness, app.options.evidence.probe_within).await {
            return;
        }
        app.witnesses.lead(prefix, witness);
        app.control.event(Event::Lend(loan)).await;
        if !brought(app, &loan, true).await {
            return give_back(app, prefix).await;
        }
        tracing::debug!(node.id = %router, route.prefix = %prefix, witness.id = %witness, ?term, "a witness is led through a standby");
        sleep(SETTLES).await;
    }
    let lasts = app.options.tailnet.loan_lasts;
    let lent_at = app.control.read(move |tailnet| tailnet.loan(&prefix)).await.ok().flatten();
    let Some((_, since)) = lent_at.filter(|(current, _)| *current == loan) else {
        return app.witnesses.led_only(prefix, None, AFTER);
    };
    let left = match term {
        Term::Open => within,
        // Its end comes before that of the loan.
        Term::Short => (since + lasts).since(app.control.clock().now()).saturating_sub(LOOK).min(within),
    };
    let asked_at = app.control.clock().now();
    let due = asked_at + left;
    let mut outcome = ask(app, standby, witness, target, left).await;
    let lasted = app.control.read(move |tailnet| tailnet.loan(&prefix)).await.ok().flatten() == Some((loan, since));
    let told_at = app.control.clock().now();
    if term == Term::Short {
        give_back(app, prefix).await;
    }
    if outcome == Some(PathOutcome::Missed) {
        // What was asked for when the loan was over, or the tunnel broken, is no news of the leg.
        let stands = || tunnel_stands(app, standby, witness, app.options.evidence.probe_within);
        let counts = lasted && stands().await;
        outcome = outcome.filter(|_| counts);
    }
    let Some(outcome) = outcome else { return };
    // Whether the server was late is told of the look at the answer, not of what it looked at after it.
    let late = told_at.since(due);
    let due = app.control.clock().now() - late;
    let round = PathRound { prefix, target, role: Role::Standby, asked_at, due, outcome };
    tracing::trace!(node.id = %router, route.prefix = %prefix, ?outcome, "a standby's check is over");
    app.control.event(Event::Evidence(router, Testimony::Path(round))).await;
}

/// What comes of the target, asked for through the standby. `None`: nothing can be said.
async fn ask(app: &App, standby: &NodeView, witness: NodeId, target: IpAddr, left: Duration) -> Option<PathOutcome> {
    let end = Instant::now() + left;
    loop {
        let rest = end.saturating_duration_since(Instant::now());
        if rest < LEAST {
            return None;
        }
        match reach(app, witness, PeerPing::Icmp, target, rest).await {
            Word::Reached(answer) if answer.node_name == standby.node.given_name.as_str() => {
                return Some(PathOutcome::Passed);
            }
            // It went another way: it does not know of the loan yet.
            Word::Reached(_) => sleep(LOOK * 10).await,
            Word::Silent => return Some(PathOutcome::Missed),
            Word::NoPeer => {
                app.witnesses.accepts_no_routes(witness);
                return None;
            }
            Word::Nothing => return None,
        }
    }
}

async fn give_back(app: &App, prefix: Prefix) {
    let Ok(Some((loan, _))) = app.control.read(move |tailnet| tailnet.loan(&prefix)).await else {
        return app.witnesses.led_only(prefix, None, AFTER);
    };
    app.control.event(Event::TakeBack(prefix)).await;
    // If its map takes longer than that, it has to show by its answers which way they came.
    brought(app, &loan, false).await;
    app.witnesses.led_only(prefix, None, AFTER);
}

/// Waits until a witness has the map that has a loan, or has it no more.
async fn brought(app: &App, loan: &Loan, lent: bool) -> bool {
    let host = Prefix::host(loan.target);
    let shows = |snapshot: &Snapshot| {
        let view = snapshot.node(loan.router);
        view.is_some_and(|view| view.lent.get(&host) == Some(&loan.witness)) == lent
    };
    let mut snapshots = app.control.snapshots();
    let all = async {
        let version = match snapshots.wait_for(|snapshot| shows(snapshot)).await {
            Ok(snapshot) => snapshot.version,
            Err(_) => return false,
        };
        loop {
            match app.sessions.has(loan.witness, version) {
                Some(true) => return true,
                Some(false) => sleep(LOOK).await,
                None => return false,
            }
        }
    };
    timeout(DELIVERED, all).await.unwrap_or(false)
}
