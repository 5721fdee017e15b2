//! The client of the admin API: over the socket in the data folder, or over the network with a key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// How long an answer may take: longer than a database may be locked.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the server is.
pub enum Client {
    /// On this machine.
    Socket(PathBuf),
    /// Somewhere else.
    Network {
        /// Its address.
        url: String,
        /// The API key. Secret.
        key: String,
    },
}

/// The server refused.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// In words.
    pub message: String,
    /// It is done if it is asked for again with `force`.
    pub confirm: bool,
}

impl Client {
    /// Asks for something.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let answer = tokio::time::timeout(PATIENCE, self.send(method, path, body)).await;
        let (status, bytes) =
            answer.map_err(|_| anyhow::anyhow!("the server did not answer within {PATIENCE:?}"))??;
        let value: Value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        };
        if (200..300).contains(&status) {
            return Ok(value);
        }
        let message = value["message"].as_str().or(value.as_str()).unwrap_or("the server refused").trim().to_owned();
        let confirm = value["confirm"] == Value::Bool(true);
        Err(Refused { message, confirm }.into())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Vec<u8>)> {
        match self {
            Self::Socket(socket) => over_socket(socket, method, path, body).await,
            Self::Network { url, key } => {
                let request = reqwest::Client::new().request(method, format!("{url}{path}")).bearer_auth(key);
                let request = if let Some(body) = body { request.json(body) } else { request };
                let response = request.send().await.with_context(|| format!("cannot reach the server at {url}"))?;
                let status = response.status().as_u16();
                Ok((status, response.bytes().await?.to_vec()))
            }
        }
    }
}

async fn over_socket(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(u16, Vec<u8>)> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!("{} belongs to another user: run this as the user that runs the server", socket.display())
        }
        Err(_) => bail!(
            "no server answers at {}: start one with `wayleave serve`, or say with --data-dir which one is meant",
            socket.display()
        ),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "wayleave")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await.context("the server broke the connection")?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, bytes.to_vec()))
}

pub use wayleave_server::escape;

/// A query of those parts that are there.
pub fn query(parts: &[(&str, Option<&str>)]) -> String {
    let parts = parts.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={}", escape(value))));
    let query: Vec<String> = parts.collect();
    if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert_eq!(escape("10.0.0.0/8"), "10.0.0.0%2F8");
        assert_eq!(query(&[("prefix", Some("fd00::/64")), ("node", None)]), "?prefix=fd00%3A%3A%2F64");
        assert_eq!(query(&[("node", None)]), "");
    }
}
