//! What policies do to real clients, and shells that a person has to approve.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::e2e::evidence;
use crate::e2e::rig::{LAN, LAN_HOST, Rig, SOON, wait_for};

/// What a client's packet filter lets through, as its own daemon has it.
fn filter(rig: &Rig, name: &str) -> anyhow::Result<String> {
    let map: Value = serde_json::from_str(&rig.tailscale(name, &["debug", "netmap"])?)?;
    Ok(map["PacketFilterRules"].to_string())
}

fn users(rig: &Rig, names: &[&str]) -> anyhow::Result<()> {
    names.iter().try_for_each(|name| rig.wayleave(&["users", "create", name]).map(drop))
}

/// A client of this user that uses routes.
fn viewer(rig: &mut Rig, name: &str, user: &str) -> anyhow::Result<()> {
    let key = rig.key_of(user, &[])?;
    rig.client(name)?;
    rig.up(name, &key, &["--accept-routes"])
}

pub fn group_reaches_subnet(rig: &mut Rig) -> anyhow::Result<()> {
    users(rig, &["bert"])?;
    rig.set_policy(&json!({
        "groups": { "group:net": ["anna@"] },
        "acls": [ { "action": "accept", "src": ["group:net"], "dst": [format!("{LAN}:*")] } ],
    }))?;
    let key = rig.key(&[])?;
    rig.router("r1", 1, &key)?;
    viewer(rig, "a", "anna")?;
    viewer(rig, "b", "bert")?;
    rig.wait_state("r1", LAN, "pending")?;
    rig.wayleave(&["routes", "approve", "--node", "r1", LAN])?;
    rig.wait_routed("a", LAN, Some("r1"))?;
    wait_for("the group's client reaches the LAN", SOON, || Ok(rig.pings("a", LAN_HOST)))?;
    ensure!(rig.peer("b", "r1")?.is_null(), "who may not reach it does not see the router");
    let rules = filter(rig, "r1")?;
    ensure!(rules.contains(LAN), "the router's filter holds the subnet: {rules}");
    ensure!(!rig.pings("a", "100.64.0.1"), "the rule is about the LAN, not about the router itself");

    // Another policy, while everybody is connected.
    rig.set_policy(&json!({ "acls": [ { "action": "accept", "src": ["bert@"], "dst": [format!("{LAN}:*")] } ] }))?;
    rig.wait_routed("b", LAN, Some("r1"))?;
    rig.wait_routed("a", LAN, None)?;
    wait_for("the other client reaches the LAN", SOON, || Ok(rig.pings("b", LAN_HOST)))?;
    ensure!(!rig.pings("a", LAN_HOST));
    Ok(())
}

pub fn only_internet(rig: &mut Rig) -> anyhow::Result<()> {
    let outside = rig.net.internet("inet")?;
    rig.http_host("inet", &outside)?;
    rig.set_policy(&json!({
        "acls": [ { "action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:internet:*"] } ],
    }))?;
    let key = rig.key(&["--reusable"])?;
    rig.client("x")?;
    rig.net.forwards("x")?;
    rig.up("x", &key, &["--advertise-exit-node"])?;
    rig.client("c")?;
    rig.up("c", &key, &[])?;
    rig.wait_state("x", "0.0.0.0/0", "pending")?;
    ensure!(rig.peer("c", "x")?["ExitNodeOption"] != true, "no exit is offered before it was approved");
    rig.wayleave(&["routes", "approve", "--node", "x", "0.0.0.0/0"])?;
    wait_for("the exit is offered", SOON, || Ok(rig.peer("c", "x")?["ExitNodeOption"] == true))?;
    rig.tailscale("c", &["set", "--exit-node=x"])?;
    let x = rig.get("x")?.underlay.clone();
    wait_for("traffic leaves through the exit", SOON, || {
        Ok(rig.http("c", &outside).is_ok_and(|text| text.contains(&format!("hello {x}"))))
    })
}

