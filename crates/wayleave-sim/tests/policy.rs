//! The policy in a server as shipped: its API, its file, what it does to maps, and shells that a person has to approve.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::time::Duration;

use http::{Method, StatusCode};
use reqwest::Response;
use serde_json::{Value, json};
use wayleave_model::{Approver, NodeId};
use wayleave_sim::{Client, MapStream, TestServer};
use wayleave_tailnet::{Command, SshCheckKey};

const ALLOW_ALL: &str = r#"{ "acls": [ { "action": "accept", "src": ["*"], "dst": ["*:*"] } ] }"#;

/// The admin API over the network.
struct Api {
    client: reqwest::Client,
    url: String,
    key: String,
}

impl Api {
    async fn of(server: &TestServer) -> Self {
        let key = server.api_key().await.unwrap();
        Self { client: reqwest::Client::new(), url: format!("http://{}", server.address()), key }
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body.to_owned()).send().await.unwrap()
    }

    async fn json(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let answer = self.ask(method, path, &[("content-type", "application/json")], &body.to_string()).await;
        let status = answer.status();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    async fn set(&self, text: &str) {
        let (status, body) = self.json(Method::PUT, "/api/v2/policy", json!({ "text": text })).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }
}

fn etag(answer: &Response) -> String {
    answer.headers()["etag"].to_str().unwrap().to_owned()
}

async fn member(server: &TestServer, user: &str, name: &str) -> (Client, MapStream, Value) {
    let client = Client::connect(server.address(), server.server().unwrap().public_key()).await.unwrap();
    let user = match server.user(user).await {
        Ok(user) => user,
        Err(_) => {
            let wanted = user.to_owned();
            let found = server.control().unwrap().read(move |tailnet| tailnet.registry().users_named(&wanted)[0].id);
            found.await.unwrap()
        }
    };
    let key = server.key(user, |_| {}).await.unwrap();
    client.join(&key, name).await.unwrap();
    let mut map = client.stream().await.unwrap();
    let first = map.next().await.unwrap().unwrap();
    (client, map, first)
}

const ACL: &str = "/api/v2/tailnet/-/acl";

#[tokio::test]
async fn a_policy_is_replaced_only_by_who_has_seen_it() {
    let server = TestServer::start().await.unwrap();
    let api = Api::of(&server).await;
    let none = api.ask(Method::GET, ACL, &[], "").await;
    assert_eq!(none.headers()["content-type"], "application/hujson");
    let none = etag(&none);

    let commented = format!("// mine\n{ALLOW_ALL}");
    let first = api.ask(Method::POST, ACL, &[("if-match", "\"ts-default\"")], &commented).await;
    assert_eq!(first.status(), StatusCode::OK);
    let first = etag(&first);
    for stale in [none.as_str(), "\"ts-default\"", "\"nonsense\""] {
        let refused = api.ask(Method::POST, ACL, &[("if-match", stale)], "{}").await;
        assert_eq!(refused.status(), StatusCode::PRECONDITION_FAILED, "{stale}");
        assert!(refused.text().await.unwrap().contains("changed by somebody else"));
    }
    let shown = api.ask(Method::GET, ACL, &[], "").await;
    assert_eq!((etag(&shown), shown.text().await.unwrap()), (first.clone(), commented));

    let second = api.ask(Method::POST, ACL, &[("if-match", &first), ("accept", "application/json")], ALLOW_ALL).await;
    assert_eq!(second.headers()["content-type"], "application/json");
    let second: Value = serde_json::from_slice(&second.bytes().await.unwrap()).unwrap();
    assert_eq!(second["acls"][0]["action"], "accept");
    let (_, body) = api.json(Method::GET, "/api/v2/policy", Value::Null).await;
    assert_eq!((&body["revision"], &body["text"]), (&json!(2), &json!(ALLOW_ALL)));
    assert!(body["set_by"].as_str().unwrap().starts_with("api:"), "{body}");
}

