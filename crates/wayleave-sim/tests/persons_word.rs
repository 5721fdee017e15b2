//! What a person says of routes, over the API of a server as shipped, with simulated routers and clients: live at once, durable, explained.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use wayleave_model::{Failback, PrefixOverrides, Spread, WhenDown};
use wayleave_server::options::Options;
use wayleave_sim::{Client, MapStream, TestServer};

const P: &str = "10.1.0.0/16";

struct Site {
    server: TestServer,
    api: reqwest::Client,
    api_key: String,
    key: String,
    /// Kept, so that their sessions stay open.
    routers: Vec<(Client, MapStream)>,
}

impl Site {
    /// Two routers of one prefix, approved in the order of their names.
    async fn with_two_routers() -> Self {
        Self::configured(|_| {}).await
    }

    async fn configured(change: impl FnOnce(&mut Options)) -> Self {
        let server = TestServer::start_with(change).await.unwrap();
        let anna = server.user("anna").await.unwrap();
        let key = server.key(anna, |_| {}).await.unwrap();
        let api_key = server.api_key().await.unwrap();
        let mut site = Self { server, api: reqwest::Client::new(), api_key, key, routers: Vec::new() };
        for name in ["r1", "r2"] {
            let (router, map) = site.member(name).await;
            router.report(name, &[P]).await.unwrap();
            site.routers.push((router, map));
            site.post("approve", json!({ "node": name, "prefixes": [P] })).await;
        }
        site
    }

    async fn member(&self, name: &str) -> (Client, MapStream) {
        let key = self.server.server().unwrap().public_key();
        let client = Client::connect(self.server.address(), key).await.unwrap();
        client.join(&self.key, name).await.unwrap();
        let mut map = client.stream().await.unwrap();
        map.next().await.unwrap().unwrap();
        (client, map)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.ask_at(method, &format!("/routes{path}"), body).await
    }

