//! Routers out of service and back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;
use wayleave_model::{NodeId, Prefix, Timestamp};
use wayleave_routes::{Candidate, Presence, Rank};
use wayleave_tailnet::{Command, NodeView, Snapshot, Tailnet};

use super::super::error::{ApiError, Body, ErrorBody};
use super::super::{ApiState, Caller, nodes};
use super::last::{is_last_exit, via};
use super::{NodeRef, node_ref};
use crate::app::App;

/// How long is waited for viewers where nobody says it: a minute.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether viewers have acknowledged: at first, and at most after a while. Each look asks the kernel once for each
/// viewer that is waited for.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(50);
/// How long a client that has a new map gets to act by it, and packets that were on their way through the old router to arrive: switched off
/// in the same millisecond, a router lost a ping once in a dozen drains (seen with 1.102.5).
const TO_ACT: Duration = Duration::from_millis(200);

/// Which router to take out of service.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    /// Id, name or address.
    node: String,
    /// Answer once every viewer that may use its routes has the new map. Fails, and drains nothing, where nobody else can serve.
    #[serde(default)]
    wait: bool,
    /// For how long at most: a duration such as `60s`, which holds where nothing is said.
    timeout: Option<String>,
    /// Do it also where nobody else can serve.
    #[serde(default)]
    force: bool,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DrainBody {
    node: NodeRef,
    drained: bool,
    /// Its prefixes that others carry now.
    moved: Vec<String>,
    /// Its prefixes that it carries again.
    taken: Vec<String>,
    /// Viewers that may use its routes, are connected, and have acknowledged the new map; absent where nobody waited.
    viewers: Option<usize>,
    /// How long that took, in milliseconds.
    took_ms: Option<u64>,
    /// What has to be known before it is switched off.
    notes: Vec<String>,
}

/// Takes a router out of service: none of its routes is chosen while another can serve.
#[utoipa::path(post, path = "/api/v2/routes/drain", tag = "routes", request_body = Drain,
    responses((status = 200, body = DrainBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 504, body = ErrorBody)))]
pub(super) async fn drain(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(Drain { node, wait, timeout, force }): Body<Drain>,
) -> Result<Json<DrainBody>, ApiError> {
    let timeout = patience(timeout.as_deref())?;
    let control = &state.app.control;
    let now = control.clock().now();
    let snapshot = control.snapshot();
    let (id, before, users) = control
        .read(move |tailnet| {
            let id = nodes::find(tailnet, &node)?;
            let users = exit_users(&snapshot, id);
            if !force {
                refuse_if_alone(tailnet, id, wait, now)?;
                if let Some(users) = users.as_ref().filter(|_| wait) {
                    return Err(ApiError::new(StatusCode::CONFLICT, format!("{users}; nothing was drained")));
                }
            }
            Ok((id, carried(tailnet, id), users))
        })
        .await??;
    let began = Instant::now();
    control.command(Command::DrainNode { node: id, by: caller.0 }).await?;
    let told = if wait { Some(told(&state.app, id, "drained", timeout, began).await?) } else { None };
    if wait {
        tokio::time::sleep(TO_ACT).await;
    }
    if wait && !force {
        control.read(move |tailnet| refuse_if_it_carries(tailnet, id)).await??;
    }
    answer(&state, id, before, told, users.into_iter().collect()).await
}

/// Who is connected and has chosen this node as the exit, in words; `None`: nobody has. A drain moves no exit.
fn exit_users(snapshot: &Snapshot, exit: NodeId) -> Option<String> {
    let view = snapshot.node(exit).filter(|view| view.approved.iter().any(Prefix::is_exit))?;
    let has_chosen = |user: &&Arc<NodeView>| {
        user.session.is_some() && user.node.hostinfo.exit_node_id.parse() == Ok(exit) && user.node.id != exit
    };
    let users: Vec<String> =
        snapshot.nodes.values().filter(has_chosen).map(|user| user.node.given_name.to_string()).collect();
    let first = users.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    let more = if users.len() > 10 { format!(", ... ({} in all)", users.len()) } else { String::new() };
    let name = &view.node.given_name;
    let words = || format!("{name} is the exit node that {first}{more} chose, and a drain moves nobody from it");
    (!users.is_empty()).then(words)
}