#[tokio::test]
async fn a_policy_that_is_wrong_is_refused_with_its_place_and_the_old_one_stays() {
    let mut server = TestServer::start().await.unwrap();
    let api = Api::of(&server).await;
    api.set(ALLOW_ALL).await;
    for (bad, line, message) in [
        (
            "{\n  \"acls\": [\n    { \"action\": \"accept\", \"src\": [\"group:x\"], \"dst\": [\"*:*\"] },\n  ],\n}",
            3,
            "group not found",
        ),
        ("{ \"acls\": [", 1, ""),
        ("{\n \"acl\": [] }", 2, "did you mean `acls`?"),
        (
            "{ \"acls\": [],\n  \"tests\": [ { \"src\": \"10.0.0.1\", \"accept\": [\"10.0.0.2:22\"] } ] }",
            2,
            "test(s) failed",
        ),
    ] {
        let (status, refused) = api.json(Method::PUT, "/api/v2/policy", json!({ "text": bad })).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
        let told = refused["message"].as_str().unwrap();
        assert!(told.contains(&format!("line {line}, column ")) && told.contains(message), "{told}");
        let (status, verdict) = api.json(Method::POST, "/api/v2/policy/check", json!({ "text": bad })).await;
        assert_eq!((status, &verdict["valid"]), (StatusCode::OK, &json!(false)));
        assert_eq!(verdict["problems"][0]["line"], line, "{verdict}");
        assert!(verdict["problems"][0]["shown"].as_str().unwrap().contains('^'));
    }
    server.restart().await.unwrap();
    let (_, body) = Api { url: format!("http://{}", server.address()), ..api }
        .json(Method::GET, "/api/v2/policy", Value::Null)
        .await;
    assert_eq!((&body["revision"], &body["text"]), (&json!(1), &json!(ALLOW_ALL)));
}

#[tokio::test]
async fn policies_are_validated_previewed_and_tested_without_being_set() {
    let server = TestServer::start().await.unwrap();
    let api = Api::of(&server).await;
    server.user("anna@example.com").await.unwrap();
    let policy = "{\n \"acls\": [\n  { \"action\": \"accept\", \"src\": [\"anna@example.com\"], \"dst\": [\"10.0.0.0/8:22\"] },\n ],\n}";
    api.set(policy).await;

    let test = |accept: &str| json!([{ "src": "anna@example.com", "accept": [accept] }]);
    let (_, fine) = api.json(Method::POST, &format!("{ACL}/validate"), test("10.1.2.3:22")).await;
    assert_eq!(fine, json!({}));
    let (_, bad) = api.json(Method::POST, &format!("{ACL}/validate"), test("10.1.2.3:80")).await;
    assert_eq!((&bad["message"], &bad["data"][0]["user"]), (&json!("test(s) failed"), &json!("anna@example.com")));
    assert!(bad["data"][0]["errors"][0].as_str().unwrap().contains("10.1.2.3:80"), "{bad}");
    let (_, none) = api.json(Method::POST, &format!("{ACL}/validate"), json!({ "acls": [{ "action": "drop" }] })).await;
    assert!(!none["message"].as_str().unwrap().is_empty(), "{none}");

    for (query, lines) in [
        ("type=user&previewFor=anna@example.com", json!([3])),
        ("type=ipport&previewFor=10.0.0.1:22", json!([3])),
        ("type=ipport&previewFor=10.0.0.1:80", json!([])),
    ] {
        let answer = api.ask(Method::POST, &format!("{ACL}/preview?{query}"), &[], policy).await;
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let found: Vec<_> = answer["matches"].as_array().unwrap().iter().map(|m| m["lineNumber"].clone()).collect();
        assert_eq!(json!(found), lines, "{query}: {answer}");
    }
    for bad in ["type=user&previewFor=nobody@example.com", "type=ipport&previewFor=here", "type=car&previewFor=x"] {
        let answer = api.ask(Method::POST, &format!("{ACL}/preview?{bad}"), &[], policy).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{bad}");
    }

    let tests = "{ \"tests\": [ { \"src\": \"anna@example.com\", \"accept\": [\"10.0.0.1:22\"], \"deny\": [\"11.0.0.1:22\"] },\n{ \"src\": \"anna@example.com\", \"accept\": [\"11.0.0.1:22\"] } ] }";
    let (status, runs) = api.json(Method::POST, "/api/v2/policy/test", json!({ "text": tests })).await;
    assert_eq!(status, StatusCode::OK, "{runs}");
    assert_eq!(
        (&runs[0]["passed"], &runs[1]["passed"], &runs[1]["test"]),
        (&json!(true), &json!(false), &json!("tests[1]"))
    );
    assert_eq!(runs[1]["problems"][0]["line"], 2);
    let (_, body) = api.json(Method::GET, "/api/v2/policy", Value::Null).await;
    assert_eq!(body["revision"], 1, "nothing of this sets anything");
}

