//! Accepts connections: limits, TLS, and the first request line before HTTP sees it.
//!
//! A permit is taken before a connection is accepted and given back once it is known whose it is, or once it ends. So strangers may
//! keep only so many connections open, and each only for as long as a handshake may take.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use bytes::Bytes;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::app::App;
use crate::meter::{Meter, MeteredStream};
use crate::transport::{Listener, Transport};

/// The longest head of a request.
const LONGEST_HEAD: usize = 16 << 10;

/// What a connection may have written and the system can't send yet. Enough to keep a path busy until the next write; what is not
/// written by then gives way to something newer, and takes memory only once.
const MOST_UNSENT: u32 = 64 << 10;

/// Whether a listener speaks TLS.
#[derive(Clone)]
pub(crate) enum Secure {
    /// Always.
    Always(TlsAcceptor),
    /// To clients that begin with it: relay clients speak nothing else, whatever the server's address says.
    IfAsked(TlsAcceptor),
    /// Never.
    Never,
}

/// The first byte of a TLS connection: the type of a handshake record (RFC 8446 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What is known of a connection; in the extensions of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// When it was accepted.
    pub accepted_at: wayleave_model::Timestamp,
    /// Counts its bytes.
    pub meter: Meter,
    permit: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Peer {
    /// It is known whose connection this is: it no longer counts as a stranger's.
    pub fn known(&self) {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Accepts until the server stops.
pub(crate) async fn serve<L: Listener>(app: Arc<App>, mut listener: L, tls: Secure, router: Router) {
    loop {
        let accepted = async {
            let permit = Arc::clone(&app.strangers).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = app.stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        let Ok(permit) = permit else { return };
        match accepted {
            Ok((stream, address)) => {
                let (app, tls, router) = (Arc::clone(&app), tls.clone(), router.clone());
                tokio::spawn(async move { connection(&app, stream, address, permit, tls, router).await });
            }
            Err(error) => {
                // Out of file descriptors, as a rule: accepting again at once would only burn time.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection<S: Transport>(
    app: &Arc<App>,
    stream: S,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
    tls: Secure,
    router: Router,
) {
    // A connection that fails here is the client's to make again.
    drop(stream.send_at_once().and_then(|()| stream.bound_unsent(MOST_UNSENT)));
    let stream = MeteredStream::new(stream, app.control.clock().clone());
    let meter = stream.meter();
    let accepted_at = app.control.clock().now();
    let peer = Peer { address, accepted_at, meter, permit: Arc::new(Mutex::new(Some(permit))) };
    let tls = match tls {
        Secure::Always(tls) => Some(tls),
        Secure::Never => None,
        Secure::IfAsked(tls) => {
            let mut first = [0];
            match timeout(app.options.limits.handshake, stream.peek(&mut first)).await {
                Ok(Ok(1)) => (first[0] == TLS_HANDSHAKE).then_some(tls),
                _ => return tracing::debug!("a connection brought nothing in time"),
            }
        }
    };
    match tls {
        None => begin(app, stream, peer, router).await,
        Some(tls) => match timeout(app.options.limits.handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => begin(app, stream, peer, router).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake was not done in time"),
        },
    }
}

/// Reads the head of the first request: a relay client that asks for no answer ("fast start") must get none, which no HTTP library
/// can do. All else goes to HTTP as it came.
async fn begin<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    app: &Arc<App>,
    stream: S,
    peer: Peer,
    router: Router,
) {
    let mut stream = Prefixed { prefix: Bytes::new(), inner: stream };
    let head = timeout(app.options.limits.handshake, read_head(&mut stream.inner)).await;
    let Ok(Ok(head)) = head else {
        return tracing::debug!("a connection brought no request in time");
    };
    if let Some(end) = fast_start(&head)
        && let Some(relay) = &app.relay
    {
        stream.prefix = head.slice(end..);
        return crate::relay::serve(app, relay.clone(), stream, &peer).await;
    }
    stream.prefix = head;
    let stop = app.stop.clone();
    let service = router.map_request(move |mut request: http::Request<axum::body::Body>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let service =
        service.map_request(|request: http::Request<hyper::body::Incoming>| request.map(axum::body::Body::new));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(app.options.limits.handshake).max_buf_size(64 << 10);
    let http = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).with_upgrades();
    tokio::pin!(http);
    let done = tokio::select! {
        done = &mut http => done,
        () = stop.cancelled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Bytes> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head.windows(4).any(|end| end == b"\r\n\r\n") || head.len() >= LONGEST_HEAD {
            return Ok(Bytes::from(head));
        }
    }
}

/// Where the head of a relay's fast start ends; `None` if it is none.
fn fast_start(head: &[u8]) -> Option<usize> {
    let end = head.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&head[..end]).ok()?;
    let mut lines = text.lines();
    let is_relay = lines.next()?.starts_with("GET /derp ");
    let asked = lines.any(|line| {
        line.split_once(':')
            .is_some_and(|(name, value)| name.eq_ignore_ascii_case("derp-fast-start") && value.trim() == "1")
    });
    (is_relay && asked).then_some(end)
}

/// A stream whose first bytes were read already.
pub(crate) struct Prefixed<S> {
    pub(crate) prefix: Bytes,
    pub(crate) inner: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let some = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(some));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_start_is_told_from_other_requests() {
        let head = b"GET /derp HTTP/1.1\r\nHost: x\r\nDERP-fast-start: 1\r\n\r\nrest";
        assert_eq!(fast_start(head), Some(head.len() - 4));
        for other in [
            &b"GET /derp HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"GET /derp HTTP/1.1\r\nDerp-Fast-Start: 0\r\n\r\n",
            b"GET /derp/probe HTTP/1.1\r\nDerp-Fast-Start: 1\r\n\r\n",
            b"GET /derp HTTP/1.1\r\nDerp-Fast-Start: 1\r\n",
        ] {
            assert_eq!(fast_start(other), None);
        }
    }
}
