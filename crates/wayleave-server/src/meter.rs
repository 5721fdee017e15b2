//! A stream that counts, and can be asked what the other end has acknowledged.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wayleave_model::Timestamp;

use crate::clock::Clock;
use crate::transport::{Kernel, Transport};

#[derive(Debug)]
struct Counts {
    /// `None` once the stream is closed. Locked while it is asked, so that it is not closed meanwhile.
    kernel: Mutex<Option<Box<dyn Kernel>>>,
    written: AtomicU64,
    heard_at: AtomicI64,
}

/// A stream that counts.
#[derive(Debug)]
pub struct MeteredStream<S> {
    inner: S,
    counts: Arc<Counts>,
    clock: Clock,
}

/// What is known of a stream. It outlives the stream, and then knows nothing more.
#[derive(Clone, Debug)]
pub struct Meter(Weak<Counts>);

/// A look at a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Bytes handed to the kernel so far.
    pub written: u64,
    /// Those of them that the other end has acknowledged.
    pub acknowledged: u64,
    /// When anything last came.
    pub heard_at: Timestamp,
}

impl<S: Transport> MeteredStream<S> {
    /// Wraps a stream.
    pub fn new(inner: S, clock: Clock) -> Self {
        let kernel = Mutex::new(Some(Box::new(inner.kernel()) as Box<dyn Kernel>));
        let heard_at = AtomicI64::new(clock.now().as_millis());
        Self { inner, counts: Arc::new(Counts { kernel, written: AtomicU64::new(0), heard_at }), clock }
    }

    /// Waits for the next bytes, and copies them without taking them.
    ///
    /// # Errors
    ///
    /// The stream broke.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        std::future::poll_fn(|cx| self.inner.poll_peek(cx, &mut buffer)).await
    }

    /// A handle to look at it.
    pub fn meter(&self) -> Meter {
        Meter(Arc::downgrade(&self.counts))
    }
}

impl Meter {
    /// Bytes handed to the kernel so far, without asking it anything. `None`: the stream is closed.
    pub fn written(&self) -> Option<u64> {
        self.0.upgrade().map(|counts| counts.written.load(Ordering::Acquire))
    }

    /// Looks. `None`: the stream is closed, or the kernel does not say.
    pub fn read(&self) -> Option<Reading> {
        let counts = self.0.upgrade()?;
        let waiting = counts.kernel.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.unacknowledged()?;
        // Read after the question: what was written in between only makes the answer look worse by a moment.
        let written = counts.written.load(Ordering::Acquire);
        Some(Reading {
            written,
            acknowledged: written.saturating_sub(waiting),
            heard_at: Timestamp::from_millis(counts.heard_at.load(Ordering::Acquire)),
        })
    }
}

impl<S> Drop for MeteredStream<S> {
    /// Before the stream itself is closed, which is dropped after this.
    fn drop(&mut self) {
        self.counts.kernel.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.counts.heard_at.store(self.clock.now().as_millis(), Ordering::Release);
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = done {
            self.counts.written.fetch_add(written as u64, Ordering::AcqRel);
        }
        done
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn it_counts_what_was_written_and_knows_what_was_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut server = MeteredStream::new(listener.accept().await.unwrap().0, Clock::default());
        let meter = server.meter();
        let before = meter.read().unwrap();
        server.write_all(&[1; 1000]).await.unwrap();
        let mut got = [0; 1000];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(meter.read().unwrap().written, 1000);
        assert_eq!(meter.read().unwrap().acknowledged, 1000, "loopback acknowledges before it delivers");
        client.write_all(&[1]).await.unwrap();
        server.read_u8().await.unwrap();
        assert!(meter.read().unwrap().heard_at >= before.heard_at);
        // A full pipe: the kernel of the other end takes no more, although it lives.
        let full = tokio::time::timeout(std::time::Duration::from_millis(200), async {
            loop {
                server.write_all(&[0; 65536]).await.unwrap();
            }
        });
        assert!(full.await.is_err());
        let stuck = meter.read().unwrap();
        assert!(stuck.acknowledged < stuck.written);
        drop(server);
        assert_eq!(meter.read(), None);
        assert!(client.read_to_end(&mut Vec::new()).await.is_ok(), "the meter does not keep the connection open");
    }
}
