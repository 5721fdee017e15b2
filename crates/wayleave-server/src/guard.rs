//! Addresses that clients need to reach before they reach anything else: this server's, relays', resolvers'.
//!
//! Those that are written as addresses are known at once; names are looked up, at the start and whenever the map of relays changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use wayleave_tailnet::{Event, Guarded};
use wayleave_wire::control::DerpMap;

use crate::app::App;
use crate::options::Options;

/// How long names are looked up. One that takes longer is left out until the next time.
const LOOK_UP: Duration = Duration::from_secs(5);

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

/// Those that are written as addresses.
pub(crate) fn literal(options: &Options, derp_map: &DerpMap) -> BTreeMap<IpAddr, Guarded> {
    let mut all = BTreeMap::new();
    for (host, what) in hosts(options, derp_map) {
        if let Ok(address) = host.parse() {
            guard(&mut all, address, what);
        }
    }
    all
}

/// All, with names looked up.
async fn resolved(options: &Options, derp_map: &DerpMap) -> BTreeMap<IpAddr, Guarded> {
    let mut all = BTreeMap::new();
    for (host, what) in hosts(options, derp_map) {
        if let Ok(address) = host.parse() {
            guard(&mut all, address, what);
            continue;
        }
        // A resolver may be the address of a web page, which clients know by heart.
        if what == Guarded::Resolver {
            continue;
        }
        match tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host.as_str(), 0))).await {
            Ok(Ok(found)) => found.for_each(|found| guard(&mut all, found.ip(), what)),
            Ok(Err(error)) => tracing::debug!(%host, %error, "a name was not found"),
            Err(_) => tracing::debug!(%host, "a name was not found in time"),
        }
    }
    all
}

/// Keeps the tailnet told of them until the server stops.
pub(crate) async fn watch(app: Arc<App>) {
    let mut changes = app.shared_changes();
    let mut told = BTreeMap::new();
    loop {
        let derp_map = Arc::clone(&changes.borrow_and_update().derp_map);
        let all = resolved(&app.options, &derp_map).await;
        if all != told {
            told.clone_from(&all);
            app.control.event(Event::Guarded(all)).await;
        }
        tokio::select! {
            () = app.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}
