//! The relay.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use wayleave_model::NodeKey;
use wayleave_wire::PrivateKey;
use wayleave_wire::derp::{self, FrameError, FromClient, FromServer, GoneReason};

use crate::client::{Client, Lane};

/// Who may use the relay.
pub trait Admission: Send + Sync {
    /// Whether the holder of this key may connect from this address. It is asked once for each connection, and answers at once:
    /// the relay's owner has the answer in memory.
    fn admits(&self, node: &NodeKey, source: IpAddr) -> bool;
}

/// Times that the relay goes by (protocol.md 7.3, 7.4).
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a client may take to introduce itself. 10 s.
    pub handshake: Duration,
    /// How long a client may take nothing of what is written to it. 2 s.
    pub write: Duration,
    /// How often a client gets a sign of life, less up to 5 s. 60 s; clients give up after 120 s.
    pub keep_alive: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(10), write: Duration::from_secs(2), keep_alive: Duration::from_secs(60) }
    }
}

/// What the relay has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that were let in.
    pub accepted: u64,
    /// Connections that were not.
    pub refused: u64,
    /// Packets handed on.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Packets dropped because their receiver was too slow.
    pub dropped_slow: u64,
    /// Packets dropped because their receiver is not here.
    pub dropped_unknown: u64,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    refused: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped_slow: AtomicU64,
    dropped_unknown: AtomicU64,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The client did not introduce itself in time.
    #[error("the client did not introduce itself in time")]
    Slow,
    /// The client is not one of the tailnet's.
    #[error("a client that is not of this tailnet")]
    NotAdmitted,
    /// The client sent bytes that are no frame.
    #[error("the client broke the protocol")]
    Frame(#[from] FrameError),
    /// The client took nothing of what was written to it.
    #[error("the client took nothing for {0:?}")]
    Stuck(Duration),
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
}

/// A relay. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    key: PrivateKey,
    admission: Arc<dyn Admission>,
    settings: Settings,
    next: AtomicU64,
    /// The connections of each key, the one that sent last at the end: that one gets what is for the key.
    clients: Mutex<BTreeMap<NodeKey, Vec<Arc<Client>>>>,
    counts: Counts,
}

/// The answer to the request that becomes a relay connection, or nothing if the client asked for none ("fast start").
pub fn upgrade_response(key: &PrivateKey, fast_start: bool) -> Vec<u8> {
    if fast_start {
        return Vec::new();
    }
    let key: String = key.public().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: {}\r\nDerp-Public-Key: {key}\r\n\r\n",
        derp::VERSION
    )
    .into_bytes()
}

