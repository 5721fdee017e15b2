//! The newest map session of each node, and what is asked of clients through it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use wayleave_model::{NodeId, SessionId};
use wayleave_wire::control::PingRequest;

use crate::delivery::Delivery;
use crate::meter::Meter;

/// Requests that may wait for one session to send them. A session that is further behind is busy with a map, and would answer late.
const ASKS: usize = 64;
/// Answers that are waited for, over all clients. More are not asked for.
const MOST_PINGS: usize = 65_536;

/// Sessions that are open, and answers that are waited for.
#[derive(Debug, Default)]
pub struct Sessions {
    next: AtomicU64,
    open: Mutex<BTreeMap<NodeId, Open>>,
    pings: Mutex<Pings>,
}

/// Answers that are waited for, by their token.
#[derive(Debug, Default)]
struct Pings {
    waits: BTreeMap<String, oneshot::Sender<Vec<u8>>>,
    /// With so many, those that nobody waits for any more are thrown out.
    sweep_at: usize,
}

impl Pings {
    /// Makes room for one more. Each sweep lets as many more come as it left, so that it costs little for each.
    fn has_room(&mut self) -> bool {
        if self.waits.len() >= self.sweep_at {
            self.waits.retain(|_, waits| !waits.is_closed());
            self.sweep_at = (self.waits.len() * 2).clamp(ASKS, MOST_PINGS);
        }
        self.waits.len() < MOST_PINGS
    }
}

#[derive(Debug)]
struct Open {
    id: SessionId,
    replaced: CancellationToken,
    /// Gone once the session is.
    ask: Weak<Questions>,
    authority: String,
    /// How far its client has been brought; `None` until its first map is on its way.
    delivery: Option<Arc<Delivery>>,
    /// What the stream that carries it can be asked.
    meter: Option<Meter>,
}

/// A place among the open sessions.
#[derive(Debug)]
pub struct Seat {
    /// The session.
    pub id: SessionId,
    /// A newer session of the same node has opened.
    pub replaced: CancellationToken,
    /// What the client is to be asked.
    pub asks: Asks,
}

/// What is to be asked of one client. A channel would have room for 32 questions as long as it lives, and most sessions are never asked
/// anything.
#[derive(Debug, Default)]
struct Questions {
    waiting: Mutex<VecDeque<Box<PingRequest>>>,
    /// There is one more.
    come: Notify,
}

/// The session's end of what its client is to be asked.
#[derive(Debug, Default)]
pub struct Asks(Arc<Questions>);

