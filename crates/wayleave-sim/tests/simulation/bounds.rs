//! The times of design.md 4, in virtual time.

use std::net::Ipv6Addr;
use std::time::Duration;

use http::Method;
use serde_json::json;
use wayleave_model::Approver;
use wayleave_tailnet::{Command, NewPathCheck, Tailnet};

use crate::sim::{Sim, play, play_with};

const P: &str = "10.1.0.0/16";
/// What it takes besides: the way to the server, the way to the viewers, and timers that count whole milliseconds.
const WAYS: Duration = Duration::from_millis(30);
/// PINGs go out each second, and an unanswered one is looked at every 100 ms.
const PING: Duration = Duration::from_millis(1100);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two routers and three clients; all see the first.
async fn two_routers(sim: &mut Sim) {
    sim.tailnet(2, 3, &[P]).await;
    assert!(sim.all_see(P, "r1"));
}

async fn moves(sim: &Sim, to: &str, at_least: Duration, at_most: Duration) {
    let took = sim.until(&format!("all see {to}"), at_most, |sim| sim.all_see(P, to)).await;
    assert!(took >= at_least, "after {took:?}, which is less than {at_least:?}");
    sim.nobody_saw_double();
    println!("seen by all {took:?} later");
}

/// What everybody sees stays so for a while, looked at every 10 ms.
async fn stays(sim: &Sim, on: &str, for_: Duration) {
    let end = sim.elapsed() + for_;
    while sim.elapsed() < end {
        assert!(sim.all_see(P, on), "it moved, at {:?} of {end:?}", sim.elapsed());
        sim.sleep(ms(10)).await;
    }
    sim.nobody_saw_double();
}

#[test]
fn a_killed_router_costs_half_a_second() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        sim.machines[0].kill();
        moves(&sim, "r2", ms(500), ms(500) + WAYS).await;
    });
}

#[test]
fn s12_a_router_whose_cable_is_pulled_is_found_in_two_seconds_and_a_ping() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        sim.machines[0].pull();
        moves(&sim, "r2", secs(2), secs(2) + PING + WAYS).await;
    });
}

#[test]
fn a_frozen_router_is_found_although_its_kernel_acknowledges() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        sim.machines[0].freeze();
        moves(&sim, "r2", secs(2), secs(2) + PING + WAYS).await;
        // An answer later is recovery, without a new session; the prefix stays where it is.
        sim.machines[0].thaw();
        stays(&sim, "r2", secs(20)).await;
    });
}

#[test]
fn a_router_that_ends_its_stream_and_keeps_its_connection_costs_half_a_second() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        // As `tailscale down` does: it takes nothing from the tailnet any more either.
        sim.machines[0].end_stream();
        sim.machines[0].block_data();
        moves(&sim, "r2", ms(500), ms(500) + WAYS).await;
    });
}

#[test]
fn a_router_whose_process_hangs_behind_pings_that_are_answered_is_found_by_two_echoes() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        sim.machines[0].hang();
        // One every 5 s, and each has 4.75 s; two in a row.
        moves(&sim, "r2", ms(5000 + 4750), ms(2 * 5000 + 4750) + WAYS).await;
    });
}

#[test]
fn s15_a_router_that_has_no_address_inside_its_prefix_any_more_is_replaced_at_once() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        for (at, own) in [(0, "10.1.0.11:41641"), (1, "10.1.0.12:41641")] {
            sim.machines[at].endpoints(&["192.0.2.200:41641", own]);
        }
        stays(&sim, "r1", secs(5)).await;
        sim.machines[0].endpoints(&["192.0.2.200:41641"]);
        moves(&sim, "r2", ms(0), WAYS).await;
        // Its cable is back; that moves nothing.
        sim.machines[0].endpoints(&["192.0.2.200:41641", "10.1.0.11:41641"]);
        stays(&sim, "r2", secs(20)).await;
        // Where neither has one nobody moves: an empty list says nothing.
        sim.machines[1].endpoints(&[]);
        stays(&sim, "r2", secs(20)).await;
    });
}

