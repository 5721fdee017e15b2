//! Puts together all that a move takes: what the database holds, the keys, the policy, and the report. Nothing is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use wayleave_model::{Owner, TAILNET_V4, TAILNET_V6, Timestamp};
use wayleave_tailnet::{AddressError, AddressPool, Loaded, PolicyRow, Settings, Tailnet};
use wayleave_wire::PrivateKey;

use super::config::{Config, ConfigError, Database, PolicyPlace};
use super::generation::{Family, Generation};
use super::key_file::{self, KeyFileError};
use super::new_config::NewConfig;
use super::policy::{self, PolicyAt};
use super::{Installation, ReadError, Translation, plan};
use crate::report::{Count, Report, Setting};
use crate::source::{Location, Source, SourceError};

/// What a database lacks: what the configuration, or a person, says.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The file of the Noise key.
    pub noise_key: Option<PathBuf>,
    /// The file of the relay's key.
    pub derp_key: Option<PathBuf>,
    /// Where the policy is.
    pub policy: PolicyAt,
    /// Where new addresses come from.
    pub addresses: AddressPool,
    /// Clients use a random port.
    pub randomize_client_port: bool,
    /// What is to be written beside the database, by names: `wayleave.toml`, and what it names.
    pub files: Vec<(String, String)>,
    /// What became of each setting.
    pub settings: Vec<Setting>,
    /// What everybody should read first.
    pub notices: Vec<String>,
}

impl Setup {
    /// What a configuration says, for a move into this data folder.
    ///
    /// # Errors
    ///
    /// A file that the configuration names can't be read, or is not what it should be.
    pub fn from_config(config: &Config, data_dir: &Path) -> Result<Self, ConfigError> {
        let NewConfig { text, files, settings, mut notices } = NewConfig::of(config, data_dir)?;
        let ranges = config.prefix_v4.as_ref().map(|text| text.parse());
        let ranges =
            (ranges.unwrap_or(Ok(TAILNET_V4)), config.prefix_v6.as_ref().map_or(Ok(TAILNET_V6), |text| text.parse()));
        let pool = match ranges {
            (Ok(v4), Ok(v6)) => AddressPool::new(v4, v6).ok(),
            _ => None,
        };
        if pool.is_none() {
            notices.push("the prefixes of the configuration can't be used here: nodes keep their addresses, and new ones come from the whole tailnet's range".to_owned());
        }
        Ok(Self {
            noise_key: config.noise_key.clone(),
            derp_key: config.derp_key.clone(),
            policy: match &config.policy {
                PolicyPlace::File(path) => PolicyAt::File(path.clone()),
                PolicyPlace::Database => PolicyAt::Database,
                PolicyPlace::Nowhere => PolicyAt::Nowhere,
            },
            addresses: pool.unwrap_or_default(),
            randomize_client_port: config.randomize_client_port,
            files: [("wayleave.toml".to_owned(), text)].into_iter().chain(files).collect(),
            settings,
            notices,
        })
    }
}

/// Where a configuration says that the data is.
///
/// # Errors
///
/// It names no database, or one that can't be asked for in that way.
pub fn location(config: &Config) -> Result<Location, PrepareError> {
    match &config.database {
        None => Err(PrepareError::NoDatabase(config.path.clone())),
        Some(Database::Sqlite(path)) => Ok(Location::Sqlite(path.clone())),
        Some(Database::Postgres { host, port, name, user, password, ssl }) => {
            Ok(Location::postgres((host, *port), name, (user, password), ssl)?)
        }
    }
}

/// A move that is ready, or what stands in its way.
#[derive(Debug)]
pub struct Prepared {
    /// What came of it, as far as that is known before it is written.
    pub report: Report,
    /// What stands in its way; it must not be written unless there is nothing.
    pub stops: Vec<String>,
    /// Files to be written beside the database, by their names.
    pub files: Vec<(String, String)>,
    /// All rows.
    pub rows: Loaded,
    /// Policies before the one in force.
    pub older: Vec<PolicyRow>,
    /// The key by which clients know the server.
    pub noise: Option<PrivateKey>,
    /// The key by which clients know its relay.
    pub derp: Option<PrivateKey>,
}