#[tokio::test]
async fn a_policy_file_is_read_again_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.hujson");
    std::fs::write(&file, ALLOW_ALL).unwrap();
    let home = file.clone();
    let mut server = TestServer::start_with(move |options| options.policy_file = Some(home)).await.unwrap();
    let api = Api::of(&server).await;
    let shown = async || api.json(Method::GET, "/api/v2/policy", Value::Null).await.1;
    assert_eq!((&shown().await["text"], &shown().await["set_by"]), (&json!(ALLOW_ALL), &json!("file")));

    let (status, refused) = api.json(Method::PUT, "/api/v2/policy", json!({ "text": "{}" })).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(refused["message"].as_str().unwrap().contains("policy.hujson"), "{refused}");

    let next = "// second\n{ \"acls\": [] }";
    std::fs::write(&file, next).unwrap();
    let (_, done) = api.json(Method::POST, "/api/v2/policy/reload", Value::Null).await;
    assert_eq!(done, json!({ "revision": 2, "unchanged": false }));
    server.server().unwrap().reload().await;
    assert_eq!(
        (&shown().await["revision"], &shown().await["text"]),
        (&json!(2), &json!(next)),
        "unchanged is no new one"
    );

    std::fs::write(&file, "{ \"acls\": [").unwrap();
    let (status, refused) = api.json(Method::POST, "/api/v2/policy/reload", Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(refused["message"].as_str().unwrap().contains("line 1, column"), "{refused}");
    assert_eq!(shown().await["text"], json!(next));
    let health = api.ask(Method::GET, "/health", &[], "").await.text().await.unwrap();
    assert!(health.contains("policy.hujson is not taken in"), "{health}");

    server.restart().await.unwrap();
    assert_eq!(shown().await["text"], json!(next), "the policy that was served before is served");
    std::fs::write(&file, ALLOW_ALL).unwrap();
    server.server().unwrap().reload().await;
    assert_eq!((&shown().await["text"], &shown().await["file_fault"]), (&json!(ALLOW_ALL), &Value::Null));
}

#[tokio::test]
async fn a_policy_that_is_taken_in_at_a_start_approves_nothing_that_holds_the_servers_address() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.hujson");
    let text = r#"{ "autoApprovers": { "routes": { "203.0.113.0/24": ["anna@"] } } }"#;
    std::fs::write(&file, text).unwrap();
    let home = file.clone();
    let change = move |options: &mut wayleave_server::options::Options| {
        options.policy_file = Some(home);
        options.server_url = "http://203.0.113.5:8080".to_owned();
    };
    let mut server = TestServer::start_with(change).await.unwrap();
    let api = Api::of(&server).await;
    let (router, _map, _) = member(&server, "anna", "r1").await;
    router.report("r1", &["203.0.113.0/24"]).await.unwrap();
    let state = async || api.json(Method::GET, "/api/v2/routes", Value::Null).await.1[0]["state"].clone();
    // A new row is there once it is durable.
    for _ in 0..200 {
        if !state().await.is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state().await, "pending");
    std::fs::write(&file, format!("// another\n{text}")).unwrap();
    server.restart().await.unwrap();
    assert_eq!(state().await, "pending");
}