/// What it carried may have come back to it while clients were waited for: the other router was lost, say, or somebody froze the prefix.
fn refuse_if_it_carries(tailnet: &Tailnet, node: NodeId) -> Result<(), ApiError> {
    let carried: Vec<String> = carried(tailnet, node).iter().map(|prefix| tailnet.sites().show(prefix)).collect();
    if carried.is_empty() || !tailnet.routes().is_up(node) {
        return Ok(());
    }
    let name = node_ref(tailnet, node).name;
    let carried = carried.join(", ");
    let message = format!("{name} is drained, but carries {carried} again: nobody else can by now; leave it on");
    Err(ApiError::new(StatusCode::CONFLICT, message))
}

/// Which router to put back into service.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Undrain {
    /// Id, name or address.
    node: String,
    /// Answer once every viewer that may use its routes has the new map.
    #[serde(default)]
    wait: bool,
    /// For how long at most: a duration such as `60s`, which holds where nothing is said.
    timeout: Option<String>,
}

/// Puts a router back into service.
#[utoipa::path(post, path = "/api/v2/routes/undrain", tag = "routes", request_body = Undrain,
    responses((status = 200, body = DrainBody), (status = 404, body = ErrorBody), (status = 504, body = ErrorBody)))]
pub(super) async fn undrain(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(Undrain { node, wait, timeout }): Body<Undrain>,
) -> Result<Json<DrainBody>, ApiError> {
    let timeout = patience(timeout.as_deref())?;
    let control = &state.app.control;
    let (id, before) = control
        .read(move |tailnet| {
            let id = nodes::find(tailnet, &node)?;
            Ok::<_, ApiError>((id, carried(tailnet, id)))
        })
        .await??;
    let began = Instant::now();
    control.command(Command::UndrainNode { node: id, by: caller.0 }).await?;
    let told = if wait { Some(told(&state.app, id, "back in service", timeout, began).await?) } else { None };
    answer(&state, id, before, told, Vec::new()).await
}

fn patience(timeout: Option<&str>) -> Result<Duration, ApiError> {
    timeout.map_or(Ok(PATIENCE), |text| wayleave_model::duration::parse(text).map_err(ApiError::bad))
}

async fn answer(
    state: &ApiState,
    id: NodeId,
    before: BTreeSet<Prefix>,
    told: Option<Told>,
    notes: Vec<String>,
) -> Result<Json<DrainBody>, ApiError> {
    let body = state.app.control.read(move |tailnet| {
        let after = carried(tailnet, id);
        let show = |prefix: &Prefix| tailnet.sites().show(prefix);
        DrainBody {
            node: node_ref(tailnet, id),
            drained: tailnet.registry().node(id).is_some_and(|node| node.drained),
            moved: before.difference(&after).map(show).collect(),
            taken: after.difference(&before).map(show).collect(),
            viewers: told.as_ref().map(|told| told.viewers),
            took_ms: told.map(|told| u64::try_from(told.took.as_millis()).unwrap_or(u64::MAX)),
            notes,
        }
    });
    Ok(Json(body.await?))
}

/// What somebody uses this node for: as the primary, within a group, or as one of several.
fn carried(tailnet: &Tailnet, node: NodeId) -> BTreeSet<Prefix> {
    let table = tailnet.routes();
    table
        .rows_of(node)
        .map(|row| row.prefix)
        .filter(|prefix| !prefix.is_exit() && table.carries(node, prefix))
        .collect()
}