impl Asks {
    /// Waits for the next question. May be dropped at any time and called again.
    pub async fn recv(&mut self) -> Box<PingRequest> {
        loop {
            if let Some(next) = lock(&self.0.waiting).pop_front() {
                return next;
            }
            self.0.come.notified().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// Opens a session, which replaces the one that the node had. `authority` is the host that the client used, so that its answers
    /// come over the connection that is open (protocol.md 1.8).
    pub fn open(&self, node: NodeId, authority: String, meter: Option<Meter>) -> Seat {
        let replaced = CancellationToken::new();
        let asks = Asks::default();
        let ask = Arc::downgrade(&asks.0);
        let mut all = lock(&self.open);
        // Under the lock, so that the last of two that open at once is the newer one for everybody.
        let id = SessionId::new(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let open = Open { id, replaced: replaced.clone(), ask, authority, delivery: None, meter };
        if let Some(old) = all.insert(node, open) {
            old.replaced.cancel();
        }
        Seat { id, replaced, asks }
    }

    /// Tells how far the client of a session is brought can be seen.
    pub fn delivers(&self, node: NodeId, id: SessionId, delivery: Arc<Delivery>) {
        if let Some(open) = lock(&self.open).get_mut(&node).filter(|open| open.id == id) {
            open.delivery = Some(delivery);
        }
    }

    /// Whether a client has acknowledged what it was told of this picture, or of a newer one. `None`: it has no session.
    pub fn has(&self, node: NodeId, version: u64) -> Option<bool> {
        let delivery = lock(&self.open).get(&node)?.delivery.clone();
        Some(delivery.is_some_and(|delivery| delivery.has(version)))
    }

    /// Closes a session. One that was replaced changes nothing.
    pub fn close(&self, node: NodeId, id: SessionId) {
        let mut open = lock(&self.open);
        if open.get(&node).is_some_and(|newest| newest.id == id) {
            open.remove(&node);
        }
    }

    /// What can be asked about the stream that carries a node's session. `None`: it has none, or nobody counts.
    pub(crate) fn meter(&self, node: NodeId) -> Option<Meter> {
        lock(&self.open).get(&node)?.meter.clone()
    }

    /// Asks a client for something, and gives what waits for its answer. `None`: it has no session, or is too far behind.
    pub fn ask(
        &self,
        node: NodeId,
        token: String,
        request: impl FnOnce(String) -> PingRequest,
    ) -> Option<oneshot::Receiver<Vec<u8>>> {
        let open = lock(&self.open);
        let session = open.get(&node)?;
        let mut pings = lock(&self.pings);
        if !pings.has_room() {
            return None;
        }
        let request = request(format!("https://{}/machine/ping/{token}", session.authority));
        let questions = session.ask.upgrade()?;
        {
            let mut waiting = lock(&questions.waiting);
            if waiting.len() >= ASKS {
                return None;
            }
            waiting.push_back(Box::new(request));
        }
        questions.come.notify_one();
        let (answer, answered) = oneshot::channel();
        pings.waits.insert(token, answer);
        Some(answered)
    }

    /// Whether the session of a node has not handed over this question yet.
    pub fn is_unasked(&self, node: NodeId, token: &str) -> bool {
        let questions = lock(&self.open).get(&node).and_then(|session| session.ask.upgrade());
        questions.is_some_and(|questions| lock(&questions.waiting).iter().any(|request| request.url.ends_with(token)))
    }

    /// Takes in an answer. Returns whether anybody waited for it.
    pub fn answered(&self, token: &str, body: Vec<u8>) -> bool {
        let waits = lock(&self.pings).waits.remove(token);
        waits.is_some_and(|waits| waits.send(body).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn questions_come_in_order_and_only_so_many_wait_for_a_session_that_is_there() {
        let sessions = Sessions::default();
        let node = NodeId::new(1);
        let ask = |token: usize| {
            let request = |url| PingRequest { url, ..PingRequest::default() };
            sessions.ask(node, token.to_string(), request)
        };
        assert!(ask(0).is_none(), "there is no session");
        let mut seat = sessions.open(node, "server".to_owned(), None);
        let waiting: Vec<_> = (0..ASKS).map(|token| ask(token).unwrap()).collect();
        assert!(ask(ASKS).is_none(), "no more than so many wait");
        for token in 0..ASKS {
            assert_eq!(seat.asks.recv().await.url, format!("https://server/machine/ping/{token}"));
        }
        drop(seat);
        assert!(ask(ASKS).is_none(), "nobody would ask it");
        drop(waiting);
    }

    #[tokio::test]
    async fn a_question_is_unasked_until_the_session_takes_it() {
        let sessions = Sessions::default();
        let node = NodeId::new(1);
        let ask = |token: &str| {
            sessions.ask(node, token.to_owned(), |url| PingRequest { url, ..PingRequest::default() }).unwrap()
        };
        let unasked = || ["one", "two"].map(|token| sessions.is_unasked(node, token));
        let mut seat = sessions.open(node, "server".to_owned(), None);
        let _answers = [ask("one"), ask("two")];
        assert_eq!(unasked(), [true, true]);
        seat.asks.recv().await;
        assert_eq!(unasked(), [false, true]);
        seat.asks.recv().await;
        assert_eq!(unasked(), [false, false]);
        drop(seat);
        assert_eq!(unasked(), [false, false], "there is no session");
    }

    #[test]
    fn of_sessions_that_open_at_once_the_newest_is_the_one_that_stays() {
        const TIMES: u64 = 3000;
        let sessions = Sessions::default();
        let at_once = Barrier::new(4);
        let open_all = || -> Vec<Seat> {
            let open = |node| {
                at_once.wait();
                sessions.open(NodeId::new(node), String::new(), None)
            };
            (0..TIMES).map(open).collect()
        };
        let threads: Vec<Vec<Seat>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open_all)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for node in 0..usize::try_from(TIMES).unwrap() {
            let seats = || threads.iter().map(|seats| &seats[node]);
            let stay: Vec<SessionId> = seats().filter(|seat| !seat.replaced.is_cancelled()).map(|s| s.id).collect();
            assert_eq!(stay, Vec::from_iter(seats().map(|seat| seat.id).max()));
        }
    }
}
