//! Nodes: which rows are some, whose they are, what they are called, and which addresses they keep.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wayleave_model::{NodeKey, Owner, Tag, UserId};

use super::super::installation::{self, AuthKey, Installation};
use super::Node;
use super::names::{Names, label};
use crate::report::{Code, Warning};

/// The nodes, by id.
pub(super) fn nodes(installation: &Installation, warnings: &mut Vec<Warning>) -> Vec<Node> {
    let keys: BTreeMap<u64, &AuthKey> = installation.auth_keys.iter().map(|key| (key.id, key)).collect();
    let table = installation.generation.node_table;
    let duplicates = same_node_key(&installation.nodes);
    let mut state = State { table, keys, names: Names::default(), addresses: BTreeSet::new(), warnings };
    let mut nodes = Vec::new();
    for row in &installation.nodes {
        if !row.registered {
            state.warn(Code::UnregisteredMachineDropped, row);
        } else if let Some(kept) = duplicates.get(&row.id) {
            let warning = Warning::row(Code::NodeKeyDuplicate, table, row.id).new_value(format!("node {kept}"));
            state.warnings.push(warning);
        } else {
            nodes.push(state.node(row));
        }
    }
    nodes
}

/// Rows whose node key another row has too, with that row: the one that was seen last, then the one with the higher id.
fn same_node_key(rows: &[installation::Node]) -> BTreeMap<u64, u64> {
    let mut kept: BTreeMap<NodeKey, &installation::Node> = BTreeMap::new();
    let registered = || rows.iter().filter(|row| row.registered);
    for row in registered() {
        let Some(key) = row.node_key else { continue };
        let newer = |other: &&installation::Node| (other.last_seen, other.id) > (row.last_seen, row.id);
        if !kept.get(&key).is_some_and(newer) {
            kept.insert(key, row);
        }
    }
    let duplicate = |row: &installation::Node| {
        let other = kept.get(&row.node_key?)?.id;
        (other != row.id).then_some((row.id, other))
    };
    registered().filter_map(duplicate).collect()
}

/// What the nodes so far have taken.
struct State<'a> {
    table: &'static str,
    keys: BTreeMap<u64, &'a AuthKey>,
    names: Names,
    addresses: BTreeSet<IpAddr>,
    warnings: &'a mut Vec<Warning>,
}

/// A node's addresses, and whether it is to get others.
#[derive(Default)]
struct Given {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    wants_v4: bool,
    wants_v6: bool,
}

impl State<'_> {
    fn warn(&mut self, code: Code, row: &installation::Node) {
        self.warnings.push(Warning::row(code, self.table, row.id));
    }

    fn node(&mut self, row: &installation::Node) -> Node {
        if row.deleted {
            self.warn(Code::NodeDeletedAtSet, row);
        }
        if row.machine_key.is_none() {
            self.warn(Code::ZeroMachineKey, row);
        }
        if row.node_key.is_none() {
            self.warn(Code::NodeKeyMissing, row);
        }
        let Given { v4, v6, wants_v4, wants_v6 } = self.addresses(row);
        let key = row.auth_key.and_then(|id| self.keys.get(&id).copied());
        if let (Some(id), None) = (row.auth_key, key) {
            let warning = Warning::row(Code::AuthkeyMissing, self.table, row.id);
            self.warnings.push(warning.old(format!("pre-auth key {id}")));
        }
        let owner = self.owner(row, key);
        // Up to 0.15 the name that the machine gives itself is all there is.
        let written = row.given_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| row.hostname.clone());
        let given_name = self.names.give(&written);
        let differs = match &row.given_name {
            Some(name) => given_name.as_str() != name,
            None => given_name != label(&written),
        };
        if differs {
            let warning = Warning::row(Code::GivenNameRenamed, self.table, row.id);
            self.warnings.push(warning.old(row.given_name.clone().unwrap_or(written)).new_value(given_name.as_str()));
        }
        let mut info = row.host.info.clone();
        if info.hostname.is_empty() {
            info.hostname.clone_from(&row.hostname);
        }
        Node {
            id: row.id,
            machine_key: row.machine_key,
            node_key: row.node_key,
            disco_key: row.disco_key,
            hostname: row.hostname.clone(),
            renamed: given_name != label(&row.hostname),
            given_name,
            owner,
            v4,
            v6,
            wants_v4,
            wants_v6,
            register_method: row.register_method.clone(),
            auth_key: key.map(|key| key.id),
            // A node whose key was deleted has become permanent, there as here.
            ephemeral: key.is_some_and(|key| key.ephemeral),
            expires_at: row.expires_at,
            last_seen: row.last_seen,
            created_at: row.created_at,
            info,
        }
    }

    fn owner(&mut self, row: &installation::Node, key: Option<&AuthKey>) -> Owner {
        let created_by = row.user.map(UserId::new);
        if !row.tags.is_empty() {
            let mut tags = BTreeSet::new();
            for text in &row.tags {
                match text.parse::<Tag>() {
                    Ok(tag) => drop(tags.insert(tag)),
                    Err(_) => {
                        self.warnings.push(Warning::row(Code::TagInvalid, self.table, row.id).old(text.clone()));
                    }
                }
            }
            // With its tags it was none of its user's; without them it is not to become that.
            return if tags.is_empty() { Owner::Nobody } else { Owner::Tags { tags, created_by } };
        }
        if let Some(user) = created_by {
            return Owner::User(user);
        }
        // 0.29.0 took the user from nodes whose empty list of tags was spelled `null`; 0.29.1 gave it back in this way.
        if let Some(user) = key.and_then(|key| key.user) {
            let warning = Warning::row(Code::UserRecoveredFromAuthkey, self.table, row.id);
            self.warnings.push(warning.new_value(format!("user {user}")));
            return Owner::User(UserId::new(user));
        }
        self.warn(Code::NodeWithoutOwner, row);
        Owner::Nobody
    }

    fn addresses(&mut self, row: &installation::Node) -> Given {
        let mut given = Given::default();
        let mut any = false;
        for text in &row.addresses {
            let warning = |code| Warning::row(code, self.table, row.id).old(text.clone());
            let Ok(address) = text.parse::<IpAddr>() else {
                self.warnings.push(warning(Code::IpInvalid));
                continue;
            };
            any = true;
            let (has, wants) = match address {
                IpAddr::V4(_) => (given.v4.is_some(), given.wants_v4),
                IpAddr::V6(_) => (given.v6.is_some(), given.wants_v6),
            };
            if has || wants {
                self.warnings.push(warning(Code::IpExtraIgnored));
                continue;
            }
            let free = self.addresses.insert(address);
            if !free {
                self.warnings.push(warning(Code::IpDuplicate));
            }
            match address {
                IpAddr::V4(v4) if free => given.v4 = Some(v4),
                IpAddr::V4(_) => given.wants_v4 = true,
                IpAddr::V6(v6) if free => given.v6 = Some(v6),
                IpAddr::V6(_) => given.wants_v6 = true,
            }
        }
        if !any {
            self.warn(Code::IpMissing, row);
            given.wants_v4 = true;
            given.wants_v6 = true;
        }
        given
    }
}
