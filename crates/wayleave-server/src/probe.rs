//! Asks clients about routers. What comes of it is judged by the route table, which is pure; this room only asks and waits.
//!
//! ```text
//! rounds   every 2 s --> witnesses ping each router over the tailnet (TSMP) ------.
//! echoes   every 5 s --> each router answers a request itself (c2n) ---------------+--> Event::Evidence
//! holding  at a loss --> its witnesses, at once and as long as it is doubted ------+
//! paths    per check --> a witness pings an address behind the primary (ICMP) ----+
//! standby  per check --> one is led through a standby, and pings it there --------'
//! ```
//!
//! Each router is asked about in a task of its own, so that what is known of one never waits for another. A question waits in the queue of
//! a session like a map does, and is dropped where that is full, so questions never starve maps; how many witnesses are asked about routers
//! in a second is bounded: those of routers that were lost first, and the others in turn. The tasks end with the server. They run where the
//! control loop does, apart from sessions; echoes run beside the sessions, so that they are late when those are: an answer that nobody has
//! read yet is none that was not given.

mod echo;
mod hold;
mod path;
mod standby;
mod witnesses;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use wayleave_model::NodeId;
use wayleave_netmap::told_address;
use wayleave_routes::{Kind, Mode, ProbeRound, Testimony};
use wayleave_tailnet::{Event, NodeView};
use wayleave_wire::control::PingResponse;
use wayleave_wire::ping::{self, PeerPing};

use crate::app::App;
use crate::secrets;
use hold::Holds;
pub(crate) use path::{PathReport, run_check};
use witnesses::Looks;
pub(crate) use witnesses::Witnesses;

/// Starts all that asks by itself.
pub(crate) fn start(app: &Arc<App>, tasks: &mut JoinSet<()>, on: &Handle) {
    let acts = |kind| app.options.tailnet.routes.judging.mode(kind) != Mode::Off;
    let holds = Arc::new(Holds::new(&app.options.evidence));
    tasks.spawn_on(hold::hold(Arc::clone(app), Arc::clone(&holds)), on);
    if acts(Kind::Probe) {
        tasks.spawn_on(rounds(Arc::clone(app), holds), on);
    }
    if acts(Kind::Echo) {
        tasks.spawn(echo::echoes(Arc::clone(app)));
    }
    if acts(Kind::Path) {
        tasks.spawn_on(path::checks(Arc::clone(app)), on);
    }
}

async fn rounds(app: Arc<App>, holds: Arc<Holds>) {
    let options = &app.options.evidence;
    let mut ticks = tokio::time::interval(options.probe_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let budget = (f64::from(options.probe_budget) * options.probe_every.as_secs_f64()) as usize;
    let mut first = 0;
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let snapshot = app.control.snapshot();
        app.witnesses.forget_gone(&snapshot);
        let all = snapshot.nodes.values().filter(|view| !view.approved.is_empty() && !view.expired);
        let all: Vec<NodeId> = all.map(|view| view.node.id).collect();
        let wanted = app
            .control
            .read(|tailnet| all.into_iter().filter(|node| tailnet.routes().wants_probe(*node)).collect::<Vec<_>>());
        let Ok(wanted) = wanted.await else { return };
        // Those that were lost come before all others.
        let mut left = budget.saturating_sub(holds.taken());
        let mut looks = Looks::default();
        // The first that was left out.
        let mut left_out = None;
        for at in (0..wanted.len()).map(|at| (first + at) % wanted.len()) {
            // To look for witnesses takes a while where there are many nodes: what decides has its turn in between.
            yield_now().await;
            let snapshot = app.control.snapshot();
            let Some(router) = snapshot.node(wanted[at]) else { continue };
            let witnesses = app.witnesses.of(router, &snapshot, options, &mut looks);
            if looks.is_short {
                left_out = left_out.or(Some(at));
            }
            let Some(witnesses) = witnesses else { continue };
            if witnesses.len() > left {
                left_out = Some(at);
                break;
            }
            left -= witnesses.len();
            if let Some(address) = told_address(&snapshot, router) {
                tokio::spawn(round(Arc::clone(&app), Arc::clone(router), address, witnesses));
            }
        }
        // Where the budget does not reach all of them, the next round begins with those that were left out.
        first = left_out.unwrap_or(0);
    }
}

