//! Answers what a policy would mean for a tailnet that is described in JSON: `wayleave policy evaluate -`.
//!
//! The tailnet is built in memory from the same parts that a server runs: commands are planned and applied, sessions open, and what each
//! node is told is read off its map. There is no second implementation that could answer otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wayleave_model::{
    Addresses, Approver, GivenName, Hostinfo, MachineKey, Node, NodeId, NodeKey, Owner, Prefix, RegisterMethod,
    RouteId, SessionId, Tag, Timestamp, User, UserId, UserRole, sanitize_label,
};
use wayleave_netmap::{SSH_CHECK, filter_to_wire, peers, ssh_to_wire};
use wayleave_policy::{Domains, Surroundings};
use wayleave_routes::approval;
use wayleave_tailnet::{ApproveMode, Command, Event, Loaded, Refusal, Settings, Tailnet};
use wayleave_wire::control::{FilterRule, SshPolicy};

/// A tailnet and a policy for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(default)]
    users: Vec<Person>,
    #[serde(default)]
    nodes: Vec<Machine>,
    /// An object, or HuJSON in a string.
    policy: serde_json::Value,
    /// The tailnet's domain, which `user:*@` may name.
    #[serde(default = "example")]
    domain: String,
}

fn example() -> String {
    "example.com".to_owned()
}

/// The first is the owner; all are admins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    id: u64,
    name: String,
    #[serde(default)]
    email: String,
}

/// In the order in which they joined.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    name: String,
    #[serde(default)]
    ipv4: Option<Ipv4Addr>,
    #[serde(default)]
    ipv6: Option<Ipv6Addr>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    advertised_routes: BTreeSet<Prefix>,
    /// By hand.
    #[serde(default)]
    approved_routes: BTreeSet<Prefix>,
    #[serde(default = "yes")]
    online: bool,
}

const fn yes() -> bool {
    true
}

/// What comes out.
#[derive(Debug, Serialize)]
pub struct Answer {
    policy: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<BTreeMap<String, Told>>,
}

