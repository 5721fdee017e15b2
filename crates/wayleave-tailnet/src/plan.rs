//! Plans: what a command would write. This file dispatches and holds no rules.

use wayleave_model::{
    ApiKey, ApiKeyId, Approver, AuthKey, AuthKeyId, Node, NodeId, PathCheck, Prefix, PrefixRow, Route, RouteId,
    Timestamp, User, UserId,
};

use crate::command::{Command, LoginToken, Outcome, Refusal};
use crate::history::{HistoryEntry, HistoryEvent};
use crate::policy::NewPolicy;
use crate::registry::Sequences;
use crate::sites::SiteChange;
use crate::ssh_checks::SshCheckChange;
use crate::tailnet::Tailnet;

/// One row to be made durable. All writes of a plan go in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Makes or replaces a user.
    User(User),
    /// Deletes a user.
    DeleteUser(UserId),
    /// Makes or replaces a node.
    Node(Box<Node>),
    /// Deletes a node. Its routes are marked deleted by writes of their own.
    DeleteNode(NodeId),
    /// Makes or replaces a route record; one with `deleted_at` is kept, and out of the table.
    Route(Route),
    /// Makes or replaces the path check of a prefix.
    PathCheck(PathCheck),
    /// Deletes the path check of a prefix.
    DeletePathCheck(Prefix),
    /// Makes or replaces a pre-auth key.
    AuthKey(AuthKey),
    /// Deletes a pre-auth key.
    DeleteAuthKey(AuthKeyId),
    /// Makes or replaces an API key.
    ApiKey(ApiKey),
    /// Deletes an API key.
    DeleteApiKey(ApiKeyId),
    /// What is set for a prefix, or for all; nothing set: there is no such row.
    Prefix(PrefixRow),
    /// A person moved a prefix: this node's row is the primary one, and no other's.
    Moved {
        /// Which.
        prefix: Prefix,
        /// Where to.
        to: NodeId,
        /// Who.
        by: Approver,
        /// When.
        at: Timestamp,
    },
    /// A new policy; those before it are kept.
    Policy(Box<NewPolicy>),
    /// A 4via6 site, or a host at one.
    Site(SiteChange),
    /// The numbers that come next.
    Sequences(Sequences),
    /// A line of history.
    History(HistoryEntry),
}

/// What a command comes to, once it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    writes: Vec<Write>,
    outcome: Outcome,
    /// Logins that are remembered or forgotten with it. They do not survive a restart, so they are no writes.
    pub(crate) logins: Vec<LoginChange>,
    /// The same for checks of shells.
    pub(crate) ssh_checks: Vec<SshCheckChange>,
}

/// What becomes of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoginChange {
    Wait(Box<crate::enrolment::Login>),
    Forget(LoginToken),
}

/// A plan whose writes are durable. Only this can be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed(pub(crate) Plan);

impl Plan {
    /// What has to be made durable, in one transaction. Empty: nothing has.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// What to tell whoever asked, once it is committed.
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Says that the writes are durable. Only the store may, after its transaction; or anybody, if there are no writes.
    pub const fn into_committed(self) -> Committed {
        Committed(self)
    }
}

impl Committed {
    /// The lines of history that were committed with it.
    pub fn history(&self) -> impl Iterator<Item = &HistoryEntry> {
        self.0.writes.iter().filter_map(|write| if let Write::History(entry) = write { Some(entry) } else { None })
    }

    /// What to tell whoever asked.
    pub const fn outcome(&self) -> &Outcome {
        &self.0.outcome
    }
}

/// A plan in the making: the writes so far, and the numbers that they took.
#[derive(Debug)]
pub(crate) struct Draft {
    writes: Vec<Write>,
    sequences: Sequences,
    before: Sequences,
    logins: Vec<LoginChange>,
    ssh_checks: Vec<SshCheckChange>,
    pub(crate) now: Timestamp,
}

impl Draft {
    pub(crate) const fn new(sequences: Sequences, now: Timestamp) -> Self {
        Self { writes: Vec::new(), sequences, before: sequences, logins: Vec::new(), ssh_checks: Vec::new(), now }
    }

    pub(crate) fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    pub(crate) fn node(&mut self, node: Node) {
        self.writes.push(Write::Node(Box::new(node)));
    }

    pub(crate) fn route(&mut self, row: Route, event: Option<HistoryEvent>) {
        if let Some(event) = event {
            self.history(Some(row.prefix), Some(row.node), event);
        }
        self.writes.push(Write::Route(row));
    }

    pub(crate) fn history(&mut self, prefix: Option<Prefix>, node: Option<NodeId>, event: HistoryEvent) {
        self.writes.push(Write::History(HistoryEntry::new(self.now, prefix, node, event)));
    }

    pub(crate) fn login(&mut self, change: LoginChange) {
        self.logins.push(change);
    }

    pub(crate) fn ssh_check(&mut self, change: SshCheckChange) {
        self.ssh_checks.push(change);
    }

