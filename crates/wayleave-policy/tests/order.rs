//! Two properties over the whole language: what a policy says does not depend on the order in which it is written, and what is
//! answered does not depend on the way by which the nodes came to be as they are.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use wayleave_model::{NodeId, Owner, Prefix, Tag, Timestamp, User, UserId, UserRole};
use wayleave_policy::{
    CompiledPolicy, Domains, FilterRule, People, PolicyFile, Rules, SshAccess, SshRule, Steering, Subject, Surroundings,
};

/// JSON that knows which of its lists say the same in another order.
#[derive(Clone, Debug)]
enum Json {
    Text(String),
    /// As it is.
    Raw(String),
    /// In any order.
    Set(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Writes it, in an order that the dice give.
    fn write(&self, dice: &mut dyn FnMut(usize) -> usize, out: &mut String) {
        fn order<T>(items: &[T], dice: &mut dyn FnMut(usize) -> usize) -> Vec<usize> {
            let mut order: Vec<usize> = (0..items.len()).collect();
            for at in (1..order.len()).rev() {
                order.swap(at, dice(at + 1));
            }
            order
        }
        match self {
            Self::Text(text) => write!(out, "{text:?}").unwrap(),
            Self::Raw(text) => out.push_str(text),
            Self::Set(items) => {
                out.push('[');
                for at in order(items, dice) {
                    items[at].write(dice, out);
                    out.push(',');
                }
                out.push(']');
            }
            Self::Object(items) => {
                out.push('{');
                for at in order(items, dice) {
                    write!(out, "{:?}: ", items[at].0).unwrap();
                    items[at].1.write(dice, out);
                    out.push(',');
                }
                out.push('}');
            }
        }
    }

    fn written(&self, seed: u64) -> String {
        let mut state = seed;
        let mut out = String::new();
        // With 0 everything stays where it is; otherwise a small generator of numbers moves it.
        let mut dice = |sides: usize| {
            if seed == 0 {
                return sides - 1;
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % sides
        };
        self.write(&mut dice, &mut out);
        out
    }
}

fn text(text: impl Into<String>) -> Json {
    Json::Text(text.into())
}

fn texts<S: Into<String>>(all: impl IntoIterator<Item = S>) -> Json {
    Json::Set(all.into_iter().map(text).collect())
}

fn object(fields: Vec<(&str, Json)>) -> Json {
    Json::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

const USERS: [&str; 4] = ["anna@example.com", "bert@example.com", "carl@example.org", "dora@example.com"];
const TAGS: [&str; 4] = ["tag:a", "tag:b", "tag:c", "tag:d"];
const GROUPS: [&str; 3] = ["group:x", "group:y", "group:z"];
const HOSTS: [(&str, &str); 4] =
    [("ten", "10.0.0.0/8"), ("box", "10.33.0.5"), ("node", "100.64.0.2"), ("six", "fd00:1::/64")];
const PREFIXES: [&str; 6] =
    ["10.33.0.0/16", "10.33.1.0/24", "192.168.1.0/24", "fd00:1::/64", "172.16.0.0/12", "100.64.0.0/24"];
const ROUTES: [&str; 7] =
    ["10.33.0.0/16", "10.33.1.0/24", "192.168.1.0/24", "fd00:1::/64", "172.16.5.0/24", "0.0.0.0/0", "::/0"];
const PEOPLE: [&str; 6] = [
    "autogroup:member",
    "autogroup:admin",
    "autogroup:owner",
    "autogroup:it-admin",
    "user:*@example.com",
    "autogroup:auditor",
];

fn a_person() -> impl Strategy<Value = String> {
    prop_oneof![
        select(USERS.to_vec()).prop_map(str::to_owned),
        select(GROUPS.to_vec()).prop_map(str::to_owned),
        select(PEOPLE.to_vec()).prop_map(str::to_owned),
    ]
}

fn a_place() -> impl Strategy<Value = String> {
    prop_oneof![
        select(HOSTS.map(|(name, _)| name).to_vec()).prop_map(str::to_owned),
        select(PREFIXES.to_vec()).prop_map(str::to_owned),
        select(vec!["100.64.0.1", "100.64.0.3", "10.33.1.9", "fd7a:115c:a1e0::4"]).prop_map(str::to_owned),
    ]
}

fn a_tag() -> impl Strategy<Value = String> {
    select(TAGS.to_vec()).prop_map(str::to_owned)
}

fn a_source() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => a_person(),
        3 => a_tag(),
        2 => a_place(),
        1 => select(vec!["*", "autogroup:tagged", "autogroup:danger-all", "autogroup:shared"]).prop_map(str::to_owned),
    ]
}

fn a_target() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => a_person(),
        3 => a_tag(),
        4 => a_place(),
        1 => select(vec!["*", "autogroup:tagged", "autogroup:internet"]).prop_map(str::to_owned),
    ]
}