#[tokio::test]
async fn a_server_does_not_start_beside_a_policy_file_that_is_none_if_it_has_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.hujson");
    for (text, expected) in [(None, "cannot read the policy file"), (Some("{ \"acls\": 1 }"), "line 1, column 11")] {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let home = file.clone();
        let Err(error) = TestServer::start_with(move |options| options.policy_file = Some(home)).await else {
            panic!("it started");
        };
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }
}

#[tokio::test]
async fn a_new_policy_is_told_to_those_whom_it_concerns_and_to_nobody_else() {
    let server = TestServer::start().await.unwrap();
    let api = Api::of(&server).await;
    let policy = |port: u16| {
        format!(
            r#"{{ "acls": [
                {{ "action": "accept", "src": ["anna@"], "dst": ["bert@:{port}"] }},
                {{ "action": "accept", "src": ["carl@"], "dst": ["dora@:22"] }} ] }}"#
        )
    };
    let mut maps = Vec::new();
    for user in ["anna", "bert", "carl", "dora"] {
        maps.push(member(&server, user, user).await);
    }
    api.set(&policy(80)).await;
    let peers = |frame: &Value| frame["PeersRemoved"].as_array().map_or(0, Vec::len);
    for (_, map, _) in &mut maps {
        map.until(|frame| peers(frame) > 0).await.unwrap();
    }
    api.set(&policy(443)).await;
    // The one whose filter changed is told of that, and of nothing else.
    let told = maps[1].1.next().await.unwrap().unwrap();
    assert_eq!(told["PacketFilter"][0]["DstPorts"][0]["Ports"], json!({ "First": 443, "Last": 443 }));
    assert!(told.get("PeersChanged").is_none() && told.get("Node").is_none(), "{told}");
    // The others are told of what comes after it first.
    let control = server.control().unwrap();
    for (node, name) in [(2, "bert-2"), (4, "dora-2")] {
        let command = Command::RenameNode { node: NodeId::new(node), name: name.parse().unwrap() };
        control.command(command).await.unwrap();
    }
    for (at, name) in [(0, "bert-2"), (2, "dora-2")] {
        let told = maps[at].1.next().await.unwrap().unwrap();
        assert_eq!(told["PeersChanged"][0]["Name"], format!("{name}.tailnet.internal."), "{told}");
        assert!(told.get("PacketFilter").is_none(), "{told}");
    }
}

#[tokio::test]
async fn a_new_auto_approver_reaches_routes_that_were_there_before_it_and_tags_that_come_later() {
    let server = TestServer::start().await.unwrap();
    let api = Api::of(&server).await;
    let (router, _map, _) = member(&server, "anna", "r1").await;
    let (_viewer, mut viewer, _) = member(&server, "bert", "c").await;
    router.report("r1", &["10.1.0.0/16"]).await.unwrap();
    let approvers = |who: &str| {
        format!(
            r#"{{ "tagOwners": {{ "tag:router": [] }}, "acls": [ {{ "action": "accept", "src": ["*"], "dst": ["*:*"] }} ],
                 "autoApprovers": {{ "routes": {{ "10.0.0.0/8": ["{who}"] }} }} }}"#
        )
    };
    let state = async || api.json(Method::GET, "/api/v2/routes", Value::Null).await.1[0]["state"].clone();
    api.set(&approvers("tag:router")).await;
    assert_eq!(state().await, "pending");
    let (_, tagged) = api.json(Method::POST, "/api/v2/nodes/r1/tags", json!({ "tags": ["tag:router"] })).await;
    assert!(tagged.get("message").is_none(), "{tagged}");
    viewer.until(|frame| frame["PeersChanged"].to_string().contains("10.1.0.0/16")).await.unwrap();
    assert_eq!(state().await, "primary");

    let (second, _map, _) = member(&server, "anna", "r2").await;
    second.report("r2", &["10.2.0.0/16"]).await.unwrap();
    api.set(&approvers("anna@")).await;
    viewer.until(|frame| frame["PeersChanged"].to_string().contains("10.2.0.0/16")).await.unwrap();
    assert_eq!(state().await, "primary", "losing an auto-approver un-approves nothing");
}

