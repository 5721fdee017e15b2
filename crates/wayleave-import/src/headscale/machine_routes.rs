//! 0.18 to 0.22: routes have a table, which names `machines`. `namespaces` become `users` in 0.19.

use super::generation::Generation;
use super::installation::Installation;
use super::rows::{self, NodeColumns};
use crate::source::{Source, SourceError};

/// Which columns hold what.
const COLUMNS: NodeColumns = NodeColumns {
    owner: &["user_id", "namespace_id"],
    hostname: &["hostname", "name"],
    tags: &["forced_tags"],
    addresses: &["ip_addresses", "ip_address"],
    enabled: None,
};

/// Reads a database of this family.
///
/// # Errors
///
/// It can't be read.
pub(super) async fn read(source: &mut Source, generation: Generation) -> Result<Installation, SourceError> {
    rows::installation(source, generation, &COLUMNS, Some("machine_id")).await
}
