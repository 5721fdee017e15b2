//! Routes, as records; a verb each in the files below.

mod drain;
mod explain;
mod last;
mod person;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::body::{Body as RawBody, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::{NodeId, Prefix, Route, RouteId, Timestamp};
use wayleave_routes::{Conviction, Rank, RouteState, StateWord};
use wayleave_store::{HistoryFilter, HistoryRow};
use wayleave_tailnet::{ApproveMode, Command, Effect, HistoryEntry, Outcome, Tailnet};

use super::error::{ApiError, Asked, Body, ErrorBody};
use super::{ApiState, Caller, nodes};
use last::last_words;
pub(super) use last::{ask_if_last, ask_if_last_with_tag};

/// Lines of history that are given where nobody says how many.
const HISTORY_LINES: u32 = 100;
/// Lines of history that are given at most.
const MOST_HISTORY_LINES: u32 = 10_000;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(approve))
        .routes(routes!(disable))
        .routes(routes!(history))
        .routes(routes!(settings::list_settings, settings::set))
        .routes(routes!(person::prefer))
        .routes(routes!(person::move_primary))
        .routes(routes!(person::freeze))
        .routes(routes!(person::unfreeze))
        .routes(routes!(drain::drain))
        .routes(routes!(drain::undrain))
        .routes(routes!(explain::explain))
        .routes(routes!(watch))
}

/// A node, by id and name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeRef {
    pub(super) id: u64,
    pub(super) name: String,
}

pub(super) fn node_ref(tailnet: &Tailnet, id: NodeId) -> NodeRef {
    NodeRef { id: id.get(), name: tailnet.name_of(id) }
}

/// The last word on whether a route is enabled.
#[derive(Debug, Serialize, ToSchema)]
struct ApprovalBody {
    /// `cli`, `api:KEY`, `ui:USER`, `auto:RULE`, `import` or `withdrawn`.
    by: String,
    at: String,
    /// It was a refusal.
    refused: bool,
}

/// A route: one (node, prefix).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RouteBody {
    id: u64,
    node: NodeRef,
    prefix: String,
    /// The prefix as people read it: `192.168.1.0/24 via berlin (7)` for one at a 4via6 site.
    shown: String,
    /// One word: `invalid`, `pre-approved`, `withdrawn`, `refused`, `pending`, `expired`, `offline`, `primary`, `serving` or `standby`.
    state: &'static str,
    /// Why, where that is not plain: why it is invalid, why its node is down, or that it is up and flapping, drained or suspect, or that nobody
    /// can reach it.
    reason: Option<String>,
    /// Why this node carries the prefix; only where it does.
    because: Option<String>,
    advertised: bool,
    enabled: bool,
    is_primary: bool,
    created_at: String,
    updated_at: String,
    deleted_at: Option<String>,
    approval: Option<ApprovalBody>,
    priority: i32,
    had_endpoint: bool,
    /// What its node reports of itself that breaks its routes.
    warnings: Vec<String>,
    /// What stands against the node, or against its route to this prefix. One that acts makes the node down, or the route suspect.
    convictions: Vec<ConvictionBody>,
    /// What has to be known of what was asked for; only where something was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// What a node reports of itself that breaks its routes.
fn warnings(tailnet: &Tailnet, node: NodeId) -> Vec<String> {
    let flags = tailnet.registry().node(node).into_iter().flat_map(|node| &node.hostinfo.debug_flags);
    flags.filter_map(|flag| wayleave_routes::router_fault(flag)).map(str::to_owned).collect()
}

/// A conviction that stands: evidence for which there is no proof to the contrary yet.
#[derive(Debug, Serialize, ToSchema)]
struct ConvictionBody {
    /// The evidence, in the words of history and log.
    cause: String,
    since: String,
    /// It counts; otherwise evidence of its kind is set to `observe`.
    acts: bool,
}

impl ConvictionBody {
    fn new(conviction: Conviction) -> Self {
        let Conviction { cause, at, acts } = conviction;
        Self { cause: cause.to_string(), since: at.to_string(), acts }
    }
}

