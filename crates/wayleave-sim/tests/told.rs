//! What viewers are told (scenarios S33 to S43): simulated clients against a server as shipped.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use wayleave_model::{Approver, NodeId, Prefix};
use wayleave_sim::{Client, MapStream, Mirror, TestServer};
use wayleave_tailnet::{ApproveMode, Command};

const P: &str = "10.1.0.0/16";
const Q: &str = "10.2.0.0/16";

struct Member {
    client: Client,
    map: MapStream,
    mirror: Mirror,
}

impl Member {
    async fn join(server: &TestServer, key: &str, name: &str, routes: &[&str]) -> Self {
        let client = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
        client.join(key, name).await.unwrap();
        let mut member = Self { map: client.stream().await.unwrap(), client, mirror: Mirror::default() };
        member.next().await;
        member.client.report(name, routes).await.unwrap();
        member
    }

    async fn next(&mut self) -> Value {
        loop {
            let frame = self.map.next().await.unwrap().expect("the stream goes on");
            self.mirror.take(&frame);
            if frame["KeepAlive"] != true {
                return frame;
            }
        }
    }

    /// Takes in frames until this holds.
    async fn until(&mut self, holds: impl Fn(&Mirror) -> bool) {
        while !holds(&self.mirror) {
            self.next().await;
        }
    }

    /// What comes within a while; none if nothing does.
    async fn within(&mut self, while_: Duration) -> Option<Value> {
        tokio::time::timeout(while_, self.next()).await.ok()
    }

    /// Drops the stream and its connection, and opens another.
    async fn bounce(&mut self) {
        self.client = self.client.again().await.unwrap();
        self.map = self.client.stream().await.unwrap();
    }

    /// What a full map would tell now.
    async fn fresh(&self) -> Mirror {
        let mut mirror = Mirror::default();
        let client = self.client.again().await.unwrap();
        mirror.take(&client.map_once().await.unwrap());
        mirror
    }
}

async fn server() -> (TestServer, String) {
    let server = TestServer::start().await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    (server, key)
}

fn set(prefixes: &[&str]) -> BTreeSet<Prefix> {
    prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect()
}

async fn approve(server: &TestServer, node: u64, prefixes: &[&str], mode: ApproveMode) {
    let command = Command::ApproveRoutes { node: NodeId::new(node), prefixes: set(prefixes), mode, by: Approver::Cli };
    server.control().unwrap().command(command).await.unwrap();
}

/// Fields by which two views are compared: all but times, which the deltas tell to the second in which they were sent.
fn settled(mirror: &Mirror) -> Vec<(u64, Value)> {
    let plain = |(id, peer): (&u64, &Value)| {
        let fields =
            ["Name", "Key", "AllowedIPs", "PrimaryRoutes", "Addresses", "Online", "Tags", "Endpoints", "HomeDERP"];
        (*id, fields.iter().map(|field| peer[*field].clone()).collect())
    };
    mirror.peers.iter().map(plain).collect()
}

async fn converges(member: &mut Member) {
    for _ in 0..200 {
        if settled(&member.mirror) == settled(&member.fresh().await) {
            return;
        }
        member.within(Duration::from_millis(50)).await;
    }
    assert_eq!(settled(&member.mirror), settled(&member.fresh().await));
}

#[tokio::test]
async fn s33_s34_s35_a_peer_has_its_addresses_its_routes_and_nothing_of_what_it_asks_for() {
    let (server, key) = server().await;
    let mut viewer = Member::join(&server, &key, "c", &[]).await;
    let _router = Member::join(&server, &key, "r1", &[P]).await;
    approve(&server, 2, &[P, Q], ApproveMode::Add).await;
    viewer.until(|mirror| !mirror.carriers(P).is_empty()).await;
    let peer = viewer.mirror.peer("r1").unwrap();
    let (addresses, allowed) = (&peer["Addresses"], peer["AllowedIPs"].as_array().unwrap());
    assert!(addresses.as_array().unwrap().iter().all(|address| allowed.contains(address)), "{peer}");
    assert_eq!(addresses, &json!(["100.64.0.2/32", "fd7a:115c:a1e0::2/128"]));
    assert!(peer["Hostinfo"].get("RoutableIPs").is_none(), "{peer}");
    assert!(viewer.mirror.carriers(Q).is_empty(), "approved and not advertised reaches nobody");
}

