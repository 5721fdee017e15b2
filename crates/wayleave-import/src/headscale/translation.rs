//! From what a database holds to what holds here: the rules for rows that contradict themselves, and the one warning that each gets.
//!
//! The import gives what a restart of the source would have given. Where the source contradicts itself, the reading that grants less
//! is taken, the node is kept, and it is said. Who is what is decided in this order, because each stands on those before it: pre-auth
//! keys, nodes with their owners, users (some only because a node names them), routes, primaries, and tags that the policy allows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;
use wayleave_model::{DiscoKey, GivenName, Hostinfo, MachineKey, NodeKey, Owner, Prefix, Tag, UserId};
use wayleave_policy::{People, PolicyFile, Rules};

use super::installation::{ApiKey, AuthKey, Highest, Installation, User};
use crate::report::{Approvable, Code, Warning};

mod keys;
mod names;
mod nodes;
mod prefix;
mod primaries;
mod routes;

/// A whole installation, in which nothing contradicts itself any more.
#[derive(Clone, Debug)]
pub struct Translation {
    /// Users that are there, by id.
    pub users: Vec<User>,
    /// Pre-auth keys, by id. Whether one was used is always known.
    pub auth_keys: Vec<AuthKey>,
    /// API keys, by id.
    pub api_keys: Vec<ApiKey>,
    /// Nodes, by id.
    pub nodes: Vec<Node>,
    /// Routes, by node and prefix.
    pub routes: Vec<Route>,
    /// The highest id of each kind that was ever given out.
    pub highest: Highest,
    /// What had to give.
    pub warnings: Vec<Warning>,
    /// Routes that wait, and that an auto-approver would approve.
    pub auto_approvable: Vec<Approvable>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Clients keep it as text.
    pub id: u64,
    /// `None`: bound on first contact.
    pub machine_key: Option<MachineKey>,
    /// `None`: its client has to log in again.
    pub node_key: Option<NodeKey>,
    /// Its discovery key.
    pub disco_key: Option<DiscoKey>,
    /// What the machine calls itself, verbatim.
    pub hostname: String,
    /// Its name in DNS, unique.
    pub given_name: GivenName,
    /// A person chose that name.
    pub renamed: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// It is to get a new IPv4 address.
    pub wants_v4: bool,
    /// It is to get a new IPv6 address.
    pub wants_v6: bool,
    /// `cli`, `oidc`, `authkey`, or nothing.
    pub register_method: String,
    /// The pre-auth key that it came in with.
    pub auth_key: Option<u64>,
    /// It goes when it is gone.
    pub ephemeral: bool,
    /// When its key ends.
    pub expires_at: Option<Timestamp>,
    /// When it was last seen.
    pub last_seen: Option<Timestamp>,
    /// When it registered.
    pub created_at: Option<Timestamp>,
    /// What it last said of itself.
    pub info: Hostinfo,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its number in the source, where it has one.
    pub id: Option<u64>,
    /// Whose it is.
    pub node: u64,
    /// What.
    pub prefix: Prefix,
    /// As far as the source knows.
    pub advertised: bool,
    /// Approved.
    pub enabled: bool,
    /// This node carries it.
    pub is_primary: bool,
    /// It was advertised at some time.
    pub was_advertised: bool,
    /// `None`: at the import.
    pub created_at: Option<Timestamp>,
    /// `None`: at the import.
    pub updated_at: Option<Timestamp>,
}

impl Translation {
    /// Works out what holds. The policy decides only about tags that clients asked for, and is asked what it would approve.
    pub fn of(installation: &Installation, policy: Option<Arc<PolicyFile>>) -> Self {
        let mut warnings = installation.warnings.clone();
        warnings.extend(installation.generation.warnings.iter().cloned());
        left_out(installation, &mut warnings);
        let mut nodes = nodes::nodes(installation, &mut warnings);
        let users = users(installation, &nodes, &mut warnings);
        let auth_keys = keys::auth_keys(installation, &users, &mut warnings);
        let mut routes = routes::routes(installation, &nodes, &mut warnings);
        primaries::choose(&mut routes, installation.generation.family, &mut warnings);
        let rules = policy.map(|file| {
            let people: Vec<_> = users.iter().map(|user| super::plan::user(user, Default::default())).collect();
            Rules::new(file, Arc::new(People::new(&people)))
        });
        requested_tags(installation, &mut nodes, rules.as_ref(), &mut warnings);
        let auto_approvable = rules.map(|rules| auto_approvable(&rules, &nodes, &routes)).unwrap_or_default();
        Self {
            users,
            auth_keys,
            api_keys: installation.api_keys.clone(),
            nodes,
            routes,
            highest: installation.highest,
            warnings,
            auto_approvable,
        }
    }
}

