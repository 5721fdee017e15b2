//! What a tailnet decides by. All of it is configuration.

use std::time::Duration;

use crate::addresses::AddressPool;
use crate::loans;

/// Settings of one tailnet. The defaults are those of a server without any configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Times and counts of the route table.
    pub routes: wayleave_routes::Settings,
    /// Where nodes get their addresses from.
    pub addresses: AddressPool,
    /// How long an ephemeral node may be gone before it is deleted. 30 min.
    pub ephemeral_timeout: Duration,
    /// How long after its session was lost a node is still shown as online. 10 s. Routes do not wait for it.
    pub offline_after: Duration,
    /// How long a user's node may use its key. `None`: for ever, which is the default; tagged nodes always may.
    pub key_expiry: Option<Duration>,
    /// How long after an import a node that came without a machine key is let in by its node key alone, and bound to the machine that
    /// brings it. 14 days; zero: not at all.
    pub bind_imported: Duration,
    /// How long a login that nobody has answered is remembered. 1 h.
    pub login_timeout: Duration,
    /// That many lost sessions within `common_loss_window`, if they are more than half of all, are the server's own side. 8.
    pub common_loss_sessions: usize,
    /// 1 s.
    pub common_loss_window: Duration,
    /// While at least `common_loss_sessions` were lost within the window and the last of them is no older than this, more are waited for
    /// before anybody is convicted by a lost stream; never longer than the window. 200 ms.
    pub common_loss_gap: Duration,
    /// How long a node's home region must have been stable before routers are chosen by it. 60 s.
    pub home_stable: Duration,
    /// How long a witness that nobody named is led through a standby, for a path check. 2 s.
    pub loan_lasts: Duration,
    /// From the beginning of one such loan to that of the next for the same check, at least. 60 s.
    pub loan_every: Duration,
    /// How long before a router's key ends there is a warning, the longest first. 7 days and 1 day.
    pub key_warnings: Vec<Duration>,
    /// How many logins may wait at once; more are refused, so that strangers can't fill the memory. 10,000.
    pub max_logins: usize,
    /// How many prefixes one node may have rows for. 1,024; more are left out.
    pub max_routes_per_node: usize,
    /// What a policy is read against beside its own text: domains and 4via6 sites.
    pub policy: wayleave_policy::Surroundings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            routes: wayleave_routes::Settings::default(),
            addresses: AddressPool::default(),
            ephemeral_timeout: Duration::from_secs(30 * 60),
            offline_after: Duration::from_secs(10),
            key_expiry: None,
            bind_imported: Duration::from_secs(14 * 86_400),
            login_timeout: Duration::from_secs(3600),
            common_loss_sessions: 8,
            common_loss_window: Duration::from_secs(1),
            common_loss_gap: Duration::from_millis(200),
            home_stable: Duration::from_secs(60),
            loan_lasts: loans::LASTS,
            loan_every: loans::EVERY,
            key_warnings: [7, 1].map(|days| Duration::from_secs(days * 86_400)).to_vec(),
            max_logins: 10_000,
            max_routes_per_node: 1024,
            policy: wayleave_policy::Surroundings::default(),
        }
    }
}