    async fn ask_at(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let url = format!("http://{}/api/v2{path}", self.server.address());
        let mut request = self.api.request(method, url).bearer_auth(&self.api_key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    async fn post(&self, verb: &str, body: Value) -> Value {
        let (status, answer) = self.ask(Method::POST, &format!("/{verb}"), Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{verb}: {answer}");
        answer
    }

    async fn refused(&self, verb: &str, body: Value, with: StatusCode, saying: &str) -> Value {
        let (status, answer) = self.ask(Method::POST, &format!("/{verb}"), Some(body)).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(status == with && message.contains(saying), "{verb}: {status} {answer}");
        answer
    }

    /// What is asked of this before it is done; nothing where it was done at once.
    async fn question(&self, method: Method, path: &str, body: Option<Value>) -> String {
        let (status, answer) = self.ask_at(method, path, body).await;
        if status.is_success() {
            return String::new();
        }
        assert!(status == StatusCode::CONFLICT && answer["confirm"] == true, "{path}: {status} {answer}");
        answer["message"].as_str().unwrap().to_owned()
    }

    async fn done(&self, method: Method, path: &str, body: Option<Value>) {
        let (status, answer) = self.ask_at(method, path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn primary(&self) -> Value {
        self.get("/explain?what=10.1.2.3").await["elections"][0]["router"]["name"].clone()
    }
}

#[tokio::test]
async fn a_prefix_that_a_person_moves_stays_there_and_says_who_moved_it_also_after_a_restart() {
    let mut site = Site::with_two_routers().await;
    assert_eq!(site.primary().await, "r1");
    site.post("prefer", json!({ "node": "r1", "prefix": P, "priority": 5 })).await;
    let moved = site.post("move", json!({ "prefix": P, "to": "r2" })).await;
    assert_eq!(moved[0]["state"], "primary", "{moved}");
    assert!(moved[0]["because"].as_str().unwrap().starts_with("moved by api:"), "{moved}");
    site.server.restart().await.unwrap();
    let explained = site.get("/explain?what=10.1.2.3").await;
    let election = &explained["elections"][0];
    assert_eq!(election["router"]["name"], "r2", "a restart moves nothing: {explained}");
    assert!(election["because"].as_str().unwrap().starts_with("moved by"), "{explained}");
    site.refused("move", json!({ "prefix": "0.0.0.0/0", "to": "r2" }), StatusCode::UNPROCESSABLE_ENTITY, "exit").await;
    site.refused("move", json!({ "prefix": "10.9.0.0/16", "to": "r2" }), StatusCode::NOT_FOUND, "has no route").await;
}

#[tokio::test]
async fn moving_a_prefix_to_where_it_is_holds_it_there_and_stands_in_the_history() {
    let site = Site::with_two_routers().await;
    site.post("prefer", json!({ "node": "r2", "prefix": P, "priority": 5 })).await;
    for _ in 0..2 {
        let held = site.post("move", json!({ "prefix": P, "to": "r1" })).await;
        assert!(held[0]["because"].as_str().unwrap().starts_with("moved by api:"), "{held}");
    }
    let history = site.get(&format!("/history?prefix={P}")).await;
    let lines: Vec<&Value> = history.as_array().unwrap().iter().filter(|line| line["event"] == "held").collect();
    assert_eq!(lines.len(), 1, "the second time nothing changed: {history}");
    assert_eq!(lines[0]["node"]["name"], "r1");
    let cause = lines[0]["cause"].as_str().unwrap();
    assert!(cause.starts_with("moved by api:") && cause.ends_with(", where it was already"), "{cause}");
    let explained = site.get(&format!("/explain?what={P}")).await;
    let why = &explained["elections"][0]["candidates"][1]["why_not"];
    assert_eq!(*why, "would be better, but a person moved the prefix", "{explained}");

    site.post("move", json!({ "prefix": P, "to": "r2" })).await;
    // It is written behind.
    let mut history = Value::Null;
    for _ in 0..500 {
        history = site.get(&format!("/history?prefix={P}")).await;
        if history[0]["event"] == "primary changed" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let of = |word: &str| history.as_array().unwrap().iter().filter(|line| line["event"] == word).count();
    assert_eq!((of("held"), &history[0]["event"]), (1, &json!("primary changed")), "a move is told once: {history}");
}

#[tokio::test]
async fn a_prefix_that_is_spread_is_not_moved_without_a_word() {
    let site = Site::with_two_routers().await;
    site.post("settings", json!({ "prefix": P, "spread": "balance" })).await;
    let spread = format!("{P} can't be moved to r2: clients are spread over r1, r2 (`spread` is `balance`)");
    let ask = json!({ "prefix": P, "to": "r2" });
    let refusal = site.refused("move", ask.clone(), StatusCode::CONFLICT, &spread).await;
    let message = refusal["message"].as_str().unwrap();
    assert!(message.contains("routes drain --node") && message.contains("--spread single"), "{message}");
    assert_eq!(refusal["confirm"], Value::Null, "there is nothing to say yes to");

    site.post("settings", json!({ "prefix": P, "spread": "region" })).await;
    let moved = site.post("move", ask.clone()).await;
    assert_eq!((&moved[0]["node"]["name"], &moved[0]["is_primary"]), (&json!("r2"), &json!(true)), "{moved}");
    let note = moved[0]["notes"][0].as_str().unwrap();
    assert!(note.contains("clients with a home region keep the router that is near to them"), "{note}");
    site.post("settings", json!({ "prefix": P, "spread": "single" })).await;
    assert_eq!(site.post("move", ask).await[0]["notes"], Value::Null);
}

#[tokio::test]
async fn settings_are_one_for_all_and_one_for_each_prefix_and_survive_a_restart() {
    let mut site = Site::with_two_routers().await;
    site.post("settings", json!({ "when_down": "fall_back", "failback_after": "never" })).await;
    let own = site.post("settings", json!({ "prefix": P, "spread": "balance", "failback_after": "90s" })).await;
    assert_eq!(own["when_down"], "fall_back", "from the default");
    assert_eq!(own["failback_after"], "90s");
    assert!(own["notes"][0].as_str().unwrap().contains("masquerade"), "{own}");
    let words = "`sideways` is not among single, region, balance, or `default`";
    site.refused("settings", json!({ "spread": "sideways" }), StatusCode::BAD_REQUEST, words).await;
    site.refused(
        "settings",
        json!({ "prefix": "10.1.0.1/16", "spread": "single" }),
        StatusCode::BAD_REQUEST,
        "10.1.0.0/16",
    )
    .await;
    site.server.restart().await.unwrap();
    let all = site.get("/settings").await;
    assert_eq!((&all[0]["when_down"], &all[0]["failback_after"]), (&json!("fall_back"), &json!("never")));
    assert_eq!((&all[1]["prefix"], &all[1]["spread"]), (&json!(P), &json!("balance")));
    let back = site.post("settings", json!({ "prefix": P, "spread": "default", "failback_after": "default" })).await;
    assert_eq!((&back["spread"], &back["failback_after"]), (&json!("single"), &json!("never")));
    assert_eq!(site.get("/settings").await.as_array().unwrap().len(), 1, "nothing is set for the prefix any more");
}

#[tokio::test]
async fn what_is_configured_for_a_prefix_holds_until_a_person_says_otherwise_of_that_prefix() {
    let own =
        PrefixOverrides { failback: Some(Failback::Never), spread: Some(Spread::Single), ..PrefixOverrides::default() };
    let unused = PrefixOverrides { when_down: Some(WhenDown::FallBack), ..PrefixOverrides::default() };
    let prefixes = [(P.parse().unwrap(), own), ("10.9.0.0/16".parse().unwrap(), unused)];
    let mut site = Site::configured(|options| options.tailnet.routes.prefixes = prefixes.into()).await;
    site.post("settings", json!({ "failback_after": "10s", "when_down": "fall_back" })).await;
    site.post("prefer", json!({ "node": "r2", "prefix": P, "priority": 5 })).await;
    let pending = async |site: &Site| {
        site.get(&format!("/explain?what={P}")).await["elections"][0]["pending"]["in_seconds"].clone()
    };
    assert_eq!(pending(&site).await, Value::Null, "it never fails back, whatever the default is by now");

    let all = site.get("/settings").await;
    let of = |row: &Value| (row["prefix"].clone(), row["failback_after"].clone(), row["from"].clone());
    let from = |when_down, on_withdraw, spread, failback_after| json!({ "when_down": when_down, "on_withdraw": on_withdraw, "spread": spread, "failback_after": failback_after });
    let default = from("set", "configuration", "configuration", "set");
    assert_eq!(of(&all[0]), (Value::Null, json!("10s"), default));
    let named = from("default", "configured default", "configuration", "configuration");
    assert_eq!(of(&all[1]), (json!(P), json!("never"), named), "{all}");
    let unused = from("configuration", "configured default", "configured default", "default");
    assert_eq!(of(&all[2]), (json!("10.9.0.0/16"), json!("10s"), unused), "{all}");

    let set = site.post("settings", json!({ "prefix": P, "failback_after": "90s" })).await;
    assert_eq!((&set["from"]["failback_after"], &set["set_here"]), (&json!("set"), &json!(["failback_after"])));
    assert!(pending(&site).await.as_u64().is_some_and(|seconds| seconds > 10), "live at once, and stronger");
    site.server.restart().await.unwrap();
    assert_eq!(site.get("/settings").await[1]["failback_after"], "90s", "also after a restart");
    let back = site.post("settings", json!({ "prefix": P, "failback_after": "default" })).await;
    assert_eq!((&back["failback_after"], &back["from"]["failback_after"]), (&json!("never"), &json!("configuration")));
}

#[tokio::test]
async fn a_check_says_whether_it_looks_at_standbys_also_after_a_restart() {
    let mut site = Site::with_two_routers().await;
    let put = async |site: &Site, body: Value| site.ask(Method::PUT, "/checks", Some(body)).await;
    let (status, set) = put(&site, json!({ "prefix": P, "target": "10.1.2.3" })).await;
    assert!(status == StatusCode::OK && set["standby"] == false, "nobody asked for it: {set}");
    let (status, set) = put(&site, json!({ "prefix": P, "target": "10.1.2.3", "standby": true })).await;
    assert!(status == StatusCode::OK && set["standby"] == true, "{set}");
    site.server.restart().await.unwrap();
    assert_eq!(site.get("/checks").await[0]["standby"], true);
    let (_, set) = put(&site, json!({ "prefix": P, "target": "10.1.2.3", "witness": "r1" })).await;
    assert_eq!((&set["standby"], &set["witness"]), (&json!(false), &json!("r1")), "what is set anew says all of it");

    let host = json!({ "prefix": "10.9.9.9/32", "target": "10.9.9.9", "standby": true });
    let (status, refused) = put(&site, host).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused["message"].as_str().unwrap().contains("single address"), "{refused}");
}

#[tokio::test]
async fn setting_a_check_and_taking_it_back_stand_in_the_history_with_who_did_it() {
    let site = Site::with_two_routers().await;
    let check = json!({ "prefix": P, "target": "10.1.2.3", "witness": "r1", "standby": true, "every_millis": 5000 });
    for _ in 0..2 {
        let (status, set) = site.ask(Method::PUT, "/checks", Some(check.clone())).await;
        assert_eq!(status, StatusCode::OK, "{set}");
    }
    let (status, _) = site.ask(Method::POST, "/checks/remove", Some(json!({ "prefix": P }))).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let history = site.get(&format!("/history?prefix={P}&limit=2")).await;
    assert_eq!((&history[0]["event"], &history[0]["prefix"]), (&json!("check removed"), &json!(P)), "{history}");
    assert!(history[0]["cause"].as_str().unwrap().starts_with("api:"), "{history}");
    assert_eq!(history[1]["event"], "check set", "{history}");
    let cause = history[1]["cause"].as_str().unwrap();
    assert!(cause.starts_with("api:") && cause.ends_with(": 10.1.2.3 every 5s, by r1, standbys too"), "{cause}");
    let all = site.get(&format!("/history?prefix={P}")).await;
    let set = all.as_array().unwrap().iter().filter(|line| line["event"] == "check set").count();
    assert_eq!(set, 1, "the second time nothing changed: {all}");
}

#[tokio::test]
async fn nothing_is_said_of_what_can_never_be_a_route() {
    let site = Site::with_two_routers().await;
    site.routers[0].0.report("r1", &[P, "127.0.0.0/8"]).await.unwrap();
    for (prefix, why) in [
        ("127.0.0.0/8", "it overlaps the loopback range"),
        ("100.64.1.0/24", "it overlaps the tailnet's own addresses"),
        ("100.0.0.0/8", "it overlaps the tailnet's own addresses"),
        ("fd7a:115c:a1e0:b1a::/64", "it is in the 4via6 range and shorter than /96"),
    ] {
        let never = format!("{prefix} can never be a route, since {why}");
        let no = StatusCode::UNPROCESSABLE_ENTITY;
        site.refused("settings", json!({ "prefix": prefix, "spread": "region" }), no, &never).await;
        site.refused("freeze", json!({ "prefix": prefix }), no, &never).await;
        site.refused("prefer", json!({ "node": "r1", "prefix": prefix, "priority": 1 }), no, &never).await;
        let target = prefix.split('/').next().unwrap();
        let (status, check) =
            site.ask(Method::PUT, "/checks", Some(json!({ "prefix": prefix, "target": target }))).await;
        assert!(status == no && check["message"].as_str().unwrap().contains(&never), "{status} {check}");
        site.post("settings", json!({ "prefix": prefix, "spread": "default" })).await;
    }
    assert_eq!(site.get("/settings").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_freeze_that_is_over_is_not_shown_and_can_not_be_ended() {
    let site = Site::with_two_routers().await;
    let not = format!("{P} is not frozen");
    site.refused("unfreeze", json!({ "prefix": P }), StatusCode::NOT_FOUND, &not).await;
    site.refused("unfreeze", json!({ "all": true }), StatusCode::NOT_FOUND, "nothing is frozen").await;
    site.post("freeze", json!({ "prefix": P, "for": "1s" })).await;
    let shown = site.get("/settings").await;
    assert!(shown[1]["frozen_until"].is_string(), "{shown}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let shown = site.get("/settings").await;
    assert_eq!(shown.as_array().unwrap().len(), 1, "it has ended: {shown}");
    site.refused("unfreeze", json!({ "prefix": P }), StatusCode::NOT_FOUND, &not).await;
    site.refused("unfreeze", json!({ "all": true }), StatusCode::NOT_FOUND, "nothing is frozen").await;
    let own = site.post("settings", json!({ "prefix": P, "spread": "region" })).await;
    assert_eq!((&own["frozen_until"], &own["frozen_by"]), (&Value::Null, &Value::Null));
    site.post("freeze", json!({ "prefix": P, "for": "1h" })).await;
    site.post("unfreeze", json!({ "prefix": P })).await;
}

#[tokio::test]
async fn a_frozen_prefix_stays_on_a_dead_router_until_it_is_let_go() {
    let mut site = Site::with_two_routers().await;
    let frozen = site.post("freeze", json!({ "all": true, "for": "1h" })).await;
    assert!(frozen["frozen_until"].is_string(), "{frozen}");
    drop(site.routers.remove(0));
    tokio::time::sleep(Duration::from_millis(900)).await;
    let explained = site.get(&format!("/explain?what={P}")).await;
    assert_eq!(explained["elections"][0]["router"]["name"], "r1");
    assert_eq!(explained["elections"][0]["because"], "frozen");
    assert_eq!(explained["elections"][0]["candidates"][1]["why_not"], "would be better, but the prefix is frozen");
    site.refused("unfreeze", json!({ "prefix": P }), StatusCode::CONFLICT, "--all").await;
    site.post("unfreeze", json!({ "all": true })).await;
    assert_eq!(site.primary().await, "r2");
}

#[tokio::test]
async fn a_drain_waits_until_viewers_have_the_new_map_and_refuses_where_nobody_else_can_serve() {
    let site = Site::with_two_routers().await;
    let (client, mut map) = site.member("c").await;
    let reading = tokio::spawn(async move {
        let moved = |frame: &Value| frame["PeersChanged"].as_array().is_some_and(|peers| peers.len() == 2);
        let frame = map.until(moved).await.unwrap();
        (client, map, frame)
    });
    let drained = site.post("drain", json!({ "node": "r1", "wait": true })).await;
    assert_eq!((&drained["moved"], &drained["viewers"]), (&json!([P]), &json!(2)), "r2 and c: {drained}");
    let (_client, _map, frame) = reading.await.unwrap();
    assert!(frame.to_string().contains(P), "both routers in one frame: {frame}");
    assert_eq!(site.primary().await, "r2");
    let alone = json!({ "node": "r2", "wait": true });
    let refusal = site.refused("drain", alone, StatusCode::CONFLICT, "nobody else can serve 10.1.0.0/16").await;
    assert_eq!(refusal["confirm"], Value::Null, "one that waits is not asked");
    assert_eq!(site.get("?node=r2").await[0]["state"], "primary");
    let asked = site.refused("drain", json!({ "node": "r2" }), StatusCode::CONFLICT, "nobody else can serve").await;
    assert_eq!(asked["confirm"], true);
    site.post("undrain", json!({ "node": "r1" })).await;
    assert_eq!(site.primary().await, "r2", "one that comes back stands by");
    assert_eq!(site.get("?node=r1").await[0]["state"], "standby");
}

#[tokio::test]
async fn a_router_is_back_in_service_once_viewers_have_the_new_map() {
    let site = Site::with_two_routers().await;
    site.post("drain", json!({ "node": "r1" })).await;
    site.post("drain", json!({ "node": "r2", "force": true })).await;
    assert_eq!(site.primary().await, "r2", "nobody is better");
    let (client, mut map) = site.member("c").await;
    let reading = tokio::spawn(async move {
        let taken = |frame: &Value| frame["PeersChanged"].as_array().is_some_and(|peers| peers.len() == 2);
        let frame = map.until(taken).await.unwrap();
        (client, map, frame)
    });
    let back = site.post("undrain", json!({ "node": "r1", "wait": true, "timeout": "30s" })).await;
    assert_eq!((&back["drained"], &back["taken"]), (&json!(false), &json!([P])), "{back}");
    assert_eq!(back["viewers"], 2, "r2 and c: {back}");
    assert!(back["took_ms"].is_u64(), "{back}");
    let (_client, _map, frame) = reading.await.unwrap();
    assert!(frame.to_string().contains(P), "both routers in one frame: {frame}");
    let spare = site.post("undrain", json!({ "node": "r2", "wait": true })).await;
    assert_eq!((&spare["taken"], &spare["viewers"]), (&json!([]), &json!(2)), "it stands by: {spare}");
    let unsaid = site.post("undrain", json!({ "node": "r2" })).await;
    assert!(unsaid["viewers"].is_null() && unsaid["took_ms"].is_null(), "nobody waited: {unsaid}");
    let wrong = json!({ "node": "r1", "wait": true, "timeout": "soon" });
    site.refused("undrain", wrong, StatusCode::BAD_REQUEST, "soon").await;
}

#[tokio::test]
async fn a_route_is_explained_for_everybody_and_for_one_viewer() {
    let site = Site::with_two_routers().await;
    let _c = site.member("c").await;
    let explained = site.get("/explain?what=10.1.2.3&from=c").await;
    assert_eq!(explained["prefix"], P);
    assert_eq!(explained["viewer"]["router"]["name"], "r1");
    assert_eq!(explained["viewer"]["because"], "primary");
    let candidates = &explained["elections"][0]["candidates"];
    assert_eq!(candidates[0]["why_not"], Value::Null);
    assert_eq!(candidates[1]["why_not"], "stands by: no better than the incumbent");
    site.post("prefer", json!({ "node": "r2", "prefix": P, "priority": 1 })).await;
    let explained = site.get("/explain?what=10.1.2.3").await;
    let pending = &explained["elections"][0]["pending"];
    assert_eq!(pending["node"]["name"], "r2", "{explained}");
    assert!((1..=60).contains(&pending["in_seconds"].as_u64().unwrap()), "{explained}");
    let itself = site.get("/explain?what=10.1.2.3&from=r1").await;
    assert_eq!(itself["viewer"]["because"], "carries the prefix itself");
    let (status, _) = site.ask(Method::GET, "/explain?what=10.77.0.1", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_exit_is_explained_and_so_is_an_address_that_goes_through_the_exit_that_a_client_has_chosen() {
    let site = Site::with_two_routers().await;
    let (status, refused) = site.ask(Method::GET, "/explain?what=0.0.0.0/0", None).await;
    assert!(status == StatusCode::NOT_FOUND && refused["message"].as_str().unwrap().contains("no node is an exit"));
    let (e1, _e1) = site.member("e1").await;
    let (e2, _e2) = site.member("e2").await;
    let both = ["0.0.0.0/0", "::/0"];
    e1.report("e1", &both).await.unwrap();
    e2.report("e2", &both).await.unwrap();
    site.post("approve", json!({ "node": "e1", "prefixes": both })).await;
    let (c, _c) = site.member("c").await;

    let explained = site.get("/explain?what=8.8.8.8&from=c").await;
    assert_eq!((&explained["prefix"], &explained["elections"]), (&json!("0.0.0.0/0"), &json!([])), "{explained}");
    let of = |exit: &Value| {
        let word = |field: &str| exit[field].clone();
        (exit["node"]["name"].clone(), word("state"), word("approved"), word("up"), word("usable"), word("chosen"))
    };
    let (yes, no) = (json!(true), json!(false));
    let exits = |of_e1: &Value, chosen: &Value| {
        let first = (json!("e1"), json!("serving"), yes.clone(), yes.clone(), of_e1.clone(), chosen.clone());
        let second_usable = if of_e1.is_null() { Value::Null } else { no.clone() };
        let second = (json!("e2"), json!("pending"), no.clone(), yes.clone(), second_usable.clone(), second_usable);
        vec![first, second]
    };
    let shown = |explained: &Value| explained["exits"].as_array().unwrap().iter().map(of).collect::<Vec<_>>();
    assert_eq!(shown(&explained), exits(&yes, &no), "{explained}");
    assert_eq!(explained["viewer"]["because"], "it has chosen no exit; it may use e1");

    let choose = async |exit: &str| {
        let request = json!({
            "Version": 142, "NodeKey": c.node_key(), "OmitPeers": true,
            "Hostinfo": { "Hostname": "c", "ExitNodeID": exit, "NetInfo": { "PreferredDERP": 900 } },
        });
        let (status, _) = c.ask(Method::POST, "/machine/map", request.to_string().into_bytes()).await.unwrap();
        assert_eq!(status, StatusCode::OK);
    };
    choose(&explained["exits"][0]["node"]["id"].to_string()).await;
    for what in ["8.8.8.8", "0.0.0.0/0", "::/0", "2001:db8::1"] {
        let explained = site.get(&format!("/explain?what={what}&from=c")).await;
        assert_eq!(shown(&explained), exits(&yes, &yes), "{explained}");
        assert_eq!(explained["viewer"]["router"]["name"], "e1", "{explained}");
        assert_eq!(explained["viewer"]["because"], "it has chosen the exit e1");
    }
    let explained = site.get("/explain?what=::/0").await;
    assert_eq!(shown(&explained), exits(&Value::Null, &Value::Null), "{explained}");
    assert_eq!((&explained["prefix"], &explained["viewer"]), (&json!("::/0"), &Value::Null));
    choose(&explained["exits"][1]["node"]["id"].to_string()).await;
    let explained = site.get("/explain?what=8.8.8.8&from=c").await;
    assert_eq!(explained["viewer"]["router"], Value::Null, "{explained}");
    assert_eq!(explained["viewer"]["because"], "it has chosen the exit e2, which it may not use");

    let explained = site.get("/explain?what=10.1.2.3&from=c").await;
    assert_eq!((&explained["prefix"], &explained["exits"]), (&json!(P), &json!([])), "a subnet takes it: {explained}");
    for tailnets in ["100.64.0.99", "169.254.1.1"] {
        let (status, _) = site.ask(Method::GET, &format!("/explain?what={tailnets}"), None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "no exit takes it");
    }
}

#[tokio::test]
async fn a_prefix_that_has_fallen_back_is_explained_together_with_the_wider_one_and_when_it_comes_back() {
    let mut site = Site::with_two_routers().await;
    let narrow = "10.1.7.0/24";
    let (r3, r3_map) = site.member("r3").await;
    r3.report("r3", &[narrow]).await.unwrap();
    site.post("approve", json!({ "node": "r3", "prefixes": [narrow] })).await;
    site.post("settings", json!({ "prefix": narrow, "when_down": "fall_back" })).await;
    let _c = site.member("c").await;
    drop((r3_map, site.routers.remove(1)));
    r3.cut();
    tokio::time::sleep(Duration::from_millis(900)).await;
    let ask = format!("/explain?what={narrow}&from=c");
    let explained = site.get(&ask).await;
    let election = &explained["elections"][0];
    assert_eq!((&explained["prefix"], &explained["wider"]), (&json!(narrow), &json!([P])), "{explained}");
    assert_eq!(
        (&election["router"]["name"], &election["fallen_back"], &election["back_in_seconds"]),
        (&json!("r3"), &json!(true), &Value::Null)
    );
    assert_eq!(election["back_after_seconds"], 30, "{explained}");
    assert_eq!(explained["viewer"]["because"], "it has fallen back, and 10.1.0.0/16 is used instead");
    let wide = &explained["instead"];
    assert_eq!((&wide["prefix"], &wide["viewer"]["router"]["name"]), (&json!(P), &json!("r1")), "{explained}");

    let again = r3.again().await.unwrap();
    let mut map = again.stream().await.unwrap();
    map.next().await.unwrap().unwrap();
    again.report("r3", &[narrow]).await.unwrap();
    let explained = site.get(&ask).await;
    let election = &explained["elections"][0];
    let seconds = election["back_in_seconds"].as_u64().unwrap_or_default();
    assert!((1..=30).contains(&seconds) && election["back_at"].is_string(), "{explained}");
    assert_eq!((&election["back_after_seconds"], &explained["instead"]["prefix"]), (&Value::Null, &json!(P)));
}

#[tokio::test]
async fn what_a_router_reports_of_itself_is_shown_beside_its_routes() {
    let site = Site::with_two_routers().await;
    let request = json!({
        "Version": 142, "NodeKey": site.routers[0].0.node_key(), "OmitPeers": true,
        "Endpoints": ["127.0.0.1:41641"], "EndpointTypes": [1], "DebugFlags": ["warn-ip-forwarding-off"],
        "Hostinfo": { "Hostname": "r1", "RoutableIPs": [P], "NetInfo": { "PreferredDERP": 900 } },
    });
    let body = request.to_string().into_bytes();
    let (status, _) = site.routers[0].0.ask(Method::POST, "/machine/map", body).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(site.get("?node=r1").await[0]["warnings"], json!(["IP forwarding is off"]));
    assert_eq!(site.get("?node=r2").await[0]["warnings"], json!([]));
    let socket = site.server.options().socket.clone().unwrap();
    let socket = reqwest::Client::builder().unix_socket(socket).build().unwrap();
    let found: Value = socket.get("http://local/api/v2/doctor").send().await.unwrap().json().await.unwrap();
    let words = "it says of itself: IP forwarding is off; its routes may carry nothing";
    assert_eq!(
        (&found[0]["severity"], &found[0]["about"], &found[0]["what"]),
        (&json!("error"), &json!("r1"), &json!(words))
    );
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
}

#[tokio::test]
async fn whoever_takes_the_last_exit_away_is_asked_first() {
    const EXIT: [&str; 2] = ["0.0.0.0/0", "::/0"];
    let site = Site::with_two_routers().await;
    for (router, _) in &site.routers {
        let name = if std::ptr::eq(router, &site.routers[0].0) { "r1" } else { "r2" };
        router.report(name, &[P, EXIT[0], EXIT[1]]).await.unwrap();
    }
    let disable = |node: &str| Some(json!({ "node": node, "prefixes": [EXIT[0]] }));
    let drain = |node: &str, wait: bool| Some(json!({ "node": node, "wait": wait }));
    site.post("approve", json!({ "node": "r1", "prefixes": [EXIT[0]] })).await;
    let only = "r1 is the only exit node that is up: once";
    let no_way = "those who chose it have no way out";
    for (path, body, once) in [
        ("/routes/disable", disable("r1"), "it is disabled"),
        ("/routes/disable", Some(json!({ "node": "r1", "prefixes": [EXIT[1]] })), "it is disabled"),
        ("/routes/approve", Some(json!({ "node": "r1", "prefixes": [P], "replace": true })), "it is disabled"),
        ("/nodes/r1/expire", Some(json!({})), "its key has ended"),
        ("/device/1/expire", None, "its key has ended"),
    ] {
        let question = site.question(Method::POST, path, body).await;
        assert_eq!(question, format!("{only} {once} {no_way}"), "{path}");
    }
    assert_eq!(site.question(Method::DELETE, "/nodes/r1", None).await, format!("{only} it is deleted {no_way}"));
    let drained = site.question(Method::POST, "/routes/drain", drain("r1", false)).await;
    assert!(drained.contains("nobody else can serve as an exit node: r1 would go on carrying it"), "{drained}");
    let waits = drain("r1", true).unwrap();
    site.refused("drain", waits, StatusCode::CONFLICT, "nobody else can serve as an exit node").await;
    let later = json!({ "at": "2099-01-01T00:00:00Z" });
    site.done(Method::POST, "/nodes/r1/expire", Some(later)).await;

    site.post("approve", json!({ "node": "r2", "prefixes": [EXIT[0]] })).await;
    site.done(Method::POST, "/routes/drain", drain("r1", false)).await;
    site.done(Method::POST, "/routes/undrain", Some(json!({ "node": "r1" }))).await;
    site.done(Method::POST, "/routes/disable", disable("r1")).await;
    let last = site.question(Method::POST, "/routes/disable", disable("r2")).await;
    assert!(last.starts_with("r2 is the only exit node"), "{last}");
    site.done(Method::POST, "/routes/disable", disable("r1")).await;
    let force = json!({ "node": "r2", "prefixes": EXIT, "force": true });
    site.done(Method::POST, "/routes/disable", Some(force)).await;
    site.done(Method::POST, "/routes/drain", drain("r2", false)).await;
}

#[tokio::test]
async fn whoever_takes_the_last_router_of_a_group_away_is_asked_first() {
    let site = Site::with_two_routers().await;
    let policy = r#"{
        "tagOwners": { "tag:near": [], "tag:far": [], "tag:spare": [] },
        "grants": [{ "src": ["*"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:near"] }],
    }"#;
    site.done(Method::PUT, "/policy", Some(json!({ "text": policy }))).await;
    for (node, tag) in [("r1", "tag:near"), ("r2", "tag:far")] {
        site.done(Method::POST, &format!("/nodes/{node}/tags"), Some(json!({ "tags": [tag, "tag:spare"] }))).await;
    }
    let _c = site.member("c").await;
    let words = |once: &str| {
        format!(
            "r1 is the only router of tag:near that is up for {P}: once {once} those whom grants steer there do not reach it any more"
        )
    };
    let disable = |node: &str| Some(json!({ "node": node, "prefixes": [P] }));
    let tags = |tags: &[&str]| Some(json!({ "tags": tags }));
    for (path, body, once) in [
        ("/routes/disable", disable("r1"), "it is disabled"),
        ("/nodes/r1/expire", Some(json!({})), "its key has ended"),
        ("/nodes/r1/tags", tags(&["tag:far"]), "it is without tag:near"),
    ] {
        assert_eq!(site.question(Method::POST, path, body).await, words(once), "{path}");
    }
    assert_eq!(site.question(Method::DELETE, "/nodes/r1", None).await, words("it is deleted"));
    let drained = site.question(Method::POST, "/routes/drain", Some(json!({ "node": "r1" }))).await;
    let alone = format!("nobody else can serve {P} for those whom grants steer through tag:near: r1 would");
    assert!(drained.starts_with(&alone), "{drained}");
    site.done(Method::POST, "/nodes/r1/tags", tags(&["tag:near", "tag:far"])).await;

    site.done(Method::POST, "/nodes/r2/tags", tags(&["tag:near"])).await;
    site.done(Method::POST, "/nodes/r1/tags", tags(&["tag:far"])).await;
    let last = site.question(Method::POST, "/nodes/r2/tags", tags(&["tag:far"])).await;
    assert!(last.starts_with("r2 is the only router of tag:near"), "{last}");
    site.done(Method::POST, "/nodes/r2/tags", Some(json!({ "tags": ["tag:far"], "force": true }))).await;
}

#[tokio::test]
async fn whoever_takes_a_router_away_is_asked_first_where_the_other_is_suspect() {
    let site = Site::with_two_routers().await;
    for (at, name, own) in [(0, "r1", "10.1.0.1:1"), (1, "r2", "10.1.0.2:1"), (1, "r2", "192.0.2.2:1")] {
        site.routers[at].0.report_from(name, &[P], &[own]).await.unwrap();
    }
    let _c = site.member("c").await;
    let second = site.get("?node=r2").await;
    assert_eq!(second[0]["reason"], "suspect: own address gone", "{second}");
    let disable = Some(json!({ "node": "r1", "prefixes": [P] }));
    let question = site.question(Method::POST, "/routes/disable", disable).await;
    assert!(question.starts_with(&format!("r1 is the only router that is up for {P}")), "{question}");
    let moved = site.post("what-if", json!({ "down": ["r1"] })).await;
    let of = &moved["primaries"][0];
    assert_eq!((&of["to"]["name"], &of["rank"]), (&json!("r2"), &json!("suspect: own address gone")), "{moved}");
    assert_eq!(moved["viewers"][0]["loses"][0]["prefix"], P, "{moved}");
}

#[tokio::test]
async fn a_router_that_nobody_can_reach_says_so_beside_its_route() {
    let site = Site::with_two_routers().await;
    let (r3, _map) = site.member("r3").await;
    let request = json!({
        "Version": 142, "NodeKey": r3.node_key(), "OmitPeers": true,
        "DiscoKey": "discokey:0100000000000000000000000000000000000000000000000000000000000000",
        "Hostinfo": { "Hostname": "r3", "RoutableIPs": [P], "NetInfo": { "PreferredDERP": 0 } },
    });
    r3.ask(Method::POST, "/machine/map", request.to_string().into_bytes()).await.unwrap();
    site.post("approve", json!({ "node": "r3", "prefixes": [P] })).await;
    let third = site.get("?node=r3").await;
    assert_eq!((&third[0]["state"], &third[0]["reason"]), (&json!("standby"), &json!("unreachable")), "{third}");
    let words = "can't be moved to r3: unreachable";
    site.refused("move", json!({ "prefix": P, "to": "r3" }), StatusCode::CONFLICT, words).await;
}

#[tokio::test]
async fn an_exit_that_clients_have_chosen_is_not_drained_without_a_word() {
    let site = Site::with_two_routers().await;
    let exits = ["0.0.0.0/0", "::/0"];
    for (router, name) in [(0, "r1"), (1, "r2")] {
        site.routers[router].0.report(name, &[P, exits[0], exits[1]]).await.unwrap();
        site.post("approve", json!({ "node": name, "prefixes": exits })).await;
    }
    let (c, _c) = site.member("c").await;
    let request = json!({
        "Version": 142, "NodeKey": c.node_key(), "OmitPeers": true,
        "Hostinfo": { "Hostname": "c", "ExitNodeID": "1", "NetInfo": { "PreferredDERP": 900 } },
    });
    c.ask(Method::POST, "/machine/map", request.to_string().into_bytes()).await.unwrap();
    let words = "r1 is the exit node that c chose, and a drain moves nobody from it";
    let waits = json!({ "node": "r1", "wait": true });
    let refusal = site.refused("drain", waits, StatusCode::CONFLICT, words).await;
    assert_eq!(refusal["confirm"], Value::Null, "{refusal}");
    assert_eq!(site.primary().await, "r1");
    let drained = site.post("drain", json!({ "node": "r1" })).await;
    assert_eq!((&drained["notes"], site.primary().await), (&json!([words]), json!("r2")));
    let other = site.post("undrain", json!({ "node": "r1" })).await;
    assert_eq!(other["notes"], json!([]));
}

#[tokio::test]
async fn one_question_has_all_that_an_approval_comes_to() {
    let change = |options: &mut Options| options.server_url = "http://203.0.113.5:8080".to_owned();
    let site = Site::configured(change).await;
    let (guarded, exit) = ("203.0.113.0/24", "0.0.0.0/0");
    site.routers[0].0.report("r1", &[P, guarded, exit, "::/0", "10.9.0.0/16"]).await.unwrap();
    site.post("approve", json!({ "node": "r1", "prefixes": ["10.9.0.0/16"] })).await;
    let whole = |prefixes: &[&str]| Some(json!({ "node": "r1", "prefixes": prefixes, "replace": true }));
    let question = site.question(Method::POST, "/routes/approve", whole(&[P, guarded])).await;
    for part in ["203.0.113.0/24 contains 203.0.113.5", "r1 is the only router that is up for 10.9.0.0/16"] {
        assert!(question.contains(part), "{question}");
    }
    let force = json!({ "node": "r1", "prefixes": [guarded, exit], "force": true });
    site.post("approve", force).await;
    let all = whole(&[P, "10.9.0.0/16", guarded, exit]);
    assert_eq!(site.question(Method::POST, "/routes/approve", all).await, "", "nothing is new, and nothing goes");
}
