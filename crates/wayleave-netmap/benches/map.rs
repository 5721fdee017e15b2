//! What one viewer costs: what it sees, what is told of a change, and the bytes of it, in tailnets of three sizes where everybody sees
//! everybody.

#![allow(clippy::unwrap_used, reason = "its input is its own")]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod made;

use std::collections::BTreeSet;
use std::hint::black_box;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use made::{Made, NOW, SIZES, VIEWER, made};
use wayleave_model::NodeId;
use wayleave_netmap::{Encoder, PeerCache, Pieces, delta, full, peers, told};
use wayleave_tailnet::Snapshot;
use wayleave_wire::control::MapResponse;

fn main() {
    println!("map: a tailnet of so many nodes, one in a hundred a router, accept-all; all for one viewer.");
    println!(
        "     view: `one_peer` is what a viewer is told of one router, `all_peers` of everybody (an item is a peer)."
    );
    println!("     map: a full map, `held` with every peer serialised before, `anew` with none (an item is a peer).");
    println!(
        "     pieces: the same, compressed, from pieces that others of its kind had before, and when one peer `changed` since."
    );
    println!(
        "     deltas: a failover of one prefix, `endpoints` of one peer, and other `rules`, which change nothing for it (an item"
    );
    println!("     is a peer that is looked at).");
    println!("     encode: JSON, and JSON with zstd (a byte is one of JSON).");
    println!(
        "     parse: what whoever gets it has to do, at least: zstd and JSON, into a tree of values (a byte is one of JSON)."
    );
    if std::env::args().any(|arg| arg == "--bench") {
        for nodes in SIZES {
            let made = made(nodes);
            let (whole, moved) = (made.full(), made.delta(&made.failed_over).unwrap());
            let of = |map: &MapResponse, zstd| Encoder::new().unwrap().frame(map, zstd).unwrap().len();
            println!(
                "     {nodes} nodes: a full map has {} bytes, {} with zstd; a failover {}, {} with zstd",
                of(&whole, false),
                of(&whole, true),
                of(&moved, false),
                of(&moved, true),
            );
        }
    }
    divan::main();
}

impl Made {
    fn full(&self) -> MapResponse {
        full(&self.before, &self.shared, &self.cache, VIEWER, NOW).unwrap()
    }

    fn changed(&self, next: &Snapshot) -> BTreeSet<NodeId> {
        next.changed_since(self.before.version).unwrap()
    }

    fn delta(&self, next: &Snapshot) -> Option<MapResponse> {
        let changed = self.changed(next);
        delta((&self.before, &self.shared), (next, &self.shared), &changed, &self.cache, VIEWER, NOW)
    }
}

mod view {
    use super::*;

    #[divan::bench(args = SIZES)]
    fn one_peer(bencher: Bencher<'_, '_>, nodes: u64) {
        let snapshot = &made(nodes).before;
        let (viewer, router) = (snapshot.node(VIEWER).unwrap(), snapshot.node(made::ROUTER).unwrap());
        let is_told = told(snapshot, viewer, router).unwrap();
        assert_eq!(is_told.primary.len(), 1, "the viewer is told of the router's prefix");
        bencher.bench(|| told(black_box(snapshot), viewer, router));
    }

    #[divan::bench(args = SIZES, max_time = 2)]
    fn all_peers(bencher: Bencher<'_, '_>, nodes: u64) {
        let snapshot = &made(nodes).before;
        let viewer = snapshot.node(VIEWER).unwrap();
        assert_eq!(peers(snapshot, viewer).count() as u64, nodes - 1, "everybody sees everybody");
        bencher.counter(ItemsCount::new(nodes - 1)).bench(|| peers(black_box(snapshot), viewer).count());
    }
}

mod map {
    use super::*;

    #[divan::bench(args = SIZES, max_time = 2)]
    fn held(bencher: Bencher<'_, '_>, nodes: u64) {
        let made = made(nodes);
        assert_eq!(made.full().peers.unwrap().len() as u64, nodes - 1, "everybody is on the map");
        bencher.counter(ItemsCount::new(nodes - 1)).bench(|| black_box(made).full());
    }

    #[divan::bench(args = SIZES, max_time = 2)]
    fn anew(bencher: Bencher<'_, '_>, nodes: u64) {
        let made = made(nodes);
        bencher
            .counter(ItemsCount::new(nodes - 1))
            .with_inputs(PeerCache::default)
            .bench_refs(|cache| full(&made.before, &made.shared, cache, VIEWER, NOW));
    }
}

mod pieces {
    use super::*;

    fn frame(pieces: &Pieces, made: &Made, snapshot: &Snapshot, encoder: &mut Encoder) -> usize {
        let parts = pieces.frame((snapshot, &made.shared), &made.cache, VIEWER, NOW, encoder).unwrap().unwrap();
        parts.iter().map(|part| part.len()).sum()
    }

