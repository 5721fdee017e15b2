//! Life beats silence: the witnesses of a router that was lost are asked at once, and again as long as it is doubted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout};
use wayleave_model::NodeId;
use wayleave_netmap::told_address;
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
    fn wanted(&self, node: NodeId, now: Instant) -> bool {
        self.lock().insert(node, now).is_none()
    }

    /// Ends if nobody had wanted it for so long when it was looked at. Whoever wants it after that has to begin again.
    fn ends(&self, node: NodeId, looked_at: Instant, patience: Duration) -> bool {
        let mut all = self.lock();
        let over = all.get(&node).is_none_or(|wanted_at| *wanted_at + patience <= looked_at);
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
                begin(&app, &asking, node);
            }
            Ok(_) => {}
            // So much happened at once that some of it was not read: whoever is doubted by now is asked about.
            Err(RecvError::Lagged(_)) => {
                let doubted = app.control.read(|tailnet| tailnet.routes().doubted().collect::<Vec<_>>()).await;
                doubted.unwrap_or_default().into_iter().for_each(|node| begin(&app, &asking, node));
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn begin(app: &Arc<App>, asking: &Arc<Asking>, node: NodeId) {
    if asking.wanted(node, Instant::now()) {
        tokio::spawn(hold(Arc::clone(app), Arc::clone(asking), node));
    }
}

async fn hold(app: Arc<App>, asking: Arc<Asking>, node: NodeId) {
    let most = app.options.tailnet.routes.judging.hold_most + AT_LEAST;
    loop {
        ask(&app, node);
        sleep(app.options.evidence.hold_every).await;
        let looked_at = Instant::now();
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
        if asking.ends(node, looked_at, patience) {
            return;
        }
    }
}

/// Asks its witnesses once.
fn ask(app: &Arc<App>, node: NodeId) {
    let snapshot = app.control.snapshot();
    let Some(router) = snapshot.node(node) else { return };
    let Some(address) = told_address(&snapshot, router) else { return };
    for witness in app.witnesses.of_lost(router, &snapshot, &app.options.evidence) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(1);
    const A_MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_second_doubt_at_the_end_of_the_first_is_asked_about() {
        let asking = Asking::default();
        let now = Instant::now();
        assert!(asking.wanted(NODE, now), "nobody asks yet");
        // The router is found down, and comes back and is lost again before that is acted on.
        let looked_at = now + AT_LEAST;
        assert!(!asking.wanted(NODE, looked_at + A_MOMENT), "whoever asks goes on");
        assert!(!asking.ends(NODE, looked_at, Duration::ZERO));
        let looked_at = looked_at + 2 * A_MOMENT;
        assert!(asking.ends(NODE, looked_at, Duration::ZERO));
        // Or just after it.
        assert!(asking.wanted(NODE, looked_at + A_MOMENT), "it begins again");
    }

    #[test]
    fn it_is_asked_for_as_long_as_is_wanted_and_others_do_not_end_with_it() {
        let asking = Asking::default();
        let (other, now) = (NodeId::new(2), Instant::now());
        assert!(asking.wanted(NODE, now) && asking.wanted(other, now));
        assert!(!asking.ends(NODE, now + AT_LEAST - A_MOMENT, AT_LEAST));
        assert!(asking.ends(NODE, now + AT_LEAST, AT_LEAST));
        assert!(!asking.wanted(other, now + AT_LEAST), "it still is asked about");
    }
}
