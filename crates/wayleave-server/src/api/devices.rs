//! Devices, keys and users in the words of Tailscale's public API (tailscale.com/api), for tools that speak it.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::{AuthKeyId, Node, Prefix, Tag};
use wayleave_tailnet::{ApproveMode, Command, Tailnet};

use super::error::{ApiError, Asked, Body, ErrorBody};
use super::keys::{self, KeyBody, Wanted};
use super::nodes::{self, Force};
use super::{ApiState, Caller};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, delete))
        .routes(routes!(routes_of, set_routes))
        .routes(routes!(set_tags))
        .routes(routes!(set_name))
        .routes(routes!(set_key))
        .routes(routes!(expire))
        .routes(routes!(list_keys, create_key))
        .routes(routes!(show_key, delete_key))
        .routes(routes!(list_users))
}

/// A device.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Device {
    id: String,
    node_id: String,
    name: String,
    hostname: String,
    user: String,
    tags: Vec<String>,
    addresses: Vec<String>,
    client_version: String,
    os: String,
    created: String,
    last_seen: Option<String>,
    connected_to_control: bool,
    key_expiry_disabled: bool,
    expires: Option<String>,
    authorized: bool,
    is_external: bool,
    is_ephemeral: bool,
    machine_key: Option<String>,
    node_key: String,
    update_available: bool,
    blocks_incoming_connections: bool,
    enabled_routes: Vec<String>,
    advertised_routes: Vec<String>,
}

fn texts(tailnet: &Tailnet, node: &Node, fits: fn(&wayleave_model::Route) -> bool) -> Vec<String> {
    tailnet.routes().rows_of(node.id).filter(|row| fits(row)).map(|row| row.prefix.to_string()).collect()
}

fn device(node: &Node, tailnet: &Tailnet, base_domain: &str) -> Device {
    let online = tailnet.is_online(node.id);
    Device {
        id: node.id.to_string(),
        node_id: node.id.to_string(),
        name: format!("{}.{base_domain}", node.given_name),
        hostname: node.hostinfo.hostname.clone(),
        user: node
            .owner
            .user()
            .and_then(|id| tailnet.registry().user(id))
            .map_or_else(|| "tagged-devices".to_owned(), |user| user.login_name().to_owned()),
        tags: node.owner.tags().map(Tag::to_string).collect(),
        addresses: node.addresses.iter().map(|address| address.to_string()).collect(),
        client_version: node.hostinfo.client_version.clone(),
        os: node.hostinfo.os.clone(),
        created: node.created_at.to_string(),
        last_seen: node.last_seen.map(|time| time.to_string()),
        connected_to_control: online,
        key_expiry_disabled: node.expires_at.is_none(),
        expires: node.expires_at.map(|time| time.to_string()),
        authorized: true,
        is_external: false,
        is_ephemeral: node.ephemeral,
        machine_key: node.machine_key.map(|key| key.to_string()),
        node_key: node.node_key.to_string(),
        update_available: false,
        blocks_incoming_connections: node.hostinfo.shields_up,
        enabled_routes: texts(tailnet, node, |row| row.enabled),
        advertised_routes: texts(tailnet, node, |row| row.advertised),
    }
}

/// Devices.
#[derive(Debug, Serialize, ToSchema)]
struct Devices {
    devices: Vec<Device>,
}

/// All devices.
#[utoipa::path(get, path = "/api/v2/tailnet/{tailnet}/devices", tag = "devices",
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet")),
    responses((status = 200, body = Devices)))]
async fn list(State(state): State<ApiState>) -> Result<Json<Devices>, ApiError> {
    let domain = state.app.options.dns.base_domain.clone();
    let devices = state
        .app
        .control
        .read(move |tailnet| tailnet.registry().nodes().map(|node| device(node, tailnet, &domain)).collect());
    Ok(Json(Devices { devices: devices.await? }))
}

/// Device ids are numbers, or numbers with an `n` before them.
fn find<'a>(tailnet: &'a Tailnet, id: &str) -> Result<&'a Node, ApiError> {
    let id = nodes::find(tailnet, id).or_else(|error| nodes::find(tailnet, id.strip_prefix('n').ok_or(error)?))?;
    tailnet.registry().node(id).ok_or_else(|| ApiError::none("it is gone"))
}

