//! What is typed, how it ends, and in which words it is refused: 0 done, 1 failed, 2 not understood.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod program;
mod small;

use program::{import, run, serve};

const PREFIXES: &str = "[routes.prefixes.\"10.1.0.0/24\"]\nwhen_down = \"fall_back\"\n";

#[tokio::test]
async fn what_is_not_understood_ends_with_2_and_what_is_refused_with_1() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path()).await;
    std::fs::write(folder.path().join("data/wayleave.toml"), PREFIXES).unwrap();
    std::fs::write(folder.path().join("bad.toml"), PREFIXES.replace("10.1.0.0", "10.1.0.1")).unwrap();
    let mut server = serve(folder.path());
    std::fs::write(folder.path().join("bad.hujson"), "{").unwrap();
    for (line, status, words) in [
        ("routes list --prefix 10.0.0.0/33", 2, "is not a prefix"),
        ("routes list --prefix 10.0.0.5/8", 2, "did you mean `10.0.0.0/8`?"),
        ("routes list --state lost", 2, "is no state of a route"),
        ("routes list --node nobody", 1, "there is no node `nobody`"),
        ("routes explain nowhere", 2, "is not a prefix"),
        ("routes explain 192.0.2.1", 1, "no node has a route that holds 192.0.2.1/32"),
        ("routes set --default --spread sideways", 2, "is not among single, region, balance, or `default`"),
        (
            "routes set --default --failback-after soon",
            2,
            "neither a duration, such as 60s or 2h 30m, nor `never`, or `default`",
        ),
        ("routes history --since soon", 2, "neither a duration, such as 2h, nor a time"),
        ("routes what-if --approve router", 2, "write a node, a colon and a prefix"),
        ("routes what-if --disable router:10.99.0.0/16", 1, "router has no route 10.99.0.0/16"),
        ("routes what-if --policy bad.hujson", 1, "line 1"),
        ("routes approve --node router 127.0.0.0/8", 1, "can't be enabled"),
        ("routes move 10.99.0.0/16 --to router", 1, "router has no route 10.99.0.0/16"),
        ("routes approve --node router 10.99.0.0/16", 0, "pre-approved"),
        ("routes drain --node router --force", 0, "router is drained"),
        (
            "routes undrain --node router --wait --timeout 5s",
            0,
            "router is back in service; 0 clients have the new map, after",
        ),
        ("routes undrain --node router --wait --timeout soon", 2, "soon"),
        ("doctor", 0, "redundancy: only one router each: 10.1.0.0/24"),
        ("policy set bad.hujson", 1, "line 1"),
        ("webhooks add http://192.0.2.1/ --events nothing", 2, "is nothing that a webhook is told of"),
        ("via6 encode 7 10.0.0.0", 2, "is not a prefix"),
        ("via6 decode 10.0.0.0/8", 2, "is no 4via6 prefix"),
        ("via6 decode fd7a:115c:a1e0:b1a:0:7:c0a8:100/120", 0, "192.168.1.0/24 via 7"),
        ("via6 decode fd7a:115c:a1e0:b1a:0:7:c0a8:109", 0, "192.168.1.9 via 7"),
        ("via6 sites add Rome", 2, "did you mean `rome`?"),
        ("via6 sites add rome --id 7", 0, "site rome was made"),
        ("via6 decode fd7a:115c:a1e0:b1a:0:7:c0a8:109", 0, "192.168.1.9 via rome (7)"),
        ("via6 encode rome 192.168.1.0/24", 0, "fd7a:115c:a1e0:b1a:0:7:c0a8:100/120"),
        ("config show", 0, "routes.prefixes.\"10.1.0.0/24\".when_down"),
        (
            "config check --config bad.toml",
            1,
            "bad.toml: `routes.prefixes.\"10.1.0.1/24\"`: `10.1.0.1/24` has host bits set",
        ),
        ("routes settings", 0, "fall_back (configuration)  disable (configured default)"),
        ("routes set 10.1.0.0/24 --when-down keep", 0, "keep  "),
        ("routes set 10.1.0.0/24 --when-down default", 0, "fall_back (configuration)"),
        ("routes unfreeze 10.1.0.0/24", 1, "10.1.0.0/24 is not frozen"),
        ("routes unfreeze --all", 1, "nothing is frozen"),
        (
            "routes set 127.0.0.0/8 --spread region",
            1,
            "127.0.0.0/8 can never be a route, since it overlaps the loopback range",
        ),
        ("routes check set 10.1.0.0/24 --target 10.1.0.9", 0, "10.1.0.9"),
        ("routes check remove 10.1.0.0/24", 0, "not checked any more"),
        ("routes history --prefix 10.1.0.0/24", 0, "cli: 10.1.0.9 every 2s"),
        ("routes history --prefix 10.1.0.0/24", 0, "check removed"),
        ("routes prefer --node router 10.1.0.0/24 --priority 17", 0, "PRIORITY"),
        ("routes list --prefix 10.1.0.0/24", 0, "  17  "),
        ("routes list --prefix 10.1.0.0/24 --output json", 0, "\"priority\": 17"),
        ("routes list --prefix 10.1.0.0/24 --output yaml", 0, "priority: 17"),
    ] {
        let said = run(folder.path(), &line.split(' ').collect::<Vec<_>>());
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(said.status.code() == Some(status) && text.contains(words), "{line}: {:?}: {text}", said.status.code());
    }
    server.kill().unwrap();
    server.wait().unwrap();
}
