//! The relays that clients are told of: the server's own, and those of others from files and addresses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use wayleave_wire::control::{DerpMap, DerpNode, DerpRegion};

use crate::options::{DerpOptions, OwnDerp};

/// The longest relay map that is read.
const LONGEST: usize = 1 << 20;
/// How long an address may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A relay map can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DerpMapError {
    /// The file can't be read.
    #[error("cannot read the relay map {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address gives none.
    #[error("cannot fetch the relay map {url}")]
    Fetch {
        /// Which.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// What came is none.
    #[error("{origin} is no relay map")]
    Parse {
        /// Where it came from.
        origin: String,
        /// Why.
        source: serde_json::Error,
    },
    /// It says something that clients can't use.
    #[error("{origin}: {fault}")]
    Content {
        /// Where it came from.
        origin: String,
        /// What.
        fault: String,
    },
}

/// Reads a relay map, and checks what clients need of it (protocol.md 3.8).
fn parse(json: &[u8], origin: &str) -> Result<DerpMap, DerpMapError> {
    let content = |fault: String| DerpMapError::Content { origin: origin.to_owned(), fault };
    if json.len() > LONGEST {
        return Err(content(format!("longer than {LONGEST} bytes")));
    }
    let map: DerpMap =
        serde_json::from_slice(json).map_err(|source| DerpMapError::Parse { origin: origin.to_owned(), source })?;
    for (id, region) in &map.regions {
        if *id == 0 || *id > 65_535 || *id != region.region_id {
            return Err(content(format!("region {id}: its id has to be 1 to 65535 and the same in both places")));
        }
        if region.region_code.is_empty() || region.region_name.is_empty() {
            return Err(content(format!("region {id} needs a code and a name")));
        }
        if let Some(node) = region.nodes.iter().find(|node| node.host_name.is_empty()) {
            return Err(content(format!("region {id}, relay `{}` needs a HostName", node.name)));
        }
    }
    Ok(map)
}

/// The relay maps of others, as they were last read. One that can't be read again keeps its last good content.
#[derive(Debug, Default)]
pub struct Foreign(BTreeMap<String, DerpMap>);

impl Foreign {
    /// Reads all of them. Returns what went wrong; everything else is in.
    pub async fn refresh(&mut self, options: &DerpOptions) -> Vec<DerpMapError> {
        let mut errors = Vec::new();
        for path in &options.files {
            let origin = path.display().to_string();
            let read = tokio::fs::read(path).await.map_err(|source| DerpMapError::File { path: path.clone(), source });
            match read.and_then(|json| parse(&json, &origin)) {
                Ok(map) => drop(self.0.insert(origin, map)),
                Err(error) => errors.push(error),
            }
        }
        for url in &options.urls {
            match fetch(url).await {
                Ok(map) => drop(self.0.insert(url.clone(), map)),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// All relays together. Where two have a region of the same id the server's own wins, then files, then addresses, in the order
    /// of their names.
    pub fn merged(&self, options: &DerpOptions, server_is_tls: bool) -> DerpMap {
        let mut regions: BTreeMap<u32, DerpRegion> = BTreeMap::new();
        for map in self.0.values() {
            for (id, region) in &map.regions {
                regions.entry(*id).or_insert_with(|| region.clone());
            }
        }
        if let Some(own) = &options.own {
            regions.insert(own.region_id, own_region(own, server_is_tls));
        }
        DerpMap { regions, omit_default_regions: true }
    }
}

async fn fetch(url: &str) -> Result<DerpMap, DerpMapError> {
    let failed = |source: reqwest::Error| DerpMapError::Fetch { url: url.to_owned(), source: source.without_url() };
    let client = reqwest::Client::builder().timeout(PATIENCE).build().map_err(failed)?;
    let mut response = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut json = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        json.extend_from_slice(&chunk);
        if json.len() > LONGEST {
            break;
        }
    }
    parse(&json, url)
}

/// The region of the server's own relay. A relay at an address instead of a name is told with that address, so that clients ask no
/// DNS and measure it also on loopback.
fn own_region(own: &OwnDerp, server_is_tls: bool) -> DerpRegion {
    let literal: Option<std::net::IpAddr> = own.host.trim_matches(['[', ']']).parse().ok();
    let ipv4 = own.ipv4.map(|ip| ip.to_string());
    let ipv6 = own.ipv6.map(|ip| ip.to_string());
    let (ipv4, ipv6) = match literal {
        Some(std::net::IpAddr::V4(ip)) => (Some(ip.to_string()), ipv6.or_else(|| Some("none".to_owned()))),
        Some(std::net::IpAddr::V6(ip)) => (ipv4.or_else(|| Some("none".to_owned())), Some(ip.to_string())),
        None => (ipv4, ipv6),
    };
    let node = DerpNode {
        name: format!("{}a", own.region_id),
        region_id: own.region_id,
        host_name: own.host.trim_matches(['[', ']']).to_owned(),
        cert_name: own.cert_name.clone(),
        ipv4: ipv4.unwrap_or_default(),
        ipv6: ipv6.unwrap_or_default(),
        stun_port: own.stun_listen.map_or(-1, |at| i32::from(at.port())),
        derp_port: i32::from(own.port),
        // Without TLS there is nothing to verify; clients that speak TLS all the same fail either way.
        insecure_for_tests: !server_is_tls,
        ..DerpNode::default()
    };
    DerpRegion {
        region_id: own.region_id,
        region_code: own.region_code.clone(),
        region_name: own.region_name.clone(),
        nodes: vec![node],
        ..DerpRegion::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(host: &str) -> OwnDerp {
        OwnDerp {
            region_id: 900,
            region_code: "own".into(),
            region_name: "Own".into(),
            host: host.into(),
            port: 8080,
            ipv4: None,
            ipv6: None,
            cert_name: String::new(),
            stun_listen: Some("0.0.0.0:3478".parse().unwrap()),
            stun_any_port: false,
            verify_clients: true,
        }
    }

    #[tokio::test]
    async fn files_are_merged_with_the_servers_own_region_and_a_bad_one_keeps_its_last_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("derp.json");
        let good = r#"{"Regions":{"7":{"RegionID":7,"RegionCode":"x","RegionName":"X","Nodes":[{"Name":"7a","RegionID":7,"HostName":"r.test"}]}}}"#;
        std::fs::write(&file, good).unwrap();
        let options = DerpOptions {
            own: Some(own("10.0.0.1")),
            urls: Vec::new(),
            files: vec![file.clone()],
            refresh: Duration::from_secs(1),
        };
        let mut foreign = Foreign::default();
        assert!(foreign.refresh(&options).await.is_empty());
        let map = foreign.merged(&options, false);
        assert_eq!(map.regions.keys().copied().collect::<Vec<_>>(), [7, 900]);
        assert_eq!(map.regions[&900].nodes[0].ipv4, "10.0.0.1");
        for bad in [
            "{",
            &good.replace("\"RegionID\":7,\"RegionCode", "\"RegionID\":8,\"RegionCode"),
            &good.replace("r.test", ""),
        ] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(foreign.refresh(&options).await.len(), 1);
            assert!(foreign.merged(&options, false).regions.contains_key(&7), "the last good content stays");
        }
    }
}
