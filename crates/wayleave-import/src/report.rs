//! What an import says of itself: counts, one warning for each row that did not arrive as it was, and what is left to do by hand.
//!
//! To add a code: one line below. Codes are scripted against, so one that was given out is never given another meaning. No secret is ever
//! part of a report.

use std::collections::BTreeMap;

use serde::Serialize;

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $word:literal,)+) => {
        /// What happened to a row, in a word that can be scripted against.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }

            /// What it means, and what to do where something is to be done.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($meaning,)+).trim_ascii(),)+
                }
            }
        }
    };
}

codes! {
    /// A machine that was never registered. Left out.
    UnregisteredMachineDropped = "unregistered_machine_dropped",
    /// A share with another user. There are none here: write it into the policy.
    SharedMachineIgnored = "shared_machine_ignored",
    /// The node's machine key was never stored. It is bound to the first machine that comes with its node key.
    ZeroMachineKey = "zero_machine_key",
    /// The node has no key, so its client can't be recognised: it has to log in again.
    NodeKeyMissing = "node_key_missing",
    /// Another row has the same node key and was seen later. Left out.
    NodeKeyDuplicate = "node_key_duplicate",
    /// The key is not one. Counted as unset.
    KeyInvalid = "key_invalid",
    /// What the client last said of itself can't be read. It says so again when it connects.
    HostInfoInvalid = "host_info_invalid",
    /// A list can't be read. Counted as empty.
    ListInvalid = "list_invalid",
    /// A value is neither yes nor no. Counted as no.
    FlagInvalid = "flag_invalid",
    /// A time can't be read. Counted as unset.
    TimeInvalid = "time_invalid",
    /// This is no prefix. Left out.
    PrefixInvalid = "prefix_invalid",
    /// The prefix had host bits set. They are cleared.
    PrefixHostBits = "prefix_host_bits",
    /// It was approved with host bits, which never matched anything. Not approved here either.
    PrefixHostBitsNotServed = "prefix_host_bits_not_served",
    /// Another row has the same prefix without host bits. That one is kept, this one left out.
    RouteHostBitsDropped = "route_host_bits_dropped",
    /// The prefix overlaps the tailnet's own range, loopback, link-local or multicast, and can't be approved here.
    PrefixNotAllowed = "prefix_not_allowed",
    /// The same route was there twice. One row is left, approved if any was.
    RouteDuplicateMerged = "route_duplicate_merged",
    /// The row was marked deleted. Left out.
    RouteSoftDeletedSkipped = "route_soft_deleted_skipped",
    /// The row's node does not exist. Left out.
    RouteOrphanDropped = "route_orphan_dropped",
    /// The node advertises it and there was no row. It waits for approval.
    RouteAdvertisedWithoutRow = "route_advertised_without_row",
    /// More than one node was marked as the primary. The one with the lowest id keeps it.
    MultiplePrimaries = "multiple_primaries",
    /// No node was marked as the primary. The one with the lowest id gets it.
    PrimaryElected = "primary_elected",
    /// An exit route was marked as primary. Exits have none.
    PrimaryOnExitIgnored = "primary_on_exit_ignored",
    /// The route is older than its node: it may be of a deleted node that had the same id. Look whether it should be approved.
    RouteOlderThanNode = "route_older_than_node",
    /// Only one half of an exit is approved. It stays so; approving either half approves both.
    ExitRouteHalfEnabled = "exit_route_half_enabled",
    /// Nodes belong to a user who does not exist. A user of that id is made.
    UserMissingPlaceholder = "user_missing_placeholder",
    /// The user was deleted and still has nodes. Restored.
    UserSoftDeletedRestored = "user_soft_deleted_restored",
    /// The node had lost its user. It gets the user of the pre-auth key that it came in with.
    UserRecoveredFromAuthkey = "user_recovered_from_authkey",
    /// The node has neither a user nor tags. It belongs to nobody, and no policy that names a user lets it in.
    NodeWithoutOwner = "node_without_owner",
    /// The name in DNS changes.
    GivenNameRenamed = "given_name_renamed",
    /// Another node has the address. This one gets another.
    IpDuplicate = "ip_duplicate",
    /// The node had more addresses of a family than one. The first is kept.
    IpExtraIgnored = "ip_extra_ignored",
    /// The node has no address. It gets one.
    IpMissing = "ip_missing",
    /// This is no address. Left out.
    IpInvalid = "ip_invalid",
    /// The row is marked deleted, which Headscale never looked at. The node is kept.
    NodeDeletedAtSet = "node_deleted_at_set",
    /// The pre-auth key that the node came in with does not exist.
    AuthkeyMissing = "authkey_missing",
    /// The pre-auth key has neither a user nor tags. It is revoked.
    AuthkeyWithoutOwner = "authkey_without_owner",
    /// A key without a secret, or with a hash of another kind. Left out; make a new one.
    SecretUnusable = "secret_unusable",
    /// The node asks for tags that it does not have. Give them by `wayleave nodes tag` if they are wanted.
    RequestTagsPending = "request_tags_pending",
    /// This is no tag. Left out.
    TagInvalid = "tag_invalid",
    /// A table of an older release is still there. Not looked at.
    LegacyTableIgnored = "legacy_table_ignored",
    /// A newer release was started on this database once and left empty tables. Not looked at.
    NewerEmptyTablesIgnored = "newer_empty_tables_ignored",
    /// OAuth clients can't be carried over. Make an API key instead.
    OauthClientNotImported = "oauth_client_not_imported",
    /// OAuth tokens can't be carried over. Make an API key instead.
    OauthAccessTokenNotImported = "oauth_access_token_not_imported",
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// Something that a row of the source had to give, and which row it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// What.
    pub code: Code,
    /// The table of the source.
    pub table: String,
    /// The id of the row; `None` where it is about a table, or about a prefix as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Of which prefix, as the source writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What the source has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

impl Warning {
    /// About a row.
    pub fn row(code: Code, table: &str, id: u64) -> Self {
        Self { code, table: table.to_owned(), id: Some(id), prefix: None, old: None, new: None }
    }

    /// About a table.
    pub fn table(code: Code, table: &str) -> Self {
        Self { code, table: table.to_owned(), id: None, prefix: None, old: None, new: None }
    }

    /// About this prefix.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: Some(prefix.into()), ..self }
    }

    /// With what the source has.
    #[must_use]
    pub fn old(self, old: impl Into<String>) -> Self {
        Self { old: Some(old.into()), ..self }
    }

    /// With what it came to.
    #[must_use]
    pub fn new_value(self, new: impl Into<String>) -> Self {
        Self { new: Some(new.into()), ..self }
    }
}

