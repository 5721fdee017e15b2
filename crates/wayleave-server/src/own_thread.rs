//! A thread for what must not wait behind sessions, the control loop and the probes; and one for the buffers of connections.
//!
//! In a storm every worker has thousands of tasks that are ready, and a timer or a message waits for its turn among them. A thread of
//! its own gets its share of the processor from the system, whatever the workers do.
//!
//! HTTP/2 keeps three buffers for each connection, 28 KiB in all, of which an idle client's are all but empty. What was never written
//! to takes no memory; but an allocator hands out memory that something else has used before, and that takes some. The system's gives
//! each thread memory of its own: so these buffers are made on a thread where nothing else ever is, and only follow one another.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A thread with a runtime of its own. What runs there ends with it.
#[derive(Debug)]
pub(crate) struct OwnThread {
    handle: Handle,
    _ends: DropGuard,
}

impl OwnThread {
    /// Starts it. What runs there may use timers and channels, but no sockets: those are the workers'.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let handle = runtime.handle().clone();
        let end = CancellationToken::new();
        let ended = end.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(ended.cancelled()))?;
        Ok(Self { handle, _ends: end.drop_guard() })
    }

    /// Where to start what is to run there.
    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }
}