pub fn auto_approval(rig: &mut Rig) -> anyhow::Result<()> {
    users(rig, &["bert"])?;
    let policy = |approvers: Value| {
        json!({
            "groups": { "group:net": ["bert@"] },
            "tagOwners": { "tag:router": ["anna@"] },
            "acls": [ { "action": "accept", "src": ["*"], "dst": ["*:*"] } ],
            "autoApprovers": approvers,
        })
    };
    rig.set_policy(&policy(json!({
        "routes": { "10.1.0.0/16": ["tag:router"], "10.2.0.0/16": ["group:net"], "10.3.0.0/16": ["anna@"], "0.0.0.0/0": ["tag:router"] },
        "exitNode": ["anna@"],
    })))?;
    viewer(rig, "c", "anna")?;
    // A tag, by a key; at `up`, and later.
    let key = rig.key(&["--tags", "tag:router"])?;
    rig.client("tagged")?;
    rig.up("tagged", &key, &["--advertise-routes=10.1.1.0/24,10.0.0.0/12"])?;
    rig.wait_state("tagged", "10.1.1.0/24", "primary").context("inside an approved prefix")?;
    rig.wait_state("tagged", "10.0.0.0/12", "primary").context("0.0.0.0/0 under routes covers subnets")?;
    rig.wait_routed("c", "10.1.1.0/24", Some("tagged"))?;
    rig.tailscale("tagged", &["set", "--advertise-routes=10.1.1.0/24,10.1.2.0/24", "--advertise-exit-node"])?;
    rig.wait_routed("c", "10.1.2.0/24", Some("tagged"))?;
    rig.wait_state("tagged", "0.0.0.0/0", "pending").context("only exitNode approves exits")?;
    // A group, interactively.
    rig.client("grouped")?;
    let login = rig.begin_login("grouped", &["--advertise-routes=10.2.0.0/16,10.2.0.0/15"])?;
    rig.wayleave(&["nodes", "register", "--key", &login, "--user", "bert"])?;
    rig.wait_state("grouped", "10.2.0.0/16", "primary")?;
    rig.wait_state("grouped", "10.2.0.0/15", "pending").context("a wider one waits")?;
    // A user, and an exit.
    let key = rig.key(&[])?;
    rig.client("own")?;
    rig.up("own", &key, &["--advertise-routes=10.3.0.0/16", "--advertise-exit-node"])?;
    rig.wait_state("own", "10.3.0.0/16", "primary")?;
    rig.wait_state("own", "::/0", "serving")?;

    // The auto-approver is removed: still approved. A person disables: gone, and stays gone.
    rig.set_policy(&policy(json!({})))?;
    rig.wait_state("own", "10.3.0.0/16", "primary")?;
    rig.wayleave(&["routes", "disable", "--node", "own", "10.3.0.0/16", "--yes"])?;
    rig.wait_routed("c", "10.3.0.0/16", None)?;
    // Not 10.0.0.0/8: the server is in it, and what holds the server's address is approved by nobody but a person.
    rig.set_policy(&policy(json!({ "routes": { "10.2.0.0/15": ["anna@", "group:net"] } })))?;
    rig.wait_state("grouped", "10.2.0.0/15", "primary")
        .context("a new auto-approver reaches what was there before it")?;
    rig.wait_state("own", "10.3.0.0/16", "refused")?;
    rig.tailscale("own", &["set", "--advertise-routes="])?;
    rig.tailscale("own", &["set", "--advertise-routes=10.3.0.0/16"])?;
    std::thread::sleep(Duration::from_secs(3));
    rig.wait_state("own", "10.3.0.0/16", "refused")
}

pub fn one_of_three(rig: &mut Rig) -> anyhow::Result<()> {
    users(rig, &["bert"])?;
    rig.set_policy(&json!({ "acls": [
        { "action": "accept", "src": ["anna@"], "dst": ["*:*"] },
        { "action": "accept", "src": ["bert@"], "dst": ["10.2.0.0/24:*"] },
    ] }))?;
    let key = rig.key(&[])?;
    rig.client("r")?;
    rig.up("r", &key, &["--advertise-routes=10.1.0.0/24,10.2.0.0/24,10.3.0.0/24"])?;
    viewer(rig, "a", "anna")?;
    viewer(rig, "b", "bert")?;
    rig.wait_state("r", "10.3.0.0/24", "pending")?;
    rig.wayleave(&["routes", "approve", "--all-pending"])?;
    for prefix in ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"] {
        rig.wait_routed("a", prefix, Some("r"))?;
    }
    rig.wait_routed("b", "10.2.0.0/24", Some("r"))?;
    ensure!(rig.routed_to("b", "10.1.0.0/24")?.is_none() && rig.routed_to("b", "10.3.0.0/24")?.is_none());
    Ok(())
}