#[tokio::test]
async fn s36_a_route_moves_in_one_message_with_both_routers_in_it_and_nobody_else() {
    let (server, key) = server().await;
    let mut viewer = Member::join(&server, &key, "c", &[]).await;
    let mut r1 = Member::join(&server, &key, "r1", &[P]).await;
    let mut r2 = Member::join(&server, &key, "r2", &[P]).await;
    let _other = Member::join(&server, &key, "d", &[]).await;
    for node in [2, 3] {
        approve(&server, node, &[P], ApproveMode::Add).await;
    }
    r1.until(|mirror| mirror.own["PrimaryRoutes"] == json!([P])).await;
    r2.until(|mirror| mirror.own["AllowedIPs"].to_string().contains(P)).await;
    assert!(
        r2.mirror.own.get("PrimaryRoutes").is_none_or(|own| *own == json!([])),
        "a standby knows that it stands by"
    );
    viewer.until(|mirror| mirror.carriers(P) == ["r1"] && mirror.peers.len() == 3).await;
    while viewer.within(Duration::from_millis(300)).await.is_some() {}
    let disable = Command::DisableRoutes { node: NodeId::new(2), prefixes: set(&[P]), by: Approver::Cli };
    server.control().unwrap().command(disable).await.unwrap();
    let told = viewer.next().await;
    let changed: Vec<u64> = told["PeersChanged"].as_array().unwrap().iter().filter_map(|p| p["ID"].as_u64()).collect();
    assert_eq!(changed, [2, 3], "{told}");
    assert_eq!(viewer.mirror.carriers(P), ["r2"]);
    r2.until(|mirror| mirror.own["PrimaryRoutes"] == json!([P])).await;
    r1.until(|mirror| !mirror.own["AllowedIPs"].to_string().contains(P)).await;
}

#[tokio::test]
async fn s37_s39_ordinary_nodes_come_and_go_by_patches_and_short_breaks_are_never_seen() {
    let server =
        TestServer::start_with(|options| options.tailnet.offline_after = Duration::from_millis(400)).await.unwrap();
    let anna = server.user("anna").await.unwrap();
    let key = server.key(anna, |_| {}).await.unwrap();
    let mut viewer = Member::join(&server, &key, "c", &[]).await;
    let mut node = Member::join(&server, &key, "n", &[]).await;
    viewer.until(|mirror| mirror.peer("n").is_some_and(|peer| peer["HomeDERP"] == 900)).await;
    while viewer.within(Duration::from_millis(200)).await.is_some() {}
    for _ in 0..10 {
        node.bounce().await;
    }
    let seen = viewer.within(Duration::from_millis(600)).await;
    assert_eq!(seen, None, "ten bounces inside the grace are nobody's business");
    let again = node.client.clone();
    let Member { client, map, .. } = node;
    drop((client, map));
    let gone = viewer.next().await;
    assert_eq!(gone["PeersChangedPatch"][0]["Online"], false, "{gone}");
    assert!(gone.get("PeersChanged").is_none(), "{gone}");
    let _map = again.again().await.unwrap().stream().await.unwrap();
    let back = viewer.next().await;
    assert_eq!(back["PeersChangedPatch"][0]["Online"], true, "{back}");
    assert!(back.get("PeersChanged").is_none(), "{back}");
}

#[tokio::test]
async fn s38_a_report_that_changes_nothing_is_told_to_nobody() {
    let (server, key) = server().await;
    let mut viewer = Member::join(&server, &key, "c", &[]).await;
    let mut router = Member::join(&server, &key, "r1", &[P]).await;
    approve(&server, 2, &[P], ApproveMode::Add).await;
    viewer.until(|mirror| mirror.carriers(P) == ["r1"]).await;
    for member in [&mut viewer, &mut router] {
        while member.within(Duration::from_millis(300)).await.is_some() {}
    }
    for _ in 0..5 {
        router.client.report("r1", &[P]).await.unwrap();
    }
    router.bounce().await;
    router.next().await;
    assert_eq!(viewer.within(Duration::from_millis(500)).await, None);
    assert_eq!(router.within(Duration::from_millis(100)).await, None);
}

#[tokio::test]
async fn s40_the_last_of_ten_approvals_wins_everywhere_also_while_the_node_is_away() {
    let (server, key) = server().await;
    let mut viewer = Member::join(&server, &key, "c", &[]).await;
    let mut router = Member::join(&server, &key, "r1", &[P, Q]).await;
    for round in 0..10 {
        let wanted = if round % 2 == 0 { [P] } else { [Q] };
        approve(&server, 2, &wanted, ApproveMode::Replace).await;
    }
    viewer.until(|mirror| mirror.carriers(Q) == ["r1"] && mirror.carriers(P).is_empty()).await;
    converges(&mut viewer).await;
    // Approved while it is away.
    let away = router.client.clone();
    let Member { client, map, .. } = router;
    drop((client, map));
    approve(&server, 2, &[P, Q], ApproveMode::Replace).await;
    router =
        Member { map: away.again().await.unwrap().stream().await.unwrap(), client: away, mirror: Mirror::default() };
    router.until(|mirror| mirror.own["AllowedIPs"].to_string().contains(P)).await;
    viewer.until(|mirror| mirror.carriers(P) == ["r1"]).await;
    // Rename, approval and policy at once.
    let control = server.control().unwrap();
    let rename = Command::RenameNode { node: NodeId::new(2), name: "edge".parse().unwrap() };
    let replace = Command::ApproveRoutes {
        node: NodeId::new(2),
        prefixes: set(&[Q]),
        mode: ApproveMode::Replace,
        by: Approver::Cli,
    };
    let text = r#"{ "acls": [ { "action": "accept", "src": ["anna@"], "dst": ["*:*"] } ] }"#.to_owned();
    let policy = Command::SetPolicy { text, replaces: None, by: "cli".to_owned() };
    let (a, b, c) = tokio::join!(control.command(rename), control.command(replace), control.command(policy));
    for outcome in [a, b, c] {
        outcome.unwrap();
    }
    viewer.until(|mirror| mirror.carriers(Q) == ["edge"] && mirror.carriers(P).is_empty()).await;
    converges(&mut viewer).await;
}