const CHECKED: &str = r#"{
    "acls": [ { "action": "accept", "src": ["*"], "dst": ["*:*"] } ],
    "ssh": [ { "action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root", "deploy"],
               "checkPeriod": "PERIOD" } ],
}"#;

/// Asks about a connection as a client does, and gives the action.
async fn action(client: &Client, url: &str) -> Value {
    let path = url.strip_prefix("https://unused").unwrap_or(url);
    let (status, body) = client.ask(Method::GET, path, Vec::new()).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// The key that the user in front of a shell is shown.
fn shown_key(action: &Value) -> String {
    let message = action["message"].as_str().unwrap();
    message.trim().rsplit(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_shell_that_the_policy_wants_checked_waits_for_a_person() {
    let server = TestServer::start().await.unwrap();
    let api = Api::of(&server).await;
    api.set(&CHECKED.replace("PERIOD", "1h")).await;
    let (from, _map, _) = member(&server, "anna", "laptop").await;
    let (to, _map, first) = member(&server, "anna", "server").await;
    let url = first["SSHPolicy"]["rules"][0]["action"]["holdAndDelegate"].as_str().unwrap();
    let url = |user: &str| url.replace("$SRC_NODE_ID", "1").replace("$DST_NODE_ID", "2").replace("$LOCAL_USER", user);
    let held = action(&to, &url("root")).await;
    let again = held["holdAndDelegate"].as_str().unwrap().to_owned();
    let key = shown_key(&held);
    let (_, waiting) = api.json(Method::GET, "/api/v2/ssh/checks", Value::Null).await;
    assert_eq!(waiting[0]["key"], key);
    assert_eq!(
        (&waiting[0]["from"], &waiting[0]["to"], &waiting[0]["user"]),
        (&json!("laptop"), &json!("server"), &json!("root"))
    );

    // The question that is held is answered as soon as a person has spoken.
    let (answer, approved) = tokio::join!(action(&to, &again), async {
        tokio::task::yield_now().await;
        api.json(Method::POST, &format!("/api/v2/ssh/checks/{key}/approve"), Value::Null).await
    });
    assert_eq!(approved.0, StatusCode::OK, "{}", approved.1);
    assert_eq!((&answer["accept"], answer.get("holdAndDelegate")), (&json!(true), None));
    assert_eq!(action(&to, &url("root")).await["accept"], true, "the approval covers an hour");
    assert!(action(&to, &url("deploy")).await["holdAndDelegate"].is_string(), "but not another user");
    assert_eq!(action(&to, &url("mail")).await["reject"], true, "whom the policy does not let in at all");
    let (status, _) = api.json(Method::POST, &format!("/api/v2/ssh/checks/{key}/approve"), Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "a check is answered once");

    // A machine asks about itself only.
    let (status, _) = from.ask(Method::GET, "/machine/ssh/action/1/to/2?local_user=root", Vec::new()).await.unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_shell_that_is_refused_is_told_so_and_one_that_is_always_checked_is_asked_about_again() {
    let server = TestServer::start_with(|options| options.limits.hold = Duration::from_millis(50)).await.unwrap();
    let api = Api::of(&server).await;
    api.set(&CHECKED.replace("PERIOD", "always")).await;
    let (_from, _map, _) = member(&server, "anna", "laptop").await;
    let (to, _map, _) = member(&server, "anna", "server").await;
    let first = "/machine/ssh/action/1/to/2?local_user=root";
    let control = server.control().unwrap();
    for (approved, field) in [(false, "reject"), (true, "accept"), (true, "accept")] {
        let held = action(&to, first).await;
        let again = held["holdAndDelegate"].as_str().unwrap().to_owned();
        let still = action(&to, &again).await;
        assert_eq!((&still["holdAndDelegate"], still.get("message")), (&json!(again), None), "nobody has spoken yet");
        let key = SshCheckKey(shown_key(&held));
        control.command(Command::AnswerShell { key, approved, by: Approver::Cli }).await.unwrap();
        assert_eq!(action(&to, &again).await[field], true);
    }
    // A policy that comes to forbid it wins over a check that is under way.
    let held = action(&to, first).await;
    let key = SshCheckKey(shown_key(&held));
    api.set(ALLOW_ALL).await;
    control.command(Command::AnswerShell { key, approved: true, by: Approver::Cli }).await.unwrap();
    assert_eq!(action(&to, held["holdAndDelegate"].as_str().unwrap()).await["reject"], true);
}

#[tokio::test]
async fn an_exit_is_named_for_an_address_only_where_the_policy_lets_the_viewer_through_it_to_there() {
    let server = TestServer::start().await.unwrap();
    let api = Api::of(&server).await;
    let (exit, _map, first) = member(&server, "anna", "e1").await;
    let both = ["0.0.0.0/0", "::/0"];
    exit.report("e1", &both).await.unwrap();
    let approve = json!({ "node": "e1", "prefixes": both });
    assert_eq!(api.json(Method::POST, "/api/v2/routes/approve", approve).await.0, StatusCode::OK);
    let (c, _c_map, _) = member(&server, "bert", "c").await;
    let choose = async |id: &str| {
        let hostinfo = json!({ "Hostname": "c", "ExitNodeID": id, "NetInfo": { "PreferredDERP": 900 } });
        let request = json!({ "Version": 142, "NodeKey": c.node_key(), "OmitPeers": true, "Hostinfo": hostinfo });
        let answer = c.ask(Method::POST, "/machine/map", request.to_string().into_bytes()).await.unwrap();
        assert_eq!(answer.0, StatusCode::OK);
    };
    let explained = async |what: &str| {
        let path = format!("/api/v2/routes/explain?what={what}&from=c");
        let (_, body) = api.json(Method::GET, &path, Value::Null).await;
        let viewer = &body["viewer"];
        let told = (viewer["router"]["name"].clone(), viewer["because"].as_str().unwrap().to_owned());
        (told, body["exits"][0]["usable"].clone(), body["exits"][0]["chosen"].clone())
    };
    let barred = |because: &str, chosen: bool| ((Value::Null, because.to_owned()), json!(false), json!(chosen));
    let through = || ((json!("e1"), "it has chosen the exit e1".to_owned()), json!(true), json!(true));

    api.set(r#"{ "acls": [{ "action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:internet:*"] }] }"#)
        .await;
    let none = "it has chosen no exit, and the policy lets it through none to 10.99.0.1";
    assert_eq!(explained("10.99.0.1").await, barred(none, false));
    choose(&first["Node"]["ID"].to_string()).await;
    assert_eq!(explained("8.8.8.8").await, through());
    assert_eq!(explained("2001:db8::1").await, through());
    assert_eq!(explained("0.0.0.0/0").await, through());
    let not_there = "it has chosen the exit e1, and the policy does not let it through that to 10.99.0.1";
    assert_eq!(explained("10.99.0.1").await, barred(not_there, true));
    api.set(ALLOW_ALL).await;
    assert_eq!(explained("10.99.0.1").await, through());
}