#[test]
fn s15_a_router_whose_leg_is_dead_is_found_by_two_checks() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        let (prefix, target) = (P.parse().unwrap(), "10.1.2.3".parse().unwrap());
        let by = Approver::Cli;
        let new = NewPathCheck { prefix, target, every: secs(2), witness: None, standby: false, by };
        sim.control().command(Command::SetPathCheck(Box::new(new))).await.unwrap();
        sim.sleep(secs(10)).await;
        sim.machines[0].leg(false);
        // One every 2 s, and each has 1.5 s; two in a row.
        moves(&sim, "r2", ms(2000 + 1500), ms(2 * 2000 + 1500) + WAYS).await;
        // The target itself is down: nobody is any better.
        sim.machines[0].leg(true);
        sim.sleep(secs(30)).await;
        sim.ground.hosts(false);
        stays(&sim, "r2", secs(30)).await;
    });
}

#[test]
fn s10_control_alone_is_cut_and_witnesses_hold_the_router_for_30_s() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        sim.machines[0].cut_control();
        stays(&sim, "r1", secs(29)).await;
        moves(&sim, "r2", secs(0), secs(5)).await;
    });
}

#[test]
fn s15_wireguard_alone_is_dead_and_two_rounds_of_witnesses_find_it() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        sim.machines[0].block_data();
        // A round every 2 s, over 1.5 s after it began; two in a row.
        moves(&sim, "r2", ms(3500), ms(5500) + WAYS).await;
    });
}

#[test]
fn s30_the_server_stands_still_for_3_s_and_convicts_nobody() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        for _ in 0..5 {
            sim.sleep(ms(730)).await;
            // Nothing runs meanwhile, neither here nor there.
            tokio::time::advance(secs(3)).await;
            stays(&sim, "r1", secs(6)).await;
        }
    });
}

#[test]
fn the_systems_clock_is_set_by_hours_and_nobody_is_judged_by_it() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        for skew in [7200, -7200, 3] {
            sim.skew(skew);
            stays(&sim, "r1", secs(10)).await;
        }
        sim.skew(-7200);
        sim.machines[0].kill();
        // The server's clock goes at most a sixteenth slower until it has caught up.
        moves(&sim, "r2", ms(460), ms(540) + WAYS).await;
    });
}

#[test]
fn most_sessions_lost_at_once_are_the_servers_side_and_the_primary_stays_for_30_s() {
    play(|mut sim| async move {
        sim.tailnet(4, 8, &[P]).await;
        assert!(sim.all_see(P, "r1"));
        for machine in &sim.machines {
            machine.lose_control();
        }
        sim.sleep(secs(5)).await;
        // All but the primary come back. Otherwise the next router would have it at once.
        for machine in &sim.machines[1..] {
            machine.mend_control();
        }
        sim.until("they are back", secs(5), |sim| sim.machines[1..].iter().all(|m| m.shared.is_connected())).await;
        stays(&sim, "r1", secs(18)).await;
        moves(&sim, "r2", ms(0), secs(8)).await;
    });
}

#[test]
fn half_of_the_tailnet_is_cut_off_from_the_server_and_learns_all_when_it_is_back() {
    play(|mut sim| async move {
        sim.tailnet(2, 6, &[P]).await;
        // r1 and c1 to c3 are on the other side, for control and for data.
        let lost = [0, 2, 3, 4];
        lost.into_iter().for_each(|at| sim.machines[at].cut_control());
        sim.ground.part(&["r1", "c1", "c2", "c3"], &["r2", "c4", "c5", "c6"]);
        let on = |sim: &Sim, of: &[usize], router: &str| {
            of.iter().all(|at| sim.machines[*at].shared.carriers(P) == [router])
        };
        let took = sim.until("this side has r2", secs(2) + PING + WAYS, |sim| on(sim, &[5, 6, 7], "r2")).await;
        assert!(took >= secs(2), "after {took:?}");
        sim.sleep(secs(10)).await;
        assert!(on(&sim, &[2, 3, 4], "r1"), "the other side keeps what it has, and uses it");
        sim.approve("r2", &["10.9.0.0/16"]).await;
        lost.into_iter().for_each(|at| sim.machines[at].mend_control());
        sim.ground.join();
        moves(&sim, "r2", ms(0), secs(30)).await;
        stays(&sim, "r2", secs(20)).await;
        assert!(sim.machines.iter().all(|machine| machine.shared.is_connected()));
    });
}

