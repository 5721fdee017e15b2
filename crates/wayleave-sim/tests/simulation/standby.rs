//! The standby's check, in virtual time.

use std::time::Duration;

use wayleave_model::{Approver, NodeId, Prefix, WitnessChoice};
use wayleave_routes::{Cause, Rank};
use wayleave_tailnet::{Command, NewPathCheck};

use crate::sim::{Sim, play};

const P: &str = "10.1.0.0/16";
const HOST: &str = "10.1.2.3/32";
const EVERY: Duration = Duration::from_secs(2);
/// Two checks, what the second has to answer, and the primary's after it.
const FOUND: Duration = Duration::from_millis(2 * 2000 + 1500 + 2000 + 500);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn prefix() -> Prefix {
    P.parse().unwrap()
}

/// Two routers and three clients, of which a person may name the first, and a check that looks at standbys.
async fn checked(sim: &mut Sim, named: bool) {
    sim.tailnet(2, 3, &[P]).await;
    let witness = if named { Some(WitnessChoice::Node(sim.node("c1").await)) } else { None };
    let target = "10.1.2.3".parse().unwrap();
    let new = NewPathCheck { prefix: prefix(), target, every: EVERY, witness, standby: true, by: Approver::Cli };
    sim.control().command(Command::SetPathCheck(Box::new(new))).await.unwrap();
}

/// Whether a router was ever found out about, and passed.
async fn passed(sim: &Sim, router: &str) -> Option<bool> {
    let node = sim.node(router).await;
    sim.read(move |tailnet| {
        let record = tailnet.routes().path_record(node, &prefix());
        record.at.map(|_| record.passed)
    })
    .await
}

async fn rank(sim: &Sim, router: &str) -> Rank {
    let node: NodeId = sim.node(router).await;
    sim.read(move |tailnet| tailnet.routes().rank_for(node, &prefix())).await.unwrap()
}

/// Waits until a router is suspect, or is not any more, and says how long that took.
async fn until_suspect(sim: &Sim, router: &str, is: bool, within: Duration) -> Duration {
    let began = sim.elapsed();
    while (rank(sim, router).await == Rank::Suspect(Cause::PathCheckMissed)) != is {
        assert!(sim.elapsed() - began <= within, "{router} suspect: {is} was not so within {within:?}");
        sim.sleep(Duration::from_millis(10)).await;
    }
    println!("{router} suspect: {is} after {:?}", sim.elapsed() - began);
    sim.elapsed() - began
}

/// Who has the host on its map now.
fn borrowers(sim: &Sim) -> Vec<String> {
    let has = sim.machines.iter().filter(|machine| !machine.shared.carriers(HOST).is_empty());
    has.map(|machine| machine.shared.name.clone()).collect()
}

fn was_ever_told(sim: &Sim, machine: &str) -> bool {
    let mut all = sim.machines.iter().filter(|other| other.shared.name == machine);
    all.any(|machine| !machine.shared.mirror.lock().unwrap().hosts.is_empty())
}

#[test]
fn s15_a_standby_whose_leg_dies_is_found_while_it_stands_by_and_not_chosen() {
    play(|mut sim| async move {
        checked(&mut sim, true).await;
        sim.sleep(secs(10)).await;
        assert_eq!(borrowers(&sim), ["c1"]);
        assert_eq!((passed(&sim, "r1").await, passed(&sim, "r2").await), (Some(true), Some(true)));
        sim.machines[1].leg(false);
        until_suspect(&sim, "r2", true, FOUND).await;
        // The primary's leg dies too: the other one is known to be no better.
        sim.machines[0].leg(false);
        let end = sim.elapsed() + secs(30);
        while sim.elapsed() < end {
            assert!(sim.all_see(P, "r1"), "two dead ones do not flap");
            sim.sleep(Duration::from_millis(50)).await;
        }
        // The standby's is mended: it takes over, without anybody's help.
        sim.machines[1].leg(true);
        let took = sim.until("all see r2", EVERY + secs(1), |sim| sim.all_see(P, "r2")).await;
        println!("mended, and seen by all {took:?} later");
        assert_eq!(rank(&sim, "r1").await, Rank::Suspect(Cause::PathCheckMissed));
        // And so is the other one's, which need not carry the prefix to be believed.
        sim.machines[0].leg(true);
        until_suspect(&sim, "r1", false, EVERY + secs(4)).await;
        assert!(sim.all_see(P, "r2"), "it does not take it back");
        sim.nobody_saw_double();
        for other in ["c2", "c3", "r1", "r2"] {
            assert!(!was_ever_told(&sim, other), "{other} was told of what was lent to c1");
        }
    });
}

