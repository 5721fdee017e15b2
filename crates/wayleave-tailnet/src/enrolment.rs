//! How clients get in, stay in, and get out.
//!
//! A request is looked at in this order (protocol.md 2.1):
//!
//! 1. An expiry in the past is a log-out, whatever else the request holds: the node's key expires; an ephemeral node is deleted.
//! 2. A node key that is known belongs to one machine; another one is refused. If its node's key has not expired the client is in,
//!    also with a pre-auth key that was used or has expired: clients send theirs again at every start. If it has, the client has to
//!    make itself a new key. A node that came with an import and without a machine key is bound to the first machine that brings its
//!    node key, for a while after the import; after that its client has to make itself a new key too.
//! 3. A pre-auth key lets it in. If the machine has a node of the same user, or of the same tags, it is that node under a new
//!    key, with its name, addresses and approvals; else it is a new node.
//! 4. Otherwise a person has to approve. The request is remembered under a token; the client asks again with it and is held
//!    until a person has spoken.

use std::collections::BTreeSet;
use std::time::Duration;

use wayleave_model::{
    AuthKey, AuthKeyId, GivenName, MachineKey, Node, NodeId, NodeKey, Owner, RegisterMethod, Tag, Timestamp, UserId,
    sanitize_label,
};

use crate::command::{LoginToken, Outcome, Refusal, Registration};
use crate::history::Deletion;
use crate::plan::{Draft, LoginChange, Plan, Write};
use crate::tailnet::Tailnet;

/// How long a single-use key lets the machine that used it repeat its registration.
const REPEATED_WITHIN: Duration = Duration::from_secs(300);

/// A login that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What the client asked.
    pub registration: Registration,
    /// When it asked first.
    pub since: Timestamp,
}

impl Login {
    pub(crate) const fn token(&self) -> &LoginToken {
        &self.registration.fresh_token
    }
}

impl Tailnet {
    pub(crate) fn plan_register(&self, mut draft: Draft, ask: Registration) -> Result<Plan, Refusal> {
        let known = self.registry.node_by_key(&ask.node_key);
        if known.is_some_and(|node| node.machine_key.is_some_and(|machine| machine != ask.machine_key)) {
            return Err(Refusal::OtherMachine);
        }
        // One that is bound to no machine, and may not be any more, is nobody's to use or to log out.
        let bindable = |node: &Node| node.machine_key.is_some() || self.may_bind(draft.now);
        if ask.expiry.is_some_and(|expiry| expiry <= draft.now) {
            let known = known.filter(|node| bindable(node));
            return Ok(self.plan_logout(draft, known));
        }
        if let Some(node) = known {
            if !bindable(node) || node.expires_at.is_some_and(|at| at <= draft.now) {
                return Ok(draft.done(Outcome::KeyExpired));
            }
            if node.machine_key.is_none() {
                draft.node(Node { machine_key: Some(ask.machine_key), ..node.clone() });
            }
            return Ok(draft.done(Outcome::Registered(node.id)));
        }
        if let Some(hash) = &ask.auth_key {
            return self.plan_register_with_key(draft, &ask, hash);
        }
        let waiting = ask.followup.as_ref().and_then(|token| self.logins.get(token));
        if let Some(login) = waiting.filter(|login| login.registration.node_key == ask.node_key) {
            return Ok(draft.done(Outcome::LoginWaits(login.token().clone())));
        }
        if self.logins.len() >= self.settings.max_logins {
            return Err(Refusal::TooManyLogins);
        }
        let token = ask.fresh_token.clone();
        let login = Login { registration: ask, since: draft.now };
        draft.login(LoginChange::Wait(Box::new(login)));
        Ok(draft.done(Outcome::LoginNeeded(token)))
    }

    /// Whether nodes that came with an import and without a machine key are still bound to the machine that brings their node key.
    /// Node keys are no secret among peers, so this must have an end.
    fn may_bind(&self, now: Timestamp) -> bool {
        self.imported.as_ref().is_some_and(|imported| now.since(imported.at) < self.settings.bind_imported)
    }

