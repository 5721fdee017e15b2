//! The admin API: over a socket in the data folder without a key, and over the network with one.
//!
//! Paths and shapes under `/api/v2/device`, `/api/v2/tailnet` are those of Tailscale's public API, as far as it has a word for a
//! thing: ids are strings, names camel case. Everything else is in the same style with ids as numbers and names in snake case; the
//! command line uses only that.
//!
//! To add an endpoint: a handler in the file of its resource, with `#[utoipa::path]`, and its name in that file's `router`. The
//! document at `/api/v2/openapi.json` follows from both.

#[expect(unused_qualifications, reason = "the macro that documents queries qualifies their type")]
mod acl;
mod apikeys;
mod checks;
mod devices;
mod difference;
mod doctor;
mod error;
mod keys;
mod logins;
mod metrics;
#[expect(unused_qualifications, reason = "the macro that documents queries qualifies their type")]
mod nodes;
mod policy;
#[expect(unused_qualifications, reason = "the macro that documents queries qualifies their type")]
mod routes;
mod server;
mod ssh;
mod users;
#[expect(unused_qualifications, reason = "the macro that documents queries qualifies their type")]
mod via6;
mod webhooks;
mod what_if;
mod whole;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use tokio::net::UnixListener;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use wayleave_model::{ApiKey, Approver, Timestamp};
use wayleave_tailnet::Tailnet;

use crate::app::App;
use crate::control_loop::CommandError;
use crate::imported_keys::{self, Imported};
use crate::secrets;
use crate::web::PATIENCE;
pub use error::{ApiError, ErrorBody};

/// What every endpoint shares.
#[derive(Clone)]
pub struct ApiState {
    app: Arc<App>,
}

impl ApiState {
    pub(crate) fn new(app: &Arc<App>) -> Self {
        Self { app: Arc::clone(app) }
    }
}

/// Who asks; in the extensions of every request.
#[derive(Clone, Debug)]
struct Caller(Approver);

#[derive(OpenApi)]
#[openapi(info(title = "Wayleave admin API", description = "Users, keys, nodes and routes of a tailnet."))]
struct Document;

fn endpoints(state: ApiState) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(server::router())
        .merge(doctor::router())
        .merge(whole::router())
        .merge(users::router())
        .merge(keys::router())
        .merge(apikeys::router())
        .merge(logins::router())
        .merge(nodes::router())
        .merge(routes::router())
        .merge(what_if::router())
        .merge(via6::router())
        .merge(checks::router())
        .merge(webhooks::router())
        .merge(policy::router())
        .merge(acl::router())
        .merge(ssh::router())
        .merge(devices::router())
        .split_for_parts();
    let most = state.app.options.limits.body;
    let document = Arc::new(document);
    let serve_document = axum::routing::get(move || {
        let document = Arc::clone(&document);
        async move { Json(utoipa::openapi::OpenApi::clone(&document)) }
    });
    router
        .route("/api/v2/openapi.json", serve_document)
        .route("/metrics", axum::routing::get(metrics::show))
        .layer(DefaultBodyLimit::max(most))
        .with_state(state)
}

/// The API for who can open the socket: no key is asked for.
pub fn local_router(state: ApiState) -> Router {
    endpoints(state).layer(axum::middleware::from_fn(local))
}

/// The API over the network: a key is asked for.
pub fn network_router(state: ApiState) -> Router {
    endpoints(state.clone()).layer(axum::middleware::from_fn_with_state(state, network))
}

async fn local(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Caller(Approver::Cli));
    next.run(request).await
}

/// A key comes as `Authorization: Bearer KEY`, or as the user name of basic authentication, as Tailscale's API takes it.
async fn network(State(state): State<ApiState>, mut request: Request<Body>, next: Next) -> Result<Response, ApiError> {
    let refused = |text: &str| ApiError::new(StatusCode::UNAUTHORIZED, text);
    let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = match value.and_then(|value| value.split_once(' ')) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Some(key.trim().to_owned()),
        Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => STANDARD
            .decode(pair.trim())
            .ok()
            .and_then(|pair| String::from_utf8(pair).ok())
            .and_then(|pair| pair.split_once(':').map(|(user, _)| user.to_owned())),
        _ => None,
    };
    let Some(key) = key else {
        return Err(refused(
            "an API key is needed: Authorization: Bearer KEY; make one with `wayleave apikeys create`",
        ));
    };
    let mut known = find_key(&state, &key).await?;
    if known.is_none() && imported_keys::learn(&state.app, Imported::ApiKey, &key).await? {
        known = find_key(&state, &key).await?;
    }
    let (name, expires_at) = known.ok_or_else(|| refused("this API key is not known"))?;
    if expires_at.is_some_and(|at| at <= state.app.control.clock().now()) {
        return Err(refused("this API key has expired; make another with `wayleave apikeys create`"));
    }
    request.extensions_mut().insert(Caller(Approver::Api(name)));
    Ok(next.run(request).await)
}

/// The name and the end of the API key with this text.
async fn find_key(state: &ApiState, text: &str) -> Result<Option<(String, Option<Timestamp>)>, CommandError> {
    let hash = secrets::hash(text);
    let find = move |tailnet: &Tailnet| {
        let same = |key: &&ApiKey| key.hash.sha256().is_some_and(|known| bool::from(known.ct_eq(&hash)));
        tailnet.registry().api_keys().find(same).map(|key| (key.name.clone(), key.expires_at))
    };
    state.app.control.read_within(PATIENCE, find).await
}

/// Makes the socket, for its owner only. One that an earlier server left behind is replaced; one that answers is not.
///
/// # Errors
///
/// Another server answers there, the path is too long, or its folder can't be written to.
pub fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server answers there"));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
