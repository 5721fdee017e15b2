//! Who is there: users, nodes and keys, with the look-ups that requests need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use wayleave_model::{
    ApiKey, ApiKeyId, AuthKey, AuthKeyId, GivenName, MachineKey, Node, NodeId, NodeKey, Owner, RouteId, User, UserId,
};

/// The next number of each kind of id, and the cursor of the address pool. Stored, so that nothing is given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// For the next node.
    pub node: NodeId,
    /// For the next user.
    pub user: UserId,
    /// For the next route record.
    pub route: RouteId,
    /// For the next pre-auth key.
    pub auth_key: AuthKeyId,
    /// For the next API key.
    pub api_key: ApiKeyId,
    /// Where the search for a free address goes on: an offset into the IPv4 range.
    pub address: u32,
}

impl Default for Sequences {
    fn default() -> Self {
        Self {
            node: NodeId::new(1),
            user: UserId::new(1),
            route: RouteId::new(1),
            auth_key: AuthKeyId::new(1),
            api_key: ApiKeyId::new(1),
            address: 1,
        }
    }
}

/// Users, nodes and keys. The indexes agree with the rows after every call.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    users: BTreeMap<UserId, User>,
    nodes: BTreeMap<NodeId, Node>,
    auth_keys: BTreeMap<AuthKeyId, AuthKey>,
    api_keys: BTreeMap<ApiKeyId, ApiKey>,
    by_node_key: BTreeMap<NodeKey, NodeId>,
    by_machine: BTreeMap<MachineKey, BTreeSet<NodeId>>,
    by_name: BTreeMap<GivenName, NodeId>,
    addresses: BTreeSet<IpAddr>,
    /// The names of nodes that were deleted.
    gone: BTreeMap<NodeId, String>,
}

/// So many names of nodes that were deleted are remembered, the newest nodes'.
const MOST_GONE: usize = 10_000;

impl Registry {
    /// All users, in the order in which they were made.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// The user with this id.
    pub fn user(&self, id: UserId) -> Option<&User> {
        self.users.get(&id)
    }

    /// The users of this name, or with this e-mail address, or with this id written as a number.
    pub fn users_named(&self, name: &str) -> Vec<&User> {
        let id = name.parse::<UserId>().ok();
        let by_name: Vec<&User> =
            self.users.values().filter(|u| u.name == name || u.email.as_deref() == Some(name)).collect();
        if by_name.is_empty() { id.and_then(|id| self.users.get(&id)).into_iter().collect() } else { by_name }
    }

    /// All nodes, in the order in which they joined.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The node with this WireGuard key.
    pub fn node_by_key(&self, key: &NodeKey) -> Option<&Node> {
        self.nodes.get(self.by_node_key.get(key)?)
    }

    /// The nodes of this machine: one for each user that ever logged in from it.
    pub fn nodes_of_machine(&self, machine: &MachineKey) -> impl Iterator<Item = &Node> {
        self.by_machine.get(machine).into_iter().flatten().filter_map(|id| self.nodes.get(id))
    }

    /// The node of this name.
    pub fn node_named(&self, name: &GivenName) -> Option<&Node> {
        self.nodes.get(self.by_name.get(name)?)
    }

    /// The node that a person means by an id, a name or an address.
    pub fn find_node(&self, text: &str) -> Option<&Node> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return self.nodes.values().find(|node| node.addresses.contains(address));
        }
        let label = text.split('.').next().unwrap_or(text).to_lowercase();
        let named = label.parse::<GivenName>().ok().and_then(|name| self.node_named(&name));
        named.or_else(|| text.parse::<NodeId>().ok().and_then(|id| self.node(id)))
    }

    /// All pre-auth keys.
    pub fn auth_keys(&self) -> impl Iterator<Item = &AuthKey> {
        self.auth_keys.values()
    }

    /// The pre-auth key with this id.
    pub fn auth_key(&self, id: AuthKeyId) -> Option<&AuthKey> {
        self.auth_keys.get(&id)
    }

    /// All API keys.
    pub fn api_keys(&self) -> impl Iterator<Item = &ApiKey> {
        self.api_keys.values()
    }

    /// The API key with this id.
    pub fn api_key(&self, id: ApiKeyId) -> Option<&ApiKey> {
        self.api_keys.get(&id)
    }

    /// Whether a user still has nodes, or keys that make some.
    pub fn user_has_nodes(&self, id: UserId) -> bool {
        self.nodes.values().any(|node| node.owner == Owner::User(id))
    }

    /// Whether a node has this address.
    pub(crate) fn is_taken(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// The nearest free name, or `wanted` itself if it is free or `own`'s already.
    pub(crate) fn free_name(&self, wanted: GivenName, own: Option<NodeId>) -> GivenName {
        let free = |name: &GivenName| self.by_name.get(name).is_none_or(|holder| Some(*holder) == own);
        if free(&wanted) {
            return wanted;
        }
        (1..=u32::MAX).map(|i| wanted.numbered(i)).find(|name| free(name)).unwrap_or(wanted)
    }

    pub(crate) fn put_user(&mut self, user: User) {
        self.users.insert(user.id, user);
    }

    pub(crate) fn remove_user(&mut self, id: UserId) {
        self.users.remove(&id);
    }

    pub(crate) fn put_node(&mut self, node: Node) {
        self.remove_node(node.id);
        self.by_node_key.insert(node.node_key, node.id);
        if let Some(machine) = node.machine_key {
            self.by_machine.entry(machine).or_default().insert(node.id);
        }
        self.by_name.insert(node.given_name.clone(), node.id);
        self.addresses.extend(node.addresses.iter());
        self.nodes.insert(node.id, node);
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(&id)
    }

    pub(crate) fn put_gone(&mut self, id: NodeId, name: String) {
        self.gone.insert(id, name);
        if self.gone.len() > MOST_GONE {
            self.gone.pop_first();
        }
    }

    /// The name that a node had that was deleted, as far as that is remembered.
    pub fn gone(&self, id: NodeId) -> Option<&str> {
        self.gone.get(&id).map(String::as_str)
    }

    /// The newest of the nodes of this name that were deleted.
    pub fn gone_named(&self, name: &str) -> Option<NodeId> {
        self.gone.iter().rev().find(|(_, gone)| *gone == name).map(|(id, _)| *id)
    }

    pub(crate) fn remove_node(&mut self, id: NodeId) -> Option<Node> {
        let node = self.nodes.remove(&id)?;
        self.by_node_key.remove(&node.node_key);
        if let Some(machine) = node.machine_key
            && let Some(nodes) = self.by_machine.get_mut(&machine)
        {
            nodes.remove(&id);
            if nodes.is_empty() {
                self.by_machine.remove(&machine);
            }
        }
        self.by_name.remove(&node.given_name);
        self.put_gone(id, node.given_name.to_string());
        for address in node.addresses.iter() {
            self.addresses.remove(&address);
        }
        Some(node)
    }

    pub(crate) fn put_auth_key(&mut self, key: AuthKey) {
        self.auth_keys.insert(key.id, key);
    }

    pub(crate) fn remove_auth_key(&mut self, id: AuthKeyId) {
        self.auth_keys.remove(&id);
    }

    pub(crate) fn put_api_key(&mut self, key: ApiKey) {
        self.api_keys.insert(key.id, key);
    }

    pub(crate) fn remove_api_key(&mut self, id: ApiKeyId) {
        self.api_keys.remove(&id);
    }
}
