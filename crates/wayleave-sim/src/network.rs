//! A network that only exists in memory: links that have a latency and a speed, that are cut and heal, and hosts that freeze.
//!
//! It carries bytes as TCP does, as far as anybody at its ends can tell. What is written waits in the sender's kernel until the other
//! kernel has it, and counts as unacknowledged until then; a kernel takes what comes also while its process is frozen, up to the size
//! of its buffer; on a link that is cut everything is lost, and is sent again with the pauses of RFC 6298 (200 ms, doubled each time),
//! so that what waits arrives some time after a link has healed, as it does in the world. A connection has one timer for that, as there:
//! it is about the oldest that is lost, and what was sent after it follows it at once. An acknowledgement takes no time.
//!
//! It goes by the clock of the runtime, which a test pauses.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use wayleave_server::transport::{Kernel, Listener, Transport};

/// What a kernel takes in before its process reads it, and what it keeps of what its process wrote.
const BUFFER: usize = 256 << 10;
/// The first pause before something is sent again (Linux's least; RFC 6298 doubles it each time).
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Linux waits no longer than that.
const LAST_PAUSE: Duration = Duration::from_secs(120);

/// A way between a host and the server.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Nothing comes through, in either direction, and nobody is told.
    pub cut: bool,
    /// The host's process stands still; its kernel does not.
    pub frozen: bool,
    /// One way.
    pub latency: Duration,
    /// Bytes a second, each way. `None`: as many as there are.
    pub speed: Option<u32>,
}

impl Default for Link {
    fn default() -> Self {
        Self { cut: false, frozen: false, latency: Duration::from_millis(5), speed: None }
    }
}

/// The network, with one server on it.
#[derive(Clone, Debug, Default)]
pub struct Network(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<IpAddr, watch::Sender<Link>>,
    listener: Option<mpsc::UnboundedSender<(SimStream, SocketAddr)>>,
    flows: Vec<(IpAddr, Weak<Flow>)>,
    ports: u16,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Makes the server's end. There is one at a time: the one before takes no more connections.
    pub fn listen(&self) -> SimListener {
        let (arrive, arrived) = mpsc::unbounded_channel();
        lock(&self.0).listener = Some(arrive);
        SimListener(arrived)
    }

    /// The server's host is gone: its connections break at once, and new ones are refused until another listens.
    pub fn server_dies(&self) {
        let mut state = lock(&self.0);
        state.listener = None;
        state.flows.drain(..).filter_map(|(_, flow)| flow.upgrade()).for_each(|flow| flow.breaks());
    }

    /// All connections of a host break at once, as a proxy between breaks them.
    pub fn reset(&self, host: IpAddr) {
        let state = lock(&self.0);
        let own = state.flows.iter().filter(|(of, _)| *of == host);
        own.filter_map(|(_, flow)| flow.upgrade()).for_each(|flow| flow.breaks());
    }

    /// Changes the way to a host.
    pub fn change(&self, host: IpAddr, change: impl FnOnce(&mut Link)) {
        self.link(host).send_modify(change);
    }

    fn link(&self, host: IpAddr) -> watch::Sender<Link> {
        lock(&self.0).links.entry(host).or_insert_with(|| watch::Sender::new(Link::default())).clone()
    }

    /// Connects a host with the server.
    ///
    /// # Errors
    ///
    /// No server listens.
    pub async fn connect(&self, host: IpAddr) -> io::Result<SimStream> {
        let mut link = self.link(host).subscribe();
        loop {
            // A host that is frozen begins nothing; what it sends into a link that is cut it sends again.
            if link.wait_for(|link| !link.cut && !link.frozen).await.is_err() {
                return Err(io::ErrorKind::NetworkDown.into());
            }
            let latency = link.borrow().latency;
            tokio::time::sleep(latency * 2).await;
            if !link.borrow().cut {
                break;
            }
        }
        let mut state = lock(&self.0);
        let (up, down) = (Arc::new(Flow::default()), Arc::new(Flow::default()));
        for flow in [&up, &down] {
            tokio::spawn(carry(Arc::clone(flow), link.clone()));
            state.flows.push((host, Arc::downgrade(flow)));
        }
        state.flows.retain(|(_, flow)| flow.strong_count() > 0);
        state.ports = state.ports.wrapping_add(1);
        let server =
            SimStream { incoming: Arc::clone(&up), outgoing: Arc::clone(&down), link: link.clone(), is_host: false };
        let client = SimStream { incoming: down, outgoing: up, link, is_host: true };
        let arrive = state.listener.as_ref().ok_or(io::ErrorKind::ConnectionRefused)?;
        let from = SocketAddr::new(host, state.ports);
        arrive.send((server, from)).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(client)
    }
}