    pub(crate) fn next_node(&mut self) -> NodeId {
        let id = self.sequences.node;
        self.sequences.node = id.next();
        id
    }

    pub(crate) fn next_user(&mut self) -> UserId {
        let id = self.sequences.user;
        self.sequences.user = id.next();
        id
    }

    pub(crate) fn next_route(&mut self) -> RouteId {
        let id = self.sequences.route;
        self.sequences.route = id.next();
        id
    }

    pub(crate) fn next_auth_key(&mut self) -> AuthKeyId {
        let id = self.sequences.auth_key;
        self.sequences.auth_key = id.next();
        id
    }

    pub(crate) fn next_api_key(&mut self) -> ApiKeyId {
        let id = self.sequences.api_key;
        self.sequences.api_key = id.next();
        id
    }

    pub(crate) const fn address_cursor(&mut self) -> &mut u32 {
        &mut self.sequences.address
    }

    pub(crate) fn done(mut self, outcome: Outcome) -> Plan {
        if self.sequences != self.before {
            self.writes.push(Write::Sequences(self.sequences));
        }
        Plan { writes: self.writes, outcome, logins: self.logins, ssh_checks: self.ssh_checks }
    }
}

impl Tailnet {
    /// Works out what a command would write. Changes nothing.
    ///
    /// # Errors
    ///
    /// The command can't be done, with the reason, in words for whoever asked.
    pub fn plan(&self, command: Command, now: Timestamp) -> Result<Plan, Refusal> {
        let draft = Draft::new(self.sequences, now);
        match command {
            Command::CreateUser { name, display_name, email, role } => {
                self.plan_create_user(draft, name, display_name, email, role)
            }
            Command::RenameUser { user, name } => self.plan_rename_user(draft, user, name),
            Command::SetRole { user, role } => self.plan_set_role(draft, user, role),
            Command::DeleteUser { user } => self.plan_delete_user(draft, user),
            Command::CreateAuthKey(key) => self.plan_create_auth_key(draft, key),
            Command::RevokeAuthKey { key } => self.plan_revoke_auth_key(draft, key),
            Command::CreateApiKey { name, hash, description, lifetime } => {
                Ok(Self::plan_create_api_key(draft, name, hash, description, lifetime))
            }
            Command::DeleteApiKey { key } => self.plan_delete_api_key(draft, key),
            Command::LearnKey { key, hash } => self.plan_learn_key(draft, key, hash),
            Command::BindMachine { node_key, machine_key } => self.plan_bind_machine(draft, &node_key, machine_key),
            Command::Register(registration) => self.plan_register(draft, *registration),
            Command::ApproveLogin { token, user } => self.plan_approve_login(draft, &token, user),
            Command::RenameNode { node, name } => self.plan_rename_node(draft, node, name),
            Command::TagNode { node, tags } => self.plan_tag_node(draft, node, tags),
            Command::ExpireNode { node, at } => self.plan_expire_node(draft, node, at),
            Command::DeleteNode { node } => self.plan_delete_node(draft, node),
            Command::DeleteEphemeral { node } => self.plan_delete_ephemeral(draft, node),
            Command::ApproveRoutes { node, prefixes, mode, by } => {
                self.plan_approve_routes(draft, node, &prefixes, mode, &by)
            }
            Command::DisableRoutes { node, prefixes, by } => self.plan_disable_routes(draft, node, &prefixes, &by),
            Command::SetPrefix { prefix, change, by } => self.plan_set_prefix(draft, prefix, &change, &by),
            Command::Freeze { prefix, lifetime, by } => self.plan_freeze(draft, prefix, lifetime, by),
            Command::Unfreeze { prefix, by } => self.plan_unfreeze(draft, prefix, &by),
            Command::Prefer { node, prefix, priority, by } => self.plan_prefer(draft, node, prefix, priority, by),
            Command::MovePrimary { prefix, to, by } => self.plan_move(draft, prefix, to, by),
            Command::DrainNode { node, by } => self.plan_drain(draft, node, by),
            Command::UndrainNode { node, by } => self.plan_undrain(draft, node, by),
            Command::SetPathCheck(check) => self.plan_set_path_check(draft, *check),
            Command::RemovePathCheck { prefix, by } => self.plan_remove_path_check(draft, prefix, by),
            Command::Advertise { node, prefixes } => self.plan_advertise(draft, node, &prefixes),
            Command::SetPolicy { text, replaces, by } => self.plan_set_policy(draft, &text, replaces, &by),
            Command::Sites(command) => self.plan_sites(draft, command),
            Command::AskShell { shell, key, fresh } => Ok(self.plan_ask_shell(draft, shell, key, fresh)),
            Command::AnswerShell { key, approved, by: _ } => self.plan_answer_shell(draft, &key, approved),
            Command::DisableWithdrawn { route } => Ok(self.plan_disable_withdrawn(draft, route)),
        }
    }
}
