//! The watch over one session that convicts a silent one.

use std::time::Duration;

use wayleave_model::Timestamp;

use crate::reason::Cause;

/// What a session sees of its connection at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When this look was due. If it is much later by now, the server itself was late.
    pub due: Timestamp,
    /// When anything last came from the client.
    pub heard_at: Timestamp,
    /// Since when TCP has acknowledged the oldest PING that is not answered; `None` while there is none.
    pub ping_acked_at: Option<Timestamp>,
    /// Since when bytes have been waiting of which TCP acknowledged nothing; `None` while none wait.
    pub unacked_since: Option<Timestamp>,
}

/// What a watch found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The session has not been heard for half of the time that convicts.
    Doubtful,
    /// The session is silent, by this evidence.
    Silent(Cause),
    /// The session that was silent, or doubtful, has been heard again.
    Heard,
}

/// Convicts one session of silence, and acquits it (design.md 4, the row of HTTP/2 PING).
///
/// A slow reader of a big map is not dead: the silence counts only from when TCP acknowledged the PING itself. A frozen process
/// whose kernel still acknowledges is: nothing comes from it any more. Looks that come late convict nobody, and silence then
/// counts from that look on.
#[derive(Clone, Debug)]
pub struct PingWatch {
    deadline: Duration,
    late: Duration,
    /// Silence before this moment is the server's own fault.
    blind_until: Timestamp,
    /// The doubt was told, and has lasted since.
    doubted: bool,
    /// When a doubt was told first, until the session is heard.
    doubted_at: Option<Timestamp>,
    convicted_at: Option<Timestamp>,
}

impl PingWatch {
    /// A watch over a session that has just opened. `deadline` is how long silence must last; a look more than `late` behind its
    /// time is the server's own lateness.
    pub const fn new(deadline: Duration, late: Duration, now: Timestamp) -> Self {
        Self { deadline, late, blind_until: now, doubted: false, doubted_at: None, convicted_at: None }
    }

    /// Whether the session stands convicted.
    pub const fn is_convicted(&self) -> bool {
        self.convicted_at.is_some()
    }

    /// Whether a doubt or a conviction was told, and the session has not been heard since.
    pub const fn is_unheard(&self) -> bool {
        self.doubted_at.is_some() || self.convicted_at.is_some()
    }

    /// Looks at the connection. Says something only when the verdict changes.
    pub fn look(&mut self, seen: Observation, now: Timestamp) -> Option<Silence> {
        if now.since(seen.due) > self.late {
            self.blind_until = now;
        }
        if let Some(convicted_at) = self.convicted_at {
            if seen.heard_at <= convicted_at {
                return None;
            }
            (self.convicted_at, self.doubted_at, self.doubted) = (None, None, false);
            return Some(Silence::Heard);
        }
        let lasted = |since: Timestamp| now.since(since.max(seen.heard_at).max(self.blind_until));
        let evidence = [
            seen.ping_acked_at.map(|since| (lasted(since), Cause::PingUnanswered)),
            seen.unacked_since.map(|since| (lasted(since), Cause::TcpStalled)),
        ];
        let longest = evidence.iter().flatten().map(|(lasted, _)| *lasted).max().unwrap_or_default();
        let convicting = evidence.into_iter().flatten().find(|(lasted, _)| *lasted >= self.deadline);
        let Some((_, cause)) = convicting else {
            let doubtful = longest * 2 >= self.deadline && longest > Duration::ZERO;
            let told = std::mem::replace(&mut self.doubted, doubtful);
            if doubtful {
                self.doubted_at.get_or_insert(now);
                return (!told).then_some(Silence::Doubtful);
            }
            // That this look came late is no sign of life.
            return self.doubted_at.take_if(|at| seen.heard_at > *at).map(|_| Silence::Heard);
        };
        self.convicted_at = Some(now);
        Some(Silence::Silent(cause))
    }
}

#[cfg(test)]
mod tests;
