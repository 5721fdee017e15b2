//! Addresses that clients need to reach before they reach anything else: this server's, relays', resolvers'.
//!
//! Those that are written as addresses are known at once. Names are looked up before a policy is taken in, again whenever the map of relays
//! changes and each hour, and soon again where one was not found: an auto-approver approves what nobody knows to be guarded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use wayleave_tailnet::{Event, Guarded};
use wayleave_wire::control::DerpMap;

use crate::app::App;
use crate::options::Options;

/// How long names are looked up. One that takes longer has the addresses that it had before, until the next time.
const LOOK_UP: Duration = Duration::from_secs(3);
/// How often they are.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// How soon they are where one was not found, twice as late each time, and how late at last.
const TRY_AGAIN: Duration = Duration::from_secs(5);
const TRY_AT_LAST: Duration = Duration::from_secs(300);

/// The hosts, by name or address, and what each is.
fn hosts(options: &Options, derp_map: &DerpMap) -> Vec<(String, Guarded)> {
    let dns = &options.dns.config;
    let resolvers = dns.resolvers.iter().chain(dns.routes.values().flatten());
    let resolvers = resolvers.map(|resolver| (resolver.addr.clone(), Guarded::Resolver));
    let relays = derp_map.regions.values().flat_map(|region| &region.nodes);
    let relays = relays.flat_map(|node| [&node.ipv4, &node.ipv6, &node.host_name]).cloned();
    let url = options.server_url.split_once("://").map_or("", |(_, rest)| rest);
    let host = url.split('/').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    // What comes last has the last word: an address that is the server's and a relay's is the server's.
    let server = std::iter::once((host.to_owned(), Guarded::Server));
    let all = resolvers.chain(relays.map(|relay| (relay, Guarded::Relay))).chain(server);
    all.filter(|(host, _)| !host.is_empty()).collect()
}

fn guard(into: &mut BTreeMap<IpAddr, Guarded>, address: IpAddr, what: Guarded) {
    if !address.is_loopback() && !address.is_unspecified() {
        into.insert(address, what);
    }
}

/// What is known of names: the addresses that each had when it was last found.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: BTreeMap<String, Vec<IpAddr>>,
}

impl Names {
    /// Looks all names up, side by side. Returns whether each was found; one that was not keeps the addresses that it had.
    pub(crate) async fn look_up(&mut self, options: &Options, derp_map: &DerpMap) -> bool {
        self.look_up_by(&hosts(options, derp_map), async |host| {
            tokio::net::lookup_host((host, 0)).await.map(|found| found.map(|found| found.ip()).collect())
        })
        .await
    }

    async fn look_up_by(
        &mut self,
        hosts: &[(String, Guarded)],
        by: impl AsyncFn(&str) -> std::io::Result<Vec<IpAddr>>,
    ) -> bool {
        // A resolver may be the address of a web page, which clients know by heart.
        let names: BTreeSet<&str> = hosts
            .iter()
            .filter(|(host, what)| *what != Guarded::Resolver && host.parse::<IpAddr>().is_err())
            .map(|(host, _)| host.as_str())
            .collect();
        self.known.retain(|name, _| names.contains(name.as_str()));
        let by = &by;
        let all = names.into_iter().map(|name| async move { (name, tokio::time::timeout(LOOK_UP, by(name)).await) });
        let mut is_whole = true;
        for (name, found) in join_all(all).await {
            match found {
                Ok(Ok(found)) => drop(self.known.insert(name.to_owned(), found)),
                Ok(Err(error)) => {
                    is_whole = false;
                    tracing::debug!(name, %error, "a name was not found; it is looked up again");
                }
                Err(_) => {
                    is_whole = false;
                    tracing::debug!(name, "a name was not found in time; it is looked up again");
                }
            }
        }
        is_whole
    }

    /// The addresses, as far as they are known.
    pub(crate) fn guarded(&self, options: &Options, derp_map: &DerpMap) -> BTreeMap<IpAddr, Guarded> {
        self.addresses(&hosts(options, derp_map))
    }

    fn addresses(&self, hosts: &[(String, Guarded)]) -> BTreeMap<IpAddr, Guarded> {
        let mut all = BTreeMap::new();
        for (host, what) in hosts {
            let what = *what;
            match host.parse() {
                Ok(address) => guard(&mut all, address, what),
                Err(_) => {
                    self.known.get(host).into_iter().flatten().for_each(|address| guard(&mut all, *address, what));
                }
            }
        }
        all
    }
}

/// Keeps the tailnet told of them until the server stops. `names` are those that were looked up at the start, and whether all were found.
pub(crate) async fn watch(app: Arc<App>, (mut names, mut is_whole): (Names, bool)) {
    let mut changes = app.shared_changes();
    let mut derp_map = Arc::clone(&changes.borrow_and_update().derp_map);
    let mut told = names.guarded(&app.options, &derp_map);
    let mut pause = TRY_AGAIN;
    loop {
        let wait = if is_whole { LOOK_AGAIN } else { pause };
        tokio::select! {
            () = app.stop.cancelled() => return,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                pause = TRY_AGAIN;
            }
            () = tokio::time::sleep(wait) => pause = (pause * 2).min(TRY_AT_LAST),
        }
        derp_map = Arc::clone(&changes.borrow_and_update().derp_map);
        is_whole = names.look_up(&app.options, &derp_map).await;
        let all = names.guarded(&app.options, &derp_map);
        if all != told {
            told.clone_from(&all);
            app.control.event(Event::Guarded(all)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn a_name_that_is_not_found_now_keeps_the_addresses_that_it_had() {
        let hosts = [("vpn.example.com".to_owned(), Guarded::Server)];
        let mut names = Names::default();
        let lost = async |_: &str| Err(Error::from(ErrorKind::TimedOut));
        assert!(!names.look_up_by(&hosts, lost).await, "it has to be looked up again");
        assert!(names.addresses(&hosts).is_empty());
        let address: IpAddr = "203.0.113.5".parse().unwrap();
        assert!(names.look_up_by(&hosts, async |_| Ok(vec![address])).await);
        let guarded = BTreeMap::from([(address, Guarded::Server)]);
        assert_eq!(names.addresses(&hosts), guarded);
        assert!(!names.look_up_by(&hosts, lost).await);
        assert_eq!(names.addresses(&hosts), guarded);
    }
}