/// The server's end of a network.
#[derive(Debug)]
pub struct SimListener(mpsc::UnboundedReceiver<(SimStream, SocketAddr)>);

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> io::Result<(SimStream, SocketAddr)> {
        match self.0.recv().await {
            Some(arrived) => Ok(arrived),
            // Nobody comes any more.
            None => std::future::pending().await,
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Flow {
    pipe: Mutex<Pipe>,
    changed: Notify,
}

#[derive(Debug)]
struct Packet {
    sent_at: Instant,
    /// `None`: it was lost.
    arrives_at: Option<Instant>,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct Pipe {
    on_the_way: VecDeque<Packet>,
    /// In the receiver's kernel.
    ready: BytesMut,
    written: u64,
    arrived: u64,
    /// The sender writes no more. An empty packet, the last, tells the receiver.
    ended: bool,
    end_arrived: bool,
    reader_gone: bool,
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Brings what is on the way as far as it has come. Returns when the next of it arrives.
    fn settle(&mut self, link: Link, now: Instant) -> Option<Instant> {
        if link.cut {
            self.on_the_way.iter_mut().for_each(|packet| packet.arrives_at = None);
            return None;
        }
        let mut earliest = now;
        for (place, packet) in self.on_the_way.iter_mut().enumerate() {
            let takes = link.speed.map_or(Duration::ZERO, |speed| {
                Duration::from_secs_f64(packet.bytes.len() as f64 / f64::from(speed.max(1)))
            });
            let at = *packet.arrives_at.get_or_insert_with(|| {
                let sent_at = if place == 0 { sent_again(packet.sent_at, now) } else { packet.sent_at };
                earliest.max(sent_at + link.latency) + takes
            });
            earliest = at;
        }
        while let Some(first) = self.on_the_way.front() {
            let at = first.arrives_at?;
            if at > now {
                return Some(at);
            }
            // A full buffer takes no more; whoever empties it comes here again.
            if self.ready.len() >= BUFFER && !self.reader_gone && !first.bytes.is_empty() {
                return None;
            }
            let bytes = self.on_the_way.pop_front().map(|packet| packet.bytes).unwrap_or_default();
            self.arrived += bytes.len() as u64;
            if bytes.is_empty() {
                self.end_arrived = true;
            } else if !self.reader_gone {
                self.ready.extend_from_slice(&bytes);
            }
            self.wake();
        }
        None
    }

    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.on_the_way.push_back(Packet { sent_at: Instant::now(), arrives_at: None, bytes: Bytes::new() });
        }
    }
}

/// When something that was sent then is sent again, not before `now`.
fn sent_again(sent_at: Instant, now: Instant) -> Instant {
    let (mut at, mut pause) = (sent_at, FIRST_PAUSE);
    while at < now {
        at += pause;
        pause = (pause * 2).min(LAST_PAUSE);
    }
    at
}

impl Flow {
    fn breaks(&self) {
        let mut pipe = lock(&self.pipe);
        pipe.broken = true;
        pipe.wake();
        drop(pipe);
        self.changed.notify_one();
    }
}

/// Carries what one side writes to the other, until nobody is left at either end.
async fn carry(flow: Arc<Flow>, mut link: watch::Receiver<Link>) {
    loop {
        let next = {
            let state = *link.borrow_and_update();
            let mut pipe = lock(&flow.pipe);
            let next = pipe.settle(state, Instant::now());
            // A process that stands still learns of the end when it goes on.
            if pipe.broken || pipe.end_arrived && !state.frozen {
                return;
            }
            next
        };
        let arrival = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = arrival => {}
            () = flow.changed.notified() => {}
            changed = link.changed() => {
                if changed.is_err() {
                    return flow.breaks();
                }
                // A process that stood still goes on.
                lock(&flow.pipe).wake();
            }
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct SimStream {
    incoming: Arc<Flow>,
    outgoing: Arc<Flow>,
    link: watch::Receiver<Link>,
    /// It is the host's end, which freezes with it.
    is_host: bool,
}

impl SimStream {
    fn is_frozen(&self) -> bool {
        self.is_host && self.link.borrow().frozen
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        lock(&self.incoming.pipe).reader_gone = true;
        lock(&self.outgoing.pipe).end();
        self.incoming.changed.notify_one();
        self.outgoing.changed.notify_one();
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.incoming.pipe);
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.is_frozen() || (pipe.ready.is_empty() && !pipe.end_arrived) {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let some = pipe.ready.len().min(buf.remaining());
        buf.put_slice(&pipe.ready[..some]);
        pipe.ready.advance(some);
        if !pipe.on_the_way.is_empty() {
            self.incoming.changed.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.outgoing.pipe);
        if pipe.broken || pipe.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let waiting = usize::try_from(pipe.written - pipe.arrived).unwrap_or(usize::MAX);
        let space = BUFFER.saturating_sub(waiting);
        if self.is_frozen() || space == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let some = buf.len().min(space);
        if some > 0 {
            let bytes = Bytes::copy_from_slice(&buf[..some]);
            pipe.written += some as u64;
            pipe.on_the_way.push_back(Packet { sent_at: Instant::now(), arrives_at: None, bytes });
            self.outgoing.changed.notify_one();
        }
        Poll::Ready(Ok(some))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing.pipe).end();
        self.outgoing.changed.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Transport for SimStream {
    type Kernel = SimKernel;

    fn kernel(&self) -> SimKernel {
        SimKernel(Arc::clone(&self.outgoing))
    }

    fn send_at_once(&self) -> io::Result<()> {
        Ok(())
    }

    /// What its buffers take is bounded already.
    fn bound_unsent(&self, _bytes: u32) -> io::Result<()> {
        Ok(())
    }

    fn poll_peek(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.incoming.pipe);
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.ready.is_empty() && !pipe.end_arrived {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let some = pipe.ready.len().min(buffer.remaining());
        buffer.put_slice(&pipe.ready[..some]);
        Poll::Ready(Ok(some))
    }
}

/// What the kernel of one end knows.
#[derive(Debug)]
pub struct SimKernel(Arc<Flow>);

impl Kernel for SimKernel {
    fn unacknowledged(&self) -> Option<u64> {
        let pipe = lock(&self.0.pipe);
        Some(pipe.written - pipe.arrived)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_stood_still_learns_that_its_connection_has_ended_meanwhile() {
        let (network, host) = (Network::default(), IpAddr::from([192, 0, 2, 1]));
        let mut listener = network.listen();
        let mut stream = network.connect(host).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let reads = tokio::spawn(async move { stream.read(&mut [0; 8]).await.unwrap() });
        tokio::time::sleep(Duration::from_secs(1)).await;
        network.change(host, |link| link.frozen = true);
        drop(server);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!reads.is_finished(), "it stands still");
        network.change(host, |link| link.frozen = false);
        let read = tokio::time::timeout(Duration::from_secs(1), reads).await.expect("it is told at once");
        assert_eq!(read.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_lost_on_a_link_that_was_cut_follows_the_oldest_of_it_at_once() {
        let (network, host) = (Network::default(), IpAddr::from([192, 0, 2, 1]));
        let mut listener = network.listen();
        let mut stream = network.connect(host).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        network.change(host, |link| link.cut = true);
        let began = Instant::now();
        for byte in 0..3 {
            server.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
        network.change(host, |link| link.cut = false);
        let mut read = [0; 3];
        stream.read_exact(&mut read).await.unwrap();
        // 200 ms, doubled five times: 0.2, 0.6, 1.4, 3, 6.2 and 12.6 s.
        assert_eq!((read, began.elapsed()), ([0, 1, 2], Duration::from_millis(12_605)));
    }
}
