//! The smallest right answer for every other endpoint (protocol.md 2.3): the feature fails, and nothing else does.

use http::{Method, StatusCode};
use wayleave_wire::control::PingResponse;

use super::Connection;
use super::requests::Reply;

pub(super) fn answer(connection: &Connection, method: &Method, path: &str, body: Vec<u8>) -> Reply {
    if let Some(token) = path.strip_prefix("/machine/ping/") {
        if let Ok(pong) = PingResponse::from_wire(&body) {
            tracing::trace!(kind = pong.kind, error = pong.err, "a ping was answered");
        }
        if !connection.app.sessions.answered(token, body) {
            tracing::debug!("an answer that nobody waited for");
        }
        return Reply::empty(StatusCode::NO_CONTENT);
    }
    let unsupported = |what: &str| Reply::refuse(StatusCode::NOT_IMPLEMENTED, format!("this server has no {what}"));
    match (method, path) {
        (&Method::POST, "/machine/update-health") => Reply::empty(StatusCode::NO_CONTENT),
        (&Method::PATCH, "/machine/set-device-attr") | (&Method::POST, "/machine/audit-log") => {
            Reply::empty(StatusCode::OK)
        }
        (&Method::POST, "/machine/set-dns") => unsupported("certificates for nodes"),
        (&Method::POST, "/machine/id-token") => unsupported("identity tokens"),
        (&Method::POST, "/machine/feature/query") => unsupported("features to be asked for"),
        (&Method::GET, "/machine/whoami") => {
            Reply::json(&serde_json::json!({ "machine": connection.machine, "version": connection.version.0 }))
        }
        (_, path) if path.starts_with("/machine/tka/") => unsupported("tailnet lock"),
        (_, path) if path.starts_with("/machine/webclient/") => unsupported("web client"),
        _ => Reply::refuse(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}
