//! The client of the admin API: over the socket in the data folder, or over the network with a key.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
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
    /// The status of the answer.
    pub status: u16,
}

impl Client {
    /// Asks for something.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.ask_for(method, path, body, Duration::ZERO).await
    }

    /// Asks for something that the server itself waits for, for so long at most.
    pub async fn ask_for(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        waits: Duration,
    ) -> anyhow::Result<Value> {
        let patience = PATIENCE.saturating_add(waits);
        let answer = tokio::time::timeout(patience, self.send(method, path, body)).await;
        let (status, bytes) =
            answer.map_err(|_| anyhow::anyhow!("the server did not answer within {patience:?}"))??;
        let value: Value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        };
        if (200..300).contains(&status) {
            return Ok(value);
        }
        Err(refusal(status, &bytes).into())
    }

    /// Writes what an address holds, as it comes. It may be long: only silence of the server ends it.
    pub async fn download(&self, path: &str, into: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let silent = || anyhow::anyhow!("the server said nothing more for {PATIENCE:?}");
        let mut body = match self {
            Self::Socket(socket) => {
                let answer = tokio::time::timeout(PATIENCE, open(socket, Method::GET, path, None)).await;
                let (status, body, _driver) = answer.map_err(|_| silent())??;
                if status != 200 {
                    let bytes = body.collect().await?.to_bytes();
                    return Err(refusal(status, &bytes).into());
                }
                Downloading::Socket { body, _driver }
            }
            Self::Network { url, key } => {
                let request = reqwest::Client::new().get(format!("{url}{path}")).bearer_auth(key).send();
                let answer = tokio::time::timeout(PATIENCE, request).await.map_err(|_| silent())?;
                let response = answer.with_context(|| format!("cannot reach the server at {url}"))?;
                let status = response.status().as_u16();
                if status != 200 {
                    return Err(refusal(status, &response.bytes().await?).into());
                }
                Downloading::Network(Box::new(response))
            }
        };
        while let Some(chunk) = tokio::time::timeout(PATIENCE, body.next()).await.map_err(|_| silent())?? {
            into.write_all(&chunk)?;
        }
        Ok(())
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

/// What comes, part by part.
enum Downloading {
    Socket { body: Incoming, _driver: AbortOnDrop },
    Network(Box<reqwest::Response>),
}

impl Downloading {
    async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        match self {
            Self::Network(response) => Ok(response.chunk().await?),
            Self::Socket { body, .. } => loop {
                match body.frame().await.transpose()?.map(hyper::body::Frame::into_data) {
                    None => return Ok(None),
                    Some(Ok(chunk)) => return Ok(Some(chunk)),
                    Some(Err(_trailers)) => {}
                }
            },
        }
    }
}

/// Drives a connection for as long as this lives.
struct AbortOnDrop(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the server says of a refusal.
fn refusal(status: u16, bytes: &[u8]) -> Refused {
    let value: Value =
        serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()));
    let message = value["message"].as_str().or(value.as_str()).unwrap_or("the server refused").trim().to_owned();
    Refused { message, confirm: value["confirm"] == Value::Bool(true), status }
}

async fn over_socket(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(u16, Vec<u8>)> {
    let (status, body, _driver) = open(socket, method, path, body).await?;
    Ok((status, body.collect().await?.to_bytes().to_vec()))
}

async fn open(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(u16, Incoming, AbortOnDrop)> {
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
    let driver = AbortOnDrop(tokio::spawn(connection));
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "wayleave")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await.context("the server broke the connection")?;
    Ok((response.status().as_u16(), response.into_body(), driver))
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
