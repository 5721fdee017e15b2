//! Calls webhooks with what happened to routes.
//!
//! ```text
//! history --(same transaction)--> queue --> POST --> 2xx: done
//!                                   ^          '--> else: later, twice as late each time; given up in the end
//! ```
//!
//! One task looks which webhooks are to be called; it is woken by what happens, and by the time of the next attempt. Each of these has a task
//! of its own until none of its calls is due: they go out one after the other, the oldest first, and a receiver that is slow keeps nobody
//! else waiting. A call may come twice (the answer to the first was lost), so each has a number.
//!
//! A call is signed: `Wayleave-Signature: t=SECONDS,v1=HEX`, where HEX is HMAC-SHA256 with the webhook's secret over SECONDS, a dot and
//! the body. The secret is in the database and is never logged; the receiver's answer is of no account but for its status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wayleave_model::{NodeId, Timestamp};
use wayleave_store::{QueuedCall, StoreError, Webhook};
use wayleave_tailnet::{Effect, Tailnet};

use crate::app::App;

/// The name of the header that signs a call.
pub const SIGNATURE: &str = "wayleave-signature";

/// How long after something happened the queue is read: it is written behind, moments after it is in force.
const SETTLE: Duration = Duration::from_millis(200);
/// How often the queue is read where nothing wakes the task: a retry is at most so late.
const LOOK: Duration = Duration::from_secs(1);
/// The longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(3600);

/// Why a call failed. What the receiver answers is not repeated: it may be anything.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The webhook came with an export, which has no secrets.
    #[error("its secret was not in the export that it came with: remove the webhook and make it again")]
    NoSecret,
    /// No call can be made.
    #[error("no HTTP client could be made")]
    Client(#[source] reqwest::Error),
    /// The receiver can't be reached, or did not answer in time.
    #[error("the receiver did not answer")]
    Send(#[source] reqwest::Error),
    /// The receiver answered with something else than a 2xx status.
    #[error("the receiver answered {0}")]
    Status(u16),
}

/// The value of the header that signs a body at a time.
pub fn signature(secret: &str, at: Timestamp, body: &str) -> String {
    let seconds = at.as_millis() / 1000;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

/// Makes calls for as long as the server runs.
pub(crate) async fn call(app: Arc<App>) {
    let client = match client(app.options.webhooks.timeout) {
        Ok(client) => client,
        Err(error) => return tracing::error!(error = crate::words(&error), "webhooks can't be called"),
    };
    let mut effects = app.control.effects();
    let mut busy = BTreeSet::new();
    let mut tasks = JoinSet::new();
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            effect = effects.recv() => {
                if let Ok(Effect::History(_)) | Err(RecvError::Lagged(_)) = effect {
                    next = next.min(Instant::now() + SETTLE);
                }
                if let Err(RecvError::Closed) = effect {
                    return;
                }
                continue;
            }
            Some(done) = tasks.join_next() => match done {
                Ok(webhook) => drop(busy.remove(&webhook)),
                Err(error) => {
                    // Nobody knows which it was: all begin anew.
                    tracing::error!(%error, "what calls a webhook broke");
                    tasks.shutdown().await;
                    busy.clear();
                }
            },
            () = tokio::time::sleep_until(next) => {}
        }
        match app.control.store().webhooks_due(app.control.clock().now()).await {
            Ok(due) => {
                for webhook in due.into_iter().filter(|webhook| busy.insert(*webhook)) {
                    let (app, client) = (Arc::clone(&app), client.clone());
                    tasks.spawn(async move {
                        if let Err(error) = one_after_another(&app, &client, webhook).await {
                            warn_of_queue(&error);
                            tokio::time::sleep(LOOK).await;
                        }
                        webhook
                    });
                }
            }
            Err(error) => warn_of_queue(&error),
        }
        if next <= Instant::now() {
            next = Instant::now() + LOOK;
        }
    }
}

