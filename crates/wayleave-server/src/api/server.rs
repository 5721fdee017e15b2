//! What the server is.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(show))
}

/// What the server is.
#[derive(Debug, Serialize, ToSchema)]
struct ServerBody {
    /// Of the program.
    version: String,
    /// What clients log in to.
    server_url: String,
    /// The suffix of every node's name.
    base_domain: String,
    /// The key by which clients know the server.
    public_key: String,
}

/// What the server is.
#[utoipa::path(get, path = "/api/v2/server", tag = "server", responses((status = 200, body = ServerBody)))]
async fn show(State(state): State<ApiState>) -> Json<ServerBody> {
    Json(ServerBody {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server_url: state.app.options.server_url.clone(),
        base_domain: state.app.options.dns.base_domain.clone(),
        public_key: state.app.key.machine_key().to_string(),
    })
}
