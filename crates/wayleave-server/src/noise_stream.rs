//! A byte stream inside Noise records, which also notes when a PING, or the bytes of a map session, have been handed to TCP.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wayleave_wire::noise::{MAX_PLAINTEXT, Opener, Sealer, Session};

use crate::meter::Meter;

/// How much plaintext is sealed at once: a few records, so that one write to the system carries them together.
const SEAL_AT_ONCE: usize = 8 * MAX_PLAINTEXT;
/// How much sealed text may wait for the system to take it. Beyond that the writer has to wait.
const MOST_WAITING: usize = SEAL_AT_ONCE;

/// How many empty buffers a thread keeps. A buffer is empty again once the system has taken what is in it, mostly at once: so one would do,
/// but for those that wait.
const MOST_SPARE: usize = 4;

thread_local! {
    /// Where what is sealed waits for the system, while nothing does. Buffers of connections that come and go would take the place, in
    /// memory, of those that stay.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
fn spare() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a buffer back that nobody reads any more.
fn give_back(mut buffer: Vec<u8>) {
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MOST_SPARE {
            spare.push(buffer);
        }
    });
}

/// Where in the TCP stream the newest PING ends, and the bytes of streams that are followed.
#[derive(Debug, Default)]
pub struct Marks {
    /// `written` of the meter once the PING was handed to the system; 0 while it was not.
    position: AtomicU64,
    scan: Mutex<Scan>,
}

/// What has been handed to the system of a stream that is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Bytes of its DATA frames.
    pub bytes: u64,
    /// `written` of the meter when these were all in.
    pub position: u64,
}

#[derive(Debug, Default)]
struct Followed {
    stream: u32,
    /// Bytes of it that have gone by.
    passed: u64,
    /// What is handed to the system of them.
    handed: Handed,
}

/// Finds PINGs, and the DATA of streams that are followed, in what the HTTP/2 library writes (RFC 9113 4.1, 6.1, 6.7).
#[derive(Debug, Default)]
struct Scan {
    header: Vec<u8>,
    /// Bytes of the current frame's payload that have not gone by.
    payload: usize,
    /// Whether the connection preface or settings are done is of no interest: a server's first bytes are a frame.
    found: bool,
    /// The stream whose DATA the current frame is, if it is followed.
    data_of: Option<u32>,
    /// The streams that are followed: one, as a rule.
    followed: Vec<Followed>,
    /// Something of these has gone by and is not handed to the system yet.
    data_waits: bool,
}

impl Scan {
    fn of(&mut self, stream: u32) -> Option<&mut Followed> {
        self.followed.iter_mut().find(|followed| followed.stream == stream)
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let gone = self.payload.min(bytes.len());
                self.payload -= gone;
                if let Some(followed) = self.data_of.and_then(|stream| self.of(stream)) {
                    followed.passed += gone as u64;
                    self.data_waits = true;
                }
                bytes = &bytes[gone..];
                continue;
            }
            let (head, rest) = bytes.split_at(bytes.len().min(9 - self.header.len()));
            self.header.extend(head);
            bytes = rest;
            if let [a, b, c, kind, flags, s, t, u, v] = self.header[..] {
                self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.found |= kind == 6 && flags & 1 == 0;
                let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
                self.data_of = (kind == 0 && self.of(stream).is_some()).then_some(stream);
                self.header.clear();
            }
        }
    }
}

impl Marks {
    /// Forgets the last PING; called before the next is sent.
    pub fn clear(&self) {
        self.position.store(0, Ordering::Release);
        self.scan.lock().unwrap_or_else(PoisonError::into_inner).found = false;
    }

    /// Counts the bytes of a stream from here on.
    pub fn follow(&self, stream: u32) {
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        if scan.of(stream).is_none() {
            scan.followed.push(Followed { stream, ..Followed::default() });
        }
    }

    /// Counts them no more.
    pub fn forget(&self, stream: u32) {
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        scan.followed.retain(|followed| followed.stream != stream);
    }

    /// What has been handed to the system of a stream. `None`: it is not followed.
    pub fn handed(&self, stream: u32) -> Option<Handed> {
        self.scan.lock().unwrap_or_else(PoisonError::into_inner).of(stream).map(|followed| followed.handed)
    }

    /// Everything that has gone by is handed to the system, which has so many bytes now.
    fn all_handed(&self, position: u64) {
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        scan.data_waits = false;
        for Followed { passed, handed, .. } in &mut scan.followed {
            if handed.bytes != *passed {
                *handed = Handed { bytes: *passed, position };
            }
        }
    }

    /// How many bytes the TCP stream had when the PING was all in it. `None`: it still waits.
    pub fn position(&self) -> Option<u64> {
        Some(self.position.load(Ordering::Acquire)).filter(|position| *position > 0)
    }
}

