//! Frames of a map stream: JSON, compressed if the client wants it, with its length before it.

use bytes::Bytes;
use wayleave_wire::control::{MapResponse, map_frame};

/// Level 1 is both faster and smaller than level 3 on maps (crates.md 8).
const LEVEL: i32 = 1;

/// Compresses bodies. It holds up to half a megabyte, so there is one for each thread, not for each client.
pub struct Encoder(zstd::bulk::Compressor<'static>);

impl Encoder {
    /// A new encoder.
    ///
    /// # Errors
    ///
    /// The library can't get its memory.
    pub fn new() -> std::io::Result<Self> {
        zstd::bulk::Compressor::new(LEVEL).map(Self)
    }

    /// The frame that tells a client this. `zstd`: the client asked for compression, which then is not optional: it decompresses
    /// whatever comes.
    ///
    /// # Errors
    ///
    /// The library can't get its memory.
    pub fn frame(&mut self, response: &MapResponse, zstd: bool) -> std::io::Result<Bytes> {
        let json = serde_json::to_vec(response).map_err(std::io::Error::other)?;
        if zstd { self.0.compress(&json).map(|body| frame(&body)) } else { Ok(frame(&json)) }
    }
}

/// A body with its length before it.
pub fn frame(body: &[u8]) -> Bytes {
    Bytes::from(map_frame(body))
}
