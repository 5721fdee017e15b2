//! Nodes.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::{GivenName, Node, NodeId, Prefix, Tag, Timestamp};
use wayleave_tailnet::{Command, Tailnet};
use wayleave_wire::ping;

use super::error::{ApiError, Asked, Body, ErrorBody};
use super::{ApiState, keys, routes as routes_api};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, delete))
        .routes(routes!(rename))
        .routes(routes!(tag))
        .routes(routes!(expire))
        .routes(routes!(echo))
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeBody {
    id: u64,
    /// The name in DNS, unique.
    name: String,
    /// What the machine calls itself.
    hostname: String,
    /// Whose it is; absent for a tagged node.
    user: Option<String>,
    tags: Vec<String>,
    addresses: Vec<String>,
    online: bool,
    /// When its key expires; absent: never.
    expires_at: Option<String>,
    expired: bool,
    /// When it was last online; absent while it is.
    last_seen: Option<String>,
    advertised_routes: Vec<String>,
    approved_routes: Vec<String>,
    primary_routes: Vec<String>,
    created_at: String,
    ephemeral: bool,
    drained: bool,
    os: String,
    client_version: String,
    capability: u16,
    node_key: String,
    machine_key: Option<String>,
    endpoints: Vec<String>,
    home_derp: u32,
    /// What it says is wrong with itself, such as `warn-ip-forwarding-off`.
    warnings: Vec<String>,
}

pub(super) fn body(node: &Node, tailnet: &Tailnet) -> NodeBody {
    let rows = || tailnet.routes().rows_of(node.id);
    let texts = |prefixes: Vec<Prefix>| prefixes.iter().map(Prefix::to_string).collect();
    let online = tailnet.is_online(node.id);
    NodeBody {
        id: node.id.get(),
        name: node.given_name.to_string(),
        hostname: node.hostinfo.hostname.clone(),
        user: node.owner.user().and_then(|id| tailnet.registry().user(id)).map(|user| user.name.clone()),
        tags: node.owner.tags().map(Tag::to_string).collect(),
        addresses: node.addresses.iter().map(|address| address.to_string()).collect(),
        online,
        expires_at: node.expires_at.map(|time| time.to_string()),
        expired: tailnet.routes().is_expired(node.id),
        last_seen: if online { None } else { node.last_seen.map(|time| time.to_string()) },
        advertised_routes: texts(rows().filter(|row| row.advertised).map(|row| row.prefix).collect()),
        approved_routes: texts(rows().filter(|row| row.enabled).map(|row| row.prefix).collect()),
        primary_routes: texts(rows().filter(|row| row.is_primary).map(|row| row.prefix).collect()),
        created_at: node.created_at.to_string(),
        ephemeral: node.ephemeral,
        drained: node.drained,
        os: node.hostinfo.os.clone(),
        client_version: node.hostinfo.client_version.clone(),
        capability: node.capability,
        node_key: node.node_key.to_string(),
        machine_key: node.machine_key.map(|key| key.to_string()),
        endpoints: node.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect(),
        home_derp: node.home_derp,
        warnings: node.hostinfo.debug_flags.iter().cloned().collect(),
    }
}

/// The node that a person means by an id, a name or an address.
pub(super) fn find(tailnet: &Tailnet, text: &str) -> Result<NodeId, ApiError> {
    if let Some(node) = tailnet.registry().find_node(text) {
        return Ok(node.id);
    }
    let close: Vec<String> = tailnet
        .registry()
        .nodes()
        .map(|node| node.given_name.to_string())
        .filter(|name| name.contains(text) || text.contains(name.as_str()))
        .take(10)
        .collect();
    let hint = if close.is_empty() {
        "`wayleave nodes list` shows all".to_owned()
    } else {
        format!("did you mean {}?", close.join(", "))
    };
    Err(ApiError::none(format!("there is no node `{text}`; {hint}")))
}

/// All nodes.
#[utoipa::path(get, path = "/api/v2/nodes", tag = "nodes", responses((status = 200, body = Vec<NodeBody>)))]
async fn list(State(state): State<ApiState>) -> Result<Json<Vec<NodeBody>>, ApiError> {
    let nodes = state.app.control.read(|tailnet| tailnet.registry().nodes().map(|node| body(node, tailnet)).collect());
    Ok(Json(nodes.await?))
}

/// One node.
#[utoipa::path(get, path = "/api/v2/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "id, name or address")),
    responses((status = 200, body = NodeBody), (status = 404, body = ErrorBody)))]
async fn show(State(state): State<ApiState>, Path(node): Path<String>) -> Result<Json<NodeBody>, ApiError> {
    let node = state.app.control.read(move |tailnet| {
        let id = find(tailnet, &node)?;
        tailnet.registry().node(id).map(|node| body(node, tailnet)).ok_or_else(|| ApiError::none("it is gone"))
    });
    Ok(Json(node.await??))
}

/// Whether to go on without asking.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Force {
    /// Do it without asking, also where a prefix that is up loses its last router.
    #[serde(default)]
    pub(super) force: bool,
}

fn prefixes_of(tailnet: &Tailnet, node: NodeId) -> Vec<Prefix> {
    tailnet.routes().rows_of(node).map(|row| row.prefix).collect()
}

pub(super) async fn delete_node(state: &ApiState, node: String, force: bool) -> Result<(), ApiError> {
    let control = &state.app.control;
    let node = control
        .read(move |tailnet| {
            let id = find(tailnet, &node)?;
            if !force {
                routes_api::ask_if_last(tailnet, id, &prefixes_of(tailnet, id), "it is deleted")?;
            }
            Ok::<_, ApiError>(id)
        })
        .await??;
    control.command(Command::DeleteNode { node }).await?;
    Ok(())
}

