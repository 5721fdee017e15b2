//! Keys for this API.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::{ApiKey, ApiKeyId};
use wayleave_tailnet::{Command, Outcome};

use super::ApiState;
use super::error::{ApiError, Body, ErrorBody};
use crate::secrets;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete))
}

/// A key for this API. Its secret is shown once, when it is made.
#[derive(Debug, Serialize, ToSchema)]
struct ApiKeyBody {
    id: u64,
    /// The whole key; only where it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The public part of the key, by which it is named as an approver.
    name: String,
    description: String,
    created_at: String,
    expires_at: Option<String>,
}

fn body(key: &ApiKey) -> ApiKeyBody {
    ApiKeyBody {
        id: key.id.get(),
        key: None,
        name: key.name.clone(),
        description: key.description.clone(),
        created_at: key.created_at.to_string(),
        expires_at: key.expires_at.map(|time| time.to_string()),
    }
}

/// All keys for this API, without their secrets.
#[utoipa::path(get, path = "/api/v2/apikeys", tag = "apikeys", responses((status = 200, body = Vec<ApiKeyBody>)))]
async fn list(State(state): State<ApiState>) -> Result<Json<Vec<ApiKeyBody>>, ApiError> {
    Ok(Json(state.app.control.read(|tailnet| tailnet.registry().api_keys().map(body).collect()).await?))
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewApiKey {
    #[serde(default)]
    description: String,
    /// How long it works; absent: for ever.
    expires_in_seconds: Option<u64>,
}

/// Makes a key for this API. The answer is the only place where it is shown.
#[utoipa::path(post, path = "/api/v2/apikeys", tag = "apikeys", request_body = NewApiKey,
    responses((status = 201, body = ApiKeyBody)))]
async fn create(
    State(state): State<ApiState>,
    Body(new): Body<NewApiKey>,
) -> Result<(StatusCode, Json<ApiKeyBody>), ApiError> {
    let secret = secrets::new_key("wl-api");
    let control = &state.app.control;
    let lifetime = new.expires_in_seconds.map(Duration::from_secs);
    let (name, hash, description) = (secret.public, secret.hash, new.description);
    let outcome = control.command(Command::CreateApiKey { name, hash, description, lifetime }).await?;
    let made = control
        .read(move |tailnet| {
            let Outcome::ApiKey(id) = outcome else { return None };
            tailnet.registry().api_key(id).map(body)
        })
        .await?;
    let made = made.ok_or_else(|| ApiError::none("the key was deleted meanwhile"))?;
    Ok((StatusCode::CREATED, Json(ApiKeyBody { key: Some(secret.text), ..made })))
}

/// Ends a key for this API.
#[utoipa::path(delete, path = "/api/v2/apikeys/{id}", tag = "apikeys", params(("id" = u64, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn delete(State(state): State<ApiState>, Path(id): Path<u64>) -> Result<StatusCode, ApiError> {
    state.app.control.command(Command::DeleteApiKey { key: ApiKeyId::new(id) }).await?;
    Ok(StatusCode::NO_CONTENT)
}
