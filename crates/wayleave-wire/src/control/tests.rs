use std::collections::BTreeSet;
use std::sync::Arc;

use wayleave_model::Prefix;

use super::*;

fn prefixes(texts: &[&str]) -> BTreeSet<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const NODE_KEY: &str = "nodekey:50d20b455ecf12bc453f83c2cfdb2a24925d06cf2598dcaa54e91af82ce9f765";

#[test]
fn a_request_of_go_and_one_of_the_rust_client_are_read_alike() {
    let go = format!(
        r#"{{"Version":142,"Compress":"zstd","NodeKey":"{NODE_KEY}","DiscoKey":"","Stream":false,"OmitPeers":true,
            "Endpoints":["10.0.0.2:41641","[fe80::1]:41641","[fe80::1%eth0]:1"],"EndpointTypes":[1,1,1],
            "DebugFlags":["warn-ip-forwarding-off"],
            "Hostinfo":{{"IPNVersion":"1.102.5","OS":"linux","Hostname":"r1","RoutableIPs":["10.1.0.0/16","10.1.2.3/24","10.1.0.0/16","x"],
            "RequestTags":["tag:a","bad"],"Services":[{{"Proto":"peerapi4","Port":1234}}],"sshHostKeys":null,
            "NetInfo":{{"PreferredDERP":900,"WorkingUDP":true,"DERPLatency":{{"900-v4":0.002}}}}}}}}"#
    );
    let rust = format!(
        r#"{{"Version":130,"NodeKey":"{NODE_KEY}","DiscoKey":null,"Stream":false,"OmitPeers":true,
            "Endpoints":["10.0.0.2:41641"],"EndpointTypes":[1],"DebugFlags":["warn-ip-forwarding-off"],
            "HostInfo":{{"IpnVersion":"1.102.5","Os":"linux","Hostname":"r1","RoutableIps":["10.1.0.0/16","10.1.2.0/24"],
            "RequestTags":["tag:a"],"Services":[{{"Proto":"peerapi4","Port":1234}}],
            "NetInfo":{{"PreferredDerp":900,"WorkingUdp":true,"DerpLatency":{{"900-v4":0.002}}}}}}}}"#
    );
    let go = MapRequest::from_wire(go.as_bytes()).unwrap();
    let rust = MapRequest::from_wire(rust.as_bytes()).unwrap();
    assert_eq!((&go.hostinfo, &go.endpoints), (&rust.hostinfo, &rust.endpoints));
    assert!(go.zstd && !rust.zstd);
    let hostinfo = go.hostinfo.unwrap();
    assert_eq!(hostinfo.routable_ips, prefixes(&["10.1.0.0/16", "10.1.2.0/24"]));
    assert_eq!(hostinfo.net_info.unwrap().preferred_derp, 900);
    assert!(hostinfo.debug_flags.contains("warn-ip-forwarding-off"));
}

#[test]
fn the_zero_expiry_of_every_request_is_no_log_out() {
    let request = |expiry: &str| {
        let json = format!(
            r#"{{"Version":142,"NodeKey":"{NODE_KEY}","OldNodeKey":"nodekey:{}","Expiry":"{expiry}","Auth":null}}"#,
            "0".repeat(64)
        );
        RegisterRequest::from_wire(json.as_bytes()).unwrap()
    };
    assert_eq!(request("0001-01-01T00:00:00Z").expiry, None);
    assert_eq!(request("1970-01-01T00:02:03Z").expiry, Some("1970-01-01T00:02:03Z".parse().unwrap()));
    assert_eq!(request("0001-01-01T00:00:00Z").old_node_key, None);
}

#[test]
fn an_answer_to_a_registration_has_every_field() {
    assert_eq!(
        serde_json::to_string(&RegisterResponse::default()).unwrap(),
        r#"{"User":{"ID":0,"DisplayName":""},"Login":{"ID":0,"Provider":"","LoginName":"","DisplayName":""},"NodeKeyExpired":false,"MachineAuthorized":false,"AuthURL":"","Error":""}"#
    );
}

// protocol.md 12.4
#[test]
fn what_is_sent_has_the_shapes_of_the_vectors() {
    let keep_alive = MapResponse {
        keep_alive: true,
        control_time: Some("2026-01-02T03:04:05Z".parse().unwrap()),
        ..MapResponse::default()
    };
    let json = serde_json::to_string(&keep_alive).unwrap();
    assert_eq!(json, r#"{"KeepAlive":true,"ControlTime":"2026-01-02T03:04:05Z"}"#);
    let patch = PeerChange {
        node_id: 2,
        derp_region: 1,
        endpoints: Some(vec!["1.2.3.4:5".parse().unwrap()]),
        online: Some(true),
        last_seen: Some("2024-01-01T00:00:00Z".parse().unwrap()),
        ..PeerChange::default()
    };
    assert_eq!(
        serde_json::to_string(&patch).unwrap(),
        r#"{"NodeID":2,"DERPRegion":1,"Endpoints":["1.2.3.4:5"],"Online":true,"LastSeen":"2024-01-01T00:00:00Z"}"#
    );
    let emptied = PeerChange { node_id: 2, endpoints: Some(Vec::new()), ..PeerChange::default() };
    assert_eq!(serde_json::to_string(&emptied).unwrap(), r#"{"NodeID":2,"Endpoints":[]}"#);
    let tsmp =
        crate::ping::peer("https://c/p/1".to_owned(), crate::ping::PeerPing::Tsmp, "100.64.0.2".parse().unwrap());
    assert_eq!(
        serde_json::to_string(&tsmp).unwrap(),
        r#"{"URL":"https://c/p/1","URLIsNoise":true,"Types":"TSMP","IP":"100.64.0.2"}"#
    );
    assert_eq!(map_frame(br#"{"KeepAlive":true}"#)[..4], [0x12, 0, 0, 0]);
}

#[test]
fn a_filter_that_blocks_everything_is_sent_and_an_unchanged_one_is_not() {
    let blocked = MapResponse { packet_filter: Some(Arc::from([])), ..MapResponse::default() };
    assert_eq!(serde_json::to_string(&blocked).unwrap(), r#"{"PacketFilter":[]}"#);
    assert_eq!(serde_json::to_string(&MapResponse::default()).unwrap(), "{}");
}

#[test]
fn relay_maps_round_trip() {
    let json = r#"{"Regions":{"900":{"RegionID":900,"RegionCode":"t","RegionName":"Test","Nodes":[{"Name":"900a","RegionID":900,"HostName":"127.0.0.1","STUNPort":-1,"DERPPort":8080}]}},"omitDefaultRegions":true}"#;
    let map: DerpMap = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_string(&map).unwrap(), json);
}

proptest::proptest! {
    #[test]
    fn no_request_panics(text in ".{0,200}", cut in 0_usize..400) {
        drop(MapRequest::from_wire(text.as_bytes()));
        let whole = format!(r#"{{"Version":-5,"NodeKey":"{NODE_KEY}","Hostinfo":{{"RoutableIPs":["10.0.0.0/8"],"NetInfo":{{"PreferredDERP":-1,"DERPLatency":{{"a":-1e300}}}}}},"Endpoints":["{text}"]}}"#);
        drop(MapRequest::from_wire(&whole.as_bytes()[..cut.min(whole.len())]));
        drop(MapRequest::from_wire(whole.as_bytes()));
        drop(RegisterRequest::from_wire(whole.as_bytes()));
        drop(PingResponse::from_wire(whole.as_bytes()));
    }
}