/// Why nothing can be said of a move.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The source can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A key file can't be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The configuration names no database.
    #[error("{} names no database: give the database itself, and the configuration with --config", .0.display())]
    NoDatabase(PathBuf),
    /// A node needs an address, and there is none.
    #[error("a node needs a new address")]
    Address(#[from] AddressError),
}

impl From<SourceError> for PrepareError {
    fn from(error: SourceError) -> Self {
        Self::Read(error.into())
    }
}

/// Says how far it is: a word on what is done.
pub type Progress<'a> = dyn FnMut(&str) + Send + 'a;

/// Reads everything and works out what would be written.
///
/// # Errors
///
/// The source or a key file can't be read, or is none that can be imported.
pub async fn prepare(
    location: &Location,
    setup: &Setup,
    now: Timestamp,
    progress: &mut Progress<'_>,
) -> Result<Prepared, PrepareError> {
    let noise = setup.noise_key.as_deref().map(key_file::read).transpose()?;
    let derp = setup.derp_key.as_deref().map(key_file::read).transpose()?;
    progress("opening the source");
    let mut source = Source::open(location).await?;
    progress("reading the source");
    let installation = Installation::read(&mut source).await?;
    let (database, shown, others) = (source.kind(), source.shown().to_owned(), source.others().await?);
    source.close().await?;

    progress("working out what comes of it");
    let settings = Settings { addresses: setup.addresses, ..Settings::default() };
    let mut found = policy::find(&installation, &setup.policy, setup.randomize_client_port, &settings.policy);
    let translation = Translation::of(&installation, found.file.clone());
    let (older, row) = found.rows(now);
    let row = row.filter(|_| found.file.is_some());
    let from = format!("headscale {}", installation.generation.releases);
    let rows = plan::rows(&translation, row, &setup.addresses, from, now)?;
    let mut stops: Vec<String> = found.stop.take().into_iter().collect();
    stops.extend(failed_tests(settings, &rows, now));
    if noise.is_none() && installation.generation.speaks_noise {
        stops.push(
            "the server's Noise key is not in the database, and without it every client has to be restarted: give its file with \
             --noise-key (in Headscale's configuration: noise.private_key_path, usually /var/lib/headscale/noise_private.key)"
                .to_owned(),
        );
    }
    let mut report = Report {
        source: shown,
        database: database.to_owned(),
        generation: generation(&installation.generation),
        notices: notices(&installation, &translation, others),
        counts: counts(&installation, &translation, &rows, older.len()),
        settings: setup.settings.clone(),
        auto_approvable: translation.auto_approvable.clone(),
        clients_too_old: too_old(&rows),
        next_ids: next_ids(&rows),
        ..Report::default()
    };
    report.notices.extend(setup.notices.iter().cloned());
    report.notices.extend(found.notices);
    report.set_warnings(translation.warnings);
    Ok(Prepared { report, stops, files: setup.files.clone(), rows, older, noise, derp })
}

/// A policy with tests of its own must pass them, as it must when a person sets it.
fn failed_tests(settings: Settings, rows: &Loaded, now: Timestamp) -> Option<String> {
    let text = rows.policy.as_ref().map(|row| row.text.clone())?;
    let tailnet = Tailnet::new(settings, rows.clone(), now).map(|tailnet| tailnet.try_policy(&text).map(drop));
    tailnet.and_then(|tested| tested).err().map(|error| policy::cannot_be_set(&error))
}

fn generation(generation: &Generation) -> String {
    let mut text = format!("Headscale {} (schema {})", generation.releases, generation.family);
    if let Some(version) = &generation.version {
        text.push_str(&format!(", version {version}"));
    }
    if let Some(migration) = &generation.last_migration {
        text.push_str(&format!(", last migration {migration}"));
    }
    text
}

