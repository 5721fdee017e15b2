//! Cables that are pulled and interfaces that go away, in every order (S12).

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::two_routers;
use crate::e2e::rig::{LAN, LAN_HOST, Rig, SOON, wait_for};

/// How long the last of two dead routers is watched.
const LONG: Duration = Duration::from_secs(40);
/// How long a client may take to come back after its cable was out: its TCP asks ever more seldom.
const BACK: Duration = Duration::from_secs(120);

/// How a router is taken off the network, and put back.
#[derive(Clone, Copy)]
enum Way {
    /// All that it sends and gets is dropped elsewhere: its own link notices nothing, and sessions stay half open.
    Cable,
    /// Its interface goes down.
    Interface,
}

fn out(rig: &Rig, way: Way, name: &str) -> anyhow::Result<()> {
    match way {
        Way::Cable => rig.net.cut(&rig.get(name)?.underlay, true),
        Way::Interface => rig.net.detach(name),
    }
}

fn back(rig: &Rig, way: Way, name: &str) -> anyhow::Result<()> {
    let address = &rig.get(name)?.underlay;
    match way {
        Way::Cable => rig.net.cut(address, false),
        Way::Interface => rig.net.attach(name, address),
    }
}

fn serves(rig: &Rig, name: &str, last: u8) -> anyhow::Result<()> {
    rig.wait_routed("c", LAN, Some(name))?;
    let hello = format!("hello 192.168.77.{last}");
    wait_for(&format!("traffic goes by {name}"), Duration::from_secs(40), || {
        Ok(rig.http("c", LAN_HOST).is_ok_and(|text| text.contains(&hello)))
    })
}

fn is_back(rig: &Rig, name: &str) -> anyhow::Result<()> {
    wait_for(&format!("{name} is back"), BACK, || Ok(matches!(rig.state(name, LAN)?.as_str(), "primary" | "standby")))
}

pub fn pulled_cables(rig: &mut Rig) -> anyhow::Result<()> {
    two_routers(rig)?;
    in_five_orders(rig, Way::Cable)
}

pub fn detached_interfaces(rig: &mut Rig) -> anyhow::Result<()> {
    two_routers(rig)?;
    in_five_orders(rig, Way::Interface)
}

fn in_five_orders(rig: &Rig, way: Way) -> anyhow::Result<()> {
    serves(rig, "r1", 1)?;
    // 1. r1 out and in: r2 has it, and keeps it.
    out(rig, way, "r1")?;
    serves(rig, "r2", 2).context("r1 out")?;
    back(rig, way, "r1")?;
    is_back(rig, "r1")?;
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r2"), "r1 in: nothing moves");
    // 2. r2 out and in.
    out(rig, way, "r2")?;
    serves(rig, "r1", 1).context("r2 out")?;
    back(rig, way, "r2")?;
    is_back(rig, "r2")?;
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r1"), "r2 in: nothing moves");
    // 3. r1 then r2 out: the primary does not move to the dead r1.
    out(rig, way, "r1")?;
    serves(rig, "r2", 2)?;
    out(rig, way, "r2")?;
    rig.wait_state("r2", LAN, "offline")?;
    for _ in 0..LONG.as_secs() {
        ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r2"), "both out: the last known keeps it");
        sleep(Duration::from_secs(1));
    }
    // 4. r2 in: it serves again, without anybody's help.
    back(rig, way, "r2")?;
    serves(rig, "r2", 2).context("r2 in")?;
    is_back(rig, "r2")?;
    back(rig, way, "r1")?;
    is_back(rig, "r1")?;
    ensure!(rig.routed_to("c", LAN)?.as_deref() == Some("r2"));
    // 5. Both out at once, both in: whichever is back first serves.
    out(rig, way, "r1")?;
    out(rig, way, "r2")?;
    for name in ["r1", "r2"] {
        rig.wait_state(name, LAN, "offline")?;
    }
    ensure!(rig.routed_to("c", LAN)?.is_some(), "the last known keeps it");
    back(rig, way, "r1")?;
    back(rig, way, "r2")?;
    for name in ["r1", "r2"] {
        is_back(rig, name)?;
    }
    // Whichever was back first has it.
    wait_for("the LAN answers", SOON, || Ok(rig.pings("c", LAN_HOST)))
}