#[derive(Debug, Serialize)]
struct Verdict {
    accepted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Told {
    approved_routes: Vec<Prefix>,
    routes: Vec<Prefix>,
    primary_routes: Vec<Prefix>,
    peers: BTreeMap<String, Routes>,
    packet_filter: Arc<[FilterRule]>,
    cap_map: Arc<BTreeMap<String, Arc<serde_json::Value>>>,
    ssh_policy: SshPolicy,
}

#[derive(Debug, Serialize)]
struct Routes {
    routes: Vec<Prefix>,
    primary_routes: Vec<Prefix>,
}

/// The question can't be answered.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// It is not of the form that is asked for.
    #[error("this is not a tailnet with a policy: {0}")]
    Form(#[from] serde_json::Error),
    /// A node is no node.
    #[error("node {node:?}: {why}")]
    Node {
        /// Which.
        node: String,
        /// What is wrong with it.
        why: String,
    },
    /// The tailnet can't be built.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Answers a question in JSON.
///
/// # Errors
///
/// It is not one. A policy that is refused is an answer.
pub fn evaluate(question: &[u8]) -> Result<Answer, EvaluateError> {
    let question: Question = serde_json::from_slice(question)?;
    let text = match question.policy.as_str() {
        Some(text) => text.to_owned(),
        None => serde_json::to_string_pretty(&question.policy)?,
    };
    let now = Timestamp::from_millis(0);
    let mut tailnet = build(&question, now)?;
    let by = "evaluate".to_owned();
    match ask(&mut tailnet, Command::SetPolicy { text, replaces: None, by }, now) {
        Ok(()) => {}
        Err(Refusal::Policy(error)) => {
            let verdict = Verdict { accepted: false, error: Some(error.to_string()) };
            return Ok(Answer { policy: verdict, nodes: None });
        }
        Err(other) => return Err(other.into()),
    }
    for (id, machine) in (1..).zip(&question.nodes).filter(|(_, machine)| !machine.approved_routes.is_empty()) {
        let approve = Command::ApproveRoutes {
            node: NodeId::new(id),
            prefixes: machine.approved_routes.clone(),
            mode: ApproveMode::Add,
            by: Approver::Cli,
        };
        ask(&mut tailnet, approve, now)?;
    }
    let nodes = told(&mut tailnet, &question);
    Ok(Answer { policy: Verdict { accepted: true, error: None }, nodes: Some(nodes) })
}

fn build(question: &Question, now: Timestamp) -> Result<Tailnet, EvaluateError> {
    let mut loaded = Loaded::default();
    for (at, person) in question.users.iter().enumerate() {
        loaded.users.push(User {
            id: UserId::new(person.id),
            name: person.name.clone(),
            display_name: String::new(),
            email: (!person.email.is_empty()).then(|| person.email.clone()),
            identity: None,
            picture: String::new(),
            role: if at == 0 { UserRole::Owner } else { UserRole::Admin },
            created_at: now,
        });
    }
    let mut route = 1;
    for (id, machine) in (1..).zip(&question.nodes) {
        loaded.nodes.push(node(id, machine, &question.users, now)?);
        for prefix in &machine.advertised_routes {
            loaded.routes.push(approval::appeared(RouteId::new(route), NodeId::new(id), *prefix, now));
            route += 1;
        }
    }
    loaded.sequences.node = NodeId::new(question.nodes.len() as u64 + 1);
    loaded.sequences.route = RouteId::new(route);
    let domains = Domains::Only([question.domain.to_lowercase()].into());
    let settings = Settings { policy: Surroundings { domains, ..Surroundings::default() }, ..Settings::default() };
    let mut tailnet = Tailnet::new(settings, loaded, now).expect("no policy was stored");
    tailnet.apply(Event::Started, now);
    for (id, _) in (1..).zip(&question.nodes).filter(|(_, machine)| machine.online) {
        tailnet.apply(Event::SessionOpened(NodeId::new(id), SessionId::new(id)), now);
    }
    Ok(tailnet)
}

fn node(id: u64, machine: &Machine, users: &[Person], now: Timestamp) -> Result<Node, EvaluateError> {
    let refused = |why: String| EvaluateError::Node { node: machine.name.clone(), why };
    let tags: BTreeSet<Tag> = machine.tags.iter().cloned().collect();
    let owner = match &machine.user {
        Some(_) if !tags.is_empty() => {
            return Err(refused("it has a user and tags; it can have one of them".to_owned()));
        }
        Some(name) => {
            let user = users.iter().find(|user| user.name == *name);
            let user = user.ok_or_else(|| refused(format!("there is no user {name:?}")))?;
            Owner::User(UserId::new(user.id))
        }
        None if tags.is_empty() => return Err(refused("it has neither a user nor tags".to_owned())),
        None => Owner::Tags { tags, created_by: None },
    };
    let name = sanitize_label(&machine.name).or_else(|| sanitize_label(&format!("node-{id}")));
    let given_name: GivenName = name.ok_or_else(|| refused("its name can't be one".to_owned()))?;
    let mut key = [0; 32];
    key[..8].copy_from_slice(&id.to_be_bytes());
    Ok(Node {
        id: NodeId::new(id),
        machine_key: Some(MachineKey::from_bytes(key)),
        node_key: NodeKey::from_bytes(key),
        disco_key: None,
        owner,
        given_name,
        renamed: true,
        addresses: Addresses { v4: machine.ipv4, v6: machine.ipv6 },
        register_method: RegisterMethod::Interactive,
        auth_key: None,
        ephemeral: false,
        expires_at: None,
        created_at: now,
        last_seen: None,
        drained: false,
        capability: 0,
        hostinfo: Hostinfo { routable_ips: machine.advertised_routes.clone(), ..Hostinfo::default() },
        endpoints: Vec::new(),
        home_derp: 0,
        vantage: Default::default(),
    })
}

fn ask(tailnet: &mut Tailnet, command: Command, now: Timestamp) -> Result<(), Refusal> {
    let plan = tailnet.plan(command, now)?;
    tailnet.apply(Event::Committed(Box::new(plan.into_committed())), now);
    Ok(())
}

fn told(tailnet: &mut Tailnet, question: &Question) -> BTreeMap<String, Told> {
    let snapshot = tailnet.snapshot().clone();
    let name = |id: NodeId| usize::try_from(id.get() - 1).ok().and_then(|at| question.nodes.get(at));
    let policy = &snapshot.policy;
    let mut all = BTreeMap::new();
    for (id, viewer) in &snapshot.nodes {
        let Some(machine) = name(*id) else { continue };
        let peers = peers(&snapshot, viewer).filter_map(|(peer, _, told)| {
            let routes = Routes {
                routes: told.routes.into_iter().collect(),
                primary_routes: told.primary.into_iter().collect(),
            };
            Some((name(peer)?.name.clone(), routes))
        });
        let approved: Vec<Prefix> = viewer.approved.iter().copied().collect();
        let answer = Told {
            routes: approved.clone(),
            approved_routes: approved,
            primary_routes: viewer.primary.iter().copied().collect(),
            peers: peers.collect(),
            packet_filter: filter_to_wire(&policy.filter(*id)),
            cap_map: policy.attributes(*id),
            ssh_policy: ssh_to_wire(&policy.ssh(*id), SSH_CHECK),
        };
        all.insert(machine.name.clone(), answer);
    }
    all
}
