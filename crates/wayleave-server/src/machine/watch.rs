//! Sends PINGs and looks at what came of them. What it sees is judged by [`PingWatch`], which is pure.

use std::sync::Arc;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;
use wayleave_model::Timestamp;
use wayleave_routes::{Observation, PingWatch, Silence};

use super::Connection;
use crate::app::App;
use crate::clock::Clock;
use crate::meter::Meter;
use crate::noise_stream::Marks;
use crate::options::Probes;

/// How often an unanswered PING is looked at. It adds to the time in which a silent router is found, and costs one question to the
/// kernel.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the watch found out.
pub(super) enum Verdict {
    /// The connection is silent, or heard again.
    Silence(Silence),
    /// It has been silent for so long that it is not worth keeping.
    Hopeless,
}

pub(super) struct Watch {
    ping: Option<PingPong>,
    meter: Option<Meter>,
    mark: Arc<Marks>,
    judge: PingWatch,
    probes: Probes,
    clock: Clock,
    next: Instant,
    sent_at: Timestamp,
    /// Set while a PING is not answered.
    outstanding: Option<Outstanding>,
}

#[derive(Clone, Copy)]
struct Outstanding {
    /// When TCP was first seen to have acknowledged the PING itself.
    acked_at: Option<Timestamp>,
    /// What TCP had acknowledged in all at the last look, and since when that has not grown.
    acknowledged: u64,
    stalled_since: Timestamp,
}

impl Watch {
    pub(super) fn new(ping: Option<PingPong>, meter: Option<Meter>, mark: Arc<Marks>, app: &App) -> Self {
        let probes = app.options.probes;
        let clock = app.control.clock().clone();
        let now = clock.now();
        Self {
            ping,
            meter,
            mark,
            judge: PingWatch::new(probes.deadline, probes.late, now),
            probes,
            clock,
            next: Instant::now() + probes.router_every,
            sent_at: now,
            outstanding: None,
        }
    }

    /// Waits for the next change of the verdict. May be dropped at any time and called again.
    pub(super) async fn next(&mut self, connection: &Connection) -> Verdict {
        loop {
            let Some(ping) = &mut self.ping else { return std::future::pending().await };
            if self.outstanding.is_some() {
                tokio::select! {
                    biased;
                    answered = std::future::poll_fn(|cx| ping.poll_pong(cx)) => match answered {
                        Ok(_) => self.outstanding = None,
                        // The connection is going down; whoever drives it will see that.
                        Err(_) => return std::future::pending().await,
                    },
                    () = tokio::time::sleep_until(self.next) => {}
                }
            } else {
                tokio::select! {
                    () = tokio::time::sleep_until(self.next) => {}
                    // One that is pinged rarely may have to be pinged at once.
                    () = connection.role.notified() => self.next = Instant::now(),
                }
            }
            let late = Instant::now().saturating_duration_since(self.next);
            let now = self.clock.now();
            if let Some(verdict) = self.look(now, late) {
                return verdict;
            }
            if self.outstanding.is_none() {
                self.ping(now, connection);
            } else {
                self.next = Instant::now() + LOOK_EVERY;
            }
        }
    }

    fn ping(&mut self, now: Timestamp, connection: &Connection) {
        let every = if connection.carries_router() { self.probes.router_every } else { self.probes.other_every };
        let since = now.since(self.sent_at);
        if since + Duration::from_millis(1) < every {
            self.next = Instant::now() + (every - since);
            return;
        }
        self.mark.clear();
        let Some(ping) = &mut self.ping else { return };
        if ping.send_ping(Ping::opaque()).is_ok() {
            self.sent_at = now;
            let acknowledged = self.meter.as_ref().and_then(Meter::read).map_or(0, |reading| reading.acknowledged);
            self.outstanding = Some(Outstanding { acked_at: None, acknowledged, stalled_since: now });
        }
        self.next = Instant::now() + LOOK_EVERY;
    }

    /// Looks at the connection. Without a meter (WebSocket through a proxy, say) a PING counts as acknowledged when it was sent.
    fn look(&mut self, now: Timestamp, late: Duration) -> Option<Verdict> {
        let reading = self.meter.as_ref().and_then(Meter::read);
        let heard_at = reading.map_or(self.sent_at, |reading| reading.heard_at);
        let mut seen = Observation { due: now - late, heard_at, ping_acked_at: None, unacked_since: None };
        if let Some(outstanding) = &mut self.outstanding {
            if let Some(reading) = reading {
                if reading.acknowledged > outstanding.acknowledged {
                    outstanding.acknowledged = reading.acknowledged;
                    outstanding.stalled_since = now;
                }
                if self.mark.position().is_some_and(|position| reading.acknowledged >= position) {
                    outstanding.acked_at.get_or_insert(now);
                }
                if reading.acknowledged < reading.written {
                    seen.unacked_since = Some(outstanding.stalled_since);
                }
            } else {
                outstanding.acked_at.get_or_insert(self.sent_at);
            }
            seen.ping_acked_at = outstanding.acked_at;
        } else if self.judge.is_unheard() {
            // The answer itself is the sign of life.
            seen.heard_at = now;
        }
        let verdict = self.judge.look(seen, now).map(Verdict::Silence);
        let hopeless = self.judge.is_convicted() && now.since(heard_at) > self.probes.close_after;
        if verdict.is_none() && hopeless { Some(Verdict::Hopeless) } else { verdict }
    }
}
