//! Webhooks: who is told of what happens to routes.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_store::Webhook;
use wayleave_tailnet::HistoryEvent;

use super::ApiState;
use super::error::{ApiError, Body, ErrorBody};
use crate::{secrets, webhook};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(remove)).routes(routes!(test))
}

/// A webhook. Its secret is not shown.
#[derive(Debug, Serialize, ToSchema)]
struct WebhookBody {
    id: u64,
    url: String,
    /// What it is told of; none: of everything.
    events: Vec<String>,
    created_at: String,
    /// Calls that it has not taken yet.
    waiting: u64,
}

/// A webhook that was just made.
#[derive(Debug, Serialize, ToSchema)]
struct NewWebhookBody {
    id: u64,
    url: String,
    events: Vec<String>,
    /// What its calls are signed with. It is not shown again.
    secret: String,
}

/// A webhook to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewWebhook {
    /// `http://` or `https://`.
    url: String,
    /// Words such as `primary changed`, also with hyphens; none: of everything.
    #[serde(default)]
    events: Vec<String>,
}

/// What came of a test.
#[derive(Debug, Serialize, ToSchema)]
struct TestedBody {
    /// The receiver took it.
    delivered: bool,
    /// Why not.
    error: Option<String>,
}

/// All webhooks.
#[utoipa::path(get, path = "/api/v2/webhooks", tag = "webhooks", responses((status = 200, body = Vec<WebhookBody>)))]
async fn list(State(state): State<ApiState>) -> Result<Json<Vec<WebhookBody>>, ApiError> {
    let store = state.app.control.store();
    let waiting: BTreeMap<u64, u64> = store.calls_waiting().await?.into_iter().collect();
    let all =
        store.webhooks().await?.into_iter().map(|Webhook { id, url, secret: _, events, created_at }| WebhookBody {
            id,
            url,
            events,
            created_at: created_at.to_string(),
            waiting: waiting.get(&id).copied().unwrap_or(0),
        });
    Ok(Json(all.collect()))
}

/// Makes a webhook. It is told of what happens from then on.
#[utoipa::path(post, path = "/api/v2/webhooks", tag = "webhooks", request_body = NewWebhook,
    responses((status = 201, body = NewWebhookBody), (status = 400, body = ErrorBody)))]
async fn add(
    State(state): State<ApiState>,
    Body(NewWebhook { url, events }): Body<NewWebhook>,
) -> Result<(StatusCode, Json<NewWebhookBody>), ApiError> {
    let parsed =
        reqwest::Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if parsed.is_none() {
        return Err(ApiError::bad(format!(
            "`{url}` is no address that can be called: it begins with http:// or https://"
        )));
    }
    let events: Vec<String> = events.iter().map(|event| word(event)).collect::<Result<_, _>>()?;
    let secret = format!("wl-hook-{}", secrets::random(43));
    let id = state.app.control.store().add_webhook(&url, &secret, &events, state.app.control.clock().now()).await?;
    tracing::info!(webhook.id = id, "webhook made");
    Ok((StatusCode::CREATED, Json(NewWebhookBody { id, url, events, secret })))
}

/// The word that a person means, also with hyphens.
fn word(text: &str) -> Result<String, ApiError> {
    let plain = text.trim().replace('-', " ");
    if HistoryEvent::TOLD.contains(&plain.as_str()) {
        return Ok(plain);
    }
    let all: Vec<String> = HistoryEvent::TOLD.iter().map(|word| word.replace(' ', "-")).collect();
    Err(ApiError::bad(format!("`{text}` is nothing that a webhook is told of; there are {}", all.join(", "))))
}

fn none(id: u64) -> ApiError {
    ApiError::none(format!("there is no webhook {id}; `wayleave webhooks list` shows all"))
}

/// Removes a webhook, and all that waits for it.
#[utoipa::path(delete, path = "/api/v2/webhooks/{webhook}", tag = "webhooks",
    params(("webhook" = u64, Path, description = "id")),
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn remove(State(state): State<ApiState>, Path(id): Path<u64>) -> Result<StatusCode, ApiError> {
    if state.app.control.store().remove_webhook(id).await? {
        tracing::info!(webhook.id = id, "webhook removed");
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none(id))
    }
}

/// Calls a webhook once, with the event `test`, and says whether the receiver took it.
#[utoipa::path(post, path = "/api/v2/webhooks/{webhook}/test", tag = "webhooks",
    params(("webhook" = u64, Path, description = "id")),
    responses((status = 200, body = TestedBody), (status = 404, body = ErrorBody)))]
async fn test(State(state): State<ApiState>, Path(id): Path<u64>) -> Result<Json<TestedBody>, ApiError> {
    let all = state.app.control.store().webhooks().await?;
    let found = all.into_iter().find(|webhook| webhook.id == id).ok_or_else(|| none(id))?;
    let now = state.app.control.clock().now();
    let body = json!({ "id": 0, "event": "test", "at": now.to_string() }).to_string();
    let sent = match webhook::client(state.app.options.webhooks.timeout) {
        Ok(client) => webhook::send(&client, &found, now, &body).await,
        Err(error) => Err(error),
    };
    let error = sent.err().map(|error| crate::words(&error));
    Ok(Json(TestedBody { delivered: error.is_none(), error }))
}