#[test]
fn a_witness_that_nobody_named_is_led_for_two_seconds_a_minute_at_most() {
    play(|mut sim| async move {
        checked(&mut sim, false).await;
        let step = Duration::from_millis(10);
        let mut lent_at = Vec::new();
        let end = sim.elapsed() + secs(190);
        while sim.elapsed() < end {
            let borrowers = borrowers(&sim);
            assert!(borrowers.len() <= 1, "{borrowers:?}");
            if !borrowers.is_empty() {
                lent_at.push(sim.elapsed());
            }
            sim.sleep(step).await;
        }
        assert_eq!((passed(&sim, "r2").await, rank(&sim, "r2").await), (Some(true), Rank::Steady));
        let loans = 1 + lent_at.windows(2).filter(|pair| pair[1] - pair[0] > secs(1)).count();
        assert!((3..=4).contains(&loans), "{loans} loans in 190 s");
        for began in &lent_at {
            let minute = lent_at.iter().filter(|at| (*began..*began + secs(60)).contains(*at)).count();
            assert!(step * u32::try_from(minute).unwrap() <= secs(2), "{minute} looks in the minute from {began:?}");
        }
        // Its leg dies: two loans find it, and one more that it is mended.
        sim.machines[1].leg(false);
        until_suspect(&sim, "r2", true, secs(2 * 60 + 6)).await;
        sim.machines[1].leg(true);
        until_suspect(&sim, "r2", false, secs(60 + 6)).await;
        assert!(sim.all_see(P, "r1"));
        sim.nobody_saw_double();
    });
}

#[test]
fn s15_a_target_that_dies_is_known_to_be_dead_behind_both_and_nothing_moves() {
    play(|mut sim| async move {
        checked(&mut sim, true).await;
        sim.sleep(secs(10)).await;
        for is_there in [false, true, false, true] {
            sim.ground.hosts(is_there);
            let end = sim.elapsed() + secs(20);
            while sim.elapsed() < end {
                for router in ["r1", "r2"] {
                    assert_eq!(rank(&sim, router).await, Rank::Steady, "{router}");
                }
                sim.sleep(Duration::from_millis(50)).await;
            }
        }
        assert!(sim.all_see(P, "r1"));
    });
}

#[test]
fn while_the_target_is_down_nothing_is_lent_to_a_witness_that_nobody_named() {
    play(|mut sim| async move {
        checked(&mut sim, false).await;
        sim.sleep(secs(20)).await;
        assert_eq!(passed(&sim, "r2").await, Some(true));
        sim.ground.hosts(false);
        sim.sleep(secs(5)).await;
        let end = sim.elapsed() + secs(150);
        while sim.elapsed() < end {
            assert_eq!(borrowers(&sim), [""; 0], "whoever is primary has missed its check");
            sim.sleep(Duration::from_millis(20)).await;
        }
        // The other one was tried, once, since nobody knew that it is no better.
        assert!(sim.all_see(P, "r2"));
        sim.ground.hosts(true);
        until_suspect(&sim, "r1", false, secs(66)).await;
        assert!(sim.all_see(P, "r2") && rank(&sim, "r2").await == Rank::Steady);
    });
}

#[test]
fn a_standby_that_accepts_routes_is_not_looked_behind() {
    play(|mut sim| async move {
        sim.tailnet(2, 3, &[P]).await;
        sim.machines[1].accept_routes();
        let witness = Some(WitnessChoice::Node(sim.node("c1").await));
        let target = "10.1.2.3".parse().unwrap();
        let new = NewPathCheck { prefix: prefix(), target, every: EVERY, witness, standby: true, by: Approver::Cli };
        sim.control().command(Command::SetPathCheck(Box::new(new))).await.unwrap();
        sim.sleep(secs(90)).await;
        assert_eq!((passed(&sim, "r1").await, passed(&sim, "r2").await), (Some(true), None));
        for machine in ["c1", "c2", "c3", "r1", "r2"] {
            assert!(!was_ever_told(&sim, machine), "{machine}");
        }
    });
}
