//! Sites that use the same IPv4 prefix.

use anyhow::ensure;

use crate::e2e::rig::{Rig, SOON, wait_for};

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
    // Of two routers with the same 4via6 prefix one is elected, and the other takes over.
    rig.signal("r1", "KILL")?;
    rig.wait_routed("c", &berlin, Some("r3"))?;
    wait_for("the other router of Berlin serves", SOON, || asked_from(rig, "printer.berlin", "hello 192.168.1.3\n"))?;
    ensure!(asked_from(rig, "printer.paris", "hello 192.168.1.2\n")?, "Paris is not concerned");
    Ok(())
}
