//! A person's word on where a prefix goes: prefer, move, freeze.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wayleave_model::{Prefix, Spread};
use wayleave_tailnet::Command;

use super::super::error::{ApiError, Body, ErrorBody};
use super::super::{ApiState, Caller, nodes};
use super::{RouteBody, records, routes_of};

/// How long a freeze lasts where nobody says it: an hour.
const FREEZE: Duration = Duration::from_secs(3600);

/// How much to prefer a node.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Prefer {
    /// Id, name or address.
    node: String,
    /// Which of its prefixes.
    prefix: String,
    /// Higher is preferred; 0 where nobody says anything.
    priority: i32,
}

/// Sets how much a node is preferred for a prefix.
#[utoipa::path(post, path = "/api/v2/routes/prefer", tag = "routes", request_body = Prefer,
    responses((status = 200, body = Vec<RouteBody>), (status = 404, body = ErrorBody)))]
pub(super) async fn prefer(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(Prefer { node, prefix: of, priority }): Body<Prefer>,
) -> Result<Json<Vec<RouteBody>>, ApiError> {
    let prefix = state.prefix(&of)?;
    let control = &state.app.control;
    let node = control.read(move |tailnet| nodes::find(tailnet, &node)).await??;
    let outcome = control.command(Command::Prefer { node, prefix, priority, by: caller.0 }).await?;
    records(&state, routes_of(outcome)).await
}

/// Where to put a prefix.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Move {
    /// Which.
    prefix: String,
    /// Id, name or address.
    to: String,
}

/// What a person has to know who moves a prefix that is spread by region.
const REGION_NOTE: &str = "clients with a home region keep the router that is near to them (`spread` is `region`): only those without one use the router \
                           that it was moved to; `wayleave routes set P --spread single` has all use it";

/// Puts a prefix on another of its routers, once. It stays there until that one falls, or a person says otherwise.
#[utoipa::path(post, path = "/api/v2/routes/move", tag = "routes", request_body = Move,
    responses((status = 200, body = Vec<RouteBody>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn move_primary(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(Move { prefix: of, to }): Body<Move>,
) -> Result<Json<Vec<RouteBody>>, ApiError> {
    let prefix = state.prefix(&of)?;
    let control = &state.app.control;
    let to = control.read(move |tailnet| nodes::find(tailnet, &to)).await??;
    let outcome = control.command(Command::MovePrimary { prefix, to, by: caller.0 }).await?;
    let mut moved = records(&state, routes_of(outcome)).await?;
    let spread = control.read(move |tailnet| tailnet.routes().prefix_settings(&prefix).spread).await?;
    if spread == Spread::Region {
        tracing::warn!(route.prefix = %prefix, spread = spread.word(), "{REGION_NOTE}");
        moved.iter_mut().for_each(|route| route.notes.push(REGION_NOTE.to_owned()));
    }
    Ok(moved)
}

/// What to hold where it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Freeze {
    /// Which; absent only with `all`.
    prefix: Option<String>,
    /// All prefixes.
    #[serde(default)]
    all: bool,
    /// For how long: a duration such as `1h`, which holds where nothing is said.
    #[serde(rename = "for")]
    lifetime: Option<String>,
}

/// What is held.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FrozenBody {
    /// Absent: all.
    prefix: Option<String>,
    /// Until then; absent: not any more.
    frozen_until: Option<String>,
}

fn which(state: &ApiState, of: Option<&str>, all: bool) -> Result<Option<Prefix>, ApiError> {
    match (of, all) {
        (Some(of), false) => state.prefix(of).map(Some),
        (None, true) => Ok(None),
        (Some(_), true) | (None, false) => Err(ApiError::bad("say which: a `prefix`, or `all`")),
    }
}

/// Stops every automatic move of a prefix, or of all, for a while.
#[utoipa::path(post, path = "/api/v2/routes/freeze", tag = "routes", request_body = Freeze,
    responses((status = 200, body = FrozenBody), (status = 400, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(super) async fn freeze(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(Freeze { prefix: of, all, lifetime }): Body<Freeze>,
) -> Result<Json<FrozenBody>, ApiError> {
    let prefix = which(&state, of.as_deref(), all)?;
    let lifetime = lifetime.as_deref().map(wayleave_model::duration::parse).transpose().map_err(ApiError::bad)?;
    let lifetime = lifetime.unwrap_or(FREEZE);
    state.app.control.command(Command::Freeze { prefix, lifetime, by: caller.0 }).await?;
    frozen(&state, prefix).await
}

/// What to let go.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Unfreeze {
    /// Which; absent only with `all`.
    prefix: Option<String>,
    /// Everything that is frozen.
    #[serde(default)]
    all: bool,
}

/// Ends a freeze. There has to be one.
#[utoipa::path(post, path = "/api/v2/routes/unfreeze", tag = "routes", request_body = Unfreeze,
    responses((status = 200, body = FrozenBody), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn unfreeze(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(Unfreeze { prefix: of, all }): Body<Unfreeze>,
) -> Result<Json<FrozenBody>, ApiError> {
    let prefix = which(&state, of.as_deref(), all)?;
    state.app.control.command(Command::Unfreeze { prefix, by: caller.0 }).await?;
    frozen(&state, prefix).await
}

async fn frozen(state: &ApiState, prefix: Option<Prefix>) -> Result<Json<FrozenBody>, ApiError> {
    let until = state.app.control.read(move |tailnet| {
        let own = tailnet.routes().overrides(prefix.as_ref());
        own.and_then(|own| own.frozen.as_ref()).map(|freeze| freeze.until.to_string())
    });
    Ok(Json(FrozenBody { prefix: prefix.map(|prefix| prefix.to_string()), frozen_until: until.await? }))
}
