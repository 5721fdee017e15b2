//! What the server answers outside Noise: keys, upgrades, relay, health, and the page of a login.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use wayleave_wire::control::key_response;
use wayleave_wire::noise::{Initiation, accept};

use crate::app::App;
use crate::control_loop::CommandError;
use crate::listener::Peer;
use crate::metrics::Now;
use crate::ws_stream::WsStream;
use crate::{machine, relay};

/// The token by which control connections are upgraded (protocol.md 1.2).
const CONTROL: &str = "tailscale-control-protocol";

/// What it means that the database takes nothing.
pub(crate) const STORE_FAILS: &str = "the database does not take what is written to it: nothing can be changed, and a restart would forget the latest moves";

/// How long whoever asks how the server is waits for the control loop: longer than it takes while 10,000 clients
/// reconnect at once (1.1 s at most), and less than Prometheus waits (10 s).
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// The routes outside Noise and outside the admin API.
pub(crate) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/", get(home))
        .route("/key", get(key))
        .route("/ts2021", post(upgrade).get(upgrade_websocket))
        .route("/register/{token}", get(login))
        .route("/health", get(health))
        .route("/generate_204", get(generate_204));
    if app.relay.is_some() {
        router = router
            .route("/derp", get(derp).post(derp))
            .route("/derp/probe", get(probe))
            .route("/derp/latency-check", get(probe));
    }
    router.with_state(app)
}

async fn home(State(app): State<Arc<App>>) -> String {
    format!(
        "Wayleave, a control server for Tailscale clients.\n\n  tailscale up --login-server {}\n",
        app.options.server_url
    )
}

#[derive(Deserialize)]
struct KeyQuery {
    v: Option<String>,
}

async fn key(State(app): State<Arc<App>>, Query(query): Query<KeyQuery>) -> Response {
    if query.v.is_none_or(|v| v.parse::<u16>().is_err()) {
        return (StatusCode::BAD_REQUEST, "say which version you speak: /key?v=N\n").into_response();
    }
    ([(header::CONTENT_TYPE, "application/json")], key_response(&app.key.machine_key())).into_response()
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let now = app.control.read_within(PATIENCE, Now::of).await;
    let store_fails = app.control.metrics().store_fails();
    let problems = problems(&now, app.policy_fault(), store_fails);
    let status = if problems.is_empty() { "ok".to_owned() } else { problems.join("; ") };
    let mut body = serde_json::json!({ "status": status, "problems": problems });
    if let Ok(now) = &now {
        body["nodes"] = now.nodes.into();
        body["sessions"] = now.sessions.into();
    }
    // What a restart or another server can't mend is no reason to take this one out of service.
    let code = if now.is_err() || store_fails { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(body)).into_response()
}

/// What is wrong, in words. Anybody may read them: they name no node and no prefix.
fn problems(now: &Result<Now, CommandError>, policy_fault: Option<String>, store_fails: bool) -> Vec<String> {
    let mut problems: Vec<String> = now.as_ref().err().map(CommandError::to_string).into_iter().collect();
    problems.extend(policy_fault);
    if store_fails {
        problems.push(format!("{STORE_FAILS} (the log says why; is the disk full?)"));
    }
    match now.as_ref().map_or(0, |now| now.prefixes_down) {
        0 => {}
        1 => problems
            .push("a prefix has no router that is up: `wayleave routes list --state offline` says which".to_owned()),
        many => {
            let text =
                format!("{many} prefixes have no router that is up: `wayleave routes list --state offline` says which");
            problems.push(text);
        }
    }
    problems
}

