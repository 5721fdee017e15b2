//! Life beats silence: the witnesses of a router that was lost are asked at once, and again as long as it is doubted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Whose witnesses are being asked, and since when somebody last wanted that.
#[derive(Debug, Default)]
struct Asking(Mutex<BTreeMap<NodeId, Instant>>);

impl Asking {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody wants it. Returns whether nobody asks yet.
    fn wanted(&self, node: NodeId) -> bool {
        self.lock().insert(node, Instant::now()).is_none()
    }

    /// Ends if nobody has wanted it for so long. Whoever wants it after that has to begin again.
    fn ends(&self, node: NodeId, patience: Duration) -> bool {
        let mut all = self.lock();
        let over = all.get(&node).is_none_or(|wanted_at| wanted_at.elapsed() >= patience);
        if over {
            all.remove(&node);
        }
        over
    }
}

pub(super) async fn follow(app: Arc<App>) {
    let mut effects = app.control.effects();
    let asking = Arc::<Asking>::default();
    loop {
        let effect = tokio::select! {
            () = app.stop.cancelled() => return,
            effect = effects.recv() => effect,
        };
        match effect {
            Ok(Effect::AskWitnesses(node)) => {
                if asking.wanted(node) {
                    tokio::spawn(hold(Arc::clone(&app), Arc::clone(&asking), node));
                }
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn hold(app: Arc<App>, asking: Arc<Asking>, node: NodeId) {
    let most = app.options.tailnet.routes.judging.hold_most + AT_LEAST;
    loop {
        ask(&app, node);
        sleep(app.options.evidence.hold_every).await;
        let known = app
            .control
            .read(move |tailnet| (tailnet.routes().is_doubted(node), tailnet.routes().down_cause(node).is_some()));
        let (doubted, down) = known.await.unwrap_or((false, true));
        let patience = match (doubted, down) {
            _ if app.stop.is_cancelled() => Duration::ZERO,
            (true, _) => most,
            (false, true) => Duration::ZERO,
            (false, false) => AT_LEAST,
        };
        if asking.ends(node, patience) {
            return;
        }
    }
}

/// Asks its witnesses once.
fn ask(app: &Arc<App>, node: NodeId) {
    let snapshot = app.control.snapshot();
    let Some(router) = snapshot.node(node) else { return };
    let Some(address) = router.node.addresses.iter().next() else { return };
    for witness in app.witnesses.of(router, &snapshot, &app.options.evidence) {
        let app = Arc::clone(app);
        tokio::spawn(async move {
            let asked_at = app.control.clock().now();
            let ask = app.sessions.ask(witness, secrets::login_token(), |url| ping::peer(url, PeerPing::Tsmp, address));
            let Some(answer) = ask else { return };
            let Ok(Ok(body)) = timeout(app.options.evidence.probe_within, answer).await else { return };
            if matches!(word(&body), Word::Reached(_)) {
                app.control.event(Event::Evidence(node, Testimony::Alive { asked_at })).await;
            }
        });
    }
}