    pub(crate) fn plan_bind_machine(
        &self,
        mut draft: Draft,
        node_key: &NodeKey,
        machine_key: MachineKey,
    ) -> Result<Plan, Refusal> {
        let node = self.registry.node_by_key(node_key).ok_or(Refusal::OtherMachine)?;
        match node.machine_key {
            Some(bound) if bound == machine_key => Ok(draft.done(Outcome::Registered(node.id))),
            Some(_) => Err(Refusal::OtherMachine),
            None if node.expires_at.is_some_and(|at| at <= draft.now) || !self.may_bind(draft.now) => {
                Err(Refusal::NotBound)
            }
            None => {
                draft.node(Node { machine_key: Some(machine_key), ..node.clone() });
                Ok(draft.done(Outcome::Registered(node.id)))
            }
        }
    }

    fn plan_logout(&self, mut draft: Draft, known: Option<&Node>) -> Plan {
        if let Some(node) = known {
            if node.ephemeral {
                self.draft_deletion(&mut draft, node.id, Deletion::LoggedOut);
            } else {
                let expires_at = Some(node.expires_at.map_or(draft.now, |at| at.min(draft.now)));
                draft.node(Node { expires_at, ..node.clone() });
            }
        }
        draft.done(Outcome::LoggedOut)
    }

    fn plan_register_with_key(&self, mut draft: Draft, ask: &Registration, hash: &[u8; 32]) -> Result<Plan, Refusal> {
        let key =
            self.registry.auth_keys().find(|key| key.hash.sha256() == Some(hash)).ok_or(Refusal::AuthKeyUnknown)?;
        check_key(key, draft.now).or_else(|refused| self.repeats(key, ask, draft.now).then_some(()).ok_or(refused))?;
        let requested = &ask.hostinfo.request_tags;
        if !requested.is_subset(&key.tags) && !requested.is_empty() {
            self.check_requested_tags(requested, key.user)?;
        }
        let tags: BTreeSet<Tag> = key.tags.union(requested).cloned().collect();
        let owner = match key.user {
            _ if !tags.is_empty() => Owner::Tags { tags, created_by: key.user },
            Some(user) => Owner::User(user),
            None => return Err(Refusal::KeyWithoutOwner),
        };
        let id = self.draft_admission(&mut draft, ask, owner, Some(key.id), key.ephemeral)?;
        draft.write(Write::AuthKey(AuthKey { used_at: Some(draft.now), ..key.clone() }));
        Ok(draft.done(Outcome::Registered(id)))
    }

    /// Whether this machine says again what it said a moment ago with this key.
    ///
    /// `tailscale up` breaks off the registration under way when the client's state changes and begins another with another
    /// node key. What it broke off may have been done here; the key is used, and by nobody else.
    fn repeats(&self, key: &AuthKey, ask: &Registration, now: Timestamp) -> bool {
        key.revoked_at.is_none()
            && key.used_at.is_some_and(|at| now.since(at) < REPEATED_WITHIN)
            && self
                .registry
                .nodes_of_machine(&ask.machine_key)
                .any(|node| node.auth_key == Some(key.id) && node.expires_at.is_none_or(|at| at > now))
    }

    pub(crate) fn plan_approve_login(
        &self,
        mut draft: Draft,
        token: &LoginToken,
        user: UserId,
    ) -> Result<Plan, Refusal> {
        self.registry.user(user).ok_or(Refusal::NoUser(user))?;
        let login = self.logins.get(token).ok_or(Refusal::NoLogin)?;
        let ask = &login.registration;
        let requested = ask.hostinfo.request_tags.clone();
        let owner = if requested.is_empty() {
            Owner::User(user)
        } else {
            self.check_requested_tags(&requested, Some(user))?;
            Owner::Tags { tags: requested, created_by: Some(user) }
        };
        let id = self.draft_admission(&mut draft, ask, owner, None, false)?;
        draft.login(LoginChange::Forget(token.clone()));
        Ok(draft.done(Outcome::Registered(id)))
    }

