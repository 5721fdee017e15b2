//! Shells that a person has to approve (`action: check` in the policy's `ssh`).

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::NodeId;
use wayleave_tailnet::{Command, SshCheck, SshCheckKey, Tailnet};

use super::error::{ApiError, ErrorBody};
use super::{ApiState, Caller};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(approve)).routes(routes!(deny))
}

/// A connection that waits.
#[derive(Debug, Serialize, ToSchema)]
struct CheckBody {
    /// By which it is approved.
    key: String,
    /// The name of the node that it comes from.
    from: String,
    /// Whose that node is: a user's name, or its tags.
    owner: String,
    /// The name of the node that it goes to.
    to: String,
    /// As which local user.
    user: String,
    /// Since when it waits.
    since: String,
}

fn body(key: &SshCheckKey, check: &SshCheck, tailnet: &Tailnet) -> CheckBody {
    let node = |id: NodeId| tailnet.registry().node(id);
    let name = |id| node(id).map_or_else(|| format!("node {id}"), |node| node.given_name.to_string());
    let owner = node(check.shell.from).map(|node| {
        let user = node.owner.user().and_then(|user| tailnet.registry().user(user));
        let tags = || node.owner.tags().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        user.map_or_else(tags, |user| user.name.clone())
    });
    CheckBody {
        key: key.0.clone(),
        from: name(check.shell.from),
        owner: owner.unwrap_or_default(),
        to: name(check.shell.to),
        user: check.shell.user.clone(),
        since: check.since.to_string(),
    }
}

/// Connections that wait for a person.
#[utoipa::path(get, path = "/api/v2/ssh/checks", tag = "ssh", responses((status = 200, body = Vec<CheckBody>)))]
async fn list(State(state): State<ApiState>) -> Result<Json<Vec<CheckBody>>, ApiError> {
    let checks =
        state.app.control.read(|tailnet| tailnet.ssh_checks().map(|(key, check)| body(key, check, tailnet)).collect());
    Ok(Json(checks.await?))
}

async fn answer(state: &ApiState, caller: Caller, key: String, approved: bool) -> Result<Json<CheckBody>, ApiError> {
    let control = &state.app.control;
    let key = SshCheckKey(key);
    let asked = key.clone();
    let about = control
        .read(move |tailnet| {
            tailnet.ssh_checks().find(|(own, _)| **own == asked).map(|(key, check)| body(key, check, tailnet))
        })
        .await?;
    let by = caller.0;
    control.command(Command::AnswerShell { key, approved, by: by.clone() }).await?;
    let about = about.ok_or_else(|| ApiError::none("it was answered meanwhile"))?;
    tracing::info!(
        from.name = about.from,
        to.name = about.to,
        local_user = about.user,
        %by,
        approved,
        "a shell was {}",
        if approved { "approved" } else { "refused" }
    );
    Ok(Json(about))
}

/// Lets a connection in.
#[utoipa::path(post, path = "/api/v2/ssh/checks/{key}/approve", tag = "ssh",
    params(("key" = String, Path, description = "what the user in front of the shell is shown")),
    responses((status = 200, body = CheckBody), (status = 404, body = ErrorBody)))]
async fn approve(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Result<(StatusCode, Json<CheckBody>), ApiError> {
    Ok((StatusCode::OK, answer(&state, caller, key, true).await?))
}

/// Refuses a connection.
#[utoipa::path(post, path = "/api/v2/ssh/checks/{key}/deny", tag = "ssh",
    params(("key" = String, Path, description = "what the user in front of the shell is shown")),
    responses((status = 200, body = CheckBody), (status = 404, body = ErrorBody)))]
async fn deny(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Result<(StatusCode, Json<CheckBody>), ApiError> {
    Ok((StatusCode::OK, answer(&state, caller, key, false).await?))
}