pub(super) fn body(row: &Route, tailnet: &Tailnet) -> RouteBody {
    let table = tailnet.routes();
    let state = table.state(row);
    let reason = match state {
        RouteState::Invalid(reason) => Some(reason.to_string()),
        RouteState::Offline => table.down_cause(row.node).map(|cause| cause.to_string()),
        RouteState::Primary | RouteState::Serving | RouteState::Standby => {
            let unreachable = (!row.prefix.is_exit()).then(|| table.why_none(row.node, &row.prefix)).flatten();
            let rank = || table.rank_for(row.node, &row.prefix).filter(|rank| *rank != Rank::Steady);
            unreachable.map(|why| why.words(row.updated_at)).or_else(|| rank().map(|rank| rank.to_string()))
        }
        RouteState::PreApproved
        | RouteState::Withdrawn
        | RouteState::Refused
        | RouteState::Pending
        | RouteState::Expired => None,
    };
    let convictions = table.convictions(row.node, &row.prefix).into_iter().map(ConvictionBody::new).collect();
    RouteBody {
        id: row.id.get(),
        node: node_ref(tailnet, row.node),
        prefix: row.prefix.to_string(),
        shown: tailnet.sites().show(&row.prefix),
        state: state.word(),
        reason,
        because: table.seat(&row.prefix).filter(|_| row.is_primary).map(|seat| seat.because.to_string()),
        advertised: row.advertised,
        enabled: row.enabled,
        is_primary: row.is_primary,
        created_at: row.created_at.to_string(),
        updated_at: row.updated_at.to_string(),
        deleted_at: row.deleted_at.map(|time| time.to_string()),
        approval: row.approval.as_ref().map(|approval| ApprovalBody {
            by: approval.by.to_string(),
            at: approval.at.to_string(),
            refused: approval.refused,
        }),
        priority: row.priority,
        had_endpoint: row.had_endpoint,
        warnings: warnings(tailnet, row.node),
        convictions,
        notes: Vec::new(),
    }
}

/// Which routes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Only of this node: id, name or address.
    node: Option<String>,
    /// Only this prefix.
    prefix: Option<String>,
    /// Only in this state.
    state: Option<String>,
}

impl ApiState {
    fn prefixes(&self, texts: &[String]) -> Result<BTreeSet<Prefix>, ApiError> {
        texts.iter().map(|text| self.prefix(text)).collect()
    }
}