/// One device.
#[utoipa::path(get, path = "/api/v2/device/{id}", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, body = Device), (status = 404, body = ErrorBody)))]
async fn show(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Json<Device>, ApiError> {
    let domain = state.app.options.dns.base_domain.clone();
    let device = state.app.control.read(move |tailnet| find(tailnet, &id).map(|node| device(node, tailnet, &domain)));
    Ok(Json(device.await??))
}

/// Deletes a device.
#[utoipa::path(delete, path = "/api/v2/device/{id}", tag = "devices", params(("id" = String, Path), Force),
    responses((status = 200), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn delete(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Asked(Force { force }): Asked<Force>,
) -> Result<StatusCode, ApiError> {
    nodes::delete_node(&state, id, force).await?;
    Ok(StatusCode::OK)
}

/// Routes of a device.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeviceRoutes {
    advertised_routes: Vec<String>,
    enabled_routes: Vec<String>,
}

async fn device_routes(state: &ApiState, id: String) -> Result<Json<DeviceRoutes>, ApiError> {
    let routes = state.app.control.read(move |tailnet| {
        let node = find(tailnet, &id)?;
        Ok::<_, ApiError>(DeviceRoutes {
            advertised_routes: texts(tailnet, node, |row| row.advertised),
            enabled_routes: texts(tailnet, node, |row| row.enabled),
        })
    });
    Ok(Json(routes.await??))
}

/// Routes of a device.
#[utoipa::path(get, path = "/api/v2/device/{id}/routes", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, body = DeviceRoutes), (status = 404, body = ErrorBody)))]
async fn routes_of(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Json<DeviceRoutes>, ApiError> {
    device_routes(&state, id).await
}

/// The routes that a device is to have enabled, all of them.
#[derive(Debug, Deserialize, ToSchema)]
struct SetRoutes {
    routes: Vec<String>,
}

/// Sets which routes of a device are enabled: these, and no others.
#[utoipa::path(post, path = "/api/v2/device/{id}/routes", tag = "devices", request_body = SetRoutes,
    params(("id" = String, Path)),
    responses((status = 200, body = DeviceRoutes), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn set_routes(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(SetRoutes { routes }): Body<SetRoutes>,
) -> Result<Json<DeviceRoutes>, ApiError> {
    let prefixes: Result<_, _> = routes.iter().map(|text| text.parse::<Prefix>().map_err(ApiError::bad)).collect();
    let text = id.clone();
    let node = state.app.control.read(move |tailnet| find(tailnet, &text).map(|node| node.id)).await??;
    let command = Command::ApproveRoutes { node, prefixes: prefixes?, mode: ApproveMode::Replace, by: caller.0 };
    state.app.control.command(command).await?;
    device_routes(&state, id).await
}

/// Tags.
#[derive(Debug, Deserialize, ToSchema)]
struct SetTags {
    tags: Vec<String>,
}

/// Makes a device a tagged one.
#[utoipa::path(post, path = "/api/v2/device/{id}/tags", tag = "devices", request_body = SetTags,
    params(("id" = String, Path)), responses((status = 200), (status = 404, body = ErrorBody)))]
async fn set_tags(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Body(SetTags { tags }): Body<SetTags>,
) -> Result<StatusCode, ApiError> {
    // Tools that write this down as it should be know no question.
    nodes::tag_node(&state, id, &tags, true).await?;
    Ok(StatusCode::OK)
}

/// A name.
#[derive(Debug, Deserialize, ToSchema)]
struct SetName {
    name: String,
}

/// Gives a device another name.
#[utoipa::path(post, path = "/api/v2/device/{id}/name", tag = "devices", request_body = SetName,
    params(("id" = String, Path)), responses((status = 200), (status = 404, body = ErrorBody)))]
async fn set_name(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Body(SetName { name }): Body<SetName>,
) -> Result<StatusCode, ApiError> {
    let label = name.split('.').next().unwrap_or_default();
    nodes::rename_node(&state, id, label).await?;
    Ok(StatusCode::OK)
}

/// What becomes of a device's key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SetKey {
    key_expiry_disabled: bool,
}

/// Lets a device's key live for ever, or gives it the end that the server gives new ones.
#[utoipa::path(post, path = "/api/v2/device/{id}/key", tag = "devices", request_body = SetKey,
    params(("id" = String, Path)), responses((status = 200), (status = 404, body = ErrorBody)))]
async fn set_key(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Body(SetKey { key_expiry_disabled }): Body<SetKey>,
) -> Result<StatusCode, ApiError> {
    let life = state.app.options.tailnet.key_expiry.filter(|_| !key_expiry_disabled);
    let at = life.map(|life| state.app.control.clock().now() + life);
    nodes::expire_node(&state, id, at, true).await?;
    Ok(StatusCode::OK)
}

