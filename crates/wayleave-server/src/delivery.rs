//! How far the client of one map session has been brought: which picture it was last told of, and whether TCP has acknowledged that.
//!
//! The session says how many bytes it has written once a picture is told in full. The stream below counts the bytes of that session that
//! it has handed to the system, and where in the TCP stream they end; what TCP has acknowledged the kernel knows.

use std::sync::{Arc, Mutex, PoisonError};

use crate::meter::Meter;
use crate::noise_stream::Marks;

/// How far one session's client has been brought.
#[derive(Debug)]
pub struct Delivery {
    told: Mutex<Told>,
    marks: Arc<Marks>,
    meter: Option<Meter>,
    stream: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// The picture.
    version: u64,
    /// Bytes of the session once it was told.
    bytes: u64,
}

impl Delivery {
    /// Of the session that is this HTTP/2 stream; from here on its bytes are counted.
    pub fn new(marks: Arc<Marks>, meter: Option<Meter>, stream: u32) -> Self {
        marks.follow(stream);
        Self { told: Mutex::default(), marks, meter, stream }
    }

    /// The session has told its client of this picture, and written so many bytes in all until then.
    pub fn told(&self, version: u64, bytes: u64) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Told { version, bytes };
    }

    /// Whether the client has acknowledged what it was told of this picture, or of a newer one. Without a meter it counts as acknowledged
    /// once the system has it.
    pub fn has(&self, version: u64) -> bool {
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.version < version {
            return false;
        }
        let Some(handed) = self.marks.handed(self.stream) else { return false };
        let acknowledged = || match &self.meter {
            // A stream that is closed acknowledges nothing any more; its session ends by itself.
            Some(meter) => meter.read().is_some_and(|reading| reading.acknowledged >= handed.position),
            None => true,
        };
        handed.bytes >= told.bytes && acknowledged()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.marks.forget(self.stream);
    }
}
