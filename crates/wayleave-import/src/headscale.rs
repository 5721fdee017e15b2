//! Headscale, every generation of its database since 0.2.
//!
//! What it keeps changed its shape four times, by where a node's routes are: a list on the machine ([`enabled_routes`]), a table beside
//! the machines ([`machine_routes`]), a table beside the nodes ([`node_routes`]), a list of approvals on the node ([`approved_routes`]).
//! [`generation`] tells which it is by tables and columns, never by a number of a version. Each family's file says which columns hold
//! what, and all come to one [`Installation`]. From there on ([`translation`]) there are no generations any more.

pub mod approved_routes;
pub mod config;
mod derp_map;
pub mod enabled_routes;
pub mod generation;
pub mod installation;
pub mod key_file;
pub mod machine_routes;
pub mod new_config;
pub mod node_routes;
pub mod old_policy;
mod plan;
pub mod policy;
pub mod prepare;
mod rows;
pub mod translation;

pub use config::{Config, ConfigError};
pub use generation::{Family, Generation, GenerationError};
pub use installation::Installation;
pub use new_config::NewConfig;
pub use policy::PolicyAt;
pub use prepare::{PrepareError, Prepared, Progress, Setup, location, prepare};
pub use translation::Translation;

use crate::source::{Source, SourceError};

/// Why there is nothing to import.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database can't be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is not one that can be imported.
    #[error(transparent)]
    Generation(#[from] GenerationError),
}

impl Installation {
    /// Reads all of a database.
    ///
    /// # Errors
    ///
    /// It can't be read, is not Headscale's, is newer than known, or its upgrade was broken off.
    pub async fn read(source: &mut Source) -> Result<Self, ReadError> {
        let generation = Generation::tell(source).await?;
        Ok(match generation.family {
            Family::EnabledRoutes => enabled_routes::read(source, generation).await?,
            Family::MachineRoutes => machine_routes::read(source, generation).await?,
            Family::NodeRoutes => node_routes::read(source, generation).await?,
            Family::ApprovedRoutes => approved_routes::read(source, generation).await?,
        })
    }
}