fn left_out(installation: &Installation, warnings: &mut Vec<Warning>) {
    let left_out = &installation.left_out;
    for (machine, user) in &left_out.shared_machines {
        let warning = Warning::row(Code::SharedMachineIgnored, installation.generation.node_table, *machine);
        warnings.push(match user {
            Some(user) => warning.old(format!("shared with user {user}")),
            None => warning,
        });
    }
    let rows = |code, table, ids: &[u64]| ids.iter().map(|id| Warning::row(code, table, *id)).collect::<Vec<_>>();
    warnings.extend(rows(Code::OauthClientNotImported, "oauth_clients", &left_out.oauth_clients));
    warnings.extend(rows(Code::OauthAccessTokenNotImported, "oauth_access_tokens", &left_out.oauth_access_tokens));
}

/// The users that are there, and those that a node needs.
fn users(installation: &Installation, nodes: &[Node], warnings: &mut Vec<Warning>) -> Vec<User> {
    let table = installation.generation.user_table;
    let (deleted, live): (Vec<&User>, Vec<&User>) = installation.users.iter().partition(|user| user.deleted);
    let mut users: BTreeMap<u64, User> = live.into_iter().map(|user| (user.id, user.clone())).collect();
    let needed: BTreeSet<u64> = nodes.iter().filter_map(|node| user_of(&node.owner)).map(UserId::get).collect();
    for id in needed {
        if users.contains_key(&id) {
            continue;
        }
        let user = if let Some(user) = deleted.iter().find(|user| user.id == id) {
            warnings.push(Warning::row(Code::UserSoftDeletedRestored, table, id).new_value(user.name.clone()));
            User { deleted: false, ..(*user).clone() }
        } else {
            let name = format!("imported-user-{id}");
            warnings.push(Warning::row(Code::UserMissingPlaceholder, table, id).new_value(name.clone()));
            placeholder(id, name)
        };
        users.insert(id, user);
    }
    users.into_values().collect()
}

const fn placeholder(id: u64, name: String) -> User {
    User {
        id,
        name,
        display_name: String::new(),
        email: String::new(),
        provider_identifier: None,
        provider: String::new(),
        profile_pic_url: String::new(),
        created_at: None,
        deleted: false,
    }
}

/// The user who owns a node, or who brought it in.
const fn user_of(owner: &Owner) -> Option<UserId> {
    match owner {
        Owner::User(user) => Some(*user),
        Owner::Tags { created_by, .. } => *created_by,
        Owner::Nobody => None,
    }
}

/// Tags that clients asked for. Up to 0.27 those that the policy allowed were in force without being written down; later releases wrote
/// them down once, so what is not there was not allowed.
fn requested_tags(installation: &Installation, nodes: &mut [Node], rules: Option<&Rules>, warnings: &mut Vec<Warning>) {
    let rows: BTreeMap<u64, _> = installation.nodes.iter().map(|node| (node.id, node)).collect();
    let rules = rules.filter(|_| installation.generation.requested_tags_count);
    for node in nodes {
        let Some(row) = rows.get(&node.id) else { continue };
        let user = user_of(&node.owner);
        let mut refused = Vec::new();
        let mut granted = BTreeSet::new();
        for text in row.host.request_tags.iter().filter(|text| !row.tags.contains(text)) {
            let allowed = |tag: &Tag| user.zip(rules).is_some_and(|(user, rules)| rules.may_tag(user, tag));
            match text.parse::<Tag>() {
                Ok(tag) if allowed(&tag) => drop(granted.insert(tag)),
                Ok(_) | Err(_) => refused.push(text.clone()),
            }
        }
        if !granted.is_empty() {
            let mut tags: BTreeSet<Tag> = node.owner.tags().cloned().collect();
            tags.extend(granted);
            node.owner = Owner::Tags { tags, created_by: user };
        }
        if !refused.is_empty() {
            let warning = Warning::row(Code::RequestTagsPending, installation.generation.node_table, node.id);
            warnings.push(warning.old(refused.join(",")));
        }
    }
}

fn auto_approvable(rules: &Rules, nodes: &[Node], routes: &[Route]) -> Vec<Approvable> {
    let by_id: BTreeMap<u64, &Node> = nodes.iter().map(|node| (node.id, node)).collect();
    let waiting = routes.iter().filter(|route| route.advertised && !route.enabled && route.prefix.invalid().is_none());
    let approvable = waiting.filter_map(|route| {
        let node = by_id.get(&route.node)?;
        let by = rules.auto_approves(&node.owner, &route.prefix)?;
        Some(Approvable { node: node.id, name: node.given_name.to_string(), prefix: route.prefix.to_string(), by })
    });
    approvable.collect()
}
