//! From a translation to the rows of an empty Wayleave.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use wayleave_model::{
    Addresses, ApiKey, ApiKeyId, Approval, Approver, AuthKey, AuthKeyId, KeyHash, Node, NodeId, NodeKey,
    RegisterMethod, Route, RouteId, TAILNET_V4, Timestamp, User, UserId, UserRole,
};
use wayleave_tailnet::{AddressError, AddressPool, Imported, Loaded, PolicyRow, Sequences};

use super::installation::{self, Secret};
use super::translation::{self, Translation};

/// How many characters of a key that was stored in clear are kept to tell it from others: 32 of its 192 bits.
const HINT: usize = 8;

/// A point in time as the model counts: milliseconds, cut off, not rounded.
fn time(time: jiff::Timestamp) -> Timestamp {
    Timestamp::from_millis(time.as_millisecond())
}

fn times(at: Option<jiff::Timestamp>) -> Option<Timestamp> {
    at.map(time)
}

/// All rows. Whatever the source has no time for happened `now`.
///
/// # Errors
///
/// A node is to get a new address, and none is free.
pub fn rows(
    translation: &Translation,
    policy: Option<PolicyRow>,
    pool: &AddressPool,
    source: String,
    now: Timestamp,
) -> Result<Loaded, AddressError> {
    let mut addresses = Free::new(translation, *pool);
    let mut used_at: BTreeMap<u64, Timestamp> = BTreeMap::new();
    for node in &translation.nodes {
        if let (Some(key), Some(at)) = (node.auth_key, times(node.created_at)) {
            used_at.entry(key).and_modify(|last| *last = at.max(*last)).or_insert(at);
        }
    }
    let nodes: Vec<Node> =
        translation.nodes.iter().map(|node| self::node(node, &mut addresses, now)).collect::<Result<_, _>>()?;
    let mut next_route =
        translation.highest.route.max(translation.routes.iter().filter_map(|route| route.id).max().unwrap_or(0));
    let routes = translation.routes.iter().map(|route| {
        let id = route.id.unwrap_or_else(|| {
            next_route += 1;
            next_route
        });
        self::route(route, RouteId::new(id), now)
    });
    let mut routes: Vec<Route> = routes.collect();
    routes.sort_by_key(|route| route.id);
    let after = |highest: u64, own: Option<u64>| highest.max(own.unwrap_or(0)) + 1;
    let highest = translation.highest;
    Ok(Loaded {
        users: translation.users.iter().map(|user| self::user(user, now)).collect(),
        auth_keys: translation.auth_keys.iter().map(|key| auth_key(key, used_at.get(&key.id).copied(), now)).collect(),
        api_keys: translation.api_keys.iter().map(|key| api_key(key, now)).collect(),
        sequences: Sequences {
            node: NodeId::new(after(highest.node, nodes.iter().map(|node| node.id.get()).max())),
            user: UserId::new(after(highest.user, translation.users.iter().map(|user| user.id).max())),
            route: RouteId::new(next_route + 1),
            auth_key: AuthKeyId::new(after(highest.auth_key, translation.auth_keys.iter().map(|key| key.id).max())),
            api_key: ApiKeyId::new(after(highest.api_key, translation.api_keys.iter().map(|key| key.id).max())),
            address: addresses.cursor,
        },
        nodes,
        routes,
        policy,
        // The source has no word for these.
        prefixes: Vec::new(),
        flaps: Vec::new(),
        seats: Vec::new(),
        down: Vec::new(),
        gone: Vec::new(),
        sites: Vec::new(),
        site_hosts: Vec::new(),
        imported: Some(Imported { at: now, source }),
        path_checks: Vec::new(),
    })
}

/// A user. Where the source gave no name, the e-mail address or the identity stands in for it, as it is shown there.
pub(super) fn user(user: &installation::User, now: Timestamp) -> User {
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let name = filled(&user.name).or_else(|| filled(&user.email)).or_else(|| user.provider_identifier.clone());
    User {
        id: UserId::new(user.id),
        name: name.unwrap_or_else(|| user.id.to_string()),
        display_name: user.display_name.clone(),
        email: filled(&user.email),
        identity: user.provider_identifier.clone(),
        picture: user.profile_pic_url.clone(),
        // Roles are a matter of policies, and those of the source know none.
        role: UserRole::Member,
        created_at: times(user.created_at).unwrap_or(now),
    }
}

fn auth_key(key: &installation::AuthKey, used_at: Option<Timestamp>, now: Timestamp) -> AuthKey {
    let created_at = times(key.created_at).unwrap_or(now);
    let hint = match &key.secret {
        Secret::Clear(text) => text.chars().take(HINT).collect(),
        Secret::Bcrypt { prefix, .. } => format!("hskey-auth-{prefix}"),
    };
    let (user, tags) = (key.user.map(UserId::new), key.tags.iter().filter_map(|tag| tag.parse().ok()).collect());
    let nobodys = user.is_none() && BTreeSet::is_empty(&tags);
    AuthKey {
        id: AuthKeyId::new(key.id),
        user,
        hint,
        hash: hash(&key.secret),
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        tags,
        description: key.description.clone(),
        created_at,
        expires_at: times(key.expires_at),
        // That it was used is known, when it was is not: the last node that came in with it says it best.
        used_at: key.used.unwrap_or(false).then(|| used_at.unwrap_or(created_at)),
        revoked_at: times(key.revoked_at).or(nobodys.then_some(now)),
    }
}

