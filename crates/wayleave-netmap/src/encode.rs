//! Frames of a map stream: JSON, compressed if the client wants it, with its length before it.

use bytes::Bytes;
use wayleave_wire::control::{MapResponse, map_frame};

/// Level 1 is both faster and smaller than level 3 on maps (crates.md 8).
const LEVEL: i32 = 1;

/// Compresses bodies. It holds up to half a megabyte, so there is one for each thread, not for each client.
pub struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
    /// Where parts are compressed into; what is kept of them is as long as they are.
    room: Vec<u8>,
}

impl Encoder {
    /// A new encoder.
    ///
    /// # Errors
    ///
    /// The library can't get its memory.
    pub fn new() -> std::io::Result<Self> {
        zstd::bulk::Compressor::new(LEVEL).map(|compressor| Self { compressor, room: Vec::new() })
    }

    /// The frame that tells a client this. `zstd`: the client asked for compression, which then is not optional: it decompresses
    /// whatever comes.
    ///
    /// # Errors
    ///
    /// The library can't get its memory.
    pub fn frame(&mut self, response: &MapResponse, zstd: bool) -> std::io::Result<Bytes> {
        let json = serde_json::to_vec(response).map_err(std::io::Error::other)?;
        if zstd { self.compressor.compress(&json).map(|body| frame(&body)) } else { Ok(frame(&json)) }
    }

    /// A part of a compressed body, which may be several such parts one after the other (RFC 8878 3.1; protocol.md 2.2).
    ///
    /// # Errors
    ///
    /// The library can't get its memory.
    pub fn part(&mut self, text: &[u8]) -> std::io::Result<Bytes> {
        self.room.clear();
        self.room.reserve(zstd::zstd_safe::compress_bound(text.len()));
        self.compressor.compress_to_buffer(text, &mut self.room)?;
        Ok(Bytes::copy_from_slice(&self.room))
    }
}

/// A body with its length before it.
pub fn frame(body: &[u8]) -> Bytes {
    Bytes::from(map_frame(body))
}
