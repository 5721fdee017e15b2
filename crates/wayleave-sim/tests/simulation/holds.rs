//! What is asked of witnesses, in virtual time: about whom, how much of it, and where.

use std::time::Duration;

use wayleave_tailnet::Command;

use crate::sim::{Sim, play, play_with};

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

#[test]
fn a_router_without_ipv4_is_asked_for_where_its_witnesses_know_it() {
    play(|mut sim| async move {
        sim.tailnet(2, 3, &[P]).await;
        let text = r#"{
            "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }],
            "nodeAttrs": [{ "target": ["*"], "attr": ["disable-ipv4"] }],
        }"#;
        let policy = Command::SetPolicy { text: text.to_owned(), replaces: None, by: "cli".to_owned() };
        sim.control().command(policy).await.unwrap();
        sim.sleep(Duration::from_secs(5)).await;
        let v6 = sim.node("r1").await;
        let v6 = sim.read(move |tailnet| tailnet.registry().node(v6).unwrap().addresses.v6.unwrap().to_string()).await;
        let asked = |sim: &Sim| -> usize {
            sim.machines.iter().map(|machine| machine.shared.take_asked("TSMP", Some(&v6))).sum()
        };
        asked(&sim);
        sim.sleep(Duration::from_secs(10)).await;
        assert!(asked(&sim) >= 12, "three witnesses every 2 s");
        sim.machines[0].lose_control();
        for seconds in 1..=20 {
            sim.sleep(Duration::from_secs(1)).await;
            assert!(sim.all_see(P, "r1"), "it is not held, after {seconds} s");
        }
        assert!(asked(&sim) >= 250, "three witnesses every 200 ms");
    });
}