#[test]
fn control_of_half_of_the_tailnet_is_cut_and_the_witnesses_on_this_side_hold_the_router() {
    play(|mut sim| async move {
        sim.tailnet(2, 6, &[P]).await;
        let lost = [0, 2, 3, 4];
        lost.into_iter().for_each(|at| sim.machines[at].cut_control());
        stays(&sim, "r1", secs(14)).await;
        lost.into_iter().for_each(|at| sim.machines[at].mend_control());
        stays(&sim, "r1", secs(40)).await;
    });
}

#[test]
fn a_partition_between_clients_convicts_a_router_only_where_most_witnesses_are_on_the_other_side() {
    play(|mut sim| async move {
        sim.tailnet(2, 3, &[P]).await;
        sim.ground.part(&["c1"], &["r1"]);
        stays(&sim, "r1", secs(30)).await;
        sim.ground.part(&["c2"], &["r1"]);
        moves(&sim, "r2", ms(3500), ms(5500) + WAYS).await;
        sim.ground.join();
        stays(&sim, "r2", secs(30)).await;
    });
}

#[test]
fn the_server_stands_still_while_witnesses_hold_a_router_and_holds_it_on() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        sim.machines[0].cut_control();
        sim.sleep(secs(5)).await;
        tokio::time::advance(secs(3)).await;
        stays(&sim, "r1", secs(5)).await;
        sim.machines[0].mend_control();
        stays(&sim, "r1", secs(30)).await;
    });
}

#[test]
fn the_server_stands_still_until_shortly_before_a_hold_runs_out_and_holds_it_on() {
    for still in (300..1000).step_by(50) {
        play(move |mut sim| async move {
            two_routers(&mut sim).await;
            sim.machines[0].cut_control();
            sim.sleep(secs(4)).await;
            for _ in 0..8 {
                tokio::time::advance(ms(still)).await;
                stays(&sim, "r1", ms(470)).await;
            }
            sim.machines[0].mend_control();
            stays(&sim, "r1", secs(10)).await;
        });
    }
}

#[test]
fn a_slow_reader_costs_only_itself() {
    play(|mut sim| async move {
        sim.tailnet(2, 4, &[P]).await;
        let slow = sim.machines[5].shared.host;
        sim.ground.network.change(slow, |link| link.speed = Some(400));
        sim.machines[0].kill();
        sim.until("the others see r2", ms(500) + WAYS, |sim| {
            sim.machines[2..5].iter().all(|client| client.shared.carriers(P) == ["r2"])
        })
        .await;
        moves(&sim, "r2", ms(0), secs(20)).await;
    });
}