pub fn via_two_groups(rig: &mut Rig) -> anyhow::Result<()> {
    users(rig, &["bert"])?;
    let grant = |who: &str, tag: &str| json!({ "src": [who], "dst": [LAN], "ip": ["*"], "via": [tag] });
    rig.set_policy(&json!({
        "tagOwners": { "tag:east": [], "tag:west": [] },
        "grants": [ grant("anna@", "tag:east"), grant("bert@", "tag:west") ],
        "autoApprovers": { "routes": { LAN: ["tag:east", "tag:west"] } },
    }))?;
    for (name, last, tag) in [("e1", 1, "tag:east"), ("w1", 2, "tag:west"), ("w2", 3, "tag:west")] {
        let key = rig.key(&["--tags", tag])?;
        rig.router(name, last, &key)?;
    }
    viewer(rig, "a", "anna")?;
    viewer(rig, "b", "bert")?;
    rig.wait_routed("a", LAN, Some("e1"))?;
    rig.wait_routed("b", LAN, Some("w1"))?;
    for name in ["a", "b"] {
        wait_for("each group reaches the LAN by its own router", SOON, || Ok(rig.pings(name, LAN_HOST)))?;
    }
    ensure!(rig.http("b", LAN_HOST)?.contains("hello 192.168.77.2"), "the first hop is the group's own");
    ensure!(rig.peer("a", "w1")?.is_null() && rig.peer("b", "e1")?.is_null(), "the other group's is not seen");
    // What is behind a group's router is looked at by who goes through it: w1 is not the primary of the tailnet, and nobody else would notice.
    rig.wayleave(&["routes", "check", "set", LAN, "--target", LAN_HOST])?;
    wait_for("the check passes behind both", SOON, || {
        let checks = rig.json(&["routes", "check", "list"])?;
        let routers = checks[0]["routers"].as_array().into_iter().flatten();
        Ok(routers.filter(|router| router["passed"] == true && router["misses"] == 0).count() == 2)
    })?;
    evidence::lan_carrier_at(rig, 2, false)?;
    rig.wait_routed("b", LAN, Some("w2")).context("the next of the same tag")?;
    wait_for("traffic goes by it", SOON, || {
        Ok(rig.http("b", LAN_HOST).is_ok_and(|t| t.contains("hello 192.168.77.3")))
    })?;
    ensure!(rig.routed_to("a", LAN)?.as_deref() == Some("e1"), "the other group is not touched");
    let history = rig.json(&["routes", "history", "--prefix", LAN])?;
    let mut lines = history.as_array().into_iter().flatten();
    let cause = "via tag:west: incumbent suspect: path check missed";
    ensure!(lines.any(|line| line["event"] == "group primary changed" && line["cause"] == cause), "{history}");
    evidence::lan_carrier_at(rig, 2, true)?;
    rig.wayleave(&["routes", "check", "remove", LAN])?;

    rig.signal("w2", "KILL")?;
    rig.wait_routed("b", LAN, Some("w1")).context("the other of the same tag")?;
    wait_for("traffic goes by it", SOON, || {
        Ok(rig.http("b", LAN_HOST).is_ok_and(|t| t.contains("hello 192.168.77.2")))
    })?;
    ensure!(rig.routed_to("a", LAN)?.as_deref() == Some("e1"), "the other group is not touched");
    rig.signal("e1", "KILL")?;
    rig.wait_state("e1", LAN, "offline")?;
    ensure!(rig.routed_to("a", LAN)?.as_deref() == Some("e1"), "never the other group's");
    Ok(())
}

/// An `ssh` that runs, as a person would start it.
fn shell(rig: &Rig, from: &str, to: &str, command: &str) -> anyhow::Result<Child> {
    let options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=10"];
    let options = options.iter().flat_map(|option| ["-o", option]);
    Ok(Command::new("ip")
        .args(["netns", "exec", &rig.net.name(from), "ssh"])
        .args(options)
        .args([&format!("root@{to}"), command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

fn waiting(rig: &Rig) -> anyhow::Result<Value> {
    let mut found = Value::Null;
    wait_for("the connection waits for a person", SOON, || {
        found = rig.json(&["ssh", "list"])?[0].clone();
        Ok(!found.is_null())
    })?;
    Ok(found)
}

pub fn checked_shell(rig: &mut Rig) -> anyhow::Result<()> {
    let policy = |users: Value| {
        json!({
            "acls": [ { "action": "accept", "src": ["*"], "dst": ["*:*"] } ],
            "ssh": [ { "action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": users, "checkPeriod": "1h" } ],
        })
    };
    rig.set_policy(&policy(json!(["root"])))?;
    let key = rig.key(&["--reusable"])?;
    for name in ["laptop", "host"] {
        rig.client(name)?;
        rig.up(name, &key, if name == "host" { &["--ssh"] } else { &[] })?;
    }
    wait_for("the host is reached", SOON, || Ok(rig.pings("laptop", "100.64.0.2")))?;

    let refused = shell(rig, "laptop", "100.64.0.2", "echo in")?;
    let check = waiting(rig)?;
    ensure!(check["from"] == "laptop" && check["to"] == "host" && check["user"] == "root", "{check}");
    rig.wayleave(&["ssh", "deny", check["key"].as_str().unwrap_or_default()])?;
    let out = refused.wait_with_output()?;
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success() && told.contains("a person refused it"), "{told}");

    let asked = shell(rig, "laptop", "100.64.0.2", "echo in")?;
    let check = waiting(rig)?;
    let key = check["key"].as_str().unwrap_or_default();
    rig.wayleave(&["ssh", "approve", key])?;
    let out = asked.wait_with_output()?;
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success() && out.stdout.starts_with(b"in"), "{told}");
    ensure!(told.contains(&format!("wayleave ssh approve {key}")), "the user is told what to ask for: {told}");

    let again = shell(rig, "laptop", "100.64.0.2", "echo again")?.wait_with_output()?;
    ensure!(again.stdout.starts_with(b"again"), "the approval covers an hour");
    rig.set_policy(&policy(json!(["nobody"])))?;
    wait_for("what the policy forbids is refused", SOON, || {
        let out = shell(rig, "laptop", "100.64.0.2", "echo in")?.wait_with_output()?;
        if out.status.success() { bail!("it was let in") } else { Ok(true) }
    })
}
