//! What is counted, for Prometheus: at `/metrics`, over the socket, or over the network with a key, since it tells how a network is doing.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use crate::metrics::Now;
use crate::web::PATIENCE;

/// As the OpenMetrics text format has it.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What can be told is told, also where the control loop or the database does not answer: that is when it is looked at.
pub(super) async fn show(State(state): State<ApiState>) -> Response {
    let control = &state.app.control;
    let waiting = tokio::time::timeout(PATIENCE, control.store().calls_waiting());
    let (now, waiting) = tokio::join!(control.read_within(PATIENCE, Now::of), waiting);
    let waiting = match waiting {
        Ok(Ok(calls)) => Some(calls.into_iter().map(|(_, calls)| calls).sum()),
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "what waits for webhooks could not be counted");
            None
        }
        Err(_) => {
            tracing::error!(
                "what waits for webhooks could not be counted: the database has not answered for {PATIENCE:?}"
            );
            None
        }
    };
    let text = control.metrics().text(control.inbox_length(), waiting, now.ok().as_ref());
    ([(header::CONTENT_TYPE, FORMAT)], text).into_response()
}
