//! What the language lets pass and what it refuses, with the words of the refusal; and what a policy's own tests say of it.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeSet;
use std::sync::Arc;

use wayleave_model::{NodeId, Owner, Tag, Timestamp, User, UserId, UserRole};
use wayleave_policy::{CompiledPolicy, Domains, People, PolicyFile, Rules, Subject, Surroundings};

const NAMES: &str = r#"
    "groups": { "group:eng": ["anna@example.com", "bert@example.com"], "group:none": [] },
    "hosts": { "db": "10.0.0.5", "net": "10.0.0.0/24", "server": "100.64.0.3" },
    "tagOwners": { "tag:server": [], "tag:router": ["group:eng", "tag:server", "autogroup:admin"] },
"#;

fn around() -> Surroundings {
    Surroundings { domains: Domains::Only(["example.com".to_owned()].into()), ..Surroundings::default() }
}

fn user(id: u64, name: &str) -> User {
    User {
        id: UserId::new(id),
        name: name.to_owned(),
        display_name: String::new(),
        email: Some(format!("{name}@example.com")),
        identity: None,
        picture: String::new(),
        role: UserRole::Member,
        created_at: Timestamp::from_millis(0),
    }
}

fn subject(id: u64, owner: Owner) -> (NodeId, Subject) {
    let addresses = vec![format!("100.64.0.{id}").parse().unwrap(), format!("fd7a:115c:a1e0::{id}").parse().unwrap()];
    (NodeId::new(id), Subject { owner, addresses, approved: BTreeSet::new() })
}

/// Anna has node 1, Bert node 2; node 3 is a server.
fn compiled(body: &str) -> Result<CompiledPolicy, String> {
    let file = PolicyFile::parse(&format!("{{{NAMES}{body}}}"), &around()).map_err(|error| error.messages())?;
    let people = People::new(&[user(1, "anna"), user(2, "bert")]);
    let tags: BTreeSet<Tag> = ["tag:server".parse().unwrap()].into();
    let nodes = [
        subject(1, Owner::User(UserId::new(1))),
        subject(2, Owner::User(UserId::new(2))),
        subject(3, Owner::Tags { tags, created_by: None }),
    ];
    Ok(CompiledPolicy::compile(Arc::new(Rules::new(Arc::new(file), Arc::new(people))), nodes))
}

fn refused(body: &str, why: &str) {
    let refusal = compiled(body).expect_err(body);
    assert!(refusal.contains(why), "{body}: {refusal}");
}

fn accepted(body: &str) {
    compiled(body).unwrap_or_else(|why| panic!("{body}: {why}"));
}

#[track_caller]
fn tests_hold(rules: &str, test: &str) {
    let faults = compiled(&format!("{rules}, {test}")).unwrap().run_tests(&around());
    assert!(faults.is_empty(), "{test}: {faults:?}");
}

#[track_caller]
fn tests_fail(rules: &str, test: &str) {
    let faults = compiled(&format!("{rules}, {test}")).unwrap().run_tests(&around());
    assert!(!faults.is_empty(), "{test}");
    assert!(faults.iter().all(|fault| fault.message.starts_with("test(s) failed")), "{faults:?}");
}

