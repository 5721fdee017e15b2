//! What is asked of witnesses, in virtual time: about whom, how much of it, and where.

use std::time::Duration;

use crate::sim::{Sim, play_with};

const P: &str = "10.1.0.0/16";

/// How often all clients together were asked to reach somebody, since this was last looked at.
fn asked(sim: &Sim) -> usize {
    sim.machines.iter().map(|machine| machine.shared.take_asked("TSMP", None)).sum()
}

#[test]
fn where_many_are_lost_at_once_witnesses_are_asked_within_the_budget_and_the_primary_is_held() {
    // Three questions to a wave: one router.
    let budget = 15;
    play_with(
        |options| options.evidence.probe_budget = budget,
        |mut sim| async move {
            sim.tailnet(6, 8, &[P]).await;
            assert!(sim.all_see(P, "r1"));
            asked(&sim);
            for router in (0..6).rev() {
                sim.machines[router].lose_control();
                sim.sleep(Duration::from_millis(2)).await;
            }
            for seconds in 1..=25 {
                sim.sleep(Duration::from_secs(1)).await;
                assert!(sim.all_see(P, "r1"), "it is not held, after {seconds} s");
            }
            let most = budget as usize * 26 + 3;
            let asked = asked(&sim);
            println!("{asked} questions in 25 s");
            assert!((375..=most).contains(&asked), "{asked} questions, and {most} are the budget of 26 s");
        },
    );
}
