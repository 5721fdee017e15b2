//! `/machine/map` (protocol.md 2.2): reports, one-shot maps, and streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Response, StatusCode};
use wayleave_model::{MachineKey, NodeKey};
use wayleave_tailnet::{Command, Event, Report, Snapshot};
use wayleave_wire::CapabilityVersion;
use wayleave_wire::control::{MapRequest, MapResponse, Node};

use super::Connection;
use super::requests::{Reply, reply};
use super::session::Opening;
use crate::control_loop::CommandError;
use crate::encoding;

/// Answers a request, or gives the session that it asks for.
pub(super) async fn map(
    connection: Arc<Connection>,
    body: &[u8],
    authority: String,
    mut respond: SendResponse<Bytes>,
) -> Option<Opening> {
    let request = match MapRequest::from_wire(body) {
        Ok(request) => request,
        Err(error) => return refused(respond, StatusCode::BAD_REQUEST, crate::words(&error)),
    };
    let Some(node_key) = request.node_key else {
        return refused(respond, StatusCode::BAD_REQUEST, "a map request needs a node key");
    };
    if CapabilityVersion(request.version) < CapabilityVersion::OLDEST {
        let text = "this client is too old for this server: update it to 1.80 or newer";
        return refused(respond, StatusCode::BAD_REQUEST, text);
    }
    let app = &connection.app;
    let mut snapshot = app.control.snapshot();
    let unbound = |snapshot: &Snapshot| {
        let view = snapshot.by_node_key.get(&node_key).and_then(|id| snapshot.node(*id));
        view.is_some_and(|view| view.node.machine_key.is_none())
    };
    if unbound(&snapshot) {
        let machine_key = connection.machine;
        match app.control.command(Command::BindMachine { node_key, machine_key }).await {
            Ok(_) => {
                connection.joined();
                snapshot = app.control.snapshot();
            }
            Err(CommandError::Refused(refusal)) => {
                tracing::info!(%refusal, "a machine asked for the map of a node that came without a machine key");
                deleted(&connection, node_key, request.zstd, respond);
                return None;
            }
            Err(error @ (CommandError::Store(_) | CommandError::Stopping | CommandError::Unanswered { .. })) => {
                return refused(respond, StatusCode::SERVICE_UNAVAILABLE, error.to_string());
            }
        }
    }
    if let Some(id) = snapshot.by_node_key.get(&node_key)
        && snapshot.node_of(&node_key, &connection.machine).is_none()
    {
        tracing::warn!(node.id = %id, "a machine asked for the map of a node that is another machine's");
        let text = "this node key belongs to another machine";
        return refused(respond, StatusCode::FORBIDDEN, text);
    }
    let Some(view) = snapshot.node_of(&node_key, &connection.machine) else {
        if request.stream {
            deleted(&connection, node_key, request.zstd, respond);
            return None;
        }
        return refused(respond, StatusCode::NOT_FOUND, "there is no node with this key; log in again");
    };
    let node = view.node.id;
    if request.stream {
        return Some(Opening { node, zstd: request.zstd, authority, respond, connection: Arc::clone(&connection) });
    }
    if request.omit_peers {
        let MapRequest { version, disco_key, hostinfo, endpoints, .. } = request;
        let report = Report { capability: version, disco_key, endpoints, hostinfo };
        app.control.event(Event::Reported(node, Box::new(report))).await;
        reply(&mut respond, Reply::empty(StatusCode::OK));
        return None;
    }
    let shared = app.shared();
    let now = app.control.clock().now();
    one_frame(encoding::full(app, (&snapshot, &shared), node, now, request.zstd), respond);
    None
}

fn refused(mut respond: SendResponse<Bytes>, status: StatusCode, text: impl Into<String>) -> Option<Opening> {
    reply(&mut respond, Reply::refuse(status, text));
    None
}

/// Tells a client whose node is gone that its key has expired. Any error would make it ask again for ever, in silence
/// (protocol.md 2.2).
fn deleted(connection: &Connection, key: NodeKey, zstd: bool, respond: SendResponse<Bytes>) {
    let now = connection.app.control.clock().now();
    let node = Node {
        id: 1,
        stable_id: "0".to_owned(),
        name: format!("deleted.{}.", connection.app.options.dns.base_domain),
        user: wayleave_netmap::TAGGED_DEVICES,
        key,
        key_expiry: Some(now - Duration::from_secs(3600)),
        machine: Some(MachineKey::from_bytes(*connection.machine.as_bytes())),
        disco_key: None,
        addresses: Vec::new(),
        allowed_ips: Vec::new(),
        endpoints: Vec::new(),
        derp: String::new(),
        home_derp: 0,
        hostinfo: wayleave_wire::control::PeerHostinfo::default(),
        created: now,
        cap: connection.version.0,
        tags: Vec::new(),
        primary_routes: Vec::new(),
        last_seen: None,
        online: false,
        machine_authorized: true,
        cap_map: std::collections::BTreeMap::new(),
        expired: true,
    };
    let map = MapResponse {
        node: Some(Box::new(node)),
        peers: Some(Vec::new()),
        control_time: Some(now),
        domain: connection.app.options.dns.base_domain.clone(),
        packet_filter: Some(Arc::from([])),
        ..MapResponse::default()
    };
    one_frame(encoding::frame(&map, zstd).map(|frame| vec![frame]), respond);
}

fn one_frame(parts: Option<Vec<Bytes>>, mut respond: SendResponse<Bytes>) {
    let Some(parts) = parts else {
        return reply(&mut respond, Reply::empty(StatusCode::INTERNAL_SERVER_ERROR));
    };
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let sent = parts.into_iter().try_for_each(|part| stream.send_data(part, false));
        // A client that has gone away needs none.
        drop(sent.and_then(|()| stream.send_data(Bytes::new(), true)));
    }
}
