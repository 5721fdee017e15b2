//! Tells which generation of Headscale wrote a database, by the tables and columns that it has.

use std::fmt;

use crate::report::{Code, Warning};
use crate::source::{Source, SourceError};

/// Where a node's routes are: what the four families of schemas differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// 0.2 to 0.17: `machines.enabled_routes`.
    EnabledRoutes,
    /// 0.18 to 0.22: `machines`, and `routes.machine_id`.
    MachineRoutes,
    /// 0.23 to 0.25: `nodes`, and `routes.node_id`.
    NodeRoutes,
    /// 0.26 on: `nodes.approved_routes`.
    ApprovedRoutes,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EnabledRoutes => "A-machines.enabled_routes",
            Self::MachineRoutes => "B-machines+routes",
            Self::NodeRoutes => "C-nodes+routes",
            Self::ApprovedRoutes => "D-nodes.approved_routes",
        })
    }
}

/// A generation, and what is told of it.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Where the routes are.
    pub family: Family,
    /// The releases that write such a schema.
    pub releases: &'static str,
    /// The table of nodes: `machines` or `nodes`.
    pub node_table: &'static str,
    /// The table of users: `namespaces` or `users`.
    pub user_table: &'static str,
    /// The last migration that was done, where they are recorded.
    pub last_migration: Option<String>,
    /// The version that the database names, where it names one.
    pub version: Option<String>,
    /// It spoke Noise: clients know the server by its Noise key.
    pub speaks_noise: bool,
    /// Tags that clients ask for are in force if the policy allows them; later releases wrote them into the node once.
    pub requested_tags_count: bool,
    /// It ran a release that did not write it down when a node's last approval was taken back.
    pub may_hold_removed_approvals: bool,
    /// What was found and not looked at.
    pub warnings: Vec<Warning>,
    /// Tables that are nobody's that is known.
    pub unknown_tables: Vec<String>,
}

/// Why a database can't be imported.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// It can't be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is not Headscale's.
    #[error("{at} is not Headscale's database: it has neither a table `machines` nor `nodes` (it has: {tables})")]
    Foreign {
        /// Where.
        at: String,
        /// What it has.
        tables: String,
    },
    /// It is, and of no shape that is known.
    #[error(
        "{at} is of no generation of Headscale that is known (0.2 to 0.30): table `{table}` has no routes of any known shape; upgrade it with a Headscale of 0.16 or later first, or restore the backup from before an upgrade that failed"
    )]
    Unknown {
        /// Where.
        at: String,
        /// The table of nodes.
        table: &'static str,
    },
    /// An upgrade was broken off.
    #[error(
        "an upgrade of {at} was broken off: table `{table}` is left over from it; start Headscale on it until it runs, stop it, and import then, or import the backup from before the upgrade"
    )]
    HalfUpgraded {
        /// Where.
        at: String,
        /// What is left.
        table: String,
    },
    /// A later release wrote it.
    #[error(
        "{at} was written by a Headscale that is newer than this program knows ({what}; known are releases up to 0.30): use a newer Wayleave"
    )]
    Newer {
        /// Where.
        at: String,
        /// How that shows.
        what: String,
    },
}

/// The newest migration that is known: of 0.30, in development.
const NEWEST_MIGRATION: &str = "202606211200-oauth-clients-and-tokens";
/// The newest release that is known.
const NEWEST_RELEASE: (u32, u32) = (0, 30);
/// The migration that moved routes into the nodes.
const ROUTES_MOVED: &str = "202502131714";
/// What a database that was made by 0.28 or later has recorded; it never had a table of routes.
const MADE_NEW: &str = "SCHEMA_INIT";
/// The last migration of 0.27.1, which with 0.28.0 lost it when the last approval of a node was taken back.
const LOSES_REMOVALS: &str = "202511101554-drop-old-idx";

/// Tables that Headscale made in some release, and those of SQLite and of a program that many copy it with.
const KNOWN_TABLES: [&str; 18] = [
    "namespaces",
    "users",
    "machines",
    "nodes",
    "routes",
    "pre_auth_keys",
    "pre_auth_key_acl_tags",
    "api_keys",
    "kvs",
    "shared_machines",
    "policies",
    "migrations",
    "database_versions",
    "oauth_clients",
    "oauth_access_tokens",
    "sqlite_sequence",
    "_litestream_lock",
    "_litestream_seq",
];