/// Ends the life of a device's key.
#[utoipa::path(post, path = "/api/v2/device/{id}/expire", tag = "devices", params(("id" = String, Path), Force),
    responses((status = 200), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn expire(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Asked(Force { force }): Asked<Force>,
) -> Result<StatusCode, ApiError> {
    let now = state.app.control.clock().now();
    nodes::expire_node(&state, id, Some(now), force).await?;
    Ok(StatusCode::OK)
}

fn key_json(key: KeyBody) -> Value {
    let capabilities = json!({ "devices": { "create": {
        "reusable": key.reusable, "ephemeral": key.ephemeral, "preauthorized": true, "tags": key.tags } } });
    let mut out = json!({ "id": key.id.to_string(), "keyType": "auth", "created": key.created_at,
        "description": key.description, "capabilities": capabilities, "invalid": key.state != "valid" });
    let fields = [("key", key.key), ("expires", key.expires_at), ("revoked", key.revoked_at), ("userId", key.user)];
    for (name, value) in fields {
        if let Some(value) = value {
            out[name] = Value::String(value);
        }
    }
    out
}

/// All pre-auth keys.
#[utoipa::path(get, path = "/api/v2/tailnet/{tailnet}/keys", tag = "devices",
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet")), responses((status = 200)))]
async fn list_keys(State(state): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let now = state.app.control.clock().now();
    let keys = state.app.control.read(move |tailnet| {
        tailnet.registry().auth_keys().map(|key| key_json(keys::body(key, tailnet, now))).collect::<Vec<_>>()
    });
    Ok(Json(json!({ "keys": keys.await? })))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewKey {
    #[serde(default)]
    capabilities: Capabilities,
    #[serde(default)]
    description: String,
    expiry_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
struct Capabilities {
    #[serde(default)]
    devices: DeviceCapabilities,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
struct DeviceCapabilities {
    #[serde(default)]
    create: Create,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
struct Create {
    #[serde(default)]
    reusable: bool,
    #[serde(default)]
    ephemeral: bool,
    #[serde(default)]
    tags: Vec<String>,
}

/// Makes a pre-auth key. It needs tags, because an API key is nobody's. It lives 90 days where nothing else is said.
#[utoipa::path(post, path = "/api/v2/tailnet/{tailnet}/keys", tag = "devices", request_body = NewKey,
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet")),
    responses((status = 200), (status = 422, body = ErrorBody)))]
async fn create_key(State(state): State<ApiState>, Body(new): Body<NewKey>) -> Result<Json<Value>, ApiError> {
    let Create { reusable, ephemeral, tags } = new.capabilities.devices.create;
    let wanted = Wanted {
        user: None,
        reusable,
        ephemeral,
        tags: keys::tags(&tags)?,
        description: new.description,
        lifetime: Some(Duration::from_secs(new.expiry_seconds.unwrap_or(90 * 86_400))),
    };
    Ok(Json(key_json(keys::make(&state, wanted).await?)))
}

/// One pre-auth key.
#[utoipa::path(get, path = "/api/v2/tailnet/{tailnet}/keys/{id}", tag = "devices",
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet"), ("id" = u64, Path)),
    responses((status = 200), (status = 404, body = ErrorBody)))]
async fn show_key(State(state): State<ApiState>, Path(path): Path<(String, u64)>) -> Result<Json<Value>, ApiError> {
    let (now, id) = (state.app.control.clock().now(), path.1);
    let key = state.app.control.read(move |tailnet| {
        tailnet.registry().auth_key(AuthKeyId::new(id)).map(|key| key_json(keys::body(key, tailnet, now)))
    });
    key.await?.map(Json).ok_or_else(|| ApiError::none(format!("there is no key {id}")))
}

/// Ends a pre-auth key.
#[utoipa::path(delete, path = "/api/v2/tailnet/{tailnet}/keys/{id}", tag = "devices",
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet"), ("id" = u64, Path)),
    responses((status = 200), (status = 404, body = ErrorBody)))]
async fn delete_key(State(state): State<ApiState>, Path(path): Path<(String, u64)>) -> Result<StatusCode, ApiError> {
    state.app.control.command(Command::RevokeAuthKey { key: AuthKeyId::new(path.1) }).await?;
    Ok(StatusCode::OK)
}

/// All users.
#[utoipa::path(get, path = "/api/v2/tailnet/{tailnet}/users", tag = "devices",
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet")), responses((status = 200)))]
async fn list_users(State(state): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let users = state.app.control.read(|tailnet| {
        let user = |user: &wayleave_model::User| {
            let nodes = tailnet.registry().nodes().filter(|node| node.owner.user() == Some(user.id));
            json!({ "id": user.id.to_string(), "displayName": user.shown_name(), "loginName": user.login_name(),
                "created": user.created_at.to_string(), "type": "member", "status": "active", "deviceCount": nodes.count() })
        };
        tailnet.registry().users().map(user).collect::<Vec<_>>()
    });
    Ok(Json(json!({ "users": users.await? })))
}