/// Sources and destinations that go together.
fn ends() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    prop_oneof![
        5 => (vec(a_source(), 0..4), vec(a_target(), 0..4)),
        1 => (vec(a_person(), 1..3), vec(a_target(), 0..2)).prop_map(|(src, mut dst)| {
            dst.push("autogroup:self".to_owned());
            (src, dst)
        }),
    ]
}

fn an_acl() -> impl Strategy<Value = Json> {
    let ports = select(vec!["*", "22", "80,443", "8000-9000", "1-65535,53"]);
    let traffic =
        prop_oneof![(select(vec!["", "tcp", "17", "SCTP"]), ports), (select(vec!["icmp", "gre", "255"]), Just("*")),];
    (ends(), traffic).prop_map(|((src, dst), (proto, ports))| {
        let dst = dst.into_iter().map(|dst| text(format!("{dst}:{ports}"))).collect();
        object(vec![("action", text("accept")), ("src", texts(src)), ("dst", Json::Set(dst)), ("proto", text(proto))])
    })
}

fn a_grant() -> impl Strategy<Value = Json> {
    let ip = select(vec!["*", "22", "80-443", "tcp:443", "udp:*", "icmp:*", "47:*", "0:53"]);
    let app = select(vec![
        ("example.com/cap/one", "[{\"level\": 1}, {\"level\": 2}]"),
        ("example.com/cap/two", "[]"),
        ("tailscale.com/cap/drive", "[{\"shares\": [\"*\"], \"access\": \"rw\"}]"),
        ("tailscale.com/cap/relay", "[{}]"),
        ("tailscale.com/cap/kubernetes", "[{\"impersonate\": {\"groups\": [\"g\"]}}]"),
    ]);
    let via = prop_oneof![3 => Just(Vec::new()), 1 => vec(a_tag(), 1..3)];
    let posture = prop_oneof![9 => Just(Vec::new()), 1 => Just(vec!["posture:any"])];
    (ends(), vec(ip, 0..3), vec(app, 0..3), via, posture).prop_map(|((src, dst), ip, app, via, posture)| {
        let outside = dst.iter().any(|dst| dst == "autogroup:internet");
        let app: BTreeMap<&str, &str> = if outside { BTreeMap::new() } else { app.into_iter().collect() };
        let ip = if ip.is_empty() && app.is_empty() { vec!["*"] } else { ip };
        object(vec![
            ("src", texts(src)),
            ("dst", texts(dst)),
            ("ip", texts(ip)),
            ("app", object(app.into_iter().map(|(name, values)| (name, Json::Raw(values.to_owned()))).collect())),
            ("via", texts(via)),
            ("srcPosture", texts(posture)),
        ])
    })
}

fn a_shell() -> impl Strategy<Value = Json> {
    let users = select(vec!["root", "autogroup:nonroot", "ubuntu", "localpart:*@example.com"]);
    let tagged = prop_oneof![3 => a_tag(), 1 => Just("autogroup:tagged".to_owned())];
    let ends = prop_oneof![
        (vec(a_person(), 0..3), vec(tagged.clone(), 0..3)),
        (vec(a_tag(), 1..3), vec(tagged, 1..3)),
        (vec(a_person(), 1..3), Just(vec!["autogroup:self".to_owned()])),
        select(USERS.to_vec()).prop_map(|user| (vec![user.to_owned()], vec![user.to_owned()])),
    ];
    let period = select(vec!["", "always", "1h30m"]);
    (ends, vec(users, 1..3), any::<bool>(), period, any::<bool>()).prop_map(
        |((src, dst), users, check, period, env)| {
            let check = check && !src.iter().any(|src| src.starts_with("tag:"));
            let mut fields = vec![
                ("action", text(if check { "check" } else { "accept" })),
                ("src", texts(src)),
                ("dst", texts(dst)),
                ("users", texts(users)),
            ];
            if check && !period.is_empty() {
                fields.push(("checkPeriod", text(period)));
            }
            if env {
                fields.push(("acceptEnv", Json::Raw("[\"TERM\", \"GIT_*\"]".to_owned())));
            }
            object(fields)
        },
    )
}

