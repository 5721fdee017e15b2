//! 0.2 to 0.17: what is approved is a list on the machine, `machines.enabled_routes`; what is advertised is in its host information.
//!
//! | release | change |
//! |---|---|
//! | 0.13 | `ip_address` becomes `ip_addresses`, a list with commas; API keys |
//! | 0.15 | `registered` goes: every row is a node |
//! | 0.16 | `name` becomes `hostname`; `given_name` and `forced_tags` come |
//! | 0.17 | tags of pre-auth keys, in a table of their own |

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
    enabled: Some("enabled_routes"),
};

/// Reads a database of this family.
///
/// # Errors
///
/// It can't be read.
pub(super) async fn read(source: &mut Source, generation: Generation) -> Result<Installation, SourceError> {
    rows::installation(source, generation, &COLUMNS, None).await
}