    /// The machine's node of the same owner under a new key, or a new node.
    fn draft_admission(
        &self,
        draft: &mut Draft,
        ask: &Registration,
        owner: Owner,
        auth_key: Option<AuthKeyId>,
        ephemeral: bool,
    ) -> Result<NodeId, Refusal> {
        let ephemeral = ephemeral || ask.ephemeral;
        let register_method = if auth_key.is_some() { RegisterMethod::AuthKey } else { RegisterMethod::Interactive };
        let expires_at = match owner {
            Owner::User(_) => self.settings.key_expiry.map(|life| draft.now + life),
            Owner::Tags { .. } | Owner::Nobody => None,
        };
        let unbound = || {
            let old = self.registry.node_by_key(ask.old_node_key.as_ref()?)?;
            old.machine_key.is_none().then_some(old)
        };
        let same = self.registry.nodes_of_machine(&ask.machine_key).find(|node| same_owner(&node.owner, &owner));
        // One that came without a machine key is known by the key before its rotation, now that its owner speaks for it.
        let same = same.or_else(|| unbound().filter(|node| same_owner(&node.owner, &owner)));
        let id = match same {
            Some(node) => {
                draft.node(Node {
                    machine_key: Some(ask.machine_key),
                    node_key: ask.node_key,
                    owner,
                    ephemeral,
                    expires_at,
                    register_method,
                    auth_key,
                    capability: ask.capability,
                    ..node.clone()
                });
                node.id
            }
            None => {
                let id = draft.next_node();
                let taken = |address| self.registry.is_taken(address);
                let (addresses, cursor) = self.settings.addresses.allocate(*draft.address_cursor(), &taken)?;
                *draft.address_cursor() = cursor;
                draft.node(Node {
                    id,
                    machine_key: Some(ask.machine_key),
                    node_key: ask.node_key,
                    disco_key: None,
                    owner,
                    given_name: self.registry.free_name(wanted_name(&ask.hostinfo.hostname), None),
                    renamed: false,
                    addresses,
                    register_method,
                    auth_key,
                    ephemeral,
                    expires_at,
                    created_at: draft.now,
                    last_seen: Some(draft.now),
                    drained: false,
                    capability: ask.capability,
                    hostinfo: ask.hostinfo.clone(),
                    endpoints: Vec::new(),
                    home_derp: ask.hostinfo.net_info.as_ref().map_or(0, |net| net.preferred_derp),
                    vantage: Default::default(),
                });
                id
            }
        };
        Ok(id)
    }

    /// Whether this user may put these tags on a node.
    fn check_requested_tags(&self, requested: &BTreeSet<Tag>, user: Option<UserId>) -> Result<(), Refusal> {
        let refused: Vec<String> = requested
            .iter()
            .filter(|tag| !user.is_some_and(|user| self.rules.may_tag(user, tag)))
            .map(Tag::to_string)
            .collect();
        if refused.is_empty() { Ok(()) } else { Err(Refusal::TagsNotPermitted(refused.join(", "))) }
    }
}

/// The name that a host's own name suggests.
pub(crate) fn wanted_name(hostname: &str) -> GivenName {
    sanitize_label(hostname).or_else(|| sanitize_label("node")).expect("`node` is a label")
}

fn same_owner(old: &Owner, new: &Owner) -> bool {
    match (old, new) {
        (Owner::User(old), Owner::User(new)) => old == new,
        (Owner::Tags { tags: old, .. }, Owner::Tags { tags: new, .. }) => old == new,
        (Owner::Tags { .. } | Owner::User(_) | Owner::Nobody, _) => false,
    }
}

fn check_key(key: &AuthKey, now: Timestamp) -> Result<(), Refusal> {
    if let Some(at) = key.revoked_at {
        Err(Refusal::AuthKeyRevoked(at))
    } else if let Some(at) = key.expires_at.filter(|at| *at <= now) {
        Err(Refusal::AuthKeyExpired(at))
    } else if !key.reusable && key.used_at.is_some() {
        Err(Refusal::AuthKeyUsed)
    } else {
        Ok(())
    }
}
