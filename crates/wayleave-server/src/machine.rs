//! The machine protocol: one Noise connection of a client, the requests on it, and the watch over it.
//!
//! One task drives the HTTP/2 connection, looks whether it is silent, and starts a task for each request. The watch belongs to the
//! connection and not to a session, because it is the connection that is heard or not; its verdict is told of each map session that
//! the connection carries. A verdict closes nothing: an answer that comes later is recovery.

mod map;
mod other;
mod register;
mod requests;
mod session;
mod ssh;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use wayleave_model::{MachineKey, NodeId, SessionId, Timestamp};
use wayleave_routes::{Cause, Silence, Testimony};
use wayleave_tailnet::Event;
use wayleave_wire::CapabilityVersion;
use wayleave_wire::noise::Session;

use crate::app::App;
use crate::listener::Peer;
use crate::meter::Meter;
use crate::noise_stream::{Marks, NoiseStream};
use watch::Watch;

/// Streams that a client may have open at once. Clients assume 100 before they are told.
const MOST_STREAMS: u32 = 250;

/// What may wait to be written for one stream. A session that has more to say waits, and then tells what is newest. HTTP/2 keeps room for as
/// many frames as have once waited, 312 bytes each; so these are not more than a few, of what the largest of them carries.
const MOST_WAITING: usize = 16 << 10;

/// One Noise connection of a client.
pub(crate) struct Connection {
    pub(crate) app: Arc<App>,
    /// Who is at the other end: the identity of every request.
    pub(crate) machine: MachineKey,
    pub(crate) version: CapabilityVersion,
    /// Held while the machine has no node.
    newcomer: Mutex<Option<OwnedSemaphorePermit>>,
    /// When it was accepted; taken by its first map, for the log.
    accepted_at: Mutex<Option<Timestamp>>,
    /// Where what is written to it stands.
    marks: Arc<Marks>,
    /// What of it TCP has acknowledged.
    meter: Option<Meter>,
    /// The map sessions that it carries.
    sessions: Mutex<Vec<(NodeId, SessionId)>>,
    /// What it stands convicted of, if it is silent.
    silent: Mutex<Option<Cause>>,
    /// One of its nodes has become a router, or is none any more.
    role: Notify,
}

impl Connection {
    fn sessions(&self) -> Vec<(NodeId, SessionId)> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it stands convicted of, for sessions that join it later.
    fn now_silent(&self, cause: Option<Cause>) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }

    fn silent(&self) -> Option<Cause> {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carries(&self, node: NodeId, session: SessionId) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push((node, session));
    }

    /// How long its first map took, the first time that this is asked.
    fn first_map_took(&self) -> Option<Duration> {
        let accepted_at = self.accepted_at.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(self.app.control.clock().now().since(accepted_at))
    }

    /// The machine has a node.
    fn joined(&self) {
        self.newcomer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_newcomer(&self) -> bool {
        self.newcomer.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn lost(&self, session: SessionId) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, id)| *id != session);
    }

    /// Whether one of its sessions is a router's, so that it is watched closely.
    fn carries_router(&self) -> bool {
        let snapshot = self.app.control.snapshot();
        self.sessions().iter().any(|(node, _)| snapshot.node(*node).is_some_and(|view| view.is_router))
    }
}

/// Serves one Noise connection until it ends or the server stops. `first` are bytes to be sent before its records.
///
/// The session is boxed because the task of a connection has room for its arguments as long as it lives.
pub(crate) async fn serve<S>(app: Arc<App>, stream: S, session: Box<Session>, first: Vec<u8>, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // What the beginning needs is given back before the long rest, which is all that an idle connection keeps.
    if let Some((h2, connection)) = Box::pin(open(app, stream, session, first, peer)).await {
        drive(h2, connection).await;
    }
}

type Http2<S> = Box<h2::server::Connection<NoiseStream<S>, Bytes>>;

