//! Path checks where not one router carries a prefix for all, in virtual time: behind each looks somebody who goes through it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wayleave_model::{Approver, Change, Prefix, PrefixChange, Spread};
use wayleave_routes::{Cause, Rank};
use wayleave_tailnet::{Command, NewPathCheck};

use crate::sim::{Sim, play};

const P: &str = "10.1.0.0/16";
const EVERY: Duration = Duration::from_secs(2);
/// Two checks and what the second has to answer, and the way to clients.
const FOUND: Duration = Duration::from_millis(2 * 2000 + 1500 + 100);

fn prefix() -> Prefix {
    P.parse().unwrap()
}

async fn check(sim: &Sim) {
    let target = "10.1.2.3".parse().unwrap();
    let (witness, standby, by) = (None, false, Approver::Cli);
    let new = NewPathCheck { prefix: prefix(), target, every: EVERY, witness, standby, by };
    sim.control().command(Command::SetPathCheck(Box::new(new))).await.unwrap();
    sim.sleep(Duration::from_secs(10)).await;
}

/// Which clients go through which router.
fn users(sim: &Sim) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for client in sim.machines.iter().filter(|machine| machine.shared.name.starts_with('c')) {
        for router in client.shared.carriers(P) {
            all.entry(router).or_default().insert(client.shared.name.clone());
        }
    }
    all
}

async fn suspects(sim: &Sim) -> Vec<String> {
    sim.read(|tailnet| {
        let candidates = tailnet.routes().candidates(&prefix()).into_iter();
        let suspect = candidates.filter(|candidate| candidate.rank == Rank::Suspect(Cause::PathCheckMissed));
        suspect.map(|candidate| tailnet.name_of(candidate.node)).collect()
    })
    .await
}

#[test]
fn s15_of_two_routers_that_share_their_clients_the_one_whose_leg_is_dead_loses_its_own() {
    play(|mut sim| async move {
        sim.tailnet(2, 8, &[P]).await;
        let change = PrefixChange { spread: Change::Set(Spread::Balance), ..PrefixChange::default() };
        let set = Command::SetPrefix { prefix: Some(prefix()), change, by: Approver::Cli };
        sim.control().command(set).await.unwrap();
        check(&sim).await;
        let before = users(&sim);
        assert_eq!(before.keys().collect::<Vec<_>>(), ["r1", "r2"], "both are used: {before:?}");
        // Each in turn, the primary and the other; only the one that is broken is found, however many go through it.
        for (at, broken, other) in [(1, "r2", "r1"), (0, "r1", "r2")] {
            sim.machines[at].leg(false);
            let took = sim.until("its clients use the other", FOUND, |sim| sim.all_see(P, other)).await;
            println!("{broken}'s leg is dead: its clients use {other} after {took:?}");
            assert_eq!(suspects(&sim).await, [broken]);
            sim.sleep(Duration::from_secs(30)).await;
            assert_eq!(suspects(&sim).await, [broken], "the other is well");
            // Forgets what was said, as a person does who has mended it.
            sim.control().command(Command::RemovePathCheck { prefix: prefix(), by: Approver::Cli }).await.unwrap();
            sim.machines[at].leg(true);
            sim.until("it is used again", Duration::from_secs(70), |sim| users(sim) == before).await;
            check(&sim).await;
        }
        // What both are asked for is down: that is neither's fault.
        sim.ground.hosts(false);
        for _ in 0..300 {
            sim.sleep(Duration::from_millis(100)).await;
            assert_eq!(suspects(&sim).await, Vec::<String>::new());
        }
        assert_eq!(users(&sim), before);
    });
}

#[test]
fn s15_a_router_that_a_group_is_steered_through_is_looked_behind_by_that_group() {
    play(|mut sim| async move {
        sim.tailnet(3, 2, &[P]).await;
        for (name, tag) in [("r1", "tag:one"), ("r2", "tag:two"), ("r3", "tag:two"), ("c1", "tag:a"), ("c2", "tag:b")] {
            let tag = Command::TagNode { node: sim.node(name).await, tags: [tag.parse().unwrap()].into() };
            sim.control().command(tag).await.unwrap();
        }
        let text = r#"{
            "tagOwners": { "tag:one": [], "tag:two": [], "tag:a": [], "tag:b": [] },
            "acls": [{ "action": "accept", "src": ["tag:one", "tag:two", "tag:a", "tag:b"], "dst": ["tag:one:*", "tag:two:*", "tag:a:*", "tag:b:*"] }],
            "grants": [
                { "src": ["tag:a"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:one"] },
                { "src": ["tag:b"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:two"] },
            ],
        }"#;
        let policy = Command::SetPolicy { text: text.to_owned(), replaces: None, by: "cli".to_owned() };
        sim.control().command(policy).await.unwrap();
        check(&sim).await;
        let names = |of: &[(&str, &str)]| -> BTreeMap<String, BTreeSet<String>> {
            of.iter().map(|(router, client)| ((*router).to_owned(), [(*client).to_owned()].into())).collect()
        };
        assert_eq!(users(&sim), names(&[("r1", "c1"), ("r2", "c2")]));
        // Nobody goes to the prefix through the tailnet's own election, and it is not the primary's leg that dies.
        sim.machines[1].leg(false);
        let moved = names(&[("r1", "c1"), ("r3", "c2")]);
        let took = sim.until("the group uses its other router", FOUND, |sim| users(sim) == moved).await;
        println!("a group's router has a dead leg: its clients use another after {took:?}");
        assert_eq!(suspects(&sim).await, ["r2"]);
        sim.sleep(Duration::from_secs(30)).await;
        assert_eq!((users(&sim), suspects(&sim).await), (moved, vec!["r2".to_owned()]), "the others are well");
    });
}

#[test]
fn s15_routers_that_are_not_reached_for_a_while_are_not_taken_for_routers_with_dead_legs() {
    play(|mut sim| async move {
        sim.tailnet(2, 4, &[P]).await;
        check(&sim).await;
        // Its control is fine and its tunnels are not: witnesses find that, and it is over when they reach it again.
        sim.machines[0].block_data();
        sim.until("the other has the prefix", Duration::from_secs(20), |sim| sim.all_see(P, "r2")).await;
        assert_eq!(suspects(&sim).await, Vec::<String>::new());
        sim.machines[0].pass_data();
        sim.sleep(Duration::from_secs(40)).await;
        assert_eq!(suspects(&sim).await, Vec::<String>::new());
        // Both lose their power, and the one that stood by is back first.
        sim.machines[1].kill();
        sim.machines[0].kill();
        sim.sleep(Duration::from_secs(20)).await;
        sim.machines[0].run();
        sim.until("it takes the prefix", Duration::from_secs(40), |sim| sim.all_see(P, "r1")).await;
        sim.machines[1].run();
        sim.sleep(Duration::from_secs(40)).await;
        assert_eq!(suspects(&sim).await, Vec::<String>::new());
        // One whose leg is dead indeed stays suspect, also over a restart.
        sim.machines[0].leg(false);
        sim.until("the other has the prefix", FOUND, |sim| sim.all_see(P, "r2")).await;
        sim.restart().await;
        sim.sleep(Duration::from_secs(60)).await;
        assert_eq!(suspects(&sim).await, ["r1"]);
        sim.machines[0].leg(true);
    });
}