impl Generation {
    /// Tells the generation.
    ///
    /// # Errors
    ///
    /// The database is not Headscale's, or not one that can be imported.
    pub async fn tell(source: &mut Source) -> Result<Self, GenerationError> {
        let at = source.shown().to_owned();
        if let Some(table) = source.tables().find(|table| is_left_over(table)) {
            return Err(GenerationError::HalfUpgraded { at, table: table.to_owned() });
        }
        let mut warnings = Vec::new();
        let node_table = match (source.has_table("nodes"), source.has_table("machines")) {
            (false, false) => {
                let mut tables: Vec<&str> = source.tables().collect();
                tables.truncate(8);
                let tables = if tables.is_empty() { "none".to_owned() } else { tables.join(", ") };
                return Err(GenerationError::Foreign { at, tables });
            }
            (true, false) => "nodes",
            (false, true) => "machines",
            (true, true) if !source.has_rows("nodes").await? && source.has_rows("machines").await? => {
                warnings.push(Warning::table(Code::NewerEmptyTablesIgnored, "nodes"));
                "machines"
            }
            (true, true) => {
                warnings.push(Warning::table(Code::LegacyTableIgnored, "machines"));
                "nodes"
            }
        };
        let users = source.has_rows("users").await? || !source.has_table("namespaces");
        let user_table = if users { "users" } else { "namespaces" };
        if !source.has_table(user_table) {
            return Err(GenerationError::Foreign { at, tables: format!("{node_table}, and no users") });
        }
        let migrations: Vec<String> =
            source.table("migrations").await?.rows().filter_map(|row| row.cell("id").text()).collect();
        let versions = source.table("database_versions").await?;
        let version = versions.rows().filter_map(|row| row.cell("version").filled()).last();
        check_not_newer(&at, &migrations, version.as_deref())?;

        let moved = migrations.iter().any(|id| id == ROUTES_MOVED || id == MADE_NEW);
        let has = |column| source.has_column(node_table, column);
        let family = if has("enabled_routes") {
            Family::EnabledRoutes
        } else if has("approved_routes") && (!source.has_table("routes") || moved) {
            Family::ApprovedRoutes
        } else if node_table == "machines" && source.has_column("routes", "machine_id") {
            Family::MachineRoutes
        } else if node_table == "nodes" && source.has_column("routes", "node_id") {
            Family::NodeRoutes
        } else {
            return Err(GenerationError::Unknown { at, table: node_table });
        };
        if family == Family::ApprovedRoutes && source.has_table("routes") {
            warnings.push(Warning::table(Code::LegacyTableIgnored, "routes"));
        }
        let known = |table: &&str| !KNOWN_TABLES.contains(table) && !table.starts_with("sqlite_");
        Ok(Self {
            family,
            releases: releases(source, family, node_table, user_table),
            node_table,
            user_table,
            last_migration: migrations.iter().filter(|id| id.starts_with("20")).max().cloned(),
            version,
            speaks_noise: family != Family::EnabledRoutes || source.has_table("pre_auth_key_acl_tags"),
            requested_tags_count: !source.has_column(node_table, "tags"),
            may_hold_removed_approvals: family == Family::ApprovedRoutes
                && migrations.iter().any(|id| id == LOSES_REMOVALS),
            warnings,
            unknown_tables: source.tables().filter(known).map(str::to_owned).collect(),
        })
    }
}

/// The rebuild of 0.27 renames each table before it makes the new one, and deletes the old one last.
fn is_left_over(table: &str) -> bool {
    table.strip_suffix("_old").is_some_and(|table| KNOWN_TABLES.contains(&table))
}

fn check_not_newer(at: &str, migrations: &[String], version: Option<&str>) -> Result<(), GenerationError> {
    let newer = |what: String| Err(GenerationError::Newer { at: at.to_owned(), what });
    // Ids begin with the minute in which they were written, so those of later releases sort behind.
    let minute = |id: &str| id.get(..12).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).map(str::to_owned);
    let newest = minute(NEWEST_MIGRATION);
    if let Some(id) = migrations.iter().find(|id| minute(id).is_some_and(|at| Some(at) > newest)) {
        return newer(format!("migration {id}"));
    }
    let release = version.and_then(|version| {
        let mut parts = version.trim_start_matches('v').split('.');
        Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?))
    });
    match (release, version) {
        (Some(release), Some(version)) if release > NEWEST_RELEASE => newer(format!("version {version}")),
        _ => Ok(()),
    }
}

/// The releases that write this schema, as narrowly as it can be told.
fn releases(source: &Source, family: Family, node_table: &str, user_table: &str) -> &'static str {
    match family {
        Family::EnabledRoutes if source.has_column(node_table, "ip_address") => "0.2 to 0.12",
        Family::EnabledRoutes if source.has_column(node_table, "registered") => "0.13 or 0.14",
        Family::EnabledRoutes if !source.has_column(node_table, "hostname") => "0.15",
        Family::EnabledRoutes if source.has_table("pre_auth_key_acl_tags") => "0.17",
        Family::EnabledRoutes => "0.16",
        Family::MachineRoutes if user_table == "namespaces" => "0.18",
        Family::MachineRoutes => "0.19 to 0.22",
        Family::NodeRoutes if source.has_column("users", "provider_identifier") => "0.24 or 0.25",
        Family::NodeRoutes => "0.23",
        Family::ApprovedRoutes if source.has_table("oauth_clients") => "0.30, in development",
        Family::ApprovedRoutes if source.has_table("database_versions") => "0.29",
        Family::ApprovedRoutes if source.has_column("pre_auth_keys", "prefix") => "0.28",
        Family::ApprovedRoutes => "0.26 or 0.27",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_migrations_and_versions_are_newer_and_known_ones_are_not() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        for (migrations, version) in [
            (ids(&["SCHEMA_INIT", "2024041121742", "202312101416", NEWEST_MIGRATION]), Some("v0.29.2")),
            (ids(&[]), Some("v0.30.0-dev+abc")),
            (ids(&["202606211200-another"]), Some("dev")),
        ] {
            assert!(check_not_newer("x", &migrations, version).is_ok(), "{migrations:?} {version:?}");
        }
        for (migrations, version) in
            [(ids(&["202701010000-what"]), None), (ids(&[]), Some("v0.31.0")), (ids(&[]), Some("1.0.0"))]
        {
            let error = check_not_newer("x", &migrations, version).unwrap_err();
            assert!(matches!(error, GenerationError::Newer { .. }), "{migrations:?} {version:?}");
        }
    }

    #[test]
    fn only_tables_of_headscale_are_left_over_from_an_upgrade() {
        assert!(is_left_over("users_old") && is_left_over("nodes_old"));
        assert!(!is_left_over("notes_old") && !is_left_over("users"));
    }
}