/// Deletes a node and all that is its.
#[utoipa::path(delete, path = "/api/v2/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "id, name or address"), Force),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn delete(
    State(state): State<ApiState>,
    Path(node): Path<String>,
    Asked(Force { force }): Asked<Force>,
) -> Result<StatusCode, ApiError> {
    delete_node(&state, node, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rename {
    /// 1 to 63 lower-case letters, digits and inner hyphens.
    name: String,
}

pub(super) async fn rename_node(state: &ApiState, node: String, name: &str) -> Result<(), ApiError> {
    let name: GivenName = name.parse().map_err(ApiError::bad)?;
    let node = state.app.control.read(move |tailnet| find(tailnet, &node)).await??;
    state.app.control.command(Command::RenameNode { node, name }).await?;
    Ok(())
}

/// Gives a node another name, which it keeps.
#[utoipa::path(post, path = "/api/v2/nodes/{node}/name", tag = "nodes", request_body = Rename,
    params(("node" = String, Path, description = "id, name or address")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn rename(
    State(state): State<ApiState>,
    Path(node): Path<String>,
    Body(Rename { name }): Body<Rename>,
) -> Result<StatusCode, ApiError> {
    rename_node(&state, node, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tags.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Tags {
    /// At least one, each with its `tag:`.
    tags: Vec<String>,
    /// Do it without asking, also where a group that grants steer through loses its last router that is up.
    #[serde(default)]
    force: bool,
}

pub(super) async fn tag_node(state: &ApiState, node: String, texts: &[String], force: bool) -> Result<(), ApiError> {
    let tags = keys::tags(texts)?;
    let wanted = tags.clone();
    let node = state
        .app
        .control
        .read(move |tailnet| {
            let id = find(tailnet, &node)?;
            if !force {
                routes_api::ask_if_last_with_tag(tailnet, id, &wanted)?;
            }
            Ok::<_, ApiError>(id)
        })
        .await??;
    state.app.control.command(Command::TagNode { node, tags }).await?;
    Ok(())
}

/// Makes a node a tagged one, with exactly these tags.
#[utoipa::path(post, path = "/api/v2/nodes/{node}/tags", tag = "nodes", request_body = Tags,
    params(("node" = String, Path, description = "id, name or address")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn tag(
    State(state): State<ApiState>,
    Path(node): Path<String>,
    Body(Tags { tags, force }): Body<Tags>,
) -> Result<StatusCode, ApiError> {
    tag_node(&state, node, &tags, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// When a key ends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Expire {
    /// A time as RFC 3339 writes it; absent: now.
    at: Option<String>,
    /// It never ends.
    #[serde(default)]
    never: bool,
    /// Do it without asking, also where a prefix that is up loses its last router at once.
    #[serde(default)]
    force: bool,
}

pub(super) async fn expire_node(
    state: &ApiState,
    node: String,
    at: Option<Timestamp>,
    force: bool,
) -> Result<(), ApiError> {
    let control = &state.app.control;
    let now = control.clock().now();
    let at_once = at.is_some_and(|at| at <= now);
    let node = control
        .read(move |tailnet| {
            let id = find(tailnet, &node)?;
            if at_once && !force {
                routes_api::ask_if_last(tailnet, id, &prefixes_of(tailnet, id), "its key has ended")?;
            }
            Ok::<_, ApiError>(id)
        })
        .await??;
    control.command(Command::ExpireNode { node, at }).await?;
    Ok(())
}

/// Ends the life of a node's key, now or at a time; or lets it live for ever.
#[utoipa::path(post, path = "/api/v2/nodes/{node}/expire", tag = "nodes", request_body = Expire,
    params(("node" = String, Path, description = "id, name or address")),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn expire(
    State(state): State<ApiState>,
    Path(node): Path<String>,
    Body(Expire { at, never, force }): Body<Expire>,
) -> Result<StatusCode, ApiError> {
    let at = match at {
        Some(_) if never => return Err(ApiError::bad("`at` and `never` contradict each other")),
        Some(text) => Some(text.parse::<Timestamp>().map_err(ApiError::bad)?),
        None if never => None,
        None => Some(state.app.control.clock().now()),
    };
    expire_node(&state, node, at, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What came of an echo.
#[derive(Debug, Serialize, ToSchema)]
struct EchoBody {
    /// How long the answer took.
    milliseconds: u64,
}

/// Has a client answer through its control connection, and says how long that took.
#[utoipa::path(post, path = "/api/v2/nodes/{node}/echo", tag = "nodes",
    params(("node" = String, Path, description = "id, name or address")),
    responses((status = 200, body = EchoBody), (status = 404, body = ErrorBody), (status = 504, body = ErrorBody)))]
async fn echo(State(state): State<ApiState>, Path(node): Path<String>) -> Result<Json<EchoBody>, ApiError> {
    let app = &state.app;
    let node = app.control.read(move |tailnet| find(tailnet, &node)).await??;
    let asked_at = app.control.clock().now();
    let token = crate::secrets::login_token();
    let answer = app.sessions.ask(node, token, |url| ping::echo(url, "wayleave"));
    let answer = answer.ok_or_else(|| ApiError::new(StatusCode::CONFLICT, "the node has no session, or is busy"))?;
    let silent = || ApiError::new(StatusCode::GATEWAY_TIMEOUT, "the node did not answer within 5 s");
    tokio::time::timeout(Duration::from_secs(5), answer).await.map_err(|_| silent())?.map_err(|_| silent())?;
    let took = app.control.clock().now().since(asked_at);
    Ok(Json(EchoBody { milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }))
}
