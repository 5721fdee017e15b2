//! All of it at once: an export for people and programs, a copy of the database for the next server.

use std::path::PathBuf;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_store::BackupError;

use super::error::{ApiError, ErrorBody};
use super::{ApiState, secrets};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(export)).routes(routes!(backup))
}

/// How much of a copy is read at once.
const CHUNK: usize = 256 << 10;

/// Everything that is durable, but for secrets, table by table. `wayleave import wayleave` reads it back.
#[utoipa::path(get, path = "/api/v2/export", tag = "server", responses((status = 200), (status = 503, body = ErrorBody)))]
async fn export(State(state): State<ApiState>) -> Result<Response, ApiError> {
    let control = &state.app.control;
    let document = control.store().export(control.clock().now()).await?;
    Ok(Json(document).into_response())
}

/// A copy of the database as of one moment, which a server starts from. It holds no private key and the hash of every other one.
#[utoipa::path(get, path = "/api/v2/backup", tag = "server",
    responses((status = 200, content_type = "application/vnd.sqlite3"), (status = 503, body = ErrorBody)))]
async fn backup(State(state): State<ApiState>) -> Result<Response, ApiError> {
    let path = state.app.options.data_dir.join(format!("backup-{}.part", secrets::login_token()));
    let copied = state.app.control.store().backup(&path).await;
    // The file is nobody's from here on: it goes with the last who reads it, however that ends.
    let opened = match copied {
        Ok(()) => File::open(&path).await.map_err(|source| BackupError::File { path: path.clone(), source }),
        Err(error) => Err(error),
    };
    let gone = remove(path).await;
    let file = opened.and_then(|file| gone.map(|()| file)).map_err(failed)?;
    let length = file.metadata().await.map(|data| data.len());
    let length = length.map_err(|source| failed(BackupError::File { path: PathBuf::new(), source }))?;
    let chunks = futures_util::stream::try_unfold(file, async |mut file| {
        let mut chunk = vec![0; CHUNK];
        let read = file.read(&mut chunk).await?;
        chunk.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(chunk), file)))
    });
    let head =
        [(header::CONTENT_TYPE, "application/vnd.sqlite3".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((head, Body::from_stream(chunks)).into_response())
}

async fn remove(path: PathBuf) -> Result<(), BackupError> {
    match tokio::fs::remove_file(&path).await {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(BackupError::File { path, source }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(error: BackupError) -> ApiError {
    tracing::error!(error = &error as &dyn std::error::Error, "the database could not be copied");
    let text = "the database could not be copied; the server's log says why (is there room in the data folder?)";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
}