    #[divan::bench(args = SIZES, max_time = 2)]
    fn held(bencher: Bencher<'_, '_>, nodes: u64) {
        let (made, pieces, mut encoder) = (made(nodes), Pieces::default(), Encoder::new().unwrap());
        let bytes = frame(&pieces, made, &made.before, &mut encoder);
        bencher
            .counter(BytesCount::new(bytes))
            .bench_local(|| frame(&pieces, black_box(made), &made.before, &mut encoder));
    }

    #[divan::bench(args = SIZES, max_time = 2)]
    fn one_changed(bencher: Bencher<'_, '_>, nodes: u64) {
        let (made, mut encoder) = (made(nodes), Encoder::new().unwrap());
        let mut warm = Encoder::new().unwrap();
        bencher
            .with_inputs(|| {
                let pieces = Pieces::default();
                frame(&pieces, made, &made.before, &mut warm);
                pieces
            })
            .bench_local_refs(|pieces| frame(pieces, made, &made.moved, &mut encoder));
    }
}

mod deltas {
    use super::*;

    fn to(bencher: Bencher<'_, '_>, nodes: u64, next: &Snapshot, looked_at: u64) {
        let made = made(nodes);
        let changed = made.changed(next);
        bencher.counter(ItemsCount::new(looked_at)).bench(|| {
            delta((&made.before, &made.shared), (next, &made.shared), black_box(&changed), &made.cache, VIEWER, NOW)
        });
    }

    #[divan::bench(args = SIZES)]
    fn failover(bencher: Bencher<'_, '_>, nodes: u64) {
        let next = &made(nodes).failed_over;
        let told = made(nodes).delta(next).unwrap();
        assert_eq!(told.peers_changed.len(), 2, "both routers are told in one frame");
        to(bencher, nodes, next, 2);
    }

    #[divan::bench(args = SIZES)]
    fn endpoints(bencher: Bencher<'_, '_>, nodes: u64) {
        let next = &made(nodes).moved;
        let told = made(nodes).delta(next).unwrap();
        assert_eq!(told.peers_changed_patch.len(), 1, "the new endpoint is told as a patch");
        to(bencher, nodes, next, 1);
    }

    #[divan::bench(args = SIZES, max_time = 2)]
    fn rules(bencher: Bencher<'_, '_>, nodes: u64) {
        let next = &made(nodes).ruled;
        assert!(next.policy_version > made(nodes).before.policy_version, "the rules changed");
        to(bencher, nodes, next, nodes - 1);
    }
}

mod encode {
    use super::*;

    fn frame(bencher: Bencher<'_, '_>, map: &MapResponse, zstd: bool) {
        let mut encoder = Encoder::new().unwrap();
        let bytes = encoder.frame(map, false).unwrap().len();
        bencher.counter(BytesCount::new(bytes)).bench_local(|| encoder.frame(black_box(map), zstd).unwrap());
    }

    #[divan::bench(args = SIZES, max_time = 2)]
    fn full_json(bencher: Bencher<'_, '_>, nodes: u64) {
        frame(bencher, &made(nodes).full(), false);
    }

    #[divan::bench(args = SIZES, max_time = 2)]
    fn full_zstd(bencher: Bencher<'_, '_>, nodes: u64) {
        frame(bencher, &made(nodes).full(), true);
    }

    #[divan::bench]
    fn failover_json(bencher: Bencher<'_, '_>) {
        frame(bencher, &made(SIZES[0]).delta(&made(SIZES[0]).failed_over).unwrap(), false);
    }

    #[divan::bench]
    fn failover_zstd(bencher: Bencher<'_, '_>) {
        frame(bencher, &made(SIZES[0]).delta(&made(SIZES[0]).failed_over).unwrap(), true);
    }
}

mod parse {
    use super::*;

    fn frame(bencher: Bencher<'_, '_>, map: &MapResponse) {
        // Behind its length.
        let frame = Encoder::new().unwrap().frame(map, true).unwrap();
        let json = zstd::decode_all(&frame[4..]).unwrap();
        bencher.counter(BytesCount::new(json.len())).bench_local(|| {
            let json = zstd::decode_all(black_box(&frame[4..])).unwrap();
            serde_json::from_slice::<serde_json::Value>(&json).unwrap()
        });
    }

    #[divan::bench(args = SIZES, max_time = 2)]
    fn full_zstd(bencher: Bencher<'_, '_>, nodes: u64) {
        frame(bencher, &made(nodes).full());
    }

    #[divan::bench]
    fn failover_zstd(bencher: Bencher<'_, '_>) {
        frame(bencher, &made(SIZES[0]).delta(&made(SIZES[0]).failed_over).unwrap());
    }
}
