//! Path checks: what has to answer behind the routers of a prefix.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::{PathCheck, Prefix, WitnessChoice, via6};
use wayleave_routes::PathOutcome;
use wayleave_tailnet::{Command, NewPathCheck, Tailnet};

use super::error::{ApiError, Body, ErrorBody};
use super::routes::{NodeRef, node_ref};
use super::{ApiState, Caller, nodes};
use crate::probe::{self, PathReport};

/// How often a target is asked for where nobody says.
const EVERY: Duration = Duration::from_secs(2);

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list, set)).routes(routes!(remove)).routes(routes!(run))
}

/// What a check has said of one router.
#[derive(Debug, Serialize, ToSchema)]
struct CheckedBody {
    node: NodeRef,
    primary: bool,
    /// It passed once. Only then can it be convicted.
    passed: bool,
    /// Misses in a row.
    misses: u32,
    /// When it was last checked; absent: never.
    at: Option<String>,
}

/// A witness that is led to the target through a router that stands by.
#[derive(Debug, Serialize, ToSchema)]
struct LedBody {
    witness: NodeRef,
    router: NodeRef,
}

/// A path check.
#[derive(Debug, Serialize, ToSchema)]
struct CheckBody {
    prefix: String,
    /// The prefix as people read it.
    shown: String,
    target: String,
    /// The target as people read it.
    target_shown: String,
    every_millis: u64,
    /// Who looks: a tag or a node; absent: the server chooses.
    witness: Option<String>,
    /// Routers that stand by are checked too.
    standby: bool,
    /// Who is led through which of them now; absent: nobody.
    led: Option<LedBody>,
    set_at: String,
    set_by: String,
    /// Why the target proves nothing as things are, so that nothing is asked.
    fault: Option<String>,
    routers: Vec<CheckedBody>,
}

fn body(check: &PathCheck, tailnet: &Tailnet) -> CheckBody {
    let PathCheck { prefix, target, every, witness, standby, set_at, set_by } = check;
    let table = tailnet.routes();
    let checked = |node| {
        let record = table.path_record(node, prefix);
        CheckedBody {
            node: node_ref(tailnet, node),
            primary: table.seat(prefix).is_some_and(|seat| seat.node == node),
            passed: record.passed,
            misses: record.misses,
            at: record.at.map(|at| at.to_string()),
        }
    };
    CheckBody {
        prefix: prefix.to_string(),
        shown: tailnet.sites().show(prefix),
        target: target.to_string(),
        target_shown: tailnet.sites().show_address(*target),
        every_millis: u64::try_from(every.as_millis()).unwrap_or(u64::MAX),
        witness: witness.as_ref().map(|witness| match witness {
            WitnessChoice::Tag(tag) => tag.to_string(),
            WitnessChoice::Node(node) => node_ref(tailnet, *node).name,
        }),
        standby: *standby,
        led: tailnet.loan(prefix).map(|(loan, _)| LedBody {
            witness: node_ref(tailnet, loan.witness),
            router: node_ref(tailnet, loan.router),
        }),
        set_at: set_at.to_string(),
        set_by: set_by.to_string(),
        fault: tailnet.target_fault(prefix, *target).map(|fault| fault.words(tailnet)),
        routers: table.holders(prefix).map(checked).collect(),
    }
}

/// All path checks.
#[utoipa::path(get, path = "/api/v2/routes/checks", tag = "routes", responses((status = 200, body = Vec<CheckBody>)))]
async fn list(State(state): State<ApiState>) -> Result<Json<Vec<CheckBody>>, ApiError> {
    let all = state.app.control.read(|tailnet| tailnet.path_checks().map(|check| body(check, tailnet)).collect());
    Ok(Json(all.await?))
}

/// A check to be set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetCheck {
    /// Of which prefix; one that it has is replaced.
    prefix: String,
    /// An address behind its routers that answers pings; for a prefix at a site, as it is known there or as clients address it.
    target: String,
    /// How often it is asked for, in milliseconds; 2000 where it is not said, 1000 to 3600000.
    every_millis: Option<u64>,
    /// Who looks: a tag such as `tag:witness`, or a node by id, name or address. Not said: the server chooses.
    witness: Option<String>,
    /// Whether routers that stand by are checked too: a witness, and nobody else, is lent the way to the target through them, for at most
    /// 2 s a minute where nobody names it. Not said: no.
    #[serde(default)]
    standby: bool,
}