impl Relay {
    /// A relay that nobody is connected to yet.
    pub fn new(key: PrivateKey, admission: Arc<dyn Admission>, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            key,
            admission,
            settings,
            next: AtomicU64::new(0),
            clients: Mutex::default(),
            counts: Counts::default(),
        }))
    }

    /// The relay's key.
    pub fn key(&self) -> &PrivateKey {
        &self.0.key
    }

    /// Whether a client with this key is connected.
    pub fn is_connected(&self, key: &NodeKey) -> bool {
        self.0.lock().contains_key(key)
    }

    /// Ends all connections of this key, because its node is gone.
    pub fn close(&self, key: &NodeKey) {
        if let Some(clients) = self.0.lock().get(key) {
            clients.iter().for_each(|client| client.end.cancel());
        }
    }

    /// What the relay has done.
    pub fn counters(&self) -> Counters {
        let Counts { accepted, refused, packets, bytes, dropped_slow, dropped_unknown } = &self.0.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            accepted: read(accepted),
            refused: read(refused),
            packets: read(packets),
            bytes: read(bytes),
            dropped_slow: read(dropped_slow),
            dropped_unknown: read(dropped_unknown),
        }
    }

    /// Serves one connection until it ends; `stop` ends it with a word to clients that understand it. `admitted` is called once it is
    /// known that the client may use the relay.
    ///
    /// # Errors
    ///
    /// Why it ended, unless the client left or `stop` was called.
    pub async fn serve<S>(
        &self,
        stream: S,
        source: IpAddr,
        stop: &CancellationToken,
        admitted: impl FnOnce(),
    ) -> Result<(), RelayError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut read, mut write) = tokio::io::split(stream);
        let mut buffer = Vec::new();
        let settings = self.0.settings;
        let introduced = timeout(settings.handshake, self.introduce(&mut read, &mut write, &mut buffer)).await;
        let (key, info) = introduced.map_err(|_| RelayError::Slow)??;
        if !self.0.admission.admits(&key, source) {
            self.0.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(RelayError::NotAdmitted);
        }
        admitted();
        let welcome = derp::server_info_frame(&self.0.key, &key, rand::random());
        timeout(settings.write, write.write_all(&welcome)).await.map_err(|_| RelayError::Stuck(settings.write))??;
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let client = Arc::new(Client::new(id, key, info.can_ack_pings, stop.child_token()));
        self.0.enter(&client);
        let done = tokio::select! {
            done = self.read(&client, &mut read, &mut buffer) => done,
            done = self.write(&client, &mut write) => done,
            () = client.end.cancelled() => {
                if stop.is_cancelled() && client.can_ack_pings {
                    let farewell = FromServer::Restarting(1000, 30_000).to_bytes();
                    // It is only a courtesy.
                    drop(timeout(settings.write, write.write_all(&farewell)).await);
                }
                Ok(())
            }
        };
        self.0.leave(&client);
        done
    }

    async fn introduce<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        read: &mut R,
        write: &mut W,
        buffer: &mut Vec<u8>,
    ) -> Result<(NodeKey, derp::ClientInfo), RelayError> {
        write.write_all(&derp::server_key_frame(&self.0.key)).await?;
        write.flush().await?;
        loop {
            if let Some(introduced) = derp::take_client_info(&self.0.key, buffer)? {
                return Ok(introduced);
            }
            if read.read_buf(buffer).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn read<R: AsyncRead + Unpin>(
        &self,
        client: &Arc<Client>,
        read: &mut R,
        buffer: &mut Vec<u8>,
    ) -> Result<(), RelayError> {
        let mut unknown = Allowance::new();
        loop {
            while let Some(frame) = FromClient::take(buffer)? {
                match frame {
                    FromClient::SendPacket(to, packet) => self.0.hand_on(client, to, packet, &mut unknown),
                    FromClient::Ping(bytes) => drop(client.push(FromServer::Pong(bytes), Lane::Notice)),
                    FromClient::NotePreferred(_) | FromClient::Pong(_) | FromClient::Other(_) => {}
                }
            }
            if buffer.is_empty() {
                // An idle connection keeps no buffer.
                *buffer = Vec::new();
            }
            if read.read_buf(buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn write<W: AsyncWrite + Unpin>(&self, client: &Client, write: &mut W) -> Result<(), RelayError> {
        let Settings { write: patience, keep_alive, .. } = self.0.settings;
        loop {
            let jitter = keep_alive.mul_f64(rand::random::<f64>() / 12.0);
            let frame =
                timeout(keep_alive.saturating_sub(jitter), client.next()).await.unwrap_or(FromServer::KeepAlive);
            let bytes = frame.to_bytes();
            let written = async {
                write.write_all(&bytes).await?;
                write.flush().await
            };
            timeout(patience, written).await.map_err(|_| RelayError::Stuck(patience))??;
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeKey, Vec<Arc<Client>>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, client: &Arc<Client>) {
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        self.lock().entry(client.key).or_default().push(Arc::clone(client));
    }

    fn leave(&self, client: &Client) {
        let mut all = self.lock();
        let Some(same) = all.get_mut(&client.key) else { return };
        same.retain(|other| other.id != client.id);
        if !same.is_empty() {
            return;
        }
        all.remove(&client.key);
        for receiver in client.correspondents() {
            for other in all.get(&receiver).into_iter().flatten() {
                other.tell_gone(client.key, GoneReason::Disconnected);
            }
        }
    }

    fn hand_on(&self, from: &Arc<Client>, to: NodeKey, packet: Vec<u8>, unknown: &mut Allowance) {
        let disco = derp::is_disco(&packet);
        let receiver = {
            let mut all = self.lock();
            // Of several connections with one key the one that sent last is the one in use.
            if let Some(same) = all.get_mut(&from.key).filter(|same| same.len() > 1)
                && let Some(at) = same.iter().position(|other| other.id == from.id)
            {
                let own = same.remove(at);
                same.push(own);
            }
            all.get(&to).and_then(|same| same.last()).cloned()
        };
        let Some(receiver) = receiver else {
            self.counts.dropped_unknown.fetch_add(1, Ordering::Relaxed);
            if disco && unknown.take() {
                from.tell_gone(to, GoneReason::NotHere);
            }
            return;
        };
        from.remember(to);
        self.counts.packets.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
        let lane = if disco { Lane::Disco } else { Lane::Data };
        if receiver.push(FromServer::RecvPacket(from.key, packet), lane) {
            self.counts.dropped_slow.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Once a second, three at once (protocol.md 7.4).
struct Allowance {
    tokens: f64,
    at: Instant,
}

impl Allowance {
    const MOST: f64 = 3.0;

    fn new() -> Self {
        Self { tokens: Self::MOST, at: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        self.tokens = (self.tokens + (now - self.at).as_secs_f64()).min(Self::MOST);
        self.at = now;
        let some = self.tokens >= 1.0;
        if some {
            self.tokens -= 1.0;
        }
        some
    }
}

#[cfg(test)]
mod tests;