/// A byte stream inside Noise records.
pub struct NoiseStream<S> {
    inner: S,
    sealer: Sealer,
    opener: Opener,
    /// Opened and not read.
    plain: Vec<u8>,
    taken: usize,
    /// Sealed and not written.
    sealed: Vec<u8>,
    written: usize,
    /// The stream below has not taken all of it when it was last asked to: until it has, no more is sealed.
    is_full: bool,
    /// A PING is in `sealed`.
    ping_waits: bool,
    /// DATA of a stream that is followed is in `sealed`.
    data_waits: bool,
    mark: Arc<Marks>,
    meter: Option<Meter>,
}

impl<S> NoiseStream<S> {
    /// The stream of a session; `first` are bytes to be sent before its records. `meter` is that of the TCP stream below.
    pub fn new(inner: S, session: Session, first: Vec<u8>, meter: Option<Meter>) -> Self {
        let Session { sealer, opener, .. } = session;
        let mark = Arc::default();
        Self {
            inner,
            sealer,
            opener,
            plain: Vec::new(),
            taken: 0,
            sealed: first,
            written: 0,
            is_full: false,
            ping_waits: false,
            data_waits: false,
            mark,
            meter,
        }
    }

    /// Takes in bytes that were read from the stream below already.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.opener.feed(bytes);
    }

    /// Where its newest PING is.
    pub fn mark(&self) -> Arc<Marks> {
        Arc::clone(&self.mark)
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncWrite + Unpin> NoiseStream<S> {
    /// Hands what is sealed to the stream below.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_full = self.written < self.sealed.len();
        while self.written < self.sealed.len() {
            let taken = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.sealed[self.written..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += taken;
        }
        if self.written > 0 {
            // An idle connection keeps no buffer.
            give_back(std::mem::take(&mut self.sealed));
            self.written = 0;
        }
        self.is_full = false;
        let (ping, data) = (std::mem::take(&mut self.ping_waits), std::mem::take(&mut self.data_waits));
        if (ping || data)
            && let Some(written) = self.meter.as_ref().and_then(Meter::written)
        {
            if ping {
                self.mark.position.store(written, Ordering::Release);
            }
            if data {
                self.mark.all_handed(written);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        loop {
            if me.taken < me.plain.len() {
                let some = (me.plain.len() - me.taken).min(buf.remaining());
                buf.put_slice(&me.plain[me.taken..me.taken + some]);
                me.taken += some;
                if me.taken == me.plain.len() {
                    me.plain = Vec::new();
                    me.taken = 0;
                }
                return Poll::Ready(Ok(()));
            }
            if let Some(plain) = me.opener.next().map_err(broken)? {
                me.plain = plain;
                continue;
            }
            let mut bytes = [MaybeUninit::uninit(); 8192];
            let mut read = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut me.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            me.opener.feed(read.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        if me.is_full || me.sealed.len() - me.written >= MOST_WAITING {
            ready!(me.poll_drain(cx))?;
        }
        let some = &buf[..buf.len().min(SEAL_AT_ONCE)];
        if me.sealed.is_empty() {
            me.sealed = spare();
        }
        me.sealer.seal(some, &mut me.sealed).map_err(broken)?;
        {
            let mut scan = me.mark.scan.lock().unwrap_or_else(PoisonError::into_inner);
            scan.pass(some);
            me.ping_waits |= std::mem::take(&mut scan.found);
            me.data_waits |= scan.data_waits;
        }
        Poll::Ready(Ok(some.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(flags: u8) -> Vec<u8> {
        [vec![0, 0, 8, 6, flags, 0, 0, 0, 0], vec![1; 8]].concat()
    }

    #[test]
    fn the_bytes_of_a_stream_that_is_followed_are_counted_wherever_writes_are_cut() {
        let data =
            |stream: u8, length: u8| [vec![0, 0, length, 0, 0, 0, 0, 0, stream], vec![0; usize::from(length)]].concat();
        let all = [data(1, 20), ping(0), data(3, 7), data(1, 5)].concat();
        for cut in 0..all.len() {
            let marks = Marks::default();
            marks.follow(1);
            for part in [&all[..cut], &all[cut..]] {
                marks.scan.lock().unwrap().pass(part);
            }
            assert_eq!(marks.handed(1), Some(Handed::default()), "nothing is handed to the system yet");
            marks.all_handed(99);
            assert_eq!(marks.handed(1), Some(Handed { bytes: 25, position: 99 }), "cut at {cut}");
            marks.all_handed(500);
            assert_eq!(marks.handed(1).unwrap().position, 99, "what was handed before ends where it ended");
            assert_eq!(marks.handed(3), None);
        }
    }

    #[test]
    fn a_ping_is_found_wherever_writes_are_cut_and_its_answer_is_not_one() {
        let data = [vec![0, 0, 20, 0, 0, 0, 0, 0, 1], vec![6; 20]].concat();
        let stream = [data.clone(), ping(1), data, ping(0)].concat();
        let last = stream.len() - 17;
        for cut in 0..stream.len() {
            let mut scan = Scan::default();
            scan.pass(&stream[..cut]);
            assert_eq!(scan.found, cut >= last + 9, "cut at {cut}");
            scan.pass(&stream[cut..]);
            assert!(scan.found);
        }
    }
}