/// Routes, by prefix and then in the order in which their nodes joined.
#[utoipa::path(get, path = "/api/v2/routes", tag = "routes", params(Filter),
    responses((status = 200, body = Vec<RouteBody>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list(State(state): State<ApiState>, Asked(filter): Asked<Filter>) -> Result<Json<Vec<RouteBody>>, ApiError> {
    let wanted_prefix = filter.prefix.as_deref().map(|text| state.prefix(text)).transpose()?;
    let word = filter.state.as_deref().map(|text| text.parse::<StateWord>().map_err(ApiError::bad)).transpose()?;
    let routes = state.app.control.read(move |tailnet| {
        let node = filter.node.as_deref().map(|text| nodes::find(tailnet, text)).transpose()?;
        let mut rows: Vec<&Route> = tailnet
            .routes()
            .rows()
            .filter(|row| node.is_none_or(|node| row.node == node))
            .filter(|row| wanted_prefix.is_none_or(|prefix| row.prefix == prefix))
            .filter(|row| word.is_none_or(|word| word.fits(tailnet.routes().state(row))))
            .collect();
        rows.sort_by_key(|row| (row.prefix, row.node));
        Ok::<_, ApiError>(rows.into_iter().map(|row| body(row, tailnet)).collect())
    });
    Ok(Json(routes.await??))
}

/// Which routes to approve: some of a node, every node's for a prefix, or all that are pending.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Approve {
    /// Of this node: id, name or address.
    node: Option<String>,
    /// These.
    #[serde(default)]
    prefixes: Vec<String>,
    /// All that are pending, of all nodes; or of this node, or for these prefixes, where they are named.
    #[serde(default)]
    all_pending: bool,
    /// The node's whole set: others are disabled.
    #[serde(default)]
    replace: bool,
    /// Do it without asking.
    #[serde(default)]
    force: bool,
}

/// Approves routes.
#[utoipa::path(post, path = "/api/v2/routes/approve", tag = "routes", request_body = Approve,
    responses((status = 200, body = Vec<RouteBody>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn approve(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(ask): Body<Approve>,
) -> Result<Json<Vec<RouteBody>>, ApiError> {
    let Approve { node, prefixes: texts, all_pending, replace, force } = ask;
    let wanted = state.prefixes(&texts)?;
    if replace && (node.is_none() || all_pending) {
        return Err(ApiError::bad("`replace` is about the whole set of one `node`"));
    }
    if !replace && wanted.is_empty() && !all_pending {
        return Err(ApiError::bad("say which: `prefixes`, or `all_pending`"));
    }
    let by_node = state
        .app
        .control
        .read(move |tailnet| {
            let node = node.as_deref().map(|text| nodes::find(tailnet, text)).transpose()?;
            let chosen = choose(tailnet, node, &wanted, all_pending, replace)?;
            if !force {
                let mut questions = words_of_guarded(tailnet, &chosen);
                if let Some(node) = node.filter(|_| replace) {
                    // One half of an exit stands for both.
                    let stays = |prefix: &Prefix| {
                        wanted.contains(prefix) || (prefix.is_exit() && wanted.iter().any(Prefix::is_exit))
                    };
                    let gone = tailnet.routes().rows_of(node).filter(|row| row.enabled && !stays(&row.prefix));
                    let gone: Vec<Prefix> = gone.map(|row| row.prefix).collect();
                    questions.extend(last_words(tailnet, node, &gone, "it is disabled"));
                }
                if !questions.is_empty() {
                    return Err(ApiError::confirm(questions.join("; ")));
                }
            }
            Ok::<_, ApiError>(chosen)
        })
        .await??;
    let mode = if replace { ApproveMode::Replace } else { ApproveMode::Add };
    let mut changed = Vec::new();
    for (node, prefixes) in by_node {
        let by = caller.0.clone();
        let outcome = state.app.control.command(Command::ApproveRoutes { node, prefixes, mode, by }).await?;
        changed.extend(routes_of(outcome));
    }
    records(&state, changed).await
}

/// What is meant, node by node.
fn choose(
    tailnet: &Tailnet,
    node: Option<NodeId>,
    wanted: &BTreeSet<Prefix>,
    all_pending: bool,
    replace: bool,
) -> Result<BTreeMap<NodeId, BTreeSet<Prefix>>, ApiError> {
    if let Some(node) = node.filter(|_| replace || !all_pending) {
        return Ok(BTreeMap::from([(node, wanted.clone())]));
    }
    let mut chosen: BTreeMap<NodeId, BTreeSet<Prefix>> = BTreeMap::new();
    for row in tailnet.routes().rows() {
        let fits = node.is_none_or(|node| row.node == node) && (wanted.is_empty() || wanted.contains(&row.prefix));
        let pending = tailnet.routes().state(row) == RouteState::Pending;
        if fits && row.advertised && (pending || !all_pending) {
            chosen.entry(row.node).or_default().insert(row.prefix);
        }
    }
    if chosen.is_empty() && !all_pending {
        let all: Vec<String> = wanted.iter().map(|prefix| tailnet.sites().show(prefix)).collect();
        return Err(ApiError::none(format!("no node advertises {}; `wayleave routes list` shows all", all.join(", "))));
    }
    Ok(chosen)
}

/// Which routes to disable.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Disable {
    /// Of this node: id, name or address.
    node: String,
    /// These.
    prefixes: Vec<String>,
    /// Do it without asking.
    #[serde(default)]
    force: bool,
}

/// Disables routes. No auto-approver brings them back.
#[utoipa::path(post, path = "/api/v2/routes/disable", tag = "routes", request_body = Disable,
    responses((status = 200, body = Vec<RouteBody>), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn disable(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(Disable { node, prefixes: texts, force }): Body<Disable>,
) -> Result<Json<Vec<RouteBody>>, ApiError> {
    let wanted = state.prefixes(&texts)?;
    if wanted.is_empty() {
        return Err(ApiError::bad("say which: `prefixes`"));
    }
    let all: Vec<Prefix> = wanted.iter().copied().collect();
    let control = &state.app.control;
    let node = control
        .read(move |tailnet| {
            let id = nodes::find(tailnet, &node)?;
            if !force {
                ask_if_last(tailnet, id, &all, "it is disabled")?;
            }
            Ok::<_, ApiError>(id)
        })
        .await??;
    let outcome = control.command(Command::DisableRoutes { node, prefixes: wanted, by: caller.0 }).await?;
    records(&state, routes_of(outcome)).await
}

fn routes_of(outcome: Outcome) -> Vec<RouteId> {
    match outcome {
        Outcome::Routes(routes) => routes,
        Outcome::Done
        | Outcome::User(_)
        | Outcome::AuthKey(_)
        | Outcome::ApiKey(_)
        | Outcome::Policy(_)
        | Outcome::Site(_)
        | Outcome::Shell(_)
        | Outcome::Registered(_)
        | Outcome::LoginNeeded(_)
        | Outcome::LoginWaits(_)
        | Outcome::KeyExpired
        | Outcome::LoggedOut => Vec::new(),
    }
}

async fn records(state: &ApiState, ids: Vec<RouteId>) -> Result<Json<Vec<RouteBody>>, ApiError> {
    let records = state.app.control.read(move |tailnet| {
        ids.into_iter().filter_map(|id| tailnet.routes().row(id)).map(|row| body(row, tailnet)).collect()
    });
    Ok(Json(records.await?))
}

/// What has to be known of prefixes that clients reach something through which they need before anything else. One that is approved
/// already is asked about no more.
fn words_of_guarded(tailnet: &Tailnet, chosen: &BTreeMap<NodeId, BTreeSet<Prefix>>) -> Vec<String> {
    let is_new = |node: NodeId, prefix: &Prefix| !tailnet.routes().row_of(node, prefix).is_some_and(|row| row.enabled);
    let all = chosen.iter().flat_map(|(node, prefixes)| prefixes.iter().filter(|prefix| is_new(*node, prefix)));
    let all: BTreeSet<Prefix> = all.copied().collect();
    let words = |prefix: Prefix| {
        let (address, what) = tailnet.guarded(&prefix)?;
        Some(format!(
            "{} contains {address}, {what}: clients that accept routes would reach it through the router, and not at all without it",
            tailnet.sites().show(&prefix)
        ))
    };
    all.into_iter().filter_map(words).collect()
}

/// Which lines of history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    /// Only of this node: id, name or address, or the id or name of one that was deleted.
    node: Option<String>,
    /// Only of this prefix.
    prefix: Option<String>,
    /// Only of this time (RFC 3339) and after it.
    since: Option<String>,
    /// Only from before this time (RFC 3339).
    until: Option<String>,
    /// Only older than the line with this `id`: the last one of an answer, to read on.
    before: Option<u64>,
    /// At most so many, the newest; 100 where it is not said, 10,000 at most.
    limit: Option<u32>,
}

/// A line of history.
#[derive(Debug, Serialize, ToSchema)]
struct HistoryBody {
    /// Grows with time; absent in what is told live.
    id: Option<u64>,
    at: String,
    prefix: Option<String>,
    /// The prefix as people read it.
    shown: Option<String>,
    node: Option<NodeRef>,
    /// Such as `advertised`, `pending`, `approved`, `disabled`, `withdrawn`, `primary changed`, `redundancy lost`, `prefix down`,
    /// `prefix restored`, `collision found`, `group primary changed`, `convicted`, `observed`, `acquitted` or `deleted`.
    event: String,
    /// Who had the prefix, where it moved.
    from: Option<NodeRef>,
    /// Who has it, where it moved.
    to: Option<NodeRef>,
    /// Who or what caused it.
    cause: String,
    /// What stood against the router that it is about (of a move: the one that had the prefix), each with its time; empty where nothing did.
    evidence: String,
}

/// A node that there is, or that there was.
fn now_or_once(tailnet: &Tailnet, text: &str) -> Result<NodeId, ApiError> {
    let once = |error| tailnet.registry().gone_named(text).or_else(|| text.parse().ok()).ok_or(error);
    nodes::find(tailnet, text).or_else(once)
}

/// What happened to routes, the newest first.
#[utoipa::path(get, path = "/api/v2/routes/history", tag = "routes", params(HistoryQuery),
    responses((status = 200, body = Vec<HistoryBody>), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn history(
    State(state): State<ApiState>,
    Asked(query): Asked<HistoryQuery>,
) -> Result<Json<Vec<HistoryBody>>, ApiError> {
    let control = &state.app.control;
    let prefix = query.prefix.as_deref().map(|text| state.prefix(text)).transpose()?;
    let node = match query.node {
        Some(node) => Some(control.read(move |tailnet| now_or_once(tailnet, &node)).await??),
        None => None,
    };
    let time = |text: Option<&str>| text.map(|text| text.parse::<Timestamp>().map_err(ApiError::bad)).transpose();
    let (since, until) = (time(query.since.as_deref())?, time(query.until.as_deref())?);
    let limit = query.limit.unwrap_or(HISTORY_LINES);
    if limit > MOST_HISTORY_LINES {
        return Err(ApiError::bad(format!(
            "{limit} lines are too many at once: {MOST_HISTORY_LINES} at most; `before`, or `until`, gives those that are older"
        )));
    }
    let filter = HistoryFilter { prefix, node, since, until, before: query.before, limit };
    let rows = control.store().history(filter).await?;
    let lines = control.read(move |tailnet| {
        let line = |row: HistoryRow| HistoryBody {
            id: Some(row.id),
            at: row.at.to_string(),
            prefix: row.prefix.map(|prefix| prefix.to_string()),
            shown: row.prefix.map(|prefix| tailnet.sites().show(&prefix)),
            node: row.node.map(|id| node_ref(tailnet, id)),
            event: row.event,
            from: row.from.map(|id| node_ref(tailnet, id)),
            to: row.to.map(|id| node_ref(tailnet, id)),
            cause: row.cause,
            evidence: row.evidence,
        };
        rows.into_iter().map(line).collect()
    });
    Ok(Json(lines.await?))
}

/// How often a watch that has nothing to tell gives an empty line, so that a reader that is gone is found.
const WATCH_ALIVE: Duration = Duration::from_secs(15);

/// Some lines of history were not told, because the reader was too slow.
#[derive(Debug, Serialize, ToSchema)]
struct LostBody {
    /// How many things went by; not all of them were lines of history.
    lost: u64,
}

/// What happens to routes, as it happens: a line of JSON for each line of history, for as long as the reader stays. A reader that is too
/// slow is told in a line of its own, `{"lost": 12}`, and finds what it missed in the history.
#[utoipa::path(get, path = "/api/v2/routes/watch", tag = "routes",
    responses((status = 200, body = HistoryBody, content_type = "application/jsonl")))]
async fn watch(State(state): State<ApiState>) -> Response {
    let effects = state.app.control.effects();
    let lines = futures_util::stream::unfold((effects, state), |(mut effects, state)| async move {
        let silent = tokio::time::Instant::now() + WATCH_ALIVE;
        let line = loop {
            let effect = tokio::select! {
                () = state.app.stop.cancelled() => return None,
                effect = effects.recv() => effect,
                () = tokio::time::sleep_until(silent) => break String::new(),
            };
            // What was taken is told, however long that takes.
            if let Some(line) = line_of(effect, &state).await? {
                break line;
            }
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line + "\n")), (effects, state)))
    });
    ([(header::CONTENT_TYPE, "application/jsonl")], RawBody::from_stream(lines)).into_response()
}

