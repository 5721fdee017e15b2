//! What may be asked of a tailnet, what it answers, and why it may refuse.

use std::collections::BTreeSet;
use std::time::Duration;

use wayleave_model::{
    ApiKeyId, Approver, AuthKeyId, GivenName, Hostinfo, InvalidReason, MachineKey, NodeId, NodeKey, Prefix,
    PrefixChange, RouteId, Tag, Timestamp, UserId, UserRole,
};
use wayleave_policy::PolicyError;

use crate::addresses::AddressError;
use crate::path_checks::NewPathCheck;
use crate::sites::SiteCommand;
use crate::ssh_checks::{Shell, SshCheckKey, SshVerdict};

/// The unguessable part of the address at which a person approves a login. Given in, because the core rolls no dice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoginToken(pub String);

/// A client asks to be let in, let in again, or let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The identity of the connection that it came over.
    pub machine_key: MachineKey,
    /// The key to register.
    pub node_key: NodeKey,
    /// The key before a rotation.
    pub old_node_key: Option<NodeKey>,
    /// SHA-256 of the pre-auth key that it brought.
    pub auth_key: Option<[u8; 32]>,
    /// The expiry that it asks for; one in the past is a log-out.
    pub expiry: Option<Timestamp>,
    /// The login that it waits for.
    pub followup: Option<LoginToken>,
    /// It wants to be deleted once it is gone.
    pub ephemeral: bool,
    /// Capability version of the client.
    pub capability: u16,
    /// What it says of itself.
    pub hostinfo: Hostinfo,
    /// The token to use if a person has to approve it.
    pub fresh_token: LoginToken,
}

/// A pre-auth key to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAuthKey {
    /// Whose nodes it makes. May be left out if it has tags.
    pub user: Option<UserId>,
    /// The first characters of the key.
    pub hint: String,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// May register more than one node.
    pub reusable: bool,
    /// Its nodes are deleted once they are gone.
    pub ephemeral: bool,
    /// Tags of its nodes.
    pub tags: BTreeSet<Tag>,
    /// Words of the person who made it.
    pub description: String,
    /// How long it works. `None`: for ever.
    pub lifetime: Option<Duration>,
}

/// Whether a list of prefixes adds to what is approved, or is all that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApproveMode {
    /// Approves these; others stay as they are.
    Add,
    /// Approves these and disables all others of the node.
    Replace,
}

/// A key that may be known by a slow hash, because it came with an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImportedKey {
    /// A pre-auth key.
    Auth(AuthKeyId),
    /// An API key.
    Api(ApiKeyId),
}