fn warn_of_queue(error: &StoreError) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, "the queue of webhooks can't be read; it is tried again");
}

pub(crate) fn client(timeout: Duration) -> Result<reqwest::Client, CallError> {
    let builder = reqwest::Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none());
    builder.user_agent(concat!("wayleave/", env!("CARGO_PKG_VERSION"))).build().map_err(CallError::Client)
}

/// Makes all calls of a webhook that are due.
async fn one_after_another(app: &App, client: &reqwest::Client, webhook: u64) -> Result<(), StoreError> {
    let store = app.control.store();
    while let Some((webhook, call)) = store.next_call(webhook, app.control.clock().now()).await? {
        let asked = call.clone();
        // A server that stops tells the rest when it starts again.
        let Ok(body) = app.control.read(move |tailnet| body(&asked, tailnet)).await else { return Ok(()) };
        let sent = send(client, &webhook, app.control.clock().now(), &body.to_string()).await;
        let Err(error) = sent else {
            store.call_done(call.id).await?;
            continue;
        };
        let attempts = call.attempts + 1;
        let error = crate::words(&error);
        if attempts >= app.options.webhooks.attempts {
            tracing::error!(
                webhook.id = webhook.id,
                attempts,
                error,
                "a webhook was called so often in vain that the call is given up"
            );
            store.call_done(call.id).await?;
            continue;
        }
        let wait = wait_after(attempts, app.options.webhooks.retry_after);
        tracing::warn!(
            webhook.id = webhook.id,
            attempts,
            retry_ms = wait.as_millis(),
            error,
            "a webhook could not be called"
        );
        store.call_failed(call.id, attempts, app.control.clock().now() + wait).await?;
    }
    Ok(())
}

/// How long to wait after so many failures: twice as long each time.
fn wait_after(attempts: u32, first: Duration) -> Duration {
    let times = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(times).min(LONGEST)
}

/// Makes one call.
pub(crate) async fn send(
    client: &reqwest::Client,
    webhook: &Webhook,
    now: Timestamp,
    body: &str,
) -> Result<(), CallError> {
    if webhook.secret.is_empty() {
        return Err(CallError::NoSecret);
    }
    let request = client
        .post(&webhook.url)
        .header("content-type", "application/json")
        .header(SIGNATURE, signature(&webhook.secret, now, body))
        .body(body.to_owned());
    let answer = request.send().await.map_err(|error| CallError::Send(error.without_url()))?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(CallError::Status(status.as_u16())) }
}

/// What a webhook is told.
fn body(call: &QueuedCall, tailnet: &Tailnet) -> Value {
    let node = |id: Option<NodeId>| {
        id.map(|id| {
            let known = tailnet.registry().node(id).map(|node| node.given_name.as_str());
            json!({ "id": id.get(), "name": known.or_else(|| tailnet.registry().gone(id)) })
        })
    };
    json!({
        "id": call.id,
        "event": call.event,
        "at": call.at.to_string(),
        "prefix": call.prefix.map(|prefix| prefix.to_string()),
        "shown": call.prefix.map(|prefix| tailnet.sites().show(&prefix)),
        "node": node(call.node),
        "from": node(call.from),
        "to": node(call.to),
        "cause": call.cause,
        "evidence": call.evidence,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_signed_over_its_time_and_body() {
        let at = Timestamp::from_millis(1_700_000_000_999);
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let wanted = "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";
        assert_eq!(signature("secret", at, "{}"), wanted);
        assert_ne!(signature("other", at, "{}"), wanted);
    }

    #[test]
    fn each_wait_is_twice_as_long_and_an_hour_at_most() {
        let first = Duration::from_secs(5);
        let waits: Vec<u64> = [1, 2, 3, 10, 11, 40].map(|attempts| wait_after(attempts, first).as_secs()).to_vec();
        assert_eq!(waits, [5, 10, 20, 2560, 3600, 3600]);
    }
}
