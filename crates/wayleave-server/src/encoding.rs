//! Frames, by one compressor for each thread: it holds up to half a megabyte (crates.md 8).

use std::cell::RefCell;

use bytes::Bytes;
use wayleave_netmap::Encoder;
use wayleave_wire::control::MapResponse;

thread_local! {
    static ENCODER: RefCell<Option<Encoder>> = const { RefCell::new(None) };
}

/// The frame that tells a client this. `None`: there is no memory for it.
pub(crate) fn frame(map: &MapResponse, zstd: bool) -> Option<Bytes> {
    ENCODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Encoder::new().ok();
        }
        slot.as_mut()?.frame(map, zstd).inspect_err(|error| tracing::error!(%error, "a map could not be encoded")).ok()
    })
}