/// Something that is asked for. It may be refused, and changes nothing until it was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes a user.
    CreateUser {
        /// The name, unique.
        name: String,
        /// What clients show; empty for the name.
        display_name: String,
        /// The e-mail address.
        email: Option<String>,
        /// What the user is in the tailnet. `None`: the owner if there is nobody yet, else a member.
        role: Option<UserRole>,
    },
    /// Makes a user something else in the tailnet.
    SetRole {
        /// Who.
        user: UserId,
        /// What.
        role: UserRole,
    },
    /// Gives a user another name.
    RenameUser {
        /// Who.
        user: UserId,
        /// The new name.
        name: String,
    },
    /// Deletes a user who has no nodes, and the user's keys.
    DeleteUser {
        /// Who.
        user: UserId,
    },
    /// Makes a pre-auth key.
    CreateAuthKey(NewAuthKey),
    /// Ends a pre-auth key. Nodes that it made stay.
    RevokeAuthKey {
        /// Which.
        key: AuthKeyId,
    },
    /// Makes an API key.
    CreateApiKey {
        /// Its public part.
        name: String,
        /// SHA-256 of the key.
        hash: [u8; 32],
        /// Words of the person who made it.
        description: String,
        /// How long it works.
        lifetime: Option<Duration>,
    },
    /// Ends an API key.
    DeleteApiKey {
        /// Which.
        key: ApiKeyId,
    },
    /// Knows an imported key by its SHA-256 from here on: whoever showed it was held against the slow hash that it came with.
    LearnKey {
        /// Which.
        key: ImportedKey,
        /// SHA-256 of the whole key.
        hash: [u8; 32],
    },
    /// A client asks to be let in, let in again, or let go.
    Register(Box<Registration>),
    /// A machine asks for the map of a node that came with an import and without a machine key: it is the node's from here on.
    BindMachine {
        /// The node's key.
        node_key: NodeKey,
        /// The machine that has it.
        machine_key: MachineKey,
    },
    /// A person lets the client of a login in, for this user.
    ApproveLogin {
        /// Which login.
        token: LoginToken,
        /// Whose node it becomes.
        user: UserId,
    },
    /// Gives a node another name, which it keeps.
    RenameNode {
        /// Which.
        node: NodeId,
        /// The name.
        name: GivenName,
    },
    /// Makes a node a tagged one, with exactly these tags.
    TagNode {
        /// Which.
        node: NodeId,
        /// At least one.
        tags: BTreeSet<Tag>,
    },
    /// Ends the life of a node's key at this time; `None`: it never ends.
    ExpireNode {
        /// Which.
        node: NodeId,
        /// When.
        at: Option<Timestamp>,
    },
    /// Deletes a node and all that is its.
    DeleteNode {
        /// Which.
        node: NodeId,
    },
    /// Deletes a node because it was ephemeral and is gone; refused if it has come back.
    DeleteEphemeral {
        /// Which.
        node: NodeId,
    },
    /// Approves routes of a node.
    ApproveRoutes {
        /// Whose.
        node: NodeId,
        /// Which.
        prefixes: BTreeSet<Prefix>,
        /// Whether others stay.
        mode: ApproveMode,
        /// Who says so.
        by: Approver,
    },
    /// Disables routes of a node.
    DisableRoutes {
        /// Whose.
        node: NodeId,
        /// Which.
        prefixes: BTreeSet<Prefix>,
        /// Who says so.
        by: Approver,
    },
    /// Sets what holds for a prefix, or for all that say nothing of their own.
    SetPrefix {
        /// Which; `None`: the default.
        prefix: Option<Prefix>,
        /// What.
        change: PrefixChange,
        /// Who says so.
        by: Approver,
    },
    /// Stops every automatic move of a prefix, or of all, for a while.
    Freeze {
        /// Which; `None`: all.
        prefix: Option<Prefix>,
        /// For how long.
        lifetime: Duration,
        /// Who says so.
        by: Approver,
    },
    /// Ends a freeze. That of all ends every one.
    Unfreeze {
        /// Which; `None`: all.
        prefix: Option<Prefix>,
        /// Who says so.
        by: Approver,
    },
    /// Sets how much a node is preferred for a prefix.
    Prefer {
        /// Whose route.
        node: NodeId,
        /// Which.
        prefix: Prefix,
        /// Higher is preferred.
        priority: i32,
        /// Who says so.
        by: Approver,
    },
    /// Puts a prefix on another of its routers, once.
    MovePrimary {
        /// Which.
        prefix: Prefix,
        /// Where to.
        to: NodeId,
        /// Who says so.
        by: Approver,
    },
    /// Takes a node out of service: none of its routes is chosen while another can serve.
    DrainNode {
        /// Which.
        node: NodeId,
        /// Who says so.
        by: Approver,
    },
    /// Puts it back into service.
    UndrainNode {
        /// Which.
        node: NodeId,
        /// Who says so.
        by: Approver,
    },
    /// Sets the path check of a prefix.
    SetPathCheck(Box<NewPathCheck>),
    /// Takes the path check of a prefix back.
    RemovePathCheck {
        /// Which.
        prefix: Prefix,
        /// Who says so.
        by: Approver,
    },
    /// Makes rows for what a node advertises and has none for, and asks the auto-approvers.
    Advertise {
        /// Who.
        node: NodeId,
        /// What it advertises in all.
        prefixes: BTreeSet<Prefix>,
    },
    /// Sets the policy.
    SetPolicy {
        /// HuJSON.
        text: String,
        /// The revision that it replaces, 0 for none; refused if another is in force. `None`: whichever.
        replaces: Option<u64>,
        /// Who sets it: the words of an approver.
        by: String,
    },
    /// Something about 4via6 sites.
    Sites(SiteCommand),
    /// A client asks whether a connection to its SSH server is let in.
    AskShell {
        /// The connection.
        shell: Shell,
        /// The check that the client has been waiting for, if it has.
        key: Option<SshCheckKey>,
        /// The key to use if a person has to be asked.
        fresh: SshCheckKey,
    },
    /// A person lets a connection in that waits for a check, or refuses it.
    AnswerShell {
        /// Which check.
        key: SshCheckKey,
        /// Whether it is let in.
        approved: bool,
        /// Who says so.
        by: Approver,
    },
    /// Disables a route whose grace after a withdrawal is over; nothing if it is advertised again.
    DisableWithdrawn {
        /// Which.
        route: RouteId,
    },
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; there is nothing to tell.
    Done,
    /// A user was made.
    User(UserId),
    /// A pre-auth key was made.
    AuthKey(AuthKeyId),
    /// An API key was made.
    ApiKey(ApiKeyId),
    /// The client is in, as this node.
    Registered(NodeId),
    /// A person has to approve the login with this token.
    LoginNeeded(LoginToken),
    /// The login with this token still waits for a person.
    LoginWaits(LoginToken),
    /// The client has to make itself a new key first.
    KeyExpired,
    /// The client is out.
    LoggedOut,
    /// These routes changed.
    Routes(Vec<RouteId>),
    /// The policy of this revision is in force.
    Policy(u64),
    /// The site of this number was made, changed or removed, or a host at it.
    Site(u32),
    /// What becomes of a connection to an SSH server.
    Shell(SshVerdict),
}

