//! What real clients live through when a router is broken in ways that its own connection does not tell.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::net::RELAY;
use super::rig::{LAN, LAN_HOST, Rig, SOON, wait_for};
use super::stories::{Story, two_routers};
use crate::say;

/// All of them.
pub const ALL: &[(&str, Story)] = &[
    ("s15_a_router_that_lost_its_lan_interface_or_address_is_replaced", lan_interface_gone),
    ("s15_a_router_whose_lan_leg_is_dead_is_replaced", lan_leg_dead),
    ("s15_a_standby_whose_lan_leg_is_dead_is_found_and_not_chosen", standby_leg_dead),
    ("s15_a_router_without_udp_and_relay_is_replaced", without_udp_and_relay),
    ("s10_a_router_without_control_keeps_its_prefix_for_thirty_seconds", without_control),
];

/// What stands against a node's route to the LAN.
pub fn convictions(rig: &Rig, node: &str) -> anyhow::Result<Vec<String>> {
    let routes = rig.json(&["routes", "list", "--node", node, "--prefix", LAN])?;
    let all = routes[0]["convictions"].as_array().into_iter().flatten();
    Ok(all.map(|conviction| conviction["cause"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Waits until exactly this stands against a node's route to the LAN.
pub fn wait_convicted(rig: &Rig, node: &str, of: &[&str]) -> anyhow::Result<()> {
    wait_for(&format!("{node} stands convicted of {of:?}"), SOON, || {
        let now = convictions(rig, node)?;
        if now == of { Ok(true) } else { anyhow::bail!("it is {now:?}") }
    })
}

/// Has the LAN's host asked for behind whoever carries the LAN, and waits until the check has passed. A check that was there is set anew,
/// which forgets what it has said.
pub fn check_lan(rig: &Rig) -> anyhow::Result<()> {
    rig.wayleave(&["routes", "check", "remove", LAN]).ok();
    rig.wayleave(&["routes", "check", "set", LAN, "--target", LAN_HOST, "--every", "2s"])?;
    wait_passed(rig)
}

fn wait_passed(rig: &Rig) -> anyhow::Result<()> {
    wait_for("the check passes", SOON, || {
        let checks = rig.json(&["routes", "check", "list"])?;
        let mut routers = checks[0]["routers"].as_array().into_iter().flatten();
        Ok(routers.any(|router| router["primary"] == true && router["passed"] == true && router["misses"] == 0))
    })
}

/// Takes the far end of a router's LAN cable, or gives it back: the carrier is lost, and its address stays.
pub fn lan_carrier(rig: &Rig, router: &str, up: bool) -> anyhow::Result<()> {
    lan_carrier_at(rig, router.trim_start_matches('r').parse()?, up)
}

/// The same, by the last number of the router's address in the LAN.
pub fn lan_carrier_at(rig: &Rig, last: u8, up: bool) -> anyhow::Result<()> {
    rig.net.inside("lan", &["ip", "link", "set", &format!("h{last}"), if up { "up" } else { "down" }]).map(drop)
}

/// Gives the relay an address of its own, before any client has started.
pub fn relay_apart(rig: &mut Rig) -> anyhow::Result<()> {
    rig.net.relay_address()?;
    rig.stop_server("TERM")?;
    rig.start_server(&[&format!("derp.host={RELAY}")])
}

/// Drops, or lets through again, the UDP of a router and all between it and the relay.
pub fn wireguard(rig: &Rig, router: &str, cut: bool) -> anyhow::Result<()> {
    let address = rig.get(router)?.underlay.clone();
    let verb = if cut { "-I" } else { "-D" };
    for (from, to) in [("-s", "-d"), ("-d", "-s")] {
        rig.net.inside("core", &["iptables", verb, "FORWARD", from, &address, "-p", "udp", "-j", "DROP"])?;
        rig.net.inside("core", &["iptables", verb, "FORWARD", from, &address, to, RELAY, "-j", "DROP"])?;
    }
    Ok(())
}

/// How often the primary of the LAN has changed so far, as history tells.
fn moves(rig: &Rig) -> anyhow::Result<usize> {
    let history = rig.json(&["routes", "history", "--prefix", LAN, "--limit", "1000"])?;
    Ok(history.as_array().into_iter().flatten().filter(|line| line["event"] == "primary changed").count())
}

fn lan_interface_gone(rig: &mut Rig) -> anyhow::Result<()> {
    two_routers(rig)?;
    let had_endpoint = |rig: &Rig, node: &str| -> anyhow::Result<bool> {
        let routes = rig.json(&["routes", "list", "--node", node, "--prefix", LAN])?;
        Ok(routes[0]["had_endpoint"] == true)
    };
    for router in ["r1", "r2"] {
        wait_for("its own address is known", SOON, || had_endpoint(rig, router))?;
    }
    let died = Instant::now();
    rig.net.inside("r1", &["ip", "link", "set", "eth1", "down"])?;
    rig.wait_routed("c", LAN, Some("r2"))?;
    let took = died.elapsed();
    say(&format!("        LAN interface down to the other router at a client: {} ms", took.as_millis()));
    ensure!(took < Duration::from_secs(2), "{took:?}; under 2 s is promised");
    wait_for("the LAN answers", SOON, || Ok(rig.pings("c", LAN_HOST)))?;
    ensure!(convictions(rig, "r1")? == ["own address gone"]);

    // The other one loses its address too: it stays where it is, and does not go back and forth.
    let before = moves(rig)?;
    rig.net.inside("r2", &["ip", "addr", "del", "192.168.77.2/24", "dev", "eth1"])?;
    sleep(Duration::from_secs(5));
    ensure!(moves(rig)? == before, "nobody is better: nothing moves");
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r2"));

    // The first that has one again takes over, without anybody's help.
    rig.net.inside("r1", &["ip", "link", "set", "eth1", "up"])?;
    rig.wait_routed("c", LAN, Some("r1"))?;
    wait_for("the LAN answers", SOON, || Ok(rig.pings("c", LAN_HOST)))?;
    wait_convicted(rig, "r2", &["own address gone"])?;
    rig.net.inside("r2", &["ip", "addr", "add", "192.168.77.2/24", "dev", "eth1"])?;
    wait_convicted(rig, "r2", &[])?;
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r1"), "it does not take it back");
    let history = rig.json(&["routes", "history", "--prefix", LAN])?;
    let because = |cause: &str| history.as_array().into_iter().flatten().any(|line| line["cause"] == cause);
    ensure!(because("incumbent suspect: own address gone") && because("own address gone"), "{history}");
    Ok(())
}

fn lan_leg_dead(rig: &mut Rig) -> anyhow::Result<()> {
    two_routers(rig)?;
    for (target, why) in [("192.168.77.2", "answers for itself"), ("192.168.78.1", "not inside the prefix")] {
        let refused = rig.wayleave(&["routes", "check", "set", LAN, "--target", target]);
        ensure!(refused.is_err_and(|error| error.to_string().contains(why)), "{target} was taken as a target");
    }
    check_lan(rig)?;
    let run = rig.json(&["routes", "check", "run", LAN])?[0].take();
    ensure!(run["outcome"] == "passed" && run["witness"]["name"] == "c", "{run}");

    // The target dies, and no router: nothing moves.
    let before = moves(rig)?;
    rig.net.inside("lan", &["ip", "addr", "del", "192.168.77.100/24", "dev", "sw0"])?;
    sleep(Duration::from_secs(10));
    let run = rig.json(&["routes", "check", "run", LAN])?[0].take();
    ensure!(run["outcome"] == "target down", "{run}");
    ensure!(moves(rig)? == before && convictions(rig, "r1")?.is_empty(), "the target is down, not the router");
    rig.net.inside("lan", &["ip", "addr", "add", "192.168.77.100/24", "dev", "sw0"])?;
    wait_passed(rig)?;

    // The carrier is lost; nobody tells but the check.
    let died = Instant::now();
    lan_carrier(rig, "r1", false)?;
    rig.wait_routed("c", LAN, Some("r2"))?;
    let took = died.elapsed();
    say(&format!("        LAN carrier lost to the other router at a client: {} ms", took.as_millis()));
    ensure!(took < Duration::from_secs(8), "{took:?}; under 8 s is promised");
    wait_for("the LAN answers", SOON, || Ok(rig.pings("c", LAN_HOST)))?;
    ensure!(convictions(rig, "r1")? == ["path check missed"]);
    wait_passed(rig)?;

    // Both legs are dead: it stays where it is.
    let before = moves(rig)?;
    lan_carrier(rig, "r2", false)?;
    sleep(Duration::from_secs(15));
    ensure!(moves(rig)? == before, "two dead ones do not flap");
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r2"));
    lan_carrier(rig, "r2", true)?;
    wait_for("the LAN answers again", SOON, || Ok(rig.pings("c", LAN_HOST)))?;
    lan_carrier(rig, "r1", true)?;
    rig.wayleave(&["routes", "check", "remove", LAN])?;
    wait_convicted(rig, "r1", &[])
}

fn standby_leg_dead(rig: &mut Rig) -> anyhow::Result<()> {
    two_routers(rig)?;
    let key = rig.key(&["--reusable"])?;
    rig.client("w")?;
    rig.up("w", &key, &["--accept-routes"])?;
    rig.wait_routed("w", LAN, Some("r1"))?;
    let host = format!("{LAN_HOST}/32");
    let has_host = |rig: &Rig, node: &str, at: &str| -> anyhow::Result<bool> {
        Ok(rig.peer(node, at)?["AllowedIPs"].as_array().is_some_and(|all| all.iter().any(|prefix| *prefix == host)))
    };
    // Nobody but the witness has the host, at any look.
    let only_w = |rig: &Rig| -> anyhow::Result<()> {
        for (node, at) in [("c", "r1"), ("c", "r2"), ("r1", "r2"), ("r2", "r1"), ("w", "r1")] {
            ensure!(!has_host(rig, node, at)?, "{node} has the host at {at}");
        }
        Ok(())
    };
    let of = |rig: &Rig, router: &str| -> anyhow::Result<serde_json::Value> {
        let checks = rig.json(&["routes", "check", "list"])?;
        let mut routers = checks[0]["routers"].as_array().cloned().unwrap_or_default().into_iter();
        Ok(routers.find(|checked| checked["node"]["name"] == router).unwrap_or_default())
    };
    let passes = |rig: &Rig, router: &str| -> anyhow::Result<bool> {
        let checked = of(rig, router)?;
        if checked["passed"] == true && checked["misses"] == 0 { Ok(true) } else { anyhow::bail!("it is {checked}") }
    };
    let set = ["routes", "check", "set", LAN, "--target", LAN_HOST, "--every", "2s", "--standby", "--witness", "w"];
    rig.wayleave(&set)?;
    for router in ["r1", "r2"] {
        wait_for(&format!("{router} passes"), SOON, || passes(rig, router))?;
    }
    ensure!(has_host(rig, "w", "r2")?, "a named witness is led all the time");
    ensure!(rig.pings("w", LAN_HOST) && rig.pings("c", LAN_HOST));
    only_w(rig)?;

    // The standby's carrier is lost: it stays online, and is found before it is needed.
    let died = Instant::now();
    lan_carrier(rig, "r2", false)?;
    wait_convicted(rig, "r2", &["path check missed"])?;
    let took = died.elapsed();
    say(&format!("        a standby's LAN carrier lost to suspect: {} ms", took.as_millis()));
    ensure!(took < Duration::from_secs(10), "{took:?}; under 10 s is promised");
    ensure!(rig.json(&["nodes", "show", "--node", "r2"])?["online"] == true, "its control is fine");
    let history = rig.json(&["routes", "history", "--prefix", LAN, "--limit", "1000"])?;
    let lost = |line: &serde_json::Value| line["event"] == "redundancy lost" && line["cause"] == "path check missed";
    ensure!(history.as_array().into_iter().flatten().any(lost), "{history}");

    // The primary's is lost too: it is not given to one that is known to be dead.
    let before = moves(rig)?;
    lan_carrier(rig, "r1", false)?;
    for _ in 0..15 {
        sleep(Duration::from_secs(1));
        only_w(rig)?;
    }
    ensure!(moves(rig)? == before, "two dead ones do not flap");
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r1"));

    // The standby is mended: it is seen to pass, and takes over.
    let mended = Instant::now();
    lan_carrier(rig, "r2", true)?;
    rig.wait_routed("c", LAN, Some("r2"))?;
    say(&format!("        a standby mended to the router at a client: {} ms", mended.elapsed().as_millis()));
    wait_for("the LAN answers", SOON, || Ok(rig.pings("c", LAN_HOST)))?;
    ensure!(convictions(rig, "r2")?.is_empty() && convictions(rig, "r1")? == ["path check missed"]);
    ensure!(moves(rig)? == before + 1);

    // So is the other: it stands by again, without having to carry the prefix for that.
    lan_carrier(rig, "r1", true)?;
    wait_convicted(rig, "r1", &[])?;
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r2"), "it does not take it back");
    for (node, at) in [("c", "r1"), ("c", "r2")] {
        ensure!(!has_host(rig, node, at)?);
    }

    // Without a name, the server leads whoever is there for a moment; nobody's traffic goes astray.
    rig.wayleave(&["routes", "check", "set", LAN, "--target", LAN_HOST, "--standby"])?;
    wait_for("the loan is over", SOON, || Ok(!has_host(rig, "w", "r1")?))?;
    let pinging = rig.start_pinging("c", LAN_HOST)?;
    sleep(Duration::from_secs(70));
    let lost = pinging.lost();
    say(&format!("        a minute with short loans: {lost} pings of a client lost"));
    ensure!(lost == 0, "{lost} pings were lost: {:?}", pinging.gaps(Duration::from_millis(90)));
    passes(rig, "r1")?;
    rig.wayleave(&["routes", "check", "remove", LAN])?;
    for node in ["c", "w"] {
        ensure!(!has_host(rig, node, "r1")? && !has_host(rig, node, "r2")?);
    }
    Ok(())
}

fn without_udp_and_relay(rig: &mut Rig) -> anyhow::Result<()> {
    relay_apart(rig)?;
    two_routers(rig)?;
    // Its witnesses have to be known before they are needed.
    sleep(Duration::from_secs(6));
    let died = Instant::now();
    wireguard(rig, "r1", true)?;
    rig.wait_routed("c", LAN, Some("r2"))?;
    say(&format!("        WireGuard dropped to the other router at a client: {} ms", died.elapsed().as_millis()));
    wait_convicted(rig, "r1", &["witnesses silent"])?;
    wait_for("the LAN answers", SOON, || Ok(rig.pings("c", LAN_HOST)))?;
    ensure!(rig.json(&["nodes", "show", "--node", "r1"])?["online"] == true, "its control is fine");
    wireguard(rig, "r1", false)?;
    wait_for("it is acquitted", Duration::from_secs(60), || Ok(convictions(rig, "r1")?.is_empty()))?;
    rig.wait_state("r1", LAN, "standby")?;
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r2"), "it does not take it back");
    Ok(())
}

fn without_control(rig: &mut Rig) -> anyhow::Result<()> {
    two_routers(rig)?;
    // The relay is cut off with the server; the question is what becomes of a path that does not need it.
    for (from, to) in [("c", "r1"), ("r1", "c"), ("r2", "r1")] {
        wait_for("the path is direct", SOON, || {
            rig.tailscale(from, &["ping", "--c=5", to])?;
            Ok(rig.peer(from, to)?["CurAddr"] != "")
        })?;
    }
    sleep(Duration::from_secs(6));
    let (router, server) = (rig.get("r1")?.underlay.clone(), rig.server_address());
    let syn = |verb: &str| -> anyhow::Result<()> {
        let rule = ["-p", "tcp", "--syn", "-s", &router, "-d", &server, "-j", "DROP"];
        rig.net.inside("core", &[&["iptables", verb, "FORWARD"], &rule[..]].concat()).map(drop)
    };
    let before = moves(rig)?;
    syn("-I")?;
    sleep(Duration::from_secs(10));
    ensure!(moves(rig)? == before, "only new TCP is blocked: nothing moves");
    syn("-D")?;

    let pinging = rig.start_pinging("c", LAN_HOST)?;
    pinging.wait_answers(10, pinging.started(), SOON)?;
    let cut = Instant::now();
    rig.net.part(&router, &server)?;
    while cut.elapsed() < Duration::from_secs(25) {
        ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r1"), "it moved {:?} after the cut", cut.elapsed());
        sleep(Duration::from_millis(500));
    }
    let lost = pinging.lost();
    say(&format!("        control cut off for 25 s: {lost} pings lost"));
    ensure!(lost == 0, "{lost} pings were lost: {:?}", pinging.gaps(Duration::from_millis(90)));
    rig.wait_routed("c", LAN, Some("r2"))?;
    let moved = cut.elapsed();
    say(&format!("        and the other router after {} ms", moved.as_millis()));
    ensure!(moved > Duration::from_secs(28) && moved < Duration::from_secs(36), "{moved:?}; 30 s are promised");
    rig.net.join(&router, &server)?;
    rig.wait_state("r1", LAN, "standby")
}