async fn probe() -> impl IntoResponse {
    [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")]
}

/// Tells clients that no portal is in the way (protocol.md 7.1).
async fn generate_204(headers: HeaderMap) -> Response {
    let challenge = headers.get("x-tailscale-challenge").and_then(|value| value.to_str().ok()).filter(|text| {
        text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-'))
    });
    match challenge {
        Some(challenge) => {
            (StatusCode::NO_CONTENT, [("x-tailscale-response", format!("response {challenge}"))]).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// Whether a header holds this token, in any case, alone or in a list.
fn holds(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

fn refuse(text: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response()
}

async fn upgrade(State(app): State<Arc<App>>, Extension(peer): Extension<Peer>, mut request: Request) -> Response {
    if !holds(request.headers(), header::UPGRADE, CONTROL) {
        return refuse("this is for Tailscale clients: the request has to upgrade to tailscale-control-protocol");
    }
    let initiation = request
        .headers()
        .get("x-tailscale-handshake")
        .and_then(|value| value.to_str().ok())
        .ok_or("the request has no handshake; does a proxy in between drop headers?".to_owned())
        .and_then(|value| Initiation::from_header(value).map_err(|error| error.to_string()));
    let handshake = initiation
        .and_then(|initiation| accept(&app.key, &initiation, rand::random()).map_err(|error| error.to_string()));
    let (response, session) = match handshake {
        Ok((response, session)) => (response.to_vec(), Box::new(session)),
        Err(text) => {
            tracing::debug!(client.address = %peer.address, text, "a handshake was refused");
            return (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response();
        }
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            // A future of its own, so that the task of a connection that lives on keeps nothing of its beginning.
            Ok(stream) => {
                Box::pin(machine::serve(app, TokioIo::new(stream), session, response, peer)).await;
            }
            Err(error) => tracing::debug!(%error, "an upgrade failed"),
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, CONTROL), (header::CONNECTION, "upgrade")]).into_response()
}

#[derive(Deserialize)]
struct Handshake {
    #[serde(rename = "X-Tailscale-Handshake")]
    handshake: String,
}

/// The same for browsers: the handshake is in the query, and the messages are a byte stream (protocol.md 1.3).
async fn upgrade_websocket(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Query(query): Query<Handshake>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let initiation = Initiation::from_header(&query.handshake);
    let handshake = initiation.and_then(|initiation| accept(&app.key, &initiation, rand::random()));
    let (response, session) = match handshake {
        Ok((response, session)) => (response.to_vec(), Box::new(session)),
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    upgrade.protocols([CONTROL]).on_upgrade(move |socket: WebSocket| async move {
        machine::serve(app, WsStream::new(socket), session, response, peer).await;
    })
}

/// Becomes a relay connection: by `Upgrade: DERP`, or by a WebSocket with the subprotocol `derp`.
async fn derp(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    websocket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    mut request: Request,
) -> Response {
    let Some(own) = app.relay.clone() else { return StatusCode::NOT_FOUND.into_response() };
    if let Ok(upgrade) = websocket {
        return upgrade.protocols(["derp"]).on_upgrade(move |socket| async move {
            relay::serve(&app, own, WsStream::new(socket), &peer).await;
        });
    }
    if !holds(request.headers(), header::UPGRADE, "derp") {
        return (StatusCode::UPGRADE_REQUIRED, "this is a relay: the request has to upgrade to DERP\n").into_response();
    }
    let public: String = own.key().public().iter().map(|byte| format!("{byte:02x}")).collect();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(stream) => relay::serve(&app, own, TokioIo::new(stream), &peer).await,
            Err(error) => tracing::debug!(%error, "an upgrade failed"),
        }
    });
    let headers = [
        ("upgrade", "DERP".to_owned()),
        ("connection", "Upgrade".to_owned()),
        ("derp-version", wayleave_wire::derp::VERSION.to_string()),
        ("derp-public-key", public),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// What a person sees who follows the address of a login.
async fn login(Path(token): Path<String>) -> Html<String> {
    // Tokens are letters and digits; whatever else somebody puts in the address is not repeated.
    let token: String = token.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    Html(format!(
        "<!doctype html><meta charset=utf-8><title>Wayleave: let a machine in</title>\
         <style>body{{font:16px/1.5 sans-serif;max-width:44em;margin:4em auto;padding:0 1em}}\
         pre{{background:#eee;padding:1em;overflow:auto}}</style>\
         <h1>A machine wants to join</h1>\
         <p>If it is yours, run this on the server, with the user whose machine it is:</p>\
         <pre>wayleave nodes register --key {token} --user NAME</pre>\
         <p>The machine is let in at once; nothing more is to be done on it.</p>"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_loop_that_does_not_answer_hides_nothing_else() {
        let hangs = Err(CommandError::Unanswered { patience: PATIENCE, inputs: 7 });
        let problems = problems(&hangs, Some("the policy file is not valid".to_owned()), true);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("the control loop has not answered for 3 s, and 7 inputs wait for it"));
    }
}