#[test]
fn a_bad_name_is_refused_where_it_stands() {
    for (body, why) in [
        (r#""acls": [{"action": "accept", "src": ["group:x"], "dst": ["*:*"]}]"#, "src=group not found: \"group:x\""),
        (
            r#""acls": [{"action": "accept", "src": ["*"], "dst": ["group:x:22"]}]"#,
            "dst=\"group:x\": group not found: \"group:x\"",
        ),
        (r#""acls": [{"action": "accept", "src": ["*"], "dst": ["autogroup:shared:22"]}]"#, "is a source only"),
        (
            r#""acls": [{"action": "accept", "src": ["autogroup:internet"], "dst": ["*:*"]}]"#,
            "\"autogroup:internet\" not valid on the src side of a rule",
        ),
        (r#""acls": [{"action": "accept", "src": ["*"], "dst": ["db"]}]"#, "hostport must contain a colon (\":\")"),
        (r#""acls": [{"action": "accept", "src": ["*"], "dst": ["db:0"]}]"#, "first port must be >0"),
        (r#""acls": [{"action": "accept", "src": ["*"], "dst": ["db:22-80-90"]}]"#, "too many dashes(-)"),
        (r#""acls": [{"action": "accept", "src": ["*"], "dst": ["db,net:22"]}]"#, "host cannot contain a comma"),
        (r#""acls": [{"action": "", "src": ["*"], "dst": ["db:22"]}]"#, "action must be specified"),
        (
            r#""acls": [{"action": "accept", "proto": "smoke", "src": ["*"], "dst": ["db:22"]}]"#,
            "proto name \"smoke\" not known",
        ),
        (r#""acls": [{"action": "accept", "proto": "gre", "src": ["*"], "dst": ["db:22"]}]"#, "has no ports"),
        (
            r#""grants": [{"src": ["*"], "dst": ["db"], "ip": ["80,443"]}]"#,
            "port range \"80,443\": invalid first integer",
        ),
        (r#""grants": [{"src": ["*"], "dst": ["tag:x"], "ip": ["*"]}]"#, "tag not found: \"tag:x\""),
        (r#""grants": [{"src": ["*"], "dst": ["net"], "ip": ["*"], "via": ["tag:x"]}]"#, "tag not found: \"tag:x\""),
        (
            r#""grants": [{"src": ["*"], "dst": ["db"], "ip": ["*"], "app": {"tailscale.com/cap/ssh": [{}]}}]"#,
            "must not be in the tailscale.com domain",
        ),
        (r#""autoApprovers": {"exitNode": ["tag:x"]}"#, "tag not found: \"tag:x\""),
        (r#""autoApprovers": {"routes": {"10.0.0.0/8": ["group:x"]}}"#, "group not found: \"group:x\""),
        (r#""nodeAttrs": [{"target": ["tag:x"], "attr": ["funnel"]}]"#, "tag not found: \"tag:x\""),
        (r#""nodeAttrs": [{"target": ["autogroup:self"], "attr": ["funnel"]}]"#, "not valid as a target"),
    ] {
        refused(body, why);
    }
    refused(r#""acls": [], "tests": [{"src": "*", "acept": []}]"#, "did you mean `accept`?");
}

#[test]
fn owners_of_tags_are_people_or_tags() {
    for owner in ["autogroup:self", "autogroup:internet", "10.0.0.1", "autogroup:danger-all"] {
        let body = format!("{{\"tagOwners\": {{\"tag:a\": [{owner:?}]}}}}");
        assert!(PolicyFile::parse(&body, &around()).is_err(), "{owner}");
    }
}

#[test]
fn people_with_whom_nodes_are_shared_may_be_named_and_are_nobody() {
    accepted(r#""acls": [{"action": "accept", "src": ["autogroup:shared"], "dst": ["*:*"]}]"#);
    let policy = compiled(r#""acls": [{"action": "accept", "src": ["autogroup:shared"], "dst": ["*:*"]}]"#).unwrap();
    assert!(!policy.sees(NodeId::new(1), NodeId::new(3)));
    assert!(policy.filter(NodeId::new(3)).is_empty());
}

#[test]
fn where_nobody_is_steered_any_more_no_election_is_left() {
    let body =
        r#""grants": [{"src": ["anna@example.com"], "dst": ["10.0.0.0/8"], "ip": ["*"], "via": ["tag:router"]}]"#;
    let mut policy = compiled(body).unwrap();
    let tags: BTreeSet<Tag> = ["tag:router".parse().unwrap()].into();
    let (router, mut subject) = subject(4, Owner::Tags { tags, created_by: None });
    subject.approved = ["10.1.0.0/16".parse().unwrap()].into();
    policy.put(router, Some(subject));
    assert_eq!(policy.steered().len(), 1);
    policy.put(NodeId::new(1), None);
    assert!(policy.steered().is_empty());
}

#[test]
fn values_of_one_attribute_are_put_together() {
    let body = r#""nodeAttrs": [
        {"target": ["*"], "app": {"example.com/cap": [1]}},
        {"target": ["tag:server"], "app": {"example.com/cap": [2]}}]"#;
    let policy = compiled(body).unwrap();
    assert_eq!(policy.attributes(NodeId::new(3))["example.com/cap"].to_string(), "[1,2]");
    assert_eq!(policy.attributes(NodeId::new(1))["example.com/cap"].to_string(), "[1]");
}

#[test]
fn shells_are_for_tagged_machines_and_ones_own() {
    let rule = |src: &str, dst: &str, action: &str| {
        format!(r#""ssh": [{{"action": {action:?}, "src": [{src}], "dst": [{dst:?}], "users": ["root"]}}]"#)
    };
    let anna = "\"anna@example.com\"";
    accepted(&rule(anna, "anna@example.com", "accept"));
    accepted(&rule(anna, "tag:server", "check"));
    accepted(&rule("\"tag:router\"", "tag:server", "accept"));
    accepted(&rule("\"autogroup:member\"", "autogroup:tagged", "accept"));
    for src in ["\"bert@example.com\"", "\"tag:server\"", "\"group:eng\"", "\"anna@example.com\", \"bert@example.com\""]
    {
        refused(&rule(src, "anna@example.com", "accept"), "users in dst are only allowed from the same user");
    }
    for dst in ["*", "autogroup:member", "autogroup:admin", "group:eng", "db", "10.0.0.5", "user:*@example.com"] {
        refused(&rule(anna, dst, "accept"), &format!("invalid dst {dst:?}"));
    }
    refused(&rule("\"tag:server\"", "autogroup:self", "accept"), "autogroup:self can only be used with");
    refused(&rule("\"tag:router\"", "tag:server", "check"), "tagged devices cannot be sources");
    refused(
        r#""ssh": [{"action": "accept", "src": [], "dst": [], "users": ["root"], "checkPeriod": "abc"}]"#,
        "time: invalid duration \"abc\"",
    );
    let posture = r#""ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:server"], "users": ["root"],
                     "srcPosture": ["posture:any"]}]"#;
    assert!(
        compiled(posture).unwrap().ssh(NodeId::new(3)).is_empty(),
        "a condition that can't be checked lets nobody in"
    );
}

#[test]
fn a_test_is_about_somebody_and_one_port() {
    let rules = r#""acls": [
        {"action": "accept", "src": ["group:eng"], "dst": ["*:*"]},
        {"action": "accept", "src": ["tag:server"], "dst": ["db:5432"]}]"#;
    for dst in [
        "tag:server:22",
        "db:1",
        "10.1.2.3:80",
        "bert@example.com:22",
        "group:eng:22",
        "100.64.0.3:22",
        "[fd7a:115c:a1e0::3]:22",
    ] {
        tests_hold(rules, &format!(r#""tests": [{{"src": "anna@example.com", "accept": [{dst:?}]}}]"#));
        tests_hold(rules, &format!(r#""tests": [{{"user": "group:eng", "allow": [{dst:?}]}}]"#));
    }
    let wrong = ["*:22", "*:*", "db:*", "db:22-80", "db:22,80", "db:70000", "db:-1", "db", "net:22", "10.0.0.0/24:22"];
    let nobody =
        ["autogroup:member:22", "autogroup:self:22", "autogroup:internet:443", "tag:x:22", "ghost@example.com:22"];
    for dst in wrong.iter().chain(&nobody) {
        tests_fail(rules, &format!(r#""tests": [{{"src": "anna@example.com", "accept": [{dst:?}]}}]"#));
        tests_fail(rules, &format!(r#""tests": [{{"src": "anna@example.com", "deny": [{dst:?}]}}]"#));
    }
    for src in ["*", "autogroup:member", "net", "group:none", "ghost@example.com", "tag:x", ""] {
        tests_fail(rules, &format!(r#""tests": [{{"src": {src:?}, "accept": ["db:22"]}}]"#));
    }
    tests_hold(rules, r#""tests": [{"src": "tag:server", "accept": ["db:5432"], "deny": ["db:22", "tag:server:22"]}]"#);
    tests_hold(rules, r#""tests": [{"src": "server", "accept": ["db:5432"], "deny": ["db:22"]}]"#);
}

#[test]
fn a_test_knows_protocols_as_a_packet_filter_does() {
    let rules = r#""acls": [
        {"action": "accept", "src": ["anna@example.com"], "proto": "udp", "dst": ["db:53"]},
        {"action": "accept", "src": ["anna@example.com"], "proto": "gre", "dst": ["server:*"]}]"#;
    let test = |proto: &str, dst: &str, wanted: &str| {
        format!(r#""tests": [{{"src": "anna@example.com", "proto": {proto:?}, {wanted:?}: [{dst:?}]}}]"#)
    };
    tests_hold(rules, &test("", "db:53", "accept"));
    tests_hold(rules, &test("udp", "db:53", "accept"));
    tests_hold(rules, &test("17", "db:53", "accept"));
    tests_hold(rules, &test("tcp", "db:53", "deny"));
    tests_fail(rules, &test("tcp", "db:53", "accept"));
    // Where any packet may go, pings may.
    tests_hold(rules, &test("icmp", "db:0", "accept"));
    tests_hold(rules, &test("icmp", "10.0.0.6:0", "deny"));
    tests_hold(rules, &test("gre", "server:1", "accept"));
    tests_hold(rules, &test("47", "db:1", "deny"));
    tests_fail(rules, &test("smoke", "db:53", "deny"));
}

#[test]
fn a_star_as_source_is_the_tailnet() {
    let rules = r#""acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]"#;
    tests_hold(rules, r#""tests": [{"src": "100.99.1.1", "accept": ["db:22"]}]"#);
    for outside in ["db", "192.0.2.1", "100.115.92.7", "2001:db8::1"] {
        tests_fail(rules, &format!(r#""tests": [{{"src": {outside:?}, "accept": ["10.1.1.1:22"]}}]"#));
    }
    // Addresses of two families never meet.
    tests_fail(rules, r#""tests": [{"src": "100.99.1.1", "accept": ["[fd7a:115c:a1e0::3]:22"]}]"#);
}

#[test]
fn what_must_not_be_reached_is_not_reached_by_any_of_its_machines() {
    // The rule names an address that one of the tag's machines has.
    let rules = r#""acls": [{"action": "accept", "src": ["anna@example.com"], "dst": ["100.64.0.3:22"]}]"#;
    tests_fail(rules, r#""tests": [{"src": "anna@example.com", "deny": ["tag:server:22"]}]"#);
    tests_fail(rules, r#""tests": [{"src": "group:eng", "deny": ["tag:server:22"]}]"#);
    tests_hold(rules, r#""tests": [{"src": "bert@example.com", "deny": ["tag:server:22"]}]"#);
}

#[test]
fn tests_of_shells_name_hosts_and_users() {
    let rules = r#""ssh": [
        {"action": "accept", "src": ["group:eng"], "dst": ["tag:server"], "users": ["root", "localpart:*@example.com"]},
        {"action": "check", "src": ["anna@example.com"], "dst": ["tag:server"], "users": ["admin"]}]"#;
    let test = |src: &str, dst: &str, wanted: &str| {
        format!(
            r#""sshTests": [{{"src": {src:?}, "dst": [{dst:?}], {wanted}, "srcPostureAttrs": {{"node:os": "linux"}}}}]"#
        )
    };
    for dst in ["server", "tag:server", "100.64.0.3"] {
        tests_hold(
            rules,
            &test("anna@example.com", dst, r#""accept": ["root", "anna"], "check": ["admin"], "deny": ["bert"]"#),
        );
        tests_hold(rules, &test("bert@example.com", dst, r#""accept": ["root", "bert"], "deny": ["admin"]"#));
    }
    tests_fail(rules, &test("anna@example.com", "server", r#""accept": ["admin"]"#));
    tests_fail(rules, &test("anna@example.com", "server", r#""check": ["root"]"#));
    tests_fail(rules, &test("anna@example.com", "*", r#""deny": ["root"]"#));
    refused(
        &format!("{rules}, {}", test("anna@example.com", "tag:x", r#""deny": ["root"]"#)),
        "SSH tests dst contains unknown tag \"tag:x\"",
    );
}
