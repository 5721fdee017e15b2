//! Life beats silence: the witnesses of a router that was lost are asked at once, and again as long as it is doubted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout};
use wayleave_model::NodeId;
use wayleave_routes::Testimony;
use wayleave_tailnet::{Effect, Event};
use wayleave_wire::ping::{self, PeerPing};

use super::{Word, word};
use crate::app::App;
use crate::secrets;

/// How long it is asked at least: a silent session is told half a second to a second before it is convicted, and not doubted until then.
const AT_LEAST: Duration = Duration::from_millis(1500);

pub(super) async fn follow(app: Arc<App>) {
    let mut effects = app.control.effects();
    let asking: Arc<Mutex<BTreeSet<NodeId>>> = Arc::default();
    loop {
        let effect = tokio::select! {
            () = app.stop.cancelled() => return,
            effect = effects.recv() => effect,
        };
        match effect {
            Ok(Effect::AskWitnesses(node)) => {
                if asking.lock().unwrap_or_else(PoisonError::into_inner).insert(node) {
                    let (app, asking) = (Arc::clone(&app), Arc::clone(&asking));
                    tokio::spawn(async move {
                        hold(&app, node).await;
                        asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
                    });
                }
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn hold(app: &Arc<App>, node: NodeId) {
    let options = &app.options.evidence;
    let most = app.options.tailnet.routes.judging.hold_most + AT_LEAST;
    let began = Instant::now();
    while began.elapsed() < most && !app.stop.is_cancelled() {
        let snapshot = app.control.snapshot();
        let Some(router) = snapshot.node(node) else { return };
        let Some(address) = router.node.addresses.iter().next() else { return };
        for witness in app.witnesses.of(router, &snapshot, options) {
            let app = Arc::clone(app);
            tokio::spawn(async move {
                let asked_at = app.control.clock().now();
                let ask =
                    app.sessions.ask(witness, secrets::login_token(), |url| ping::peer(url, PeerPing::Tsmp, address));
                let Some(answer) = ask else { return };
                let Ok(Ok(body)) = timeout(app.options.evidence.probe_within, answer).await else { return };
                if matches!(word(&body), Word::Reached(_)) {
                    app.control.event(Event::Evidence(node, Testimony::Alive { asked_at })).await;
                }
            });
        }
        sleep(options.hold_every).await;
        let known = app
            .control
            .read(move |tailnet| (tailnet.routes().is_doubted(node), tailnet.routes().down_cause(node).is_some()));
        let (doubted, down) = known.await.unwrap_or((false, true));
        if !doubted && (down || began.elapsed() >= AT_LEAST) {
            return;
        }
    }
}
