//! The server's own way to the others breaks, in virtual time: nothing is closed, and nobody is heard.

use std::time::Duration;

use wayleave_model::{NodeId, Prefix};

use crate::sim::{Sim, play};

const P: &str = "10.1.0.0/16";

async fn primary(sim: &Sim) -> Option<NodeId> {
    let prefix: Prefix = P.parse().unwrap();
    sim.read(move |tailnet| tailnet.routes().seat(&prefix).map(|seat| seat.node)).await
}

/// Who was ever lost, as far as that is held against it.
async fn losses(sim: &Sim) -> Vec<String> {
    sim.read(|tailnet| {
        let nodes = tailnet.registry().nodes().map(|node| node.id);
        let flaps = nodes.filter_map(|node| tailnet.routes().flaps(node));
        let lost = flaps.filter(|flaps| !flaps.downs.is_empty() || !flaps.losses.is_empty());
        lost.map(|flaps| tailnet.name_of(flaps.node)).collect()
    })
    .await
}

#[test]
fn a_server_whose_uplink_breaks_for_some_seconds_moves_nothing_and_holds_it_against_nobody() {
    play(|mut sim| async move {
        sim.tailnet(10, 2, &[P]).await;
        // The start itself is over.
        sim.sleep(Duration::from_secs(30)).await;
        let before = primary(&sim).await;
        for seconds in [4, 3, 8, 20] {
            sim.machines.iter().for_each(|machine| machine.cut_control());
            for _ in 0..seconds * 10 {
                sim.sleep(Duration::from_millis(100)).await;
                assert_eq!(primary(&sim).await, before, "while it is broken for {seconds} s");
            }
            sim.machines.iter().for_each(|machine| machine.mend_control());
            for _ in 0..900 {
                sim.sleep(Duration::from_millis(100)).await;
                assert_eq!(primary(&sim).await, before, "after it was broken for {seconds} s");
            }
            assert_eq!(losses(&sim).await, Vec::<String>::new(), "broken for {seconds} s");
        }
        assert!(sim.all_see(P, "r1"));
        // Nothing is left of it: who is lost alone is found as fast as ever.
        sim.machines[0].pull();
        sim.until("another takes over", Duration::from_millis(3200), |sim| sim.all_see(P, "r2")).await;
    });
}

#[test]
fn so_many_as_are_less_than_half_of_all_routers_fall_silent_by_themselves() {
    play(|mut sim| async move {
        sim.tailnet(17, 2, &[P]).await;
        sim.sleep(Duration::from_secs(30)).await;
        sim.machines.iter().take(8).for_each(|machine| machine.pull());
        sim.until("the first of the others takes over", Duration::from_millis(4300), |sim| sim.all_see(P, "r9")).await;
        assert_eq!(losses(&sim).await.len(), 8);
    });
}