fn attributes() -> impl Strategy<Value = Json> {
    let target = prop_oneof![a_person(), a_tag(), a_place(), Just("*".to_owned()), Just("autogroup:tagged".to_owned())];
    let attr = select(vec!["funnel", "randomize-client-port", "nextdns:abc", "drive:share"]);
    let app = prop_oneof![2 => Just(None), 1 => select(vec!["[1]", "[{\"a\": 2}, 3]"]).prop_map(Some)];
    let pool = prop_oneof![2 => Just(None), 1 => select(vec!["100.81.0.0/16", "100.90.0.0/24"]).prop_map(Some)];
    (vec(target, 0..3), vec(attr, 0..3), app, pool).prop_map(|(target, attr, app, pool)| {
        let app = app.map(|values| ("example.com/cap/own", Json::Raw(values.to_owned())));
        object(vec![
            ("target", texts(target)),
            ("attr", texts(attr)),
            ("app", object(app.into_iter().collect())),
            ("ipPool", texts(pool)),
        ])
    })
}

fn a_test() -> impl Strategy<Value = Json> {
    let party = || {
        prop_oneof![select(USERS.to_vec()), select(GROUPS.to_vec()), select(TAGS.to_vec()), select(vec!["box", "node"])]
    };
    let dst = || (party(), select(vec!["22", "80", "53"])).prop_map(|(party, port)| format!("{party}:{port}"));
    let proto = select(vec!["", "tcp", "udp", "icmp", "gre"]);
    (party(), vec(dst(), 0..3), vec(dst(), 0..3), proto).prop_map(|(src, accept, deny, proto)| {
        object(vec![("src", text(src)), ("accept", texts(accept)), ("deny", texts(deny)), ("proto", text(proto))])
    })
}

fn approvers() -> impl Strategy<Value = Json> {
    let who = || vec(prop_oneof![a_person(), a_tag(), Just("autogroup:tagged".to_owned())], 0..3);
    let routes = subsequence(PREFIXES.to_vec(), 0..4).prop_flat_map(move |prefixes| {
        let count = prefixes.len();
        (Just(prefixes), vec(who(), count))
    });
    (routes, who()).prop_map(|((prefixes, owners), exits)| {
        let routes = prefixes.into_iter().zip(owners).map(|(prefix, who)| (prefix, texts(who))).collect();
        object(vec![("routes", object(routes)), ("exitNode", texts(exits))])
    })
}

fn a_policy() -> impl Strategy<Value = Json> {
    let members = vec(subsequence(USERS.to_vec(), 0..4), GROUPS.len());
    let owners = vec(prop_oneof![a_person(), a_tag()], TAGS.len());
    let rules = (
        prop_oneof![1 => Just(None), 4 => vec(an_acl(), 0..5).prop_map(Some)],
        prop_oneof![1 => Just(None), 4 => vec(a_grant(), 0..5).prop_map(Some)],
    );
    let rest = (vec(a_shell(), 0..4), vec(attributes(), 0..4), vec(a_test(), 0..3), approvers());
    (members, owners, rules, rest).prop_map(|(members, owners, (acls, grants), (ssh, attributes, tests, approvers))| {
        let groups = GROUPS.into_iter().zip(members).map(|(group, members)| (group, texts(members))).collect();
        let owners = TAGS.into_iter().zip(owners).map(|(tag, owner)| (tag, texts([owner]))).collect();
        let mut fields = vec![
            ("groups", object(groups)),
            ("hosts", object(HOSTS.into_iter().map(|(name, address)| (name, text(address))).collect())),
            ("tagOwners", object(owners)),
            ("ssh", Json::Set(ssh)),
            ("nodeAttrs", Json::Set(attributes)),
            ("tests", Json::Set(tests)),
            ("autoApprovers", approvers),
        ];
        fields.extend(acls.map(|acls| ("acls", Json::Set(acls))));
        fields.extend(grants.map(|grants| ("grants", Json::Set(grants))));
        object(fields)
    })
}

fn an_owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        4 => (1..=4_u64).prop_map(|user| Owner::User(UserId::new(user))),
        4 => subsequence(TAGS.to_vec(), 1..3).prop_map(|tags| Owner::Tags {
            tags: tags.into_iter().map(|tag| tag.parse::<Tag>().unwrap()).collect(),
            created_by: None,
        }),
        1 => Just(Owner::Nobody),
    ]
}

