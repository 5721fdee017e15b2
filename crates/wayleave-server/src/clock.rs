//! The only place that reads the clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wayleave_model::Timestamp;

/// Wall time that never goes back and never jumps: it runs with the monotonic clock, and drifts towards the system's time by at
/// most a sixteenth of the time that passes. So setting the system's clock neither fires a deadline early nor stops one.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    read_at: Instant,
    /// In microseconds, so that reading often loses nothing.
    micros: i64,
}

fn wall_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { read_at: Instant::now(), micros: wall_micros() })))
    }
}

impl Clock {
    /// Now.
    pub fn now(&self) -> Timestamp {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = Instant::now();
        let passed = i64::try_from((instant - state.read_at).as_micros()).unwrap_or(0);
        let drift = (wall_micros() - (state.micros + passed)).clamp(-passed / 16, passed / 16);
        state.read_at = instant;
        state.micros += passed + drift;
        Timestamp::from_millis(state.micros / 1000)
    }

    /// The moment on the monotonic clock at which it will be `at`, give or take the drift.
    pub fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        // One more millisecond, because times are cut to whole ones: a deadline must not be looked at before it is due.
        tokio::time::Instant::now() + at.since(self.now()) + Duration::from_millis(1)
    }
}
