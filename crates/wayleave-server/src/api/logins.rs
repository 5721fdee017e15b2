//! Logins that wait for a person.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_tailnet::{Command, LoginToken, Outcome};

use super::error::{ApiError, Body, ErrorBody};
use super::nodes::{self, NodeBody};
use super::{ApiState, users};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(approve))
}

/// A login that waits.
#[derive(Debug, Serialize, ToSchema)]
struct LoginBody {
    /// By which it is approved; the last part of the address that the client shows.
    key: String,
    /// What the machine calls itself.
    hostname: String,
    /// Since when it waits.
    since: String,
}

/// Logins that wait for a person.
#[utoipa::path(get, path = "/api/v2/logins", tag = "logins", responses((status = 200, body = Vec<LoginBody>)))]
async fn list(State(state): State<ApiState>) -> Result<Json<Vec<LoginBody>>, ApiError> {
    let logins = state.app.control.read(|tailnet| {
        let body = |(token, since, hostname): (&LoginToken, wayleave_model::Timestamp, &str)| LoginBody {
            key: token.0.clone(),
            hostname: hostname.to_owned(),
            since: since.to_string(),
        };
        tailnet.logins().map(body).collect()
    });
    Ok(Json(logins.await?))
}

/// Whose node it becomes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Approve {
    /// Name, e-mail address or id.
    user: String,
}

/// Lets the machine of a login in.
#[utoipa::path(post, path = "/api/v2/logins/{key}/approve", tag = "logins", request_body = Approve,
    params(("key" = String, Path, description = "the last part of the address that the client shows")),
    responses((status = 200, body = NodeBody), (status = 404, body = ErrorBody)))]
async fn approve(
    State(state): State<ApiState>,
    Path(key): Path<String>,
    Body(Approve { user }): Body<Approve>,
) -> Result<(StatusCode, Json<NodeBody>), ApiError> {
    let control = &state.app.control;
    let user = control.read(move |tailnet| users::find(tailnet, &user)).await??;
    let outcome = control.command(Command::ApproveLogin { token: LoginToken(key), user }).await?;
    let node = control
        .read(move |tailnet| {
            let Outcome::Registered(id) = outcome else { return None };
            tailnet.registry().node(id).map(|node| nodes::body(node, tailnet))
        })
        .await?;
    let node = node.ok_or_else(|| ApiError::none("the node was deleted meanwhile"))?;
    Ok((StatusCode::OK, Json(node)))
}
