//! One connection: its queues, and the two halves of its task.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wayleave_model::NodeKey;
use wayleave_wire::derp::{FromServer, GoneReason};

/// Packets that wait for one client, of each kind. A short queue: a packet that waited long is worth less than the next one.
const QUEUE: usize = 32;
/// Answers and notices that wait. More means that the client asks faster than it reads.
const NOTICES: usize = 64;
/// Receivers that are told when this client leaves. A client that sent to more is one that scans.
const MOST_CORRESPONDENTS: usize = 4096;

/// A connection, as others see it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) key: NodeKey,
    pub(crate) can_ack_pings: bool,
    queues: Mutex<Queues>,
    filled: Notify,
    /// Ends the connection.
    pub(crate) end: CancellationToken,
}

#[derive(Debug, Default)]
struct Queues {
    notices: VecDeque<FromServer>,
    disco: VecDeque<FromServer>,
    data: VecDeque<FromServer>,
    /// Whom this client has sent packets to, so that they learn when it leaves.
    correspondents: BTreeSet<NodeKey>,
}

/// Which queue a frame goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Notice,
    Disco,
    Data,
}

impl Client {
    pub(crate) fn new(id: u64, key: NodeKey, can_ack_pings: bool, end: CancellationToken) -> Self {
        Self { id, key, can_ack_pings, queues: Mutex::default(), filled: Notify::new(), end }
    }

    /// Puts a frame in a queue. Returns whether an older one was dropped for it.
    pub(crate) fn push(&self, frame: FromServer, lane: Lane) -> bool {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, most) = match lane {
            Lane::Notice => (&mut queues.notices, NOTICES),
            Lane::Disco => (&mut queues.disco, QUEUE),
            Lane::Data => (&mut queues.data, QUEUE),
        };
        let full = queue.len() >= most;
        if full {
            queue.pop_front();
        }
        queue.push_back(frame);
        drop(queues);
        self.filled.notify_one();
        full
    }

    /// The next frame to write; waits while there is none.
    pub(crate) async fn next(&self) -> FromServer {
        loop {
            {
                let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
                let Queues { notices, disco, data, correspondents: _ } = &mut *queues;
                if let Some(frame) = [notices, disco, data].into_iter().find_map(VecDeque::pop_front) {
                    return frame;
                }
            }
            self.filled.notified().await;
        }
    }

    pub(crate) fn remember(&self, receiver: NodeKey) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.correspondents.len() < MOST_CORRESPONDENTS {
            queues.correspondents.insert(receiver);
        }
    }

    pub(crate) fn correspondents(&self) -> BTreeSet<NodeKey> {
        std::mem::take(&mut self.queues.lock().unwrap_or_else(PoisonError::into_inner).correspondents)
    }

    pub(crate) fn tell_gone(&self, peer: NodeKey, reason: GoneReason) {
        self.push(FromServer::PeerGone(peer, reason), Lane::Notice);
    }
}