fn api_key(key: &installation::ApiKey, now: Timestamp) -> ApiKey {
    let name = match &key.secret {
        Secret::Clear(_) => key.id.to_string(),
        Secret::Bcrypt { prefix, .. } => prefix.clone(),
    };
    ApiKey {
        id: ApiKeyId::new(key.id),
        name,
        hash: hash(&key.secret),
        user: key.user.map(UserId::new),
        description: "from Headscale".to_owned(),
        created_at: times(key.created_at).unwrap_or(now),
        expires_at: times(key.expires_at),
        last_used_at: times(key.last_seen),
    }
}

fn hash(secret: &Secret) -> KeyHash {
    match secret {
        Secret::Clear(text) => {
            let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
            KeyHash::Sha256(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
        }
        Secret::Bcrypt { prefix, hash } => KeyHash::Bcrypt { prefix: prefix.clone(), hash: hash.clone() },
    }
}

fn node(node: &translation::Node, addresses: &mut Free, now: Timestamp) -> Result<Node, AddressError> {
    let fresh = if node.wants_v4 || node.wants_v6 { Some(addresses.next()?) } else { None };
    let new = |wanted: bool| fresh.filter(|_| wanted);
    let home_derp = node.info.net_info.as_ref().map_or(0, |net| net.preferred_derp);
    Ok(Node {
        id: NodeId::new(node.id),
        machine_key: node.machine_key,
        node_key: node.node_key.unwrap_or_else(|| no_key(node.id)),
        // A node that has a discovery key and neither a home nor endpoints counts as unreachable, and would lose its prefixes at the first
        // start. One whose home the source does not know has not reported yet, as far as is known here.
        disco_key: node.disco_key.filter(|_| home_derp != 0),
        owner: node.owner.clone(),
        given_name: node.given_name.clone(),
        renamed: node.renamed,
        addresses: Addresses {
            v4: node.v4.or_else(|| new(node.wants_v4)?.v4),
            v6: node.v6.or_else(|| new(node.wants_v6)?.v6),
        },
        register_method: match node.register_method.as_str() {
            "authkey" => RegisterMethod::AuthKey,
            "oidc" => RegisterMethod::Oidc,
            "cli" => RegisterMethod::Interactive,
            _ => RegisterMethod::Import,
        },
        auth_key: node.auth_key.map(AuthKeyId::new),
        ephemeral: node.ephemeral,
        expires_at: times(node.expires_at),
        created_at: times(node.created_at).unwrap_or(now),
        last_seen: times(node.last_seen),
        drained: false,
        vantage: Default::default(),
        capability: 0,
        hostinfo: node.info.clone(),
        // They are stale by nature, and every client reports its own as soon as it connects.
        endpoints: Vec::new(),
        home_derp,
    })
}

/// A key that nobody has the private half of, another one for each node.
fn no_key(id: u64) -> NodeKey {
    let mut bytes = [0xff; 32];
    bytes[..8].copy_from_slice(&id.to_be_bytes());
    NodeKey::from_bytes(bytes)
}

fn route(route: &translation::Route, id: RouteId, now: Timestamp) -> Route {
    // What was not approved was not approved there: no auto-approver is asked until somebody has a reason to ask (a person, another
    // policy, other tags).
    let word = route.enabled || route.advertised;
    let approval = word.then_some(Approval {
        by: Approver::Import,
        at: now,
        refused: !route.enabled,
        in_advance: route.enabled && !route.advertised,
    });
    Route {
        id,
        node: NodeId::new(route.node),
        prefix: route.prefix,
        advertised: route.advertised,
        enabled: route.enabled,
        is_primary: route.is_primary,
        created_at: times(route.created_at).unwrap_or(now),
        updated_at: times(route.updated_at).unwrap_or(now),
        deleted_at: None,
        approval,
        priority: 0,
        had_endpoint: false,
        was_advertised: route.was_advertised,
        path_passed: false,
        path_failed_at: None,
    }
}

/// Addresses that nobody has.
struct Free {
    pool: AddressPool,
    taken: BTreeSet<IpAddr>,
    cursor: u32,
}

impl Free {
    /// The search goes on behind the highest address that is in use: peers remember those that were used below it.
    fn new(translation: &Translation, pool: AddressPool) -> Self {
        let v4 = translation.nodes.iter().filter_map(|node| node.v4);
        let highest = v4.clone().filter(|address| TAILNET_V4.contains(address)).max();
        let v6 = translation.nodes.iter().filter_map(|node| node.v6);
        let taken = v4.map(IpAddr::V4).chain(v6.map(IpAddr::V6)).collect();
        let offset = |address: Ipv4Addr| u32::from(address).saturating_sub(u32::from(pool.v4().network()));
        let cursor = highest.filter(|address| pool.v4().contains(address)).map_or(1, |address| offset(address) + 1);
        Self { pool, taken, cursor }
    }

    fn next(&mut self) -> Result<Addresses, AddressError> {
        let (given, cursor) = self.pool.allocate(self.cursor, &|address| self.taken.contains(&address))?;
        self.cursor = cursor;
        self.taken.extend(given.iter());
        Ok(given)
    }
}