/// The line of something that happened, if it has one. `None`: the server stops.
async fn line_of(effect: Result<Effect, RecvError>, state: &ApiState) -> Option<Option<String>> {
    let line = match effect {
        Ok(Effect::History(entry)) => {
            let body = state.app.control.read(move |tailnet| live(&entry, tailnet)).await.ok()?;
            serde_json::to_string(&body).ok()?
        }
        Ok(_) => return Some(None),
        Err(RecvError::Lagged(lost)) => serde_json::to_string(&LostBody { lost }).ok()?,
        Err(RecvError::Closed) => return None,
    };
    Some(Some(line))
}

fn live(entry: &HistoryEntry, tailnet: &Tailnet) -> HistoryBody {
    let (from, to) = entry.event.ends();
    HistoryBody {
        id: None,
        at: entry.at.to_string(),
        prefix: entry.prefix.map(|prefix| prefix.to_string()),
        shown: entry.prefix.map(|prefix| tailnet.sites().show(&prefix)),
        node: entry.node.map(|id| node_ref(tailnet, id)),
        event: entry.event.word().to_owned(),
        from: from.map(|id| node_ref(tailnet, id)),
        to: to.map(|id| node_ref(tailnet, id)),
        cause: entry.event.cause(),
        evidence: entry.evidence_text(),
    }
}
