//! Planned moves: a router is taken out of service, switched off, put back, and takes its prefix again. No client may lose a ping.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{tailnet_address, two_routers};
use crate::e2e::gaps::Pinging;
use crate::e2e::rig::{LAN, LAN_HOST, Rig, SOON, wait_for};
use crate::say;

/// What a client that pings every 50 ms went without.
struct Seen {
    lost: u64,
    longest: Duration,
    /// How long after the person's word the last answer before each loss came.
    lost_after: Vec<Duration>,
}

/// A client binds its sockets anew about a second after its interface got its addresses, and may lose what is on its way then.
const SETTLED: usize = 60;

/// A client whose WireGuard handshake with a router was lost, as one that reached out to it when it was just dead, tries again after five
/// seconds; a prefix that is back before that waits for it.
const STEADY: Duration = Duration::from_secs(6);

/// Drain and failback, each as often as ways of dying are measured.
pub fn drain_and_failback(rig: &mut Rig) -> anyhow::Result<()> {
    two_routers(rig)?;
    rig.wayleave(&["routes", "prefer", "--node", "r1", LAN, "--priority", "10"])?;
    rig.wayleave(&["routes", "set", LAN, "--failback-after", &format!("{}s", STEADY.as_secs())])?;
    rig.start_pinging("c", LAN_HOST)?.wait_answers(SETTLED, Instant::now(), SOON)?;
    let mut lost = 0;
    for _ in 0..rig.runs {
        lost += there_and_back(rig)?;
    }
    // The answer to a ping that is on its way when the client takes the other peer comes from one whose address it is not any more, and
    // WireGuard refuses it: one in as many moves as round trips fit between two pings. So a single one is not yet a finding.
    if lost == 1 {
        say("        one ping was lost, as one on its way at the very moment is: once more");
        lost = there_and_back(rig)?;
    }
    ensure!(lost == 0, "{lost} pings were lost");
    Ok(())
}

/// A drain and a failback. Returns how many pings were lost.
fn there_and_back(rig: &mut Rig) -> anyhow::Result<u64> {
    let moves = [("drain", drain(rig).context("a drain")?), ("failback", failback(rig).context("a failback")?)];
    for (way, seen) in &moves {
        say(&format!("        {way:<10} {} pings lost, longest wait {} ms", seen.lost, seen.longest.as_millis()));
        for after in &seen.lost_after {
            say(&format!("        {way}: lost {} ms after it was asked for", after.as_millis()));
        }
    }
    Ok(moves.iter().map(|(_, seen)| seen.lost).sum())
}

/// A drain that waits says who is missing, refuses where nobody else can serve, and a router that does not forward is seen.
pub fn drain_waits(rig: &mut Rig) -> anyhow::Result<()> {
    two_routers(rig)?;
    let client = rig.get("c")?.underlay.clone();
    rig.net.cut(&client, true)?;
    let missing = rig.wayleave(&["routes", "drain", "--node", "r1", "--wait", "--timeout", "2s"]);
    let told = "1 of 2 viewers have not acknowledged the new map within 2s: c";
    ensure!(missing.as_ref().is_err_and(|error| error.to_string().contains(told)), "{missing:?}");
    rig.net.cut(&client, false)?;
    let drained = rig.json(&["routes", "drain", "--node", "r1", "--wait"])?;
    ensure!(drained["viewers"] == 2 && drained["took_ms"].is_u64(), "{drained}");
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r2"), "whoever waited finds it moved");

    rig.signal("r1", "TERM")?;
    rig.wait_state("r1", LAN, "offline")?;
    let alone = rig.wayleave(&["routes", "drain", "--node", "r2", "--wait"]);
    let refusal = format!("nobody else can serve {LAN}");
    ensure!(alone.as_ref().is_err_and(|error| error.to_string().contains(&refusal)), "{alone:?}");
    ensure!(rig.json(&["nodes", "show", "--node", "r2"])?["drained"] != true, "nothing was drained");

    rig.net.inside("r1", &["sysctl", "-qw", "net.ipv4.ip_forward=0"])?;
    rig.start("r1")?;
    rig.wait_state("r1", LAN, "standby")?;
    wait_for("what it reports stands beside its route", SOON, || {
        let routes = rig.json(&["routes", "list", "--node", "r1", "--prefix", LAN])?;
        Ok(routes[0]["warnings"][0] == "IP forwarding is off")
    })
}

/// Drains r1 and switches it off as soon as the command has returned.
fn drain(rig: &mut Rig) -> anyhow::Result<Seen> {
    let pinging = pinging(rig)?;
    let began = Instant::now();
    let drained = rig.json(&["routes", "drain", "--node", "r1", "--wait"])?;
    ensure!(drained["moved"][0] == LAN && drained["viewers"] == 2, "c and r2 are told: {drained}");
    rig.signal("r1", "TERM")?;
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r2"), "whoever waited finds it moved");
    seen(&pinging, began)
}

/// Puts r1 back, which has to find its way to everybody anew, and waits until it has the prefix again.
fn failback(rig: &mut Rig) -> anyhow::Result<Seen> {
    rig.start("r1")?;
    rig.wait_state("r1", LAN, "standby")?;
    let address = tailnet_address(rig, "r1")?;
    wait_for("it is reachable again", SOON, || Ok(rig.pings("r2", &address)))?;
    let pinging = pinging(rig)?;
    let began = Instant::now();
    rig.wayleave(&["routes", "undrain", "--node", "r1"])?;
    rig.wait_routed("c", LAN, Some("r1"))?;
    if began.elapsed() < STEADY {
        bail!("it took the prefix back after {:?}; it was to be steady for {STEADY:?}", began.elapsed());
    }
    seen(&pinging, began)
}

fn pinging(rig: &Rig) -> anyhow::Result<Pinging> {
    let pinging = rig.start_pinging("c", LAN_HOST)?;
    pinging.wait_answers(10, pinging.started(), SOON)?;
    Ok(pinging)
}

/// Two more seconds of answers, and what was missing since.
fn seen(pinging: &Pinging, began: Instant) -> anyhow::Result<Seen> {
    pinging.wait_answers(40, Instant::now(), SOON)?;
    Ok(Seen { lost: pinging.lost(), longest: pinging.longest_gap(began), lost_after: pinging.lost_after(began) })
}
