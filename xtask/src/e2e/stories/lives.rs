//! Exits that are routers too, ephemeral routers, and logins of people whom an auto-approver names.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::e2e::rig::{LAN, LAN_HOST, Rig, SOON, wait_for};

const EXIT: &str = "0.0.0.0/0";

/// S6.
pub fn exit_with_a_subnet(rig: &mut Rig) -> anyhow::Result<()> {
    let outside = rig.net.internet("inet")?;
    rig.http_host("inet", &outside)?;
    let key = rig.key(&["--reusable"])?;
    rig.router("e", 1, &key)?;
    rig.tailscale("e", &["set", "--advertise-exit-node"])?;
    rig.client("c")?;
    rig.up("c", &key, &["--accept-routes"])?;
    rig.wait_state("e", EXIT, "pending")?;
    rig.wayleave(&["routes", "approve", "--all-pending"])?;
    wait_for("the exit is offered", SOON, || Ok(rig.peer("c", "e")?["ExitNodeOption"] == true))?;
    rig.tailscale("c", &["set", "--exit-node=e"])?;
    let through = format!("hello {}", rig.get("e")?.underlay);
    wait_for("the outside is reached through the exit", SOON, || {
        Ok(rig.http("c", &outside).is_ok_and(|text| text.contains(&through)))
    })?;
    wait_for("and the subnet by it", SOON, || {
        Ok(rig.http("c", LAN_HOST).is_ok_and(|text| text.contains("hello 192.168.77.1")))
    })?;
    rig.tailscale("c", &["set", "--exit-node="])?;

    // Withdrawn and advertised again it is pending again, unless an auto-approver matches.
    let again = |rig: &Rig| -> anyhow::Result<()> {
        rig.tailscale("e", &["set", "--advertise-exit-node=false", "--advertise-routes="])?;
        rig.wait_state("e", EXIT, "withdrawn")?;
        sleep(Duration::from_millis(2500));
        rig.tailscale("e", &["set", "--advertise-exit-node", &format!("--advertise-routes={LAN}")]).map(drop)
    };
    again(rig)?;
    rig.wait_state("e", EXIT, "pending")?;
    rig.wait_state("e", LAN, "pending")?;
    rig.set_policy(&json!({
        "acls": [ { "action": "accept", "src": ["*"], "dst": ["*:*"] } ],
        "autoApprovers": { "routes": { LAN: ["anna@"] }, "exitNode": ["anna@"] },
    }))?;
    rig.wait_state("e", LAN, "primary")?;
    again(rig)?;
    rig.wait_state("e", EXIT, "serving").context("an auto-approver says yes again")?;
    rig.wait_state("e", LAN, "primary")
}

/// S13, beyond the time-out and the quick reconnect that another story has: the standby takes over, a request in flight does not bring
/// the node back, and a log-out removes it at once.
pub fn ephemeral_standby(rig: &mut Rig) -> anyhow::Result<()> {
    rig.stop_server("TERM")?;
    rig.start_server(&["nodes.ephemeral_timeout=3s"])?;
    let key = rig.key(&["--reusable"])?;
    let ephemeral = rig.key(&["--reusable", "--ephemeral"])?;
    rig.router("r1", 1, &ephemeral)?;
    rig.router("r2", 2, &ephemeral)?;
    rig.client("c")?;
    rig.up("c", &key, &["--accept-routes"])?;
    for name in ["r1", "r2"] {
        rig.wait_state(name, LAN, "pending")?;
        rig.wayleave(&["routes", "approve", "--node", name, LAN])?;
    }
    rig.wait_routed("c", LAN, Some("r1"))?;
    // It is frozen while it is deleted, and asks for its map again afterwards.
    rig.signal("r1", "STOP")?;
    rig.wait_routed("c", LAN, Some("r2"))?;
    rig.wayleave(&["nodes", "delete", "--node", "r1"])?;
    rig.signal("r1", "CONT")?;
    wait_for("its node is gone", SOON, || Ok(rig.peer("c", "r1")?.is_null()))?;
    sleep(Duration::from_secs(2));
    let routes = rig.json(&["routes", "list"])?;
    ensure!(routes.as_array().is_some_and(|all| all.iter().all(|route| route["node"] != "r1")), "{routes}");

    let left = std::time::Instant::now();
    rig.tailscale("r2", &["logout"])?;
    rig.wait_routed("c", LAN, None)?;
    ensure!(left.elapsed() < Duration::from_secs(3), "a log-out removes it at once, not after {:?}", left.elapsed());
    ensure!(rig.json(&["routes", "list"])? == json!([]), "no live row of a node that is gone");
    Ok(())
}

/// S16. The page is what a browser shows of the address that the client prints.
pub fn login_of_an_approved_person(rig: &mut Rig) -> anyhow::Result<()> {
    rig.set_policy(&json!({
        "acls": [ { "action": "accept", "src": ["*"], "dst": ["*:*"] } ],
        "autoApprovers": { "routes": { LAN: ["anna@"] } },
    }))?;
    let key = rig.key(&[])?;
    rig.client("c")?;
    rig.up("c", &key, &["--accept-routes"])?;
    rig.client("r1")?;
    rig.net.plug("r1", "lan", 1)?;
    let login = rig.begin_login("r1", &[&format!("--advertise-routes={LAN}")])?;
    let page = rig.page("c", &format!("/register/{login}"))?;
    let command = format!("wayleave nodes register --key {login}");
    ensure!(page.contains(&command), "the page says what a person has to type: {page}");
    rig.wayleave(&["nodes", "register", "--key", &login, "--user", "anna"])?;
    rig.wait_routed("c", LAN, Some("r1"))?;
    rig.wait_state("r1", LAN, "primary")?;
    wait_for("its peers reach the LAN", SOON, || Ok(rig.pings("c", LAN_HOST)))
}