/// Refuses, until it is wanted, where nobody else can serve what this node carries.
fn refuse_if_alone(tailnet: &Tailnet, node: NodeId, wait: bool, now: Timestamp) -> Result<(), ApiError> {
    let table = tailnet.routes();
    let (mut alone, mut frozen) = (BTreeSet::new(), BTreeSet::new());
    let can_serve = |rank| matches!(rank, Rank::Steady | Rank::Flapping);
    for prefix in carried(tailnet, node) {
        if !table.is_up(node) {
            continue;
        }
        if table.frozen(&prefix, now).is_some() {
            frozen.insert(tailnet.sites().show(&prefix));
        }
        for (group, seat) in
            table.seats_of(&prefix).filter(|(_, seat)| seat.node == node || seat.carriers.contains(&node))
        {
            // One that has just been lost, or has not come back since a start, is nobody to hand over to.
            let can =
                |other: &Candidate| other.node != node && other.presence == Presence::Here && can_serve(other.rank);
            let shown = tailnet.sites().show(&prefix);
            if !alone.contains(&shown) && !table.candidates_in(&prefix, group).iter().any(can) {
                alone.insert(match group {
                    None => shown,
                    Some(group) => format!("{shown} for those whom grants steer through {}", via(group)),
                });
            }
            debug_assert!(table.seat_in(&prefix, group) == Some(seat));
        }
    }
    let name = node_ref(tailnet, node).name;
    let list = |all: BTreeSet<String>| all.into_iter().collect::<Vec<_>>().join(", ");
    // A drain moves no exit: each client has chosen its own.
    let message = if is_last_exit(tailnet, node, can_serve) {
        let prefixes = match list(alone) {
            prefixes if prefixes.is_empty() => prefixes,
            prefixes => format!(", and for {prefixes}"),
        };
        format!("nobody else can serve as an exit node{prefixes}: {name} would go on carrying it; nothing was drained")
    } else if !alone.is_empty() {
        format!("nobody else can serve {}: {name} would go on carrying it; nothing was drained", list(alone))
    } else if !frozen.is_empty() {
        format!("{} is frozen and would stay on {name}; nothing was drained", list(frozen))
    } else {
        return Ok(());
    };
    // Whoever waits is a script that is about to switch the router off.
    if wait { Err(ApiError::new(StatusCode::CONFLICT, message)) } else { Err(ApiError::confirm(message)) }
}

/// Viewers have acknowledged a map.
struct Told {
    viewers: usize,
    took: Duration,
}

/// Waits until every viewer that may use a node's routes has acknowledged the map as it is now. One that loses its session meanwhile is
/// waited for no more: it gets the newest map when it comes back. `what` the node is by now, in words.
async fn told(app: &App, node: NodeId, what: &str, timeout: Duration, began: Instant) -> Result<Told, ApiError> {
    let snapshot = app.control.snapshot();
    let all = wayleave_netmap::viewers_of(&snapshot, node);
    let has = |viewer: NodeId| app.sessions.has(viewer, snapshot.version);
    let mut waiting: Vec<NodeId> = all.into_iter().filter(|viewer| has(*viewer).is_some()).collect();
    let count = waiting.len();
    let end = Instant::now() + timeout;
    let mut pause = LOOK_FIRST;
    loop {
        waiting.retain(|viewer| has(*viewer) == Some(false));
        if waiting.is_empty() {
            return Ok(Told { viewers: count, took: began.elapsed() });
        }
        if Instant::now() >= end {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
    let name = |id: &NodeId| snapshot.node(*id).map_or_else(|| id.to_string(), |view| view.node.given_name.to_string());
    let names: Vec<String> = waiting.iter().take(10).map(name).collect();
    let more = if waiting.len() > names.len() { ", ..." } else { "" };
    Err(ApiError::new(
        StatusCode::GATEWAY_TIMEOUT,
        format!(
            "the node is {what}, but {} of {count} viewers have not acknowledged the new map within {}: {}{more}",
            waiting.len(),
            wayleave_model::duration::words(timeout),
            names.join(", ")
        ),
    ))
}
