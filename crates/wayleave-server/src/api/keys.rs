//! Pre-auth keys.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::{AuthKey, AuthKeyId, Tag, Timestamp, UserId};
use wayleave_tailnet::{Command, NewAuthKey, Outcome, Tailnet};

use super::error::{ApiError, Body, ErrorBody};
use super::{ApiState, users};
use crate::secrets;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

/// A pre-auth key. Its secret is shown once, when it is made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyBody {
    pub(super) id: u64,
    /// The whole key; only where it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// The first characters of the key.
    pub(super) hint: String,
    pub(super) user: Option<String>,
    pub(super) reusable: bool,
    pub(super) ephemeral: bool,
    pub(super) tags: Vec<String>,
    pub(super) description: String,
    pub(super) created_at: String,
    pub(super) expires_at: Option<String>,
    pub(super) used_at: Option<String>,
    pub(super) revoked_at: Option<String>,
    /// `valid`, `used`, `expired` or `revoked`.
    pub(super) state: &'static str,
}

fn text(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

pub(super) fn body(key: &AuthKey, tailnet: &Tailnet, now: Timestamp) -> KeyBody {
    let state = if key.revoked_at.is_some() {
        "revoked"
    } else if key.expires_at.is_some_and(|at| at <= now) {
        "expired"
    } else if key.used_at.is_some() && !key.reusable {
        "used"
    } else {
        "valid"
    };
    KeyBody {
        id: key.id.get(),
        key: None,
        hint: key.hint.clone(),
        user: key.user.and_then(|id| tailnet.registry().user(id)).map(|user| user.name.clone()),
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        tags: key.tags.iter().map(Tag::to_string).collect(),
        description: key.description.clone(),
        created_at: key.created_at.to_string(),
        expires_at: text(key.expires_at),
        used_at: text(key.used_at),
        revoked_at: text(key.revoked_at),
        state,
    }
}

/// Reads tags, with the one that is wrong in the error.
pub(super) fn tags(texts: &[String]) -> Result<BTreeSet<Tag>, ApiError> {
    texts.iter().map(|text| text.parse().map_err(ApiError::bad)).collect()
}

/// All pre-auth keys, without their secrets.
#[utoipa::path(get, path = "/api/v2/keys", tag = "keys", responses((status = 200, body = Vec<KeyBody>)))]
async fn list(State(state): State<ApiState>) -> Result<Json<Vec<KeyBody>>, ApiError> {
    let now = state.app.control.clock().now();
    let keys = state
        .app
        .control
        .read(move |tailnet| tailnet.registry().auth_keys().map(|key| body(key, tailnet, now)).collect());
    Ok(Json(keys.await?))
}

/// A pre-auth key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewKey {
    /// Whose nodes it makes: name, e-mail address or id. May be left out if it has tags.
    user: Option<String>,
    #[serde(default)]
    reusable: bool,
    #[serde(default)]
    ephemeral: bool,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    description: String,
    /// How long it works; absent: for ever.
    expires_in_seconds: Option<u64>,
}

/// What a key is to be, once all of it was read.
pub(super) struct Wanted {
    pub(super) user: Option<UserId>,
    pub(super) reusable: bool,
    pub(super) ephemeral: bool,
    pub(super) tags: BTreeSet<Tag>,
    pub(super) description: String,
    pub(super) lifetime: Option<Duration>,
}

/// Makes a key, and shows its secret this once.
pub(super) async fn make(state: &ApiState, wanted: Wanted) -> Result<KeyBody, ApiError> {
    let Wanted { user, reusable, ephemeral, tags, description, lifetime } = wanted;
    let secret = secrets::new_key("wl-auth");
    let (hint, hash) = (secret.public, secret.hash);
    let new = NewAuthKey { user, hint, hash, reusable, ephemeral, tags, description, lifetime };
    let control = &state.app.control;
    let outcome = control.command(Command::CreateAuthKey(new)).await?;
    let now = control.clock().now();
    let made = control
        .read(move |tailnet| {
            let Outcome::AuthKey(id) = outcome else { return None };
            tailnet.registry().auth_key(id).map(|key| body(key, tailnet, now))
        })
        .await?;
    let made = made.ok_or_else(|| ApiError::none("the key was deleted meanwhile"))?;
    Ok(KeyBody { key: Some(secret.text), ..made })
}

/// Makes a pre-auth key. The answer is the only place where it is shown.
#[utoipa::path(post, path = "/api/v2/keys", tag = "keys", request_body = NewKey,
    responses((status = 201, body = KeyBody), (status = 404, body = ErrorBody)))]
async fn create(
    State(state): State<ApiState>,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, Json<KeyBody>), ApiError> {
    let NewKey { user, reusable, ephemeral, tags: texts, description, expires_in_seconds } = new;
    let tags = tags(&texts)?;
    let user = match user {
        Some(user) => Some(state.app.control.read(move |tailnet| users::find(tailnet, &user)).await??),
        None => None,
    };
    let lifetime = expires_in_seconds.map(Duration::from_secs);
    let made = make(&state, Wanted { user, reusable, ephemeral, tags, description, lifetime }).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Ends a pre-auth key. Nodes that it made stay.
#[utoipa::path(delete, path = "/api/v2/keys/{id}", tag = "keys", params(("id" = u64, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn revoke(State(state): State<ApiState>, Path(id): Path<u64>) -> Result<StatusCode, ApiError> {
    state.app.control.command(Command::RevokeAuthKey { key: AuthKeyId::new(id) }).await?;
    Ok(StatusCode::NO_CONTENT)
}