fn counts(
    installation: &Installation,
    translation: &Translation,
    rows: &Loaded,
    older_policies: usize,
) -> BTreeMap<&'static str, Count> {
    let approved_lists: usize = installation.nodes.iter().filter_map(|node| node.enabled.as_ref()).map(Vec::len).sum();
    let routes_read = installation.routes.as_ref().map_or(approved_lists, Vec::len);
    let of = |read, written| Count { read, written };
    BTreeMap::from([
        ("users", of(installation.users.len(), rows.users.len())),
        ("nodes", of(installation.nodes.len(), rows.nodes.len())),
        ("routes", of(routes_read, rows.routes.len())),
        ("approved routes", of(routes_read, translation.routes.iter().filter(|route| route.enabled).count())),
        ("pre-auth keys", of(installation.auth_keys.len(), rows.auth_keys.len())),
        ("API keys", of(installation.api_keys.len(), rows.api_keys.len())),
        ("policies", of(installation.policies.len(), older_policies + usize::from(rows.policy.is_some()))),
    ])
}

fn next_ids(rows: &Loaded) -> BTreeMap<&'static str, u64> {
    let next = rows.sequences;
    BTreeMap::from([
        ("node", next.node.get()),
        ("user", next.user.get()),
        ("route", next.route.get()),
        ("pre-auth key", next.auth_key.get()),
        ("API key", next.api_key.get()),
    ])
}

/// What everybody should read first.
fn notices(installation: &Installation, translation: &Translation, others: u64) -> Vec<String> {
    let generation = &installation.generation;
    let mut notices = Vec::new();
    let mut say = |text: String| notices.push(text);
    if others > 0 {
        say(format!(
            "{others} other connections to the database are open: is Headscale stopped? What it writes from now on is not imported"
        ));
    }
    if generation.may_hold_removed_approvals {
        let approved = translation.routes.iter().filter(|route| route.enabled).count();
        say(format!(
            "Headscale 0.27.1 and 0.28.0 did not write it down when the last approval of a node was taken back, so some of the {approved} \
             approved routes may be ones that you had disabled: compare `wayleave routes list` with what you expect before clients connect"
        ));
    }
    if !generation.speaks_noise {
        say("clients knew this server by a key that only the old protocol used: restart tailscaled once on each; nobody logs in again".into());
    }
    let withdrawn = translation.routes.iter().filter(|route| route.enabled && !route.advertised).count();
    if generation.family == Family::EnabledRoutes && withdrawn > 0 {
        say(format!(
            "{withdrawn} approved routes are not advertised: up to 0.17 Headscale handed such routes to clients all the same, and here they \
             are served once their node advertises them again"
        ));
    }
    if matches!(generation.family, Family::EnabledRoutes | Family::MachineRoutes) {
        say("names in DNS had the user's name in them (host.user.domain) and have not here (host.domain)".into());
    }
    let unbound = translation.nodes.iter().filter(|node| node.machine_key.is_none()).count();
    if unbound > 0 {
        say(format!(
            "{unbound} nodes have no machine key: each is bound to the first machine that comes with its node key, within \
             `nodes.bind_imported` (14 days) after the import; set that to 0s to have them log in again instead"
        ));
    }
    if translation.nodes.iter().any(|node| node.owner == Owner::Nobody) {
        say("some nodes belong to nobody: see `node_without_owner` and `tag_invalid` below".into());
    }
    if !generation.unknown_tables.is_empty() {
        say(format!("tables that are not Headscale's were not looked at: {}", generation.unknown_tables.join(", ")));
    }
    notices
}

/// The oldest client release that is let in: that of `wayleave_wire::CapabilityVersion::OLDEST`.
const OLDEST_RELEASE: (u32, u32) = (1, 50);

fn too_old(rows: &Loaded) -> Vec<String> {
    let release = |version: &str| -> Option<(u32, u32)> {
        let mut parts = version.split(['.', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let old = rows
        .nodes
        .iter()
        .filter(|node| release(&node.hostinfo.client_version).is_some_and(|release| release < OLDEST_RELEASE));
    old.map(|node| format!("{} ({})", node.given_name, node.hostinfo.client_version)).collect()
}
