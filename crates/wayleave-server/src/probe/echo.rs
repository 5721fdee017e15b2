//! Control-to-node echoes: a process that hangs while its kernel answers is found by what it does not answer itself.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, timeout};
use wayleave_model::{NodeId, SessionId};
use wayleave_routes::Testimony;
use wayleave_tailnet::Event;
use wayleave_wire::ping;

use crate::app::App;
use crate::secrets;

pub(super) async fn echoes(app: Arc<App>) {
    let mut ticks = tokio::time::interval(app.options.evidence.echo_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let snapshot = app.control.snapshot();
        for view in snapshot.nodes.values().filter(|view| !view.approved.is_empty()) {
            if let Some(session) = view.session {
                tokio::spawn(echo(Arc::clone(&app), view.node.id, session));
            }
        }
    }
}

async fn echo(app: Arc<App>, node: NodeId, session: SessionId) {
    // A little less than the time to the next one.
    let patience = app.options.evidence.echo_every.mul_f64(0.95);
    let due = app.control.clock().now() + patience;
    let nonce = secrets::random(20);
    let token = secrets::login_token();
    let ask = app.sessions.ask(node, token.clone(), |url| ping::echo(url, &nonce));
    // One that is too busy to be asked has not failed to answer.
    let Some(mut answer) = ask else { return };
    let answered = |body: Result<Vec<u8>, _>| {
        body.is_ok_and(|body: Vec<u8>| body.windows(nonce.len()).any(|part| part == nonce.as_bytes()))
    };
    if let Ok(body) = timeout(patience / 4, &mut answer).await {
        let answered = answered(body);
        return tell(&app, node, session, answered, due).await;
    }
    // A session that is busy with a big map has not even asked.
    if app.sessions.is_unasked(node, &token) {
        return;
    }
    // What has been written by now holds the question; a slow reader that has not got it yet is not hung.
    let meter = app.sessions.meter(node);
    let written = meter.as_ref().and_then(|meter| meter.read()).map(|reading| reading.written);
    if let Ok(body) = timeout(patience.mul_f64(0.75), answer).await {
        let answered = answered(body);
        return tell(&app, node, session, answered, due).await;
    }
    let acknowledged = meter.as_ref().and_then(|meter| meter.read()).map(|reading| reading.acknowledged);
    let got_it = match (written, acknowledged) {
        (Some(written), Some(acknowledged)) => acknowledged >= written,
        // Nobody counts (WebSocket through a proxy, say).
        (None, None) => meter.is_none(),
        (Some(_), None) | (None, Some(_)) => false,
    };
    if got_it {
        tell(&app, node, session, false, due).await;
    }
}

async fn tell(app: &App, node: NodeId, session: SessionId, answered: bool, due: wayleave_model::Timestamp) {
    app.control.event(Event::Evidence(node, Testimony::Echo { session, answered, due })).await;
}