/// A node without its addresses: they follow from its number.
fn a_node() -> impl Strategy<Value = (Owner, BTreeSet<Prefix>)> {
    let routes = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(ROUTES.to_vec(), 0..4)];
    (an_owner(), routes)
        .prop_map(|(owner, routes)| (owner, routes.into_iter().map(|route| route.parse().unwrap()).collect()))
}

fn subject(id: u64, (owner, approved): (Owner, BTreeSet<Prefix>)) -> Subject {
    let addresses: Vec<IpAddr> =
        vec![format!("100.64.0.{id}").parse().unwrap(), format!("fd7a:115c:a1e0::{id}").parse().unwrap()];
    Subject { owner, addresses, approved }
}

fn around() -> Surroundings {
    Surroundings { domains: Domains::Only(["example.com".to_owned()].into()), ..Surroundings::default() }
}

fn rules(text: &str) -> Arc<Rules> {
    let file = PolicyFile::parse(text, &around()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let roles = [UserRole::Owner, UserRole::Admin, UserRole::Member, UserRole::ItAdmin];
    let users = (1..).zip(USERS).zip(roles).map(|((id, email), role)| User {
        id: UserId::new(id),
        name: email.split_once('@').unwrap().0.to_owned(),
        display_name: String::new(),
        email: Some(email.to_owned()),
        identity: None,
        picture: String::new(),
        role,
        created_at: Timestamp::from_millis(0),
    });
    let users: Vec<User> = users.collect();
    Arc::new(Rules::new(Arc::new(file), Arc::new(People::new(&users))))
}

/// All that a policy answers about one node.
#[derive(Debug, PartialEq)]
struct Answers {
    peers: Vec<NodeId>,
    filter: Vec<FilterRule>,
    steering: Vec<Steering>,
    exits: Vec<bool>,
    /// Capabilities with their values; the values of several entries stand in the order of the text.
    attributes: Vec<(String, Vec<String>)>,
    /// Clients look at them in order; the rules for one source and one name are told apart by `access`.
    shells: Vec<String>,
    access: Vec<SshAccess>,
    approved: Vec<bool>,
    pool: BTreeSet<Prefix>,
}

fn shell(rule: &SshRule) -> String {
    let principals: BTreeSet<&IpAddr> = rule.principals.iter().collect();
    format!("{principals:?} {:?} {:?} {:?}", rule.users, rule.check, rule.accept_env)
}

/// Whether a person is asked, and not for how long that holds: of two rules that ask, the first decides.
fn access(access: SshAccess) -> SshAccess {
    match access {
        SshAccess::Check(_) => SshAccess::Check(wayleave_policy::CheckPeriod::Always),
        SshAccess::Accepted | SshAccess::Denied => access,
    }
}

type Everything = (BTreeMap<NodeId, Answers>, BTreeMap<Arc<BTreeSet<Tag>>, BTreeSet<Prefix>>, usize);

fn answers(policy: &CompiledPolicy, nodes: &BTreeMap<NodeId, Subject>) -> Everything {
    let routes: Vec<Prefix> = ROUTES.iter().map(|route| route.parse().unwrap()).collect();
    let about = |(id, subject): (&NodeId, &Subject)| {
        let peers = policy.peers(*id);
        let asked: Vec<NodeId> = nodes.keys().copied().filter(|peer| peer != id && policy.sees(*id, *peer)).collect();
        assert_eq!(peers, asked, "who is seen does not depend on how it is asked");
        let attributes = policy.attributes(*id);
        let attributes = attributes.iter().map(|(name, values)| {
            let list = values.as_array().map(|list| list.iter().map(ToString::to_string).collect());
            let mut values: Vec<String> = list.unwrap_or_default();
            values.sort();
            (name.clone(), values)
        });
        let mut shells: Vec<String> = policy.ssh(*id).iter().map(shell).collect();
        shells.sort();
        let names = ["root", "ubuntu", "anna", "bert"];
        let answers = Answers {
            peers,
            filter: policy.filter(*id),
            steering: routes.iter().map(|route| policy.steering(*id, route)).collect(),
            exits: nodes.keys().map(|exit| policy.may_exit(*id, *exit)).collect(),
            attributes: attributes.collect(),
            shells,
            access: nodes
                .keys()
                .flat_map(|from| names.map(|name| access(policy.ssh_access(*from, *id, name))))
                .collect(),
            approved: routes
                .iter()
                .map(|route| policy.rules().auto_approves(&subject.owner, route).is_some())
                .collect(),
            pool: policy.rules().address_pool(&subject.owner).into_iter().collect(),
        };
        (*id, answers)
    };
    (nodes.iter().map(about).collect(), policy.steered(), policy.run_tests(&around()).len())
}

fn ask(rules: &Arc<Rules>, nodes: &BTreeMap<NodeId, Subject>) -> Everything {
    let policy = CompiledPolicy::compile(Arc::clone(rules), nodes.iter().map(|(id, subject)| (*id, subject.clone())));
    answers(&policy, nodes)
}

#[test]
fn a_route_more_leaves_every_list_as_it_is_but_those_with_routes_in_them() {
    let rules = rules(
        r#"{"tagOwners": {"tag:a": []}, "acls": [
            {"action": "accept", "src": ["autogroup:member"], "dst": ["tag:a:22"]},
            {"action": "accept", "src": ["tag:a"], "dst": ["tag:a:80"]},
            {"action": "accept", "src": ["*"], "dst": ["tag:a:443"]}]}"#,
    );
    let tagged = || Owner::Tags { tags: ["tag:a".parse().unwrap()].into(), created_by: None };
    let routes = |routes: &[&str]| routes.iter().map(|route| route.parse().unwrap()).collect::<BTreeSet<Prefix>>();
    let mut policy = CompiledPolicy::new(rules);
    policy.put(NodeId::new(1), Some(subject(1, (Owner::User(UserId::new(1)), routes(&[])))));
    policy.put(NodeId::new(2), Some(subject(2, (tagged(), routes(&[])))));
    policy.put(NodeId::new(3), Some(subject(3, (tagged(), routes(&["10.1.0.0/16"])))));
    let lists = |policy: &CompiledPolicy| {
        let filter = policy.filter(NodeId::new(2));
        let sources = filter.into_iter().map(|rule| match rule {
            FilterRule::Packets { sources, .. } | FilterRule::Capabilities { sources, .. } => sources,
        });
        sources.collect::<Vec<Arc<[String]>>>()
    };
    let same = |policy: &CompiledPolicy, before: &CompiledPolicy| {
        let (is, was) = (lists(policy), lists(before));
        assert_eq!((is.len(), was.len()), (3, 3), "{is:?}");
        is.iter().zip(&was).filter(|(is, was)| Arc::ptr_eq(is, was)).count()
    };
    lists(&policy);
    let before = policy.clone();
    policy.put(NodeId::new(3), Some(subject(3, (tagged(), routes(&["10.1.0.0/16", "10.2.0.0/16"])))));
    assert_eq!(same(&policy, &before), 2, "{:?}", lists(&policy));
    // One that is somebody else's is in other lists.
    let before = policy.clone();
    policy.put(NodeId::new(3), Some(subject(3, (Owner::User(UserId::new(1)), routes(&["10.1.0.0/16"])))));
    assert_eq!(same(&policy, &before), 0, "{:?}", lists(&policy));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn policies_that_say_the_same_in_another_order_answer_the_same(
        policy in a_policy(),
        seed in 1..u64::MAX,
        nodes in vec(a_node(), 1..8),
    ) {
        let nodes: BTreeMap<NodeId, Subject> =
            (1..).zip(nodes).map(|(id, node)| (NodeId::new(id), subject(id, node))).collect();
        let (one, other) = (policy.written(0), policy.written(seed));
        prop_assert_eq!(ask(&rules(&one), &nodes), ask(&rules(&other), &nodes));
    }

    #[test]
    fn how_the_nodes_came_to_be_as_they_are_is_of_no_account(
        policy in a_policy(),
        history in vec((1..7_u64, proptest::option::weighted(0.8, a_node()), any::<bool>()), 1..16),
    ) {
        let rules = rules(&policy.written(0));
        let mut nodes: BTreeMap<NodeId, Subject> = BTreeMap::new();
        let mut grown = CompiledPolicy::new(Arc::clone(&rules));
        for (number, node, look) in history {
            let id = NodeId::new(number);
            let subject = node.map(|node| subject(number, node));
            match &subject {
                Some(subject) => drop(nodes.insert(id, subject.clone())),
                None => drop(nodes.remove(&id)),
            }
            grown.put(id, subject);
            // What was asked for is kept, and must not be kept for too long.
            if look {
                prop_assert_eq!(answers(&grown, &nodes), ask(&rules, &nodes));
            }
        }
        prop_assert_eq!(answers(&grown, &nodes), ask(&rules, &nodes));
    }
}