/// Its kernel takes something every few seconds, so that it is never stuck; but what it is told takes longer than it may.
#[test]
fn a_reader_that_takes_a_little_all_the_time_is_cut_off() {
    let stuck = secs(20);
    play_with(
        |options| options.limits.stuck = stuck,
        |mut sim| async move {
            two_routers(&mut sim).await;
            let (slow, mut map) = sim.visitor("192.0.2.77", "slow").await;
            tokio::spawn(async move { while let Ok(Some(_)) = map.next().await {} });
            let mut talkers = Vec::new();
            for number in 100..130 {
                talkers.push(sim.visitor(&format!("192.0.2.{number}"), &format!("t{number}")).await);
            }
            let open = async |sim: &Sim| sim.read(Tailnet::open_sessions).await;
            let before = open(&sim).await;
            sim.ground.network.change("192.0.2.77".parse().unwrap(), |link| link.speed = Some(1000));
            let began = sim.elapsed();
            while open(&sim).await == before {
                assert!(sim.elapsed() < began + stuck * 3, "it is not cut off");
                // Two kilobytes of each, in one frame.
                for (talker, _) in &talkers {
                    let address = |_| format!("[{}]:41641", Ipv6Addr::from(rand::random::<u128>() | 1 << 125));
                    let endpoints: Vec<String> = (0..64).map(address).collect();
                    let report = json!({
                        "Version": 142, "NodeKey": talker.node_key(), "OmitPeers": true, "Endpoints": endpoints,
                        "EndpointTypes": vec![1; 64],
                    });
                    let done = talker.ask(Method::POST, "/machine/map", report.to_string().into_bytes()).await;
                    assert!(done.unwrap().0.is_success());
                }
                sim.sleep(secs(1)).await;
            }
            drop(slow);
            assert!(sim.elapsed() >= began + stuck, "it had its time");
            stays(&sim, "r1", secs(5)).await;
        },
    );
}

#[test]
fn s14_the_server_starts_again_and_no_primary_moves() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        sim.restart().await;
        sim.until("they are back", secs(5), |sim| sim.machines.iter().all(|m| m.shared.is_connected())).await;
        stays(&sim, "r1", secs(40)).await;
        // Killed while it was asked for something: what was acknowledged is there.
        sim.approve("r1", &["10.9.0.0/16"]).await;
        sim.kill_and_start().await;
        sim.until("they are back", secs(5), |sim| sim.machines.iter().all(|m| m.shared.is_connected())).await;
        let row = sim.read(|tailnet| {
            let prefix = "10.9.0.0/16".parse().unwrap();
            tailnet.routes().rows().any(|row| row.prefix == prefix && row.enabled)
        });
        assert!(row.await, "an approval that was acknowledged survives");
        stays(&sim, "r1", secs(40)).await;
    });
}

#[test]
fn s14_a_router_that_loses_control_just_after_a_start_is_held_by_witnesses_that_came_back_with_it() {
    for after in [0, 300, 1500, 4000] {
        play(move |mut sim| async move {
            two_routers(&mut sim).await;
            sim.kill_and_start().await;
            sim.until("they are back", secs(5), |sim| sim.machines.iter().all(|m| m.shared.is_connected())).await;
            sim.sleep(ms(after)).await;
            sim.machines[0].lose_control();
            stays(&sim, "r1", secs(25)).await;
            sim.machines[0].mend_control();
            stays(&sim, "r1", secs(10)).await;
        });
    }
}

#[test]
fn s14_a_primary_that_died_with_the_server_costs_30_s_at_most() {
    play(|mut sim| async move {
        two_routers(&mut sim).await;
        sim.machines[0].kill();
        sim.kill_and_start().await;
        sim.until("they are back", secs(5), |sim| sim.machines[1..].iter().all(|m| m.shared.is_connected())).await;
        moves(&sim, "r2", secs(0), secs(31)).await;
    });
}

#[test]
fn a_hundred_approvals_and_a_storm_of_flaps_end_in_what_a_fresh_map_says() {
    play(|mut sim| async move {
        sim.tailnet(6, 3, &[P]).await;
        let prefixes: Vec<String> = (0..100).map(|n| format!("10.2.{n}.0/24")).collect();
        let all: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        for prefix in &all {
            sim.approve("r3", &[prefix]).await;
        }
        for _ in 0..5 {
            for at in 0..5 {
                sim.machines[at].kill();
                sim.sleep(ms(40)).await;
                sim.machines[at].run();
            }
            sim.sleep(ms(200)).await;
        }
        sim.sleep(secs(10)).await;
        let on = sim.machines[6].shared.carriers(P);
        assert_eq!(on.len(), 1, "it is on one: {on:?}");
        assert!(sim.all_see(P, &on[0]), "and all see the same");
        sim.nobody_saw_double();
    });
}
