//! Clients whose Headscale is replaced while they run: nobody logs in again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::e2e::net;
use crate::e2e::rig::{LAN, LAN_HOST, Rig, SOON, wait_for};
use crate::{say, top};

/// A prefix that two routers of the sample have been approved for, and an address in it that both answer themselves.
const OFFICE: &str = "10.20.0.0/16";
const OFFICE_HOST: &str = "10.20.5.1";

/// A database of the newest generation with its keys: they lie beside the repository, or where `WAYLEAVE_HEADSCALE_SAMPLES` says.
fn samples() -> Option<PathBuf> {
    let beside = || top().join("../shared/headscale-samples");
    let folder = std::env::var_os("WAYLEAVE_HEADSCALE_SAMPLES").map_or_else(beside, PathBuf::from);
    folder.join("v030dev.sql").exists().then_some(folder)
}

/// Three clients, one of them of the oldest version, are in at a server with the sample's Noise key. That server stops, and the sample gets
/// the clients' public keys: it is the database that Headscale would have had. Two clients run through the change, one starts after it.
pub fn moved_from_headscale(rig: &mut Rig) -> anyhow::Result<()> {
    let Some(samples) = samples() else {
        say(
            "        SKIPPED: there are no samples of Headscale's databases; WAYLEAVE_HEADSCALE_SAMPLES says where they are",
        );
        return Ok(());
    };
    let noise = samples.join("files/noise_private.key");
    rig.stop_server("TERM")?;
    fs::copy(&noise, rig.data_folder().join("noise.key"))?;
    fs::set_permissions(rig.data_folder().join("noise.key"), fs::Permissions::from_mode(0o600))?;
    rig.start_server(&[])?;
    let key = rig.key(&["--reusable"])?;
    rig.client("c")?;
    rig.up_as("c", "alice-laptop", &key, &["--accept-routes"])?;
    rig.client("a")?;
    rig.up_as("a", "office-gw-a", &key, &[&format!("--advertise-routes={OFFICE}")])?;
    rig.old_client("b")?;
    rig.net.plug("b", "lan", 3)?;
    rig.up_as("b", "Office-GW-B", &key, &[&format!("--advertise-routes={OFFICE},{LAN}")])?;
    for name in ["a", "b"] {
        rig.net.inside(name, &["ip", "addr", "add", &format!("{OFFICE_HOST}/32"), "dev", "lo"])?;
    }
    let nodes = rig.json(&["nodes", "list"])?;
    rig.stop_server("TERM")?;
    rig.signal("a", "TERM")?;

    let database = rig.folder().join("db.sqlite");
    load(&samples, &nodes, &database)?;
    fs::rename(rig.data_folder(), rig.folder().join("before"))?;
    let database = database.display().to_string();
    let import =
        ["import", "headscale", &database, "--noise-key", &noise.display().to_string(), "--policy", "database"];
    let report = rig.json(&import)?;
    ensure!(report["written"] == true && report["counts"]["nodes"]["written"] == 9, "{report}");
    rig.start_server(&[])?;
    rig.start("a")?;

    for (name, id, v4, v6) in [
        ("c", "1", "100.64.0.1", "fd7a:115c:a1e0::1"),
        ("a", "2", "100.64.0.2", "fd7a:115c:a1e0::2"),
        ("b", "3", "100.64.0.3", "fd7a:115c:a1e0::3"),
    ] {
        wait_for(&format!("{name} is in, as the node that it was"), SOON, || {
            let status = rig.status(name)?;
            let own = &status["Self"];
            ensure!(status["AuthURL"] == "", "{name} is asked to log in");
            let is = (own["ID"].as_str(), own["TailscaleIPs"][0].as_str(), own["TailscaleIPs"][1].as_str());
            Ok(status["BackendState"] == "Running" && own["Online"] == true && is == (Some(id), Some(v4), Some(v6)))
        })?;
    }
    rig.wait_routed("c", OFFICE, Some("office-gw-a"))?;
    wait_for("the office answers through the old approval", SOON, || Ok(rig.pings("c", OFFICE_HOST)))?;
    ensure!(rig.pings("c", "100.64.0.3"), "the router of the oldest version answers at its old address");
    ensure!(rig.state("office-gw-b", LAN)? == "pending", "what waited for approval there waits here");
    rig.wayleave(&["routes", "approve", "--node", "office-gw-b", LAN])?;
    rig.wait_routed("c", LAN, Some("Office-GW-B"))?;
    wait_for("the LAN answers", SOON, || Ok(rig.http("c", LAN_HOST)?.contains("hello")))?;
    rig.signal("a", "KILL")?;
    rig.wait_routed("c", OFFICE, Some("Office-GW-B"))?;
    wait_for("the office answers through the other router", SOON, || Ok(rig.pings("c", OFFICE_HOST)))?;

    // A key of the old server lets a machine in, under an id that was never given out there.
    let keys: Value = serde_json::from_str(&fs::read_to_string(samples.join("v030dev.expected.json"))?)?;
    let key = keys["preauth_keys"][0]["plaintext"].as_str().context("a key in clear")?;
    rig.client("new")?;
    rig.up("new", key, &[])?;
    let nodes = rig.json(&["nodes", "list"])?;
    let all = nodes.as_array().context("a list")?;
    ensure!(all.len() == 10, "{} nodes: somebody came in twice", all.len());
    ensure!(all.iter().any(|node| node["id"].as_u64() > Some(55) && node["tags"][0] == "tag:ci"), "{nodes}");
    Ok(())
}

/// Makes the sample's database, in which these nodes have their own keys.
fn load(samples: &Path, nodes: &Value, database: &Path) -> anyhow::Result<()> {
    let mut sql = fs::read_to_string(samples.join("v030dev.sql"))?;
    let keys: Value = serde_json::from_str(&fs::read_to_string(samples.join("keys.json"))?)?;
    for node in nodes.as_array().context("a list of nodes")? {
        let of_sample = &keys["nodes"][node["id"].to_string()];
        for (old, prefix, new) in [("machine_public", "mkey:", "machine_key"), ("node_public", "nodekey:", "node_key")]
        {
            let old = format!("{prefix}{}", of_sample[old].as_str().context("a key of the sample")?);
            ensure!(sql.contains(&old), "{old} is in the sample");
            sql = sql.replace(&old, node[new].as_str().context("a node's key")?);
        }
    }
    let file = database.with_extension("sql");
    fs::write(&file, sql)?;
    let loaded = Command::new("sqlite3").arg(database).stdin(Stdio::from(fs::File::open(&file)?)).status();
    ensure!(loaded.context("there is no `sqlite3`")?.success(), "the sample could not be loaded");
    net::run("chmod", &["600", &database.display().to_string()]).map(drop)
}
