//! 0.23 to 0.25: machines are nodes, and routes have a table, which names them. Keys are stored with the prefixes of their kinds, and
//! addresses in a column for each family. A database whose upgrade to 0.26 stopped before the routes were moved is one of these too.

use super::generation::Generation;
use super::installation::Installation;
use super::rows::{self, NodeColumns};
use crate::source::{Source, SourceError};

/// Which columns hold what. (Early 0.23 still had `ip_addresses`.)
const COLUMNS: NodeColumns = NodeColumns {
    owner: &["user_id", "namespace_id"],
    hostname: &["hostname", "name"],
    tags: &["tags", "forced_tags"],
    addresses: &["ip_addresses", "ip_address"],
    enabled: None,
};

/// Reads a database of this family.
///
/// # Errors
///
/// It can't be read.
pub(super) async fn read(source: &mut Source, generation: Generation) -> Result<Installation, SourceError> {
    rows::installation(source, generation, &COLUMNS, Some("node_id")).await
}
