//! What is counted, for Prometheus: at `/metrics`, over the socket, or over the network with a key, since it tells how a network is doing.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::{ApiError, ApiState};
use crate::metrics::Now;

/// As the OpenMetrics text format has it.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn show(State(state): State<ApiState>) -> Result<Response, ApiError> {
    let control = &state.app.control;
    let now = control.read(Now::of).await?;
    let waiting: u64 = control.store().calls_waiting().await?.into_iter().map(|(_, calls)| calls).sum();
    let number = |length: u64| i64::try_from(length).unwrap_or(i64::MAX);
    let now = Now { inbox: number(control.inbox_length() as u64), webhook_calls: number(waiting), ..now };
    Ok(([(header::CONTENT_TYPE, FORMAT)], control.metrics().text(&now)).into_response())
}