/// Begins HTTP/2. `None`: nothing came of it.
async fn open<S>(
    app: Arc<App>,
    stream: S,
    session: Box<Session>,
    first: Vec<u8>,
    peer: Peer,
) -> Option<(Http2<S>, Arc<Connection>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    peer.known();
    let meter = Some(peer.meter);
    let (machine, version) = (session.peer, session.version);
    let stream = NoiseStream::new(stream, *session, first, meter.clone());
    let marks = stream.mark();
    let newcomer = if app.control.snapshot().machines.contains_key(&machine) {
        None
    } else if let Ok(permit) = Arc::clone(&app.newcomers).try_acquire_owned() {
        Some(permit)
    } else {
        tracing::warn!("too many machines that have no node are connected; one more was turned away");
        return None;
    };
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(MOST_STREAMS).max_header_list_size(16 << 10).max_send_buffer_size(MOST_WAITING);
    // The buffers are made when this is called, before anything is awaited.
    #[expect(clippy::async_yields_async, reason = "only the beginning of it belongs on that thread")]
    let begun = app.buffers.spawn(async move { builder.handshake::<_, Bytes>(stream) });
    // It only fails where the server stops.
    let begun = begun.await.ok()?;
    let handshake = tokio::time::timeout(app.options.limits.handshake, begun).await;
    let h2 = match handshake {
        Ok(Ok(h2)) => Box::new(h2),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client did not begin HTTP/2");
            return None;
        }
        Err(_) => {
            tracing::debug!("a client did not begin HTTP/2 in time");
            return None;
        }
    };
    let accepted_at = Mutex::new(Some(peer.accepted_at));
    let (newcomer, sessions, silent, role) = (Mutex::new(newcomer), Mutex::default(), Mutex::default(), Notify::new());
    let connection = Connection { newcomer, app, machine, version, accepted_at, marks, meter, sessions, silent, role };
    Some((h2, Arc::new(connection)))
}

/// Drives a connection until it ends or the server stops.
async fn drive<S>(mut h2: Http2<S>, connection: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let app = &connection.app;
    let mut watch = Watch::new(h2.ping_pong(), connection.meter.clone(), Arc::clone(&connection.marks), app);
    // A machine that waits for a person asks again at least so often; it may do that on another connection.
    let patience = app.options.limits.hold + app.options.limits.handshake;
    let mut newcomers_time = Box::pin(tokio::time::sleep(patience));
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            () = app.stop.cancelled(), if !stopping => {
                // GOAWAY: what runs goes on, new requests open a new connection.
                stopping = true;
                h2.graceful_shutdown();
            }
            () = &mut newcomers_time, if connection.is_newcomer() => {
                return tracing::debug!("a machine without a node was connected for long enough");
            }
            verdict = watch.next(&connection) => match verdict {
                watch::Verdict::Silence(silence) => Box::pin(tell(&connection, silence)).await,
                watch::Verdict::Hopeless => {
                    tracing::debug!("a connection that was silent for long is closed");
                    return;
                }
            },
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let connection = Arc::clone(&connection);
                    tokio::spawn(async move { answer(connection, request, respond).await });
                }
                Some(Err(error)) => return tracing::debug!(%error, "a connection ended"),
                None => return,
            },
        }
    }
}

async fn tell(connection: &Connection, silence: Silence) {
    connection.now_silent(match silence {
        Silence::Silent(cause) => Some(cause),
        Silence::Doubtful | Silence::Heard => None,
    });
    for (node, session) in connection.sessions() {
        let event = match silence {
            Silence::Doubtful => Event::Evidence(node, Testimony::Doubted(session)),
            Silence::Silent(cause) => Event::Silent(node, session, cause),
            Silence::Heard => Event::Answered(node, session),
        };
        connection.app.control.event(event).await;
    }
}

/// Answers one request. A client that goes away in between needs no answer.
async fn answer(connection: Arc<Connection>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    // A session may last for weeks: what its request needed, a picture of the tailnet among it, is given back before.
    if let Some(opening) = Box::pin(begin(connection, request, respond)).await {
        session::run(opening).await;
    }
}

/// Answers one request, or gives the session that it asks for.
async fn begin(
    connection: Arc<Connection>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<session::Opening> {
    let (head, body) = request.into_parts();
    let authority = head.uri.authority().map(|authority| authority.to_string()).unwrap_or_default();
    let body = match requests::body(body, connection.app.options.limits.body).await {
        Ok(body) => body,
        Err(refusal) => {
            requests::reply(&mut respond, refusal);
            return None;
        }
    };
    let path = head.uri.path();
    let reply = match (&head.method, path) {
        (&Method::POST, "/machine/register") => register::register(&connection, &body).await,
        (&Method::POST, "/machine/map") => return map::map(connection, &body, authority, respond).await,
        (&Method::GET, path) if path.starts_with(ssh::PATH) => {
            ssh::action(&connection, path, head.uri.query().unwrap_or_default()).await
        }
        (_, path) => other::answer(&connection, &head.method, path, body.to_vec()),
    };
    requests::reply(&mut respond, reply);
    None
}

/// What ended a stream, as evidence.
pub(crate) const fn cause_of_reset(connection_lives: bool) -> Cause {
    if connection_lives { Cause::StreamEnded } else { Cause::ConnectionClosed }
}