#[tokio::test]
async fn s41_a_node_that_is_deleted_while_it_polls_is_gone_everywhere_at_once() {
    let (server, key) = server().await;
    let mut viewers = vec![Member::join(&server, &key, "c", &[]).await, Member::join(&server, &key, "d", &[]).await];
    let mut router = Member::join(&server, &key, "r1", &[P]).await;
    approve(&server, 3, &[P], ApproveMode::Add).await;
    for viewer in &mut viewers {
        viewer.until(|mirror| mirror.carriers(P) == ["r1"]).await;
    }
    router.until(|mirror| mirror.own["PrimaryRoutes"] == json!([P])).await;
    server.control().unwrap().command(Command::DeleteNode { node: NodeId::new(3) }).await.unwrap();
    for viewer in &mut viewers {
        viewer.until(|mirror| mirror.peer("r1").is_none()).await;
        assert!(viewer.mirror.carriers(P).is_empty());
    }
    let farewell = router.next().await;
    assert_eq!(farewell["Node"]["Expired"], true, "{farewell}");
    router.client.report("r1", &[P]).await.unwrap_err();
    let rows = server.control().unwrap().read(|tailnet| tailnet.routes().rows().count()).await.unwrap();
    assert_eq!(rows, 0, "a request in flight does not bring it back");
}

#[tokio::test]
async fn s42_everybody_converges_to_the_full_map_after_half_of_all_left_came_back_and_were_replaced() {
    let (server, key) = server().await;
    let mut all = Vec::new();
    for n in 0..12 {
        all.push(Member::join(&server, &key, &format!("n{n}"), if n < 2 { &[P] } else { &[] }).await);
    }
    for node in [1, 2] {
        approve(&server, node, &[P], ApproveMode::Add).await;
    }
    // Half of them leave.
    let mut away = Vec::new();
    for member in all.drain(6..) {
        away.push(member.client.clone());
        drop(member);
    }
    for member in &mut all {
        member.bounce().await;
    }
    // And all are back at once.
    for client in away {
        let map = client.again().await.unwrap().stream().await.unwrap();
        all.push(Member { client, map, mirror: Mirror::default() });
    }
    // One after the other is replaced by a new node of the same name.
    for n in 3..6_u64 {
        server.control().unwrap().command(Command::DeleteNode { node: NodeId::new(n + 1) }).await.unwrap();
        let at = usize::try_from(n).unwrap();
        all[at] = Member::join(&server, &key, &format!("n{n}"), &[]).await;
    }
    for member in &mut all {
        converges(member).await;
        assert_eq!(member.mirror.peers.len(), 11);
        assert!(member.mirror.carriers(P).len() <= 1, "never on two peers");
    }
}

#[tokio::test]
async fn s43_a_machine_with_an_odd_name_breaks_nobodys_map() {
    let (server, key) = server().await;
    let mut viewer = Member::join(&server, &key, "c", &[]).await;
    let long = "x".repeat(300);
    let odd = ["", "....", "ünïcode ✓", "a\"b\\c\n", long.as_str(), "UPPER_case", "-lead-", "c"];
    for name in odd {
        Member::join(&server, &key, name, &[]).await;
    }
    viewer.until(|mirror| mirror.peers.len() == odd.len()).await;
    let mut names = BTreeSet::new();
    for peer in viewer.mirror.peers.values() {
        let name = peer["Name"].as_str().unwrap();
        let label = name.strip_suffix(".tailnet.internal.").unwrap();
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!((1..=63).contains(&label.len()) && label.chars().all(fits), "{name}");
        assert!(!label.starts_with('-') && !label.ends_with('-'), "{name}");
        names.insert(label.to_owned());
    }
    assert_eq!(names.len(), odd.len(), "each has a name of its own: {names:?}");
}
