//! The only place that reads the clock.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use wayleave_model::Timestamp;

/// Wall time that never goes back and never jumps: it runs with the monotonic clock, and drifts towards the system's time by at
/// most a sixteenth of the time that passes. So setting the system's clock neither fires a deadline early nor stops one.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Mutex<State>>);

struct State {
    wall: Box<dyn Fn() -> SystemTime + Send>,
    read_at: Instant,
    /// In microseconds, so that reading often loses nothing.
    micros: i64,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("read_at", &self.read_at).field("micros", &self.micros).finish_non_exhaustive()
    }
}

fn micros(wall: SystemTime) -> i64 {
    i64::try_from(wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}

impl Default for Clock {
    fn default() -> Self {
        Self::reading(SystemTime::now)
    }
}

impl Clock {
    /// A clock of a machine that has this for its system's time. Its monotonic clock is the runtime's own, which a simulation pauses.
    pub fn reading(wall: impl Fn() -> SystemTime + Send + 'static) -> Self {
        let micros = micros(wall());
        Self(Arc::new(Mutex::new(State { wall: Box::new(wall), read_at: Instant::now(), micros })))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = Instant::now();
        let passed = i64::try_from((instant - state.read_at).as_micros()).unwrap_or(0);
        let drift = (micros((state.wall)()) - (state.micros + passed)).clamp(-passed / 16, passed / 16);
        state.read_at = instant;
        state.micros += passed + drift;
        Timestamp::from_millis(state.micros / 1000)
    }

    /// The moment on the monotonic clock at which it will be `at`, give or take the drift.
    pub fn instant(&self, at: Timestamp) -> Instant {
        // One more millisecond, because times are cut to whole ones: a deadline must not be looked at before it is due.
        Instant::now() + at.since(self.now()) + Duration::from_millis(1)
    }
}
