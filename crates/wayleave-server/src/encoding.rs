//! Frames, by one compressor for each thread: it holds up to half a megabyte (crates.md 8).

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use wayleave_model::{NodeId, Timestamp};
use wayleave_netmap::{Encoder, Shared};
use wayleave_tailnet::Snapshot;
use wayleave_wire::control::MapResponse;

use crate::app::App;

thread_local! {
    static ENCODER: RefCell<Option<Encoder>> = const { RefCell::new(None) };
}

/// The frame that tells a client this. `None`: there is no memory for it.
pub(crate) fn frame(map: &MapResponse, zstd: bool) -> Option<Bytes> {
    encoded(|encoder| encoder.frame(map, zstd))
}

/// The frame with a viewer's full map, as parts that are to be sent one after the other. `None`: the viewer is not in this picture, or there
/// is no memory for it.
pub(crate) fn full(
    app: &App,
    (snapshot, shared): (&Snapshot, &Shared),
    viewer: NodeId,
    now: Timestamp,
    zstd: bool,
) -> Option<Vec<Bytes>> {
    if zstd {
        let pieces = |encoder: &mut Encoder| app.pieces.frame((snapshot, shared), &app.cache, viewer, now, encoder);
        if let Some(parts) = encoded(pieces)? {
            return Some(parts);
        }
    }
    let map = wayleave_netmap::full(snapshot, shared, &app.cache, viewer, now)?;
    frame(&map, zstd).map(|frame| vec![frame])
}

fn encoded<T>(what: impl FnOnce(&mut Encoder) -> io::Result<T>) -> Option<T> {
    ENCODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Encoder::new().ok();
        }
        what(slot.as_mut()?).inspect_err(|error| tracing::error!(%error, "a map could not be encoded")).ok()
    })
}
