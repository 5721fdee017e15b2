//! What the server asks of whatever carries its clients' bytes. TCP does; so does a network that only exists in a simulation.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Where connections come from.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: Transport;

    /// Waits for the next connection, and says where it comes from. May be dropped at any time and called again.
    ///
    /// # Errors
    ///
    /// None can be accepted; one may be, a little later.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

/// A connection.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug + 'static {
    /// What can be asked about it for as long as it lives.
    type Kernel: Kernel;

    /// A handle to ask with, for as long as the connection lives.
    fn kernel(&self) -> Self::Kernel;

    /// Sends what is written at once, also where that is little.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    fn send_at_once(&self) -> io::Result<()>;

    /// Takes no more than about so many bytes that it can't send yet.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    fn bound_unsent(&self, bytes: u32) -> io::Result<()>;

    /// Copies the next bytes without taking them.
    fn poll_peek(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>>;
}

/// What the system knows of a connection.
pub trait Kernel: Send + Sync + Debug + 'static {
    /// Bytes that were written and that the other end has not acknowledged, sent or not. `None`: it does not say.
    fn unacknowledged(&self) -> Option<u64>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }
}

impl Transport for TcpStream {
    type Kernel = Socket;

    fn kernel(&self) -> Socket {
        Socket(self.as_raw_fd())
    }

    fn send_at_once(&self) -> io::Result<()> {
        self.set_nodelay(true)
    }

    /// What is under way is not counted, so that a long path is used as before (tcp(7), TCP_NOTSENT_LOWAT).
    fn bound_unsent(&self, bytes: u32) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<u32>()).map_err(io::Error::other)?;
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
        #[expect(unsafe_code, reason = "neither the standard library nor tokio has a word for this option")]
        // SAFETY: the descriptor is open, since it is borrowed; the option is a u32 that lives until the call is done.
        let done = unsafe { libc::setsockopt(self.as_raw_fd(), level, name, (&raw const bytes).cast(), length) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn poll_peek(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        Self::poll_peek(self, cx, buffer)
    }
}

/// The number of a socket that somebody else owns. No handle of its own: there may be tens of thousands, and a process has so many
/// descriptors only. Asked after that one closed it, it would answer for whichever socket has the number now, so it is asked before.
#[derive(Debug)]
pub struct Socket(RawFd);

impl Kernel for Socket {
    /// Sent or not, the kernel counts both (tcp(7), SIOCOUTQ).
    fn unacknowledged(&self) -> Option<u64> {
        let mut waiting: libc::c_int = 0;
        #[expect(unsafe_code, reason = "the standard library has no word for this question to the kernel")]
        // SAFETY: TIOCOUTQ writes one int, and `waiting` is one; of a descriptor that is not open it says so.
        let answer = unsafe { libc::ioctl(self.0, libc::TIOCOUTQ, &raw mut waiting) };
        if answer == 0 { u64::try_from(waiting).ok() } else { None }
    }
}
