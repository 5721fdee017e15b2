//! Users.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::{User, UserId};
use wayleave_tailnet::{Command, Outcome, Tailnet};

use super::ApiState;
use super::error::{ApiError, Body, ErrorBody};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(change, delete))
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserBody {
    id: u64,
    name: String,
    display_name: String,
    email: Option<String>,
    /// What the user is in the tailnet: `owner`, `admin`, `it-admin`, `network-admin`, `billing-admin`, `auditor` or `member`.
    role: String,
    created_at: String,
    /// How many nodes are this user's.
    nodes: usize,
}

fn body(user: &User, tailnet: &Tailnet) -> UserBody {
    UserBody {
        id: user.id.get(),
        name: user.name.clone(),
        display_name: user.display_name.clone(),
        email: user.email.clone(),
        role: user.role.to_string(),
        created_at: user.created_at.to_string(),
        nodes: tailnet.registry().nodes().filter(|node| node.owner.user() == Some(user.id)).count(),
    }
}

/// The user that a person means by a name, an e-mail address or an id.
pub(super) fn find(tailnet: &Tailnet, text: &str) -> Result<UserId, ApiError> {
    match tailnet.registry().users_named(text)[..] {
        [user] => Ok(user.id),
        [] => {
            let all: Vec<&str> = tailnet.registry().users().map(|user| user.name.as_str()).take(20).collect();
            let hint = if all.is_empty() {
                "there are none yet: `wayleave users create NAME`".to_owned()
            } else {
                format!("there are: {}", all.join(", "))
            };
            Err(ApiError::none(format!("there is no user `{text}`; {hint}")))
        }
        [..] => Err(ApiError::new(StatusCode::CONFLICT, format!("several users are named `{text}`; give the id"))),
    }
}

/// All users.
#[utoipa::path(get, path = "/api/v2/users", tag = "users", responses((status = 200, body = Vec<UserBody>)))]
async fn list(State(state): State<ApiState>) -> Result<Json<Vec<UserBody>>, ApiError> {
    let users = state.app.control.read(|tailnet| tailnet.registry().users().map(|u| body(u, tailnet)).collect());
    Ok(Json(users.await?))
}

/// A user to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewUser {
    /// The name, unique.
    name: String,
    /// What clients show; empty for the name.
    #[serde(default)]
    display_name: String,
    /// The e-mail address.
    email: Option<String>,
    /// A role. Where none is given: `owner` for the first user, `member` for others.
    role: Option<String>,
}

/// Makes a user.
#[utoipa::path(post, path = "/api/v2/users", tag = "users", request_body = NewUser,
    responses((status = 201, body = UserBody), (status = 409, body = ErrorBody)))]
async fn create(
    State(state): State<ApiState>,
    Body(new): Body<NewUser>,
) -> Result<(StatusCode, Json<UserBody>), ApiError> {
    let NewUser { name, display_name, email, role } = new;
    let role = role.map(|role| role.parse()).transpose().map_err(ApiError::bad)?;
    let control = &state.app.control;
    let outcome = control.command(Command::CreateUser { name, display_name, email, role }).await?;
    let made = control
        .read(move |tailnet| {
            let Outcome::User(id) = outcome else { return None };
            tailnet.registry().user(id).map(|user| body(user, tailnet))
        })
        .await?;
    let made = made.ok_or_else(|| ApiError::none("the user was deleted meanwhile"))?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// What is to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    /// The new name, unique.
    name: Option<String>,
    /// The new role.
    role: Option<String>,
}

/// Gives a user another name, or another role.
#[utoipa::path(patch, path = "/api/v2/users/{user}", tag = "users", request_body = Change,
    params(("user" = String, Path, description = "name, e-mail address or id")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn change(
    State(state): State<ApiState>,
    Path(user): Path<String>,
    Body(Change { name, role }): Body<Change>,
) -> Result<StatusCode, ApiError> {
    let control = &state.app.control;
    let user = control.read(move |tailnet| find(tailnet, &user)).await??;
    let role = role.map(|role| role.parse()).transpose().map_err(ApiError::bad)?;
    if let Some(name) = name {
        control.command(Command::RenameUser { user, name }).await?;
    }
    if let Some(role) = role {
        control.command(Command::SetRole { user, role }).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a user who has no nodes, and the user's keys.
#[utoipa::path(delete, path = "/api/v2/users/{user}", tag = "users",
    params(("user" = String, Path, description = "name, e-mail address or id")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn delete(State(state): State<ApiState>, Path(user): Path<String>) -> Result<StatusCode, ApiError> {
    let control = &state.app.control;
    let user = control.read(move |tailnet| find(tailnet, &user)).await??;
    control.command(Command::DeleteUser { user }).await?;
    Ok(StatusCode::NO_CONTENT)
}