async fn round(app: Arc<App>, router: Arc<NodeView>, address: IpAddr, witnesses: Vec<NodeId>) {
    let within = app.options.evidence.probe_within;
    let due = app.control.clock().now() + within;
    let words = witnesses.into_iter().map(|witness| reach(&app, witness, PeerPing::Tsmp, address, within));
    let (mut answered, mut silent) = (0, 0);
    for word in join_all(words).await {
        match word {
            Word::Reached(_) => answered += 1,
            Word::Silent => silent += 1,
            Word::Nothing | Word::NoPeer => {}
        }
    }
    let round = ProbeRound { session: router.session, due, answered, silent };
    tracing::trace!(node.id = %router.node.id, answered, silent, "a round of probes is over");
    app.control.event(Event::Evidence(router.node.id, Testimony::Probe(round))).await;
}

/// What a witness has to say.
#[derive(Debug)]
enum Word {
    /// It was answered.
    Reached(PingResponse),
    /// It was not, and is itself there.
    Silent,
    /// It is itself not there, too busy, or could not ask: that says nothing.
    Nothing,
    /// It knows no way to that address.
    NoPeer,
}

/// Has a witness ping an address. Its silence counts only if it answers the server's own ping meanwhile.
async fn reach(app: &App, witness: NodeId, how: PeerPing, address: IpAddr, within: Duration) -> Word {
    let began = Instant::now();
    let ask = app.sessions.ask(witness, secrets::login_token(), |url| ping::peer(url, how, address));
    let Some(mut answer) = ask else { return Word::Nothing };
    // As a rule the answer comes at once, and nothing more needs to be asked.
    if let Ok(body) = timeout(within / 3, &mut answer).await {
        return body.map_or(Word::Nothing, |body| word(&body));
    }
    let Some(own) = app.sessions.ask(witness, secrets::login_token(), ping::head) else { return Word::Nothing };
    let rest = within.saturating_sub(began.elapsed());
    let (answer, own) = tokio::join!(timeout(rest, answer), timeout(rest, own));
    match (answer, own) {
        (Ok(Ok(body)), _) => word(&body),
        (Err(_), Ok(Ok(_))) => Word::Silent,
        _ => Word::Nothing,
    }
}

/// Whether a witness reaches a router over the tailnet.
async fn tunnel_stands(app: &App, router: &NodeView, witness: NodeId, within: Duration) -> bool {
    let Some(address) = told_address(&app.control.snapshot(), router) else { return false };
    matches!(reach(app, witness, PeerPing::Tsmp, address, within).await, Word::Reached(_))
}

/// Time-outs are never told; what is told is an answer, or why the client could not ask (protocol.md 6.3).
fn word(body: &[u8]) -> Word {
    match PingResponse::from_wire(body) {
        Ok(answer) if answer.err.is_empty() => Word::Reached(answer),
        Ok(answer) if answer.err.contains("no matching peer") => Word::NoPeer,
        Ok(_) | Err(_) => Word::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_of_a_ping_is_told_apart() {
        assert!(matches!(word(br#"{"Type":"TSMP","IP":"100.64.0.2","LatencySeconds":0.002}"#), Word::Reached(_)));
        assert!(matches!(word(br#"{"Type":"ICMP","IP":"10.0.0.9","Err":"no matching peer"}"#), Word::NoPeer));
        assert!(matches!(word(br#"{"Type":"TSMP","Err":"100.64.0.2 is local Tailscale IP"}"#), Word::Nothing));
        assert!(matches!(word(b"nonsense"), Word::Nothing));
    }
}