/// How many rows of a kind were there, and how many arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// In the source.
    pub read: usize,
    /// In Wayleave.
    pub written: usize,
}

/// A setting of the other system's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its key there.
    pub key: String,
    /// The key here that says the same; `None`: there is none.
    pub maps_to: Option<String>,
    /// What to do, or what is different.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A route that waits for approval, and that an auto-approver would approve if it were asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approvable {
    /// The node's id.
    pub node: u64,
    /// Its name.
    pub name: String,
    /// What it advertises.
    pub prefix: String,
    /// The rule of the policy.
    pub by: String,
}

/// What came of an import, or what would come of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Where the data came from.
    pub source: String,
    /// What kind of database it is.
    pub database: String,
    /// The generation that was found, in words.
    pub generation: String,
    /// What everybody should read first.
    pub notices: Vec<String>,
    /// Rows by kind.
    pub counts: BTreeMap<&'static str, Count>,
    /// Warnings by code.
    pub warning_counts: BTreeMap<&'static str, usize>,
    /// What each code that is there means.
    pub meanings: BTreeMap<&'static str, &'static str>,
    /// One for each row that did not arrive as it was.
    pub warnings: Vec<Warning>,
    /// Every setting of the configuration that was read.
    pub settings: Vec<Setting>,
    /// Routes that an auto-approver would approve. They wait for a person; `wayleave routes approve` approves them.
    pub auto_approvable: Vec<Approvable>,
    /// Nodes whose client is too old for this server, as `name (version)`.
    pub clients_too_old: Vec<String>,
    /// The numbers that are given out next, by kind.
    pub next_ids: BTreeMap<&'static str, u64>,
    /// Whether anything was written.
    pub written: bool,
}

impl Report {
    /// Takes in the warnings, in the order of codes, tables and rows, and counts them.
    pub fn set_warnings(&mut self, mut warnings: Vec<Warning>) {
        let place = |w: &Warning| (w.code, w.table.clone(), w.id, w.prefix.clone());
        warnings.sort_by_key(place);
        for warning in &warnings {
            *self.warning_counts.entry(warning.code.word()).or_default() += 1;
            self.meanings.insert(warning.code.word(), warning.code.meaning());
        }
        self.warnings = warnings;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_words_of_their_own_with_a_meaning() {
        let words: BTreeSet<&str> = Code::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.word().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code:?}");
            assert!(
                code.meaning().ends_with('.') && !code.meaning().starts_with(' '),
                "{code:?}: `{}`",
                code.meaning()
            );
        }
    }

    #[test]
    fn warnings_are_counted_by_code() {
        let mut report = Report::default();
        report.set_warnings(vec![
            Warning::row(Code::PrefixInvalid, "routes", 9).prefix("x"),
            Warning::row(Code::PrefixInvalid, "routes", 2).prefix("y"),
        ]);
        assert_eq!(report.warning_counts["prefix_invalid"], 2);
        assert_eq!(report.warnings[0].id, Some(2));
    }
}