/// The address that is meant: where the prefix is one at a site, a host there may be written as it is known there.
fn target_of(state: &ApiState, prefix: &Prefix, text: &str) -> Result<IpAddr, ApiError> {
    let none =
        || ApiError::bad(format!("`{text}` is no address: write one such as 10.0.0.9 or 192.168.1.9 via berlin"));
    let address = match text.parse() {
        Ok(address) => address,
        Err(_) if text.contains(" via ") => {
            let host = state.place(text)?;
            Some(host.network()).filter(|address| Prefix::host(*address) == host).ok_or_else(none)?
        }
        Err(_) => return Err(none()),
    };
    Ok(via6::address_through(prefix, address).unwrap_or(address))
}

/// Sets the path check of a prefix.
#[utoipa::path(put, path = "/api/v2/routes/checks", tag = "routes", request_body = SetCheck,
    responses((status = 200, body = CheckBody), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn set(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(SetCheck { prefix: text, target, every_millis, witness, standby }): Body<SetCheck>,
) -> Result<Json<CheckBody>, ApiError> {
    let prefix = state.prefix(&text)?;
    let target = target_of(&state, &prefix, &target)?;
    let every = every_millis.map_or(EVERY, Duration::from_millis);
    let control = &state.app.control;
    let witness = match witness {
        None => None,
        Some(tag) if tag.starts_with("tag:") => Some(WitnessChoice::Tag(tag.parse().map_err(ApiError::bad)?)),
        Some(node) => Some(WitnessChoice::Node(control.read(move |tailnet| nodes::find(tailnet, &node)).await??)),
    };
    let new = NewPathCheck { prefix, target, every, witness, standby, by: caller.0 };
    control.command(Command::SetPathCheck(Box::new(new))).await?;
    let set = control.read(move |tailnet| tailnet.path_check(&prefix).map(|check| body(check, tailnet))).await?;
    set.map(Json).ok_or_else(|| ApiError::new(StatusCode::CONFLICT, "somebody took it back in the same moment"))
}

/// Of which prefix.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Of {
    prefix: String,
}

/// Takes the path check of a prefix back. What it convicted is acquitted.
#[utoipa::path(post, path = "/api/v2/routes/checks/remove", tag = "routes", request_body = Of,
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn remove(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(of): Body<Of>,
) -> Result<StatusCode, ApiError> {
    let prefix = state.prefix(&of.prefix)?;
    state.app.control.command(Command::RemovePathCheck { prefix, by: caller.0 }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What came of a check behind one router.
#[derive(Debug, Serialize, ToSchema)]
struct RunBody {
    /// Who carries the prefix, or a part of its viewers.
    router: NodeRef,
    /// Who looked; absent: nobody could.
    witness: Option<NodeRef>,
    /// `passed`, `missed`, `target down` (something else behind the router answered) or `unknown` (nobody could look).
    outcome: &'static str,
    /// The round trip.
    milliseconds: Option<f64>,
}

/// Runs the path check of a prefix now, behind each router that carries it, the primary first. It counts like any other.
#[utoipa::path(post, path = "/api/v2/routes/checks/run", tag = "routes", request_body = Of,
    responses((status = 200, body = Vec<RunBody>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn run(State(state): State<ApiState>, Body(of): Body<Of>) -> Result<Json<Vec<RunBody>>, ApiError> {
    let prefix = state.prefix(&of.prefix)?;
    let control = &state.app.control;
    let known = control.read(move |tailnet| {
        let check = tailnet.path_check(&prefix)?;
        let fault = tailnet.target_fault(&prefix, check.target);
        Some(fault.map(|fault| fault.words(tailnet)))
    });
    match known.await? {
        None => {
            return Err(ApiError::none(format!(
                "{} has no path check; set one with `wayleave routes check set`",
                state.shown(&prefix)
            )));
        }
        Some(Some(fault)) => {
            return Err(ApiError::new(StatusCode::CONFLICT, format!("the target proves nothing: {fault}")));
        }
        Some(None) => {}
    }
    let reports = probe::run_check(&state.app, prefix).await;
    if reports.is_empty() {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("nobody carries {}", state.shown(&prefix))));
    }
    let done = control.read(move |tailnet| reports.iter().map(|report| run_body(report, tailnet)).collect());
    Ok(Json(done.await?))
}

fn run_body(report: &PathReport, tailnet: &Tailnet) -> RunBody {
    RunBody {
        router: node_ref(tailnet, report.router),
        witness: report.witness.map(|witness| node_ref(tailnet, witness)),
        outcome: match report.outcome {
            Some(PathOutcome::Passed) => "passed",
            Some(PathOutcome::Missed) => "missed",
            Some(PathOutcome::Spared) => "target down",
            None => "unknown",
        },
        milliseconds: report.latency.map(|latency| latency.as_secs_f64() * 1000.0),
    }
}