/// Why a command is refused. Each text says what is wrong, and what to do where that is not plain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such node.
    #[error("there is no node {0}")]
    NoNode(NodeId),
    /// There is no such user.
    #[error("there is no user {0}")]
    NoUser(UserId),
    /// There is no such key.
    #[error("there is no key {0}")]
    NoKey(u64),
    /// There is no such login.
    #[error(
        "there is no login with this key: it was answered already, is more than an hour old, or the server was started since; run `tailscale up` on the client again"
    )]
    NoLogin,
    /// No connection waits under that key.
    #[error(
        "no connection waits for a check under `{0}`: it was answered already, or was given up; `wayleave ssh list` shows those that wait"
    )]
    NoSshCheck(SshCheckKey),
    /// A user of that name exists.
    #[error("there is a user `{0}` already")]
    UserExists(String),
    /// A user's name is empty, or has white space or control characters.
    #[error("`{0}` is no name for a user: a name has 1 to 255 characters, none of them white space")]
    UserName(String),
    /// The user still has nodes.
    #[error("user `{0}` still has nodes: delete them first")]
    UserHasNodes(String),
    /// Another node has that name.
    #[error("node {holder} has the name `{name}` already")]
    NameTaken {
        /// The name.
        name: GivenName,
        /// Who has it.
        holder: NodeId,
    },
    /// A pre-auth key needs a user or tags.
    #[error("a key needs a user or tags: whose would its nodes be?")]
    KeyWithoutOwner,
    /// No pre-auth key is this one.
    #[error("invalid auth key: there is no such key; make one with `wayleave keys create --user NAME`")]
    AuthKeyUnknown,
    /// The pre-auth key has expired.
    #[error("auth key expired on {0}; make another with `wayleave keys create --user NAME`")]
    AuthKeyExpired(Timestamp),
    /// The pre-auth key was revoked.
    #[error("auth key was revoked on {0}; make another with `wayleave keys create --user NAME`")]
    AuthKeyRevoked(Timestamp),
    /// The pre-auth key works once, and was used.
    #[error("auth key was used already, and is not reusable; make another with `wayleave keys create --user NAME`")]
    AuthKeyUsed,
    /// The node key belongs to another machine.
    #[error(
        "this node key belongs to another machine: log out on one of the two (`tailscale logout`) and log in again"
    )]
    OtherMachine,
    /// The node came without a machine key, and is bound to none any more.
    #[error(
        "this node came with an import that had no machine key for it, and the time to bind it to its machine is over: log in again on the client (`tailscale up --force-reauth`), or raise `nodes.bind_imported`"
    )]
    NotBound,
    /// The client asks for tags that nobody gave it.
    #[error(
        "requested tags are not permitted: {0}; make an auth key with `--tags`, or name their owners in the policy"
    )]
    TagsNotPermitted(String),
    /// A node needs at least one tag.
    #[error("a tagged node needs at least one tag; a node can't go back from tags to a user but by logging in again")]
    NoTags,
    /// Too many logins wait.
    #[error("too many logins wait for a person; try again later")]
    TooManyLogins,
    /// No address is free.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The prefix can't be a route.
    #[error("{prefix} can't be enabled: it {reason}")]
    InvalidPrefix {
        /// Which.
        prefix: Prefix,
        /// Why.
        reason: InvalidReason,
    },
    /// The node has no such route.
    #[error("{node} has no route {prefix}; it has: {has}")]
    NoRoute {
        /// Whose: its name.
        node: String,
        /// Which, as people read it.
        prefix: String,
        /// What it has.
        has: String,
    },
    /// The prefix can't be moved there.
    #[error("{prefix} can't be moved to {node}: {why}")]
    NotMovable {
        /// Which, as people read it.
        prefix: String,
        /// Where to: its name.
        node: String,
        /// Why not.
        why: String,
    },
    /// Exits are never elected, so there is nothing to set for them.
    #[error("{0} is an exit: exits are never elected, and each client chooses its own")]
    Exit(Prefix),
    /// It can never be a route, so there is nothing to say of it.
    #[error("{prefix} can never be a route, since it {reason}: there is nothing to set for it")]
    NeverRoute {
        /// Which.
        prefix: Prefix,
        /// Why.
        reason: InvalidReason,
    },
    /// There is no freeze to end.
    #[error("{0} is not frozen; `wayleave routes settings` shows what is")]
    NotFrozen(Prefix),
    /// There is no freeze at all.
    #[error("nothing is frozen")]
    NothingFrozen,
    /// All prefixes are frozen, so one can't be let go.
    #[error("all prefixes are frozen until {until}: `wayleave routes unfreeze --all` ends that")]
    AllFrozen {
        /// Until then.
        until: Timestamp,
    },
    /// A freeze needs an end.
    #[error("a freeze lasts from a second to a year")]
    FreezeLength,
    /// It is no policy, or fails its own tests.
    #[error("{0}")]
    Policy(Box<PolicyError>),
    /// Somebody else set a policy in between.
    #[error(
        "the policy was changed by somebody else in between: revision {current} is in force; look at it (`wayleave policy get`) and try again"
    )]
    PolicyChanged {
        /// What is in force.
        current: u64,
    },
    /// There is no such site.
    #[error("there is no site {0}; `wayleave via6 sites list` shows all")]
    NoSite(u32),
    /// The site has no such host.
    #[error("site `{site}` has no host `{name}`; `wayleave via6 hosts list` shows all")]
    NoSiteHost {
        /// Where.
        site: GivenName,
        /// Which.
        name: GivenName,
    },
    /// The number or the name is another site's.
    #[error("site `{name}` exists, with the number {id}")]
    SiteExists {
        /// Its number.
        id: u32,
        /// Its name.
        name: GivenName,
    },
    /// The name is a number.
    #[error("`{0}` would be taken for a number of a site: a name of a site has a letter in it")]
    SiteName(GivenName),
    /// The number is too high.
    #[error("{0} is no number of a site: clients take at most 65535")]
    SiteNumber(u32),
    /// All numbers are taken.
    #[error("all numbers of sites are taken")]
    NoSiteFree,
    /// Hosts are named at the site.
    #[error("site `{name}` has hosts that are named: {hosts}; remove them first (`wayleave via6 hosts remove`)")]
    SiteHasHosts {
        /// Which.
        name: GivenName,
        /// Those.
        hosts: String,
    },
    /// The policy names the site.
    #[error("the policy names site `{site}`, and could not be read any more: change it first\n{fault}")]
    SiteInPolicy {
        /// Which.
        site: String,
        /// What would be wrong.
        fault: Box<PolicyError>,
    },
    /// The address proves nothing about the routers of the prefix.
    #[error("{target} can't be the target of a path check of {prefix}: {fault}")]
    CheckTarget {
        /// Which address, as people read it.
        target: String,
        /// Of which prefix, as people read it.
        prefix: String,
        /// Why.
        fault: String,
    },
    /// A check is asked for too often, or too seldom.
    #[error("a path check is run every 1s to 1h")]
    CheckPeriod,
    /// Whoever carries the prefix carries all of it: there is nothing narrower to lead a witness by.
    #[error("{0} is a single address, so no witness can be led through a standby; leave `--standby` out")]
    CheckStandbyOfHost(Prefix),
    /// The prefix has no path check.
    #[error("{0} has no path check; `wayleave routes check list` shows all")]
    NoCheck(Prefix),
    /// The node came back.
    #[error("node {0} is back")]
    NodeIsBack(NodeId),
}
