//! Sites that use the same IPv4 prefix.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use crate::e2e::rig::{Rig, SOON, wait_for};
use crate::say;

/// What both sites use.
const BOTH: &str = "192.168.1.0/24";
/// The host of each.
const HOST: &str = "192.168.1.100";

/// Berlin has two routers, r1 and r3, Paris one, r2. The host at each says from which address it was asked: its own router's.
pub fn two_sites(rig: &mut Rig) -> anyhow::Result<()> {
    let key = rig.key(&["--reusable"])?;
    rig.wayleave(&["via6", "sites", "add", "berlin", "--id", "7"])?;
    rig.wayleave(&["via6", "sites", "add", "paris"])?;
    for site in ["berlin", "paris"] {
        rig.net.lan_at(site, &format!("{HOST}/24"))?;
        rig.http_host(site, HOST)?;
        rig.wayleave(&["via6", "hosts", "add", "printer", site, HOST])?;
    }
    let encoded =
        |rig: &Rig, site: &str| rig.wayleave(&["via6", "encode", site, BOTH]).map(|text| text.trim().to_owned());
    let (berlin, paris) = (encoded(rig, "berlin")?, encoded(rig, "paris")?);
    for (router, site, last, prefix) in
        [("r1", "berlin", 1, &berlin), ("r2", "paris", 2, &paris), ("r3", "berlin", 3, &berlin)]
    {
        rig.client(router)?;
        rig.net.plug_at(router, site, &format!("192.168.1.{last}/24"), last)?;
        rig.up(router, &key, &[&format!("--advertise-routes={prefix}")])?;
        rig.wait_state(router, prefix, "pending")?;
        // As a person types it.
        rig.wayleave(&["routes", "approve", "--node", router, &format!("{BOTH} via {site}")])?;
    }
    rig.client("c")?;
    rig.up("c", &key, &["--accept-routes"])?;
    rig.wait_routed("c", &berlin, Some("r1"))?;
    rig.wait_routed("c", &paris, Some("r2"))?;
    let shown = rig.wayleave(&["routes", "list"])?;
    ensure!(shown.contains("192.168.1.0/24 via berlin (7)"), "{shown}");

    let asked_from = |rig: &Rig, name: &str, from: &str| Ok(rig.http("c", name).is_ok_and(|page| page.contains(from)));
    let address = rig.json(&["via6", "hosts", "list"])?;
    for (site, from) in [("berlin", "hello 192.168.1.1\n"), ("paris", "hello 192.168.1.2\n")] {
        let host = address.as_array().into_iter().flatten().find(|host| host["site"] == site);
        let host = host.and_then(|host| host["via6"].as_str()).unwrap_or_default().to_owned();
        wait_for(&format!("the host in {site} answers at {host}"), SOON, || asked_from(rig, &host, from))?;
        for name in [format!("printer.{site}.tailnet.internal"), format!("printer.{site}")] {
            wait_for(&format!("{name} answers"), SOON, || asked_from(rig, &name, from))?;
        }
    }
    // Of two routers with the same 4via6 prefix one is elected, and the other takes over: when its LAN interface is gone,
    let route = |rig: &Rig, router: &str| rig.json(&["routes", "list", "--node", router, "--prefix", &berlin]);
    for router in ["r1", "r3"] {
        wait_for("its own address at the site is known", SOON, || Ok(route(rig, router)?[0]["had_endpoint"] == true))?;
    }
    let died = Instant::now();
    rig.net.inside("r1", &["ip", "link", "set", "eth1", "down"])?;
    rig.wait_routed("c", &berlin, Some("r3"))?;
    let took = died.elapsed();
    say(&format!("        LAN interface at a site down to the other router at a client: {} ms", took.as_millis()));
    ensure!(took < Duration::from_secs(2), "{took:?}; under 2 s is promised");
    wait_for("the other router of Berlin serves", SOON, || asked_from(rig, "printer.berlin", "hello 192.168.1.3\n"))?;
    rig.net.inside("r1", &["ip", "link", "set", "eth1", "up"])?;
    wait_for("it is well again", SOON, || Ok(route(rig, "r1")?[0]["convictions"] == json!([])))?;

    // when its LAN's carrier is lost, which only a path check tells, for a host that is written as it is known there,
    rig.wayleave(&["routes", "check", "set", &format!("{BOTH} via berlin"), "--target", HOST])?;
    wait_for("the check passes", SOON, || {
        let checks = rig.json(&["routes", "check", "list"])?;
        ensure!(checks[0]["target_shown"] == "192.168.1.100 via berlin (7)", "{checks}");
        let mut routers = checks[0]["routers"].as_array().into_iter().flatten();
        Ok(routers.any(|router| router["primary"] == true && router["passed"] == true && router["misses"] == 0))
    })?;
    let died = Instant::now();
    rig.net.inside("berlin", &["ip", "link", "set", "h3", "down"])?;
    rig.wait_routed("c", &berlin, Some("r1"))?;
    let took = died.elapsed();
    say(&format!("        LAN carrier at a site lost to the other router at a client: {} ms", took.as_millis()));
    ensure!(took < Duration::from_secs(8), "{took:?}; under 8 s is promised");
    wait_for("the first router of Berlin serves", SOON, || asked_from(rig, "printer.berlin", "hello 192.168.1.1\n"))?;
    rig.net.inside("berlin", &["ip", "link", "set", "h3", "up"])?;

    // and when it dies.
    rig.signal("r1", "KILL")?;
    rig.wait_routed("c", &berlin, Some("r3"))?;
    wait_for("the other router of Berlin serves", SOON, || asked_from(rig, "printer.berlin", "hello 192.168.1.3\n"))?;
    ensure!(asked_from(rig, "printer.paris", "hello 192.168.1.2\n")?, "Paris is not concerned");
    Ok(())
}
