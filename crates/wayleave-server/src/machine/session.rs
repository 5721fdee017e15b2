//! A map session: keeps a long poll alive, brings its viewer to the newest snapshot, drops a reader that takes nothing.
//!
//! The first frame is the full map. After it the session waits for a newer snapshot and tells the difference. It looks at the
//! newest only when the frame before has gone out, so a slow reader gets the latest state next, never a queue of old ones.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{Response, StatusCode};
use tokio::sync::SemaphorePermit;
use wayleave_model::NodeId;
use wayleave_netmap::{Shared, full};
use wayleave_routes::Cause;
use wayleave_tailnet::{Ending, Event, Snapshot};
use wayleave_wire::control::MapResponse;

use super::requests::{Reply, reply};
use super::{Connection, cause_of_reset};
use crate::app::App;
use crate::connections::Seat;
use crate::delivery::Delivery;
use crate::encoding;
use crate::metrics::{Frame, Metrics};

/// How long a full map may take before others do not wait for it any more.
const TURN: Duration = Duration::from_secs(1);

/// A client gets `limits.stuck` for each so many bytes of a frame, begun ones among them: 1 KiB/s where nothing else is configured.
const PORTION: u64 = 64 << 10;

/// Why a session ended.
enum End {
    /// The client is gone, or so is its stream.
    Lost(Cause),
    /// A newer session of the node took over, or the node was deleted.
    Quiet,
    /// The server stops: that says nothing about the node.
    Stopped,
}

/// A session that a client has asked for.
pub(super) struct Opening {
    pub(super) connection: Arc<Connection>,
    pub(super) node: NodeId,
    /// Its frames are to be compressed.
    pub(super) zstd: bool,
    /// The host that the client used.
    pub(super) authority: String,
    pub(super) respond: SendResponse<Bytes>,
}

pub(super) async fn run(opening: Opening) {
    let Opening { connection, node, zstd, authority, mut respond } = opening;
    let app = Arc::clone(&connection.app);
    let seat = app.sessions.open(node, authority, connection.meter.clone());
    let id = seat.id;
    app.control.event(Event::SessionOpened(node, id)).await;
    connection.carries(node, id);
    // Its connection may have fallen silent before it came.
    if let Some(cause) = connection.silent() {
        app.control.event(Event::Silent(node, id, cause)).await;
    }
    tracing::debug!(node.id = %node, session.id = %id, "session opened");
    let end = match respond.send_response(Response::new(()), false) {
        Ok(stream) => {
            let number = stream.stream_id().as_u32();
            let delivery = Arc::new(Delivery::new(Arc::clone(&connection.marks), connection.meter.clone(), number));
            app.sessions.delivers(node, id, Arc::clone(&delivery));
            let session = Session { app: &app, connection: &connection, node, zstd, stream, sent: 0, delivery };
            session.serve(seat).await
        }
        Err(_) => {
            reply(&mut respond, Reply::empty(StatusCode::INTERNAL_SERVER_ERROR));
            End::Lost(Cause::StreamEnded)
        }
    };
    connection.lost(id);
    app.sessions.close(node, id);
    match end {
        End::Lost(cause) => {
            tracing::debug!(node.id = %node, session.id = %id, %cause, "session lost");
            app.control.event(Event::SessionEnded(node, id, Ending::Lost(cause))).await;
        }
        End::Quiet => {
            tracing::debug!(node.id = %node, session.id = %id, "session ended");
            app.control.event(Event::SessionEnded(node, id, Ending::Replaced)).await;
        }
        End::Stopped => {}
    }
}

struct Session<'a> {
    app: &'a App,
    connection: &'a Connection,
    node: NodeId,
    zstd: bool,
    stream: SendStream<Bytes>,
    /// Bytes that were handed to the stream.
    sent: u64,
    /// How far the client has been brought, for those who wait for that.
    delivery: Arc<Delivery>,
}

/// Which picture a viewer stands at, for the figures.
struct Stands<'a> {
    metrics: &'a Metrics,
    at: Option<u64>,
}

impl Stands<'_> {
    fn moves(&mut self, to: u64, wrote: bool) {
        self.metrics.delivered(self.at.replace(to), to, wrote);
    }
}

impl Drop for Stands<'_> {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.metrics.left(at);
        }
    }
}

