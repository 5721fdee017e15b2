//! Made-up nodes and a policy of 200 rules about them, for measurements.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

use wayleave_model::{NodeId, Owner, Prefix, Tag, Timestamp, User, UserId, UserRole};
use wayleave_policy::Subject;

/// Nodes differ in one of these tags.
const CLASSES: u64 = 50;
pub(crate) const RULES: u64 = 200;
/// Of so many nodes one is a router, for a prefix that some others lead to as well.
const ROUTERS: u64 = 100;

/// With `own`, nine nodes of ten are somebody's, and there are half as many users as nodes.
pub(crate) fn users(nodes: u64, own: bool) -> Vec<User> {
    (1..=nodes / 2).filter(|_| own).map(user).collect()
}

pub(crate) fn subjects(nodes: u64, own: bool) -> Vec<(NodeId, Subject)> {
    (1..=nodes).map(|id| (NodeId::new(id), subject(id, own))).collect()
}

/// Those that routers lead to.
pub(crate) fn prefixes() -> Vec<Prefix> {
    (0..ROUTERS / 10).map(prefix).collect()
}

fn user(id: u64) -> User {
    User {
        id: UserId::new(id),
        name: format!("user{id}"),
        display_name: String::new(),
        email: Some(format!("user{id}@example.com")),
        identity: None,
        picture: String::new(),
        role: UserRole::Member,
        created_at: Timestamp::from_millis(0),
    }
}

fn prefix(number: u64) -> Prefix {
    format!("10.{number}.0.0/16").parse().unwrap()
}

fn subject(id: u64, own: bool) -> Subject {
    let addresses: Vec<IpAddr> = vec![
        format!("100.{}.{}.{}", 64 + id / 65_536, id / 256 % 256, id % 256).parse().unwrap(),
        format!("fd7a:115c:a1e0::{id:x}").parse().unwrap(),
    ];
    let owner = if own && !id.is_multiple_of(10) {
        Owner::User(UserId::new(id.div_ceil(2)))
    } else {
        let tag = if own { id / 10 } else { id } % CLASSES;
        Owner::Tags { tags: [format!("tag:t{tag}").parse::<Tag>().unwrap()].into(), created_by: None }
    };
    let approved =
        if id.is_multiple_of(ROUTERS) { [prefix(id / ROUTERS % (ROUTERS / 10))].into() } else { BTreeSet::new() };
    Subject { owner, addresses, approved }
}

pub(crate) fn policy(own: bool) -> String {
    let mut text = String::from("{\"tagOwners\": {");
    for tag in 0..CLASSES {
        write!(text, "\"tag:t{tag}\": [],").unwrap();
    }
    text.push_str("}, \"grants\": [");
    if own {
        text.push_str("{\"src\": [\"autogroup:member\"], \"dst\": [\"autogroup:self\"], \"ip\": [\"*\"]},");
        text.push_str("{\"src\": [\"autogroup:member\"], \"dst\": [\"tag:t1\"], \"ip\": [\"443\"]},");
    }
    for rule in 0..RULES {
        let (src, dst) = (rule % CLASSES, (rule * 7 + rule / CLASSES) % CLASSES);
        let what = match rule % 10 {
            0 => format!("\"dst\": [\"10.{}.0.0/16\"], \"ip\": [\"*\"]", rule / 10 % (ROUTERS / 10)),
            1 => format!(
                "\"dst\": [\"10.{}.0.0/16\"], \"ip\": [\"*\"], \"via\": [\"tag:t0\"]",
                rule / 10 % (ROUTERS / 10)
            ),
            2 => format!("\"dst\": [\"tag:t{dst}\"], \"app\": {{\"example.com/cap/x\": [{{\"rule\": {rule}}}]}}"),
            _ => format!("\"dst\": [\"tag:t{dst}\"], \"ip\": [\"tcp:{}\"]", 1000 + rule),
        };
        write!(text, "{{\"src\": [\"tag:t{src}\"], {what}}},").unwrap();
    }
    text.push_str("], \"nodeAttrs\": [");
    for entry in 0..10 {
        write!(text, "{{\"target\": [\"tag:t{entry}\"], \"attr\": [\"randomize-client-port\"]}},").unwrap();
    }
    text.push_str("], \"ssh\": [");
    for rule in 0..20 {
        let (src, dst) = (rule, (rule * 3 + 1) % CLASSES);
        write!(
            text,
            "{{\"action\": \"accept\", \"src\": [\"tag:t{src}\"], \"dst\": [\"tag:t{dst}\"], \"users\": [\"root\"]}},"
        )
        .unwrap();
    }
    if own {
        text.push_str("{\"action\": \"check\", \"src\": [\"autogroup:member\"], \"dst\": [\"autogroup:self\"], \"users\": [\"root\"]},");
    }
    text.push_str("]}");
    text
}
