//! 0.26 on: what is approved is a list on the node, `nodes.approved_routes`; what is advertised is in its host information. Who is
//! primary is in the server's memory only.
//!
//! The upgrade to 0.26 wrote the list as bytes, so on SQLite it may be a BLOB. From 0.28 on `forced_tags` are `tags`, and hold those that
//! clients asked for and were allowed too.

use super::generation::Generation;
use super::installation::Installation;
use super::rows::{self, NodeColumns};
use crate::source::{Source, SourceError};

/// Which columns hold what.
const COLUMNS: NodeColumns = NodeColumns {
    owner: &["user_id"],
    hostname: &["hostname"],
    tags: &["tags", "forced_tags"],
    addresses: &["ip_addresses", "ip_address"],
    enabled: Some("approved_routes"),
};

/// Reads a database of this family.
///
/// # Errors
///
/// It can't be read.
pub(super) async fn read(source: &mut Source, generation: Generation) -> Result<Installation, SourceError> {
    rows::installation(source, generation, &COLUMNS, None).await
}