impl Session<'_> {
    async fn serve(mut self, mut seat: Seat) -> End {
        let stop = self.app.stop.clone();
        let replaced = seat.replaced.clone();
        tokio::select! {
            biased;
            () = replaced.cancelled() => End::Quiet,
            () = stop.cancelled() => End::Stopped,
            end = self.tell(&mut seat) => end,
        }
    }

    async fn tell(&mut self, seat: &mut Seat) -> End {
        let mut rounds = self.app.control.rounds();
        // Not from before the client came: it may have got another key, say, since the last round.
        let newest = self.app.control.snapshot().version;
        let reached = tokio::select! {
            reached = rounds.reaches(newest) => reached,
            reset = std::future::poll_fn(|cx| self.stream.poll_reset(cx)) => {
                return End::Lost(cause_of_reset(reset.is_ok()));
            }
        };
        if !reached {
            return End::Stopped;
        }
        let mut shared_changes = self.app.shared_changes();
        let mut silent = pin!(tokio::time::sleep(Duration::ZERO));
        let mut base: Option<(Arc<Snapshot>, Arc<Shared>)> = None;
        let mut stands = Stands { metrics: self.app.control.metrics(), at: None };
        loop {
            let turn = match base {
                Some(_) => None,
                // It may be gone before its turn comes.
                None => tokio::select! {
                    turn = self.app.turn() => turn,
                    reset = std::future::poll_fn(|cx| self.stream.poll_reset(cx)) => {
                        return End::Lost(cause_of_reset(reset.is_ok()));
                    }
                },
            };
            let snapshot = rounds.take();
            let shared = Arc::clone(&shared_changes.borrow_and_update());
            if snapshot.node(self.node).is_none() {
                return Box::pin(self.farewell(base)).await;
            }
            let now = self.app.control.clock().now();
            let next = (&*snapshot, &*shared);
            let encode = |map: &MapResponse| encoding::frame(map, self.zstd).ok_or(Cause::StreamEnded);
            let parts = match &base {
                Some((old, old_shared)) => {
                    let fan = if self.zstd { &self.app.fan.compressed } else { &self.app.fan.plain };
                    let told = fan.bring((old, old_shared), next, &self.app.cache, self.node, now, encode);
                    told.map(|frame| frame.map(|frame| vec![frame]))
                }
                None => encoding::full(self.app, next, self.node, now, self.zstd).ok_or(Cause::StreamEnded).map(Some),
            };
            let is_router = |snapshot: &Snapshot| snapshot.node(self.node).is_some_and(|view| view.is_router);
            if base.as_ref().is_some_and(|(old, _)| is_router(old)) != is_router(&snapshot) {
                self.connection.role.notify_one();
            }
            let version = snapshot.version;
            let is_first = base.replace((snapshot, shared)).is_none();
            match parts {
                Ok(None) => stands.moves(version, false),
                Ok(Some(parts)) => {
                    let kind = if is_first { Frame::Full } else { Frame::Delta };
                    if let Err(cause) = Box::pin(self.take_turn(turn, parts, kind)).await {
                        return End::Lost(cause);
                    }
                    stands.moves(version, true);
                }
                Err(cause) => return End::Lost(cause),
            }
            self.delivery.told(version, self.sent);
            if let Some(took) = self.connection.first_map_took() {
                tracing::debug!(node.id = %self.node, first_map_ms = took.as_millis(), "first map sent");
            }
            // Wait until there is something to tell.
            let jitter = self.app.options.probes.keep_alive.mul_f64(rand::random::<f64>() / 6.0);
            let keep_alive = self.app.options.probes.keep_alive.saturating_sub(jitter);
            silent.as_mut().reset(tokio::time::Instant::now() + keep_alive);
            loop {
                tokio::select! {
                    changed = rounds.changed() => {
                        if changed {
                            break;
                        }
                        return End::Stopped;
                    }
                    Ok(()) = shared_changes.changed() => break,
                    reset = std::future::poll_fn(|cx| self.stream.poll_reset(cx)) => {
                        return End::Lost(cause_of_reset(reset.is_ok()));
                    }
                    ask = seat.asks.recv() => {
                        let frame = MapResponse { keep_alive: true, ping_request: Some(*ask), ..MapResponse::default() };
                        if let Err(cause) = self.send(frame, Frame::Ask).await {
                            return End::Lost(cause);
                        }
                    }
                    () = &mut silent => {
                        let now = self.app.control.clock().now();
                        // With the time in it a frame has a length of its own, which disarms a fault of clients since 1.90
                        // (protocol.md 2.2).
                        let frame = MapResponse { keep_alive: true, control_time: Some(now), ..MapResponse::default() };
                        if let Err(cause) = self.send(frame, Frame::KeepAlive).await {
                            return End::Lost(cause);
                        }
                        break;
                    }
                }
            }
        }
    }

    /// Tells a client whose node was deleted that its key is no longer good, so that it asks its user to log in.
    async fn farewell(&mut self, base: Option<(Arc<Snapshot>, Arc<Shared>)>) -> End {
        if let Some((old, shared)) = base {
            let now = self.app.control.clock().now();
            let gone = full(&old, &shared, &self.app.cache, self.node, now).map(|mut map| {
                if let Some(node) = &mut map.node {
                    node.key_expiry = Some(now - Duration::from_secs(3600));
                    node.expired = true;
                }
                MapResponse { peers: None, ..map }
            });
            if let Some(gone) = gone {
                // It is gone either way.
                self.send(gone, Frame::Full).await.ok();
                drop(self.stream.send_data(Bytes::new(), true));
            }
        }
        End::Quiet
    }

    /// Encodes one frame, and sends it when this is awaited. Returns what ended the stream if it did.
    ///
    /// The task of a session has no room for what it tells, nor for telling it: it waits most of the time.
    fn send(&mut self, map: MapResponse, kind: Frame) -> impl Future<Output = Result<(), Cause>> {
        let frame = encoding::frame(&map, self.zstd);
        drop(map);
        Box::pin(async move {
            match frame {
                Some(frame) => self.write(vec![frame], kind).await,
                None => Err(Cause::StreamEnded),
            }
        })
    }

    /// Sends one frame, and gives the turn back once that is done or takes long.
    async fn take_turn(
        &mut self,
        turn: Option<SemaphorePermit<'_>>,
        parts: Vec<Bytes>,
        kind: Frame,
    ) -> Result<(), Cause> {
        let mut written = pin!(self.write(parts, kind));
        if turn.is_some()
            && let Ok(done) = tokio::time::timeout(TURN, &mut written).await
        {
            return done;
        }
        drop(turn);
        written.await
    }

    /// Sends one frame, whole: its parts one after the other. Returns what ended the stream if it did.
    async fn write(&mut self, parts: Vec<Bytes>, kind: Frame) -> Result<(), Cause> {
        let before = self.sent;
        let bytes = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let portions = u32::try_from(bytes.div_ceil(PORTION)).unwrap_or(u32::MAX);
        let (now, stuck) = (tokio::time::Instant::now(), self.app.options.limits.stuck);
        let end = now.checked_add(stuck.saturating_mul(portions)).unwrap_or(now + stuck);
        for part in parts {
            if let Err(cause) = self.write_part(part, end).await {
                let taken = self.sent - before;
                let cause = cause.unwrap_or_else(|| {
                    let took = now.elapsed();
                    tracing::warn!(
                        node.id = %self.node,
                        "a client took only {taken} of {bytes} bytes of its map in {took:.0?}; its session is ended"
                    );
                    self.stream.send_reset(h2::Reason::CANCEL);
                    Cause::StreamEnded
                });
                return Err(cause);
            }
        }
        self.app.control.metrics().frame(kind, self.sent - before);
        Ok(())
    }

    /// Returns what ended the stream; `None`: the client took nothing for too long, or took too long for it all.
    async fn write_part(&mut self, mut rest: Bytes, end: tokio::time::Instant) -> Result<(), Option<Cause>> {
        while !rest.is_empty() {
            self.stream.reserve_capacity(rest.len());
            let capacity = std::future::poll_fn(|cx| self.stream.poll_capacity(cx));
            let patience = self.app.options.limits.stuck;
            let deadline = end.min(tokio::time::Instant::now() + patience);
            let capacity = match tokio::time::timeout_at(deadline, capacity).await {
                Ok(Some(Ok(capacity))) => capacity,
                Ok(Some(Err(error))) => return Err(Some(cause_of_reset(!error.is_io() && !error.is_go_away()))),
                Ok(None) => return Err(Some(Cause::ConnectionClosed)),
                Err(_) => return Err(None),
            };
            let part = rest.split_to(capacity.min(rest.len()));
            if part.is_empty() {
                continue;
            }
            let length = part.len() as u64;
            self.stream.send_data(part, false).map_err(|_| Some(Cause::ConnectionClosed))?;
            self.sent += length;
        }
        Ok(())
    }
}
