//! Why a prefix is where it is, for everybody and for one viewer.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use wayleave_model::{NodeId, Prefix, Tag, Timestamp};
use wayleave_netmap::Reach;
use wayleave_routes::{Explanation, Group, Standing};
use wayleave_tailnet::{Snapshot, Tailnet};

use super::super::error::{ApiError, Asked, ErrorBody};
use super::super::{ApiState, nodes};
use super::{NodeRef, node_ref};

/// What to explain.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// An address, or a prefix.
    what: String,
    /// For this viewer: id, name or address.
    from: Option<String>,
}

/// A node that has a route for the prefix.
#[derive(Debug, Serialize, ToSchema)]
struct StandingBody {
    node: NodeRef,
    /// `steady`, `flapping`, `drained`, `suspect` or `down`, with the cause; absent: it is no candidate.
    rank: Option<String>,
    priority: i32,
    /// Since when it has been steady.
    steady_since: Option<String>,
    /// Why it does not carry the prefix; absent: it does.
    why_not: Option<String>,
    /// What it reports of itself that breaks its routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Somebody who takes over, unless something changes.
#[derive(Debug, Serialize, ToSchema)]
struct PendingBody {
    node: NodeRef,
    at: String,
    in_seconds: u64,
}

/// One election: the tailnet's own, or that of a group that grants steer through.
#[derive(Debug, Serialize, ToSchema)]
struct ElectionBody {
    /// The tags of the group; empty for the tailnet as a whole.
    via: Vec<String>,
    /// Who carries the prefix; absent: nobody.
    router: Option<NodeRef>,
    /// Why it.
    because: Option<String>,
    since: Option<String>,
    pending: Option<PendingBody>,
    /// Every router is down, and who has a wider prefix to use does without this one.
    fallen_back: bool,
    /// When it comes back, unless something changes.
    back_at: Option<String>,
    /// Those that viewers are spread over.
    carriers: Vec<NodeRef>,
    /// Everybody who has a route for it, in the order of joining.
    candidates: Vec<StandingBody>,
}

/// What one viewer has of the prefix.
#[derive(Debug, Serialize, ToSchema)]
struct ViewerBody {
    node: NodeRef,
    /// The router that it uses; absent: none.
    router: Option<NodeRef>,
    /// The tags of the group that its grants steer it through; empty: none do.
    via: Vec<String>,
    /// Why that one, or why none.
    because: String,
}

/// Why a prefix is where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExplainBody {
    /// The prefix that is explained: of several that hold an address the narrowest that anybody carries.
    prefix: String,
    /// The prefix as people read it.
    shown: String,
    /// Wider prefixes that somebody has a route for.
    wider: Vec<String>,
    when_down: &'static str,
    on_withdraw: &'static str,
    spread: &'static str,
    failback_after: String,
    frozen_until: Option<String>,
    frozen_by: Option<String>,
    /// The tailnet's own election first, then those of groups.
    elections: Vec<ElectionBody>,
    viewer: Option<ViewerBody>,
}

fn tags(group: Option<&Group>) -> Vec<String> {
    group.into_iter().flat_map(|group| group.iter().map(Tag::to_string)).collect()
}

/// Why an address or a prefix is reached through the router that it is reached through.
#[utoipa::path(get, path = "/api/v2/routes/explain", tag = "routes", params(Question),
    responses((status = 200, body = ExplainBody), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn explain(
    State(state): State<ApiState>,
    Asked(Question { what, from }): Asked<Question>,
) -> Result<Json<ExplainBody>, ApiError> {
    let asked = state.place(&what)?;
    let control = &state.app.control;
    let now = control.clock().now();
    let snapshot = control.snapshot();
    let body = control.read(move |tailnet| {
        let viewer = from.as_deref().map(|text| nodes::find(tailnet, text)).transpose()?;
        answer(tailnet, &snapshot, asked, viewer, now)
    });
    Ok(Json(body.await??))
}

fn answer(
    tailnet: &Tailnet,
    snapshot: &Snapshot,
    asked: Prefix,
    viewer: Option<NodeId>,
    now: Timestamp,
) -> Result<ExplainBody, ApiError> {
    let table = tailnet.routes();
    let mut holding: Vec<Prefix> = table.prefixes().filter(|prefix| prefix.covers(&asked)).copied().collect();
    holding.sort_by_key(|prefix| std::cmp::Reverse(prefix.bits()));
    // A viewer uses the narrowest that it is told of; for everybody it is the narrowest that somebody carries.
    let told = viewer.and_then(|id| {
        let reached = |prefix: &&Prefix| matches!(wayleave_netmap::reach(snapshot, id, prefix), Reach::Through { .. });
        holding.iter().find(reached).copied()
    });
    let carried = || holding.iter().find(|prefix| table.seat(prefix).is_some()).copied();
    let Some(prefix) = told.or_else(carried).or_else(|| holding.first().copied()) else {
        return Err(ApiError::none(format!(
            "no node has a route that holds {asked}; `wayleave routes list` shows all"
        )));
    };
    let whole = table.explain(&prefix, None, now);
    let groups: Vec<Group> = table.seats_of(&prefix).filter_map(|(group, _)| group.cloned()).collect();
    let of_groups = groups.iter().map(|group| table.explain(&prefix, Some(group), now));
    let elections = std::iter::once(whole.clone()).chain(of_groups);
    Ok(ExplainBody {
        prefix: prefix.to_string(),
        shown: tailnet.sites().show(&prefix),
        wider: holding.iter().filter(|wide| **wide != prefix && wide.covers(&prefix)).map(Prefix::to_string).collect(),
        when_down: whole.settings.when_down.word(),
        on_withdraw: whole.settings.on_withdraw.word(),
        spread: whole.settings.spread.word(),
        failback_after: whole.settings.failback.to_string(),
        frozen_until: whole.frozen.as_ref().map(|freeze| freeze.until.to_string()),
        frozen_by: whole.frozen.as_ref().map(|freeze| freeze.by.to_string()),
        elections: elections.map(|election| election_body(tailnet, election, now)).collect(),
        viewer: viewer.map(|id| viewer_body(tailnet, snapshot, id, &prefix)),
    })
}

fn election_body(tailnet: &Tailnet, election: Explanation, now: Timestamp) -> ElectionBody {
    let Explanation { prefix: _, group, seat, standings, settings: _, frozen: _ } = election;
    let standing = |standing: Standing| StandingBody {
        node: node_ref(tailnet, standing.node),
        rank: standing.rank.map(|rank| rank.to_string()),
        priority: standing.priority,
        steady_since: standing.steady_since.map(|since| since.to_string()),
        why_not: standing.why_not.map(|why| why.words(now)),
        warnings: super::warnings(tailnet, standing.node),
    };
    let pending = seat.as_ref().and_then(|seat| seat.pending).map(|pending| PendingBody {
        node: node_ref(tailnet, pending.node),
        at: pending.at.to_string(),
        in_seconds: u64::try_from(pending.at.since(now).as_millis().div_ceil(1000)).unwrap_or(u64::MAX),
    });
    let carriers = seat.as_ref().map(|seat| seat.carriers.clone()).unwrap_or_default();
    ElectionBody {
        via: tags(group.as_ref()),
        router: seat.as_ref().map(|seat| node_ref(tailnet, seat.node)),
        because: seat.as_ref().map(|seat| seat.because.to_string()),
        since: seat.as_ref().map(|seat| seat.since.to_string()),
        pending,
        fallen_back: seat.as_ref().is_some_and(|seat| seat.fallen_back),
        back_at: seat.as_ref().and_then(|seat| seat.back_at).map(|at| at.to_string()),
        carriers: carriers.into_iter().map(|node| node_ref(tailnet, node)).collect(),
        candidates: standings.into_iter().map(standing).collect(),
    }
}

fn viewer_body(tailnet: &Tailnet, snapshot: &Snapshot, id: NodeId, prefix: &Prefix) -> ViewerBody {
    let (router, via, because) = match wayleave_netmap::reach(snapshot, id, prefix) {
        Reach::Through { router, group, because } => (Some(router), tags(group.as_ref()), because.to_string()),
        Reach::Itself => (None, Vec::new(), "carries the prefix itself".to_owned()),
        Reach::Instead(wide) => (None, Vec::new(), format!("every router is down: uses {wide} instead")),
        Reach::Nobody { group } => {
            let via = tags(group.as_ref());
            let whom = if via.is_empty() { "nobody".to_owned() } else { format!("nobody with {}", via.join(" or ")) };
            (None, via, format!("{whom} carries the prefix"))
        }
        Reach::NotAllowed => (None, Vec::new(), "the policy does not let it".to_owned()),
        Reach::Expired => (None, Vec::new(), "its own key has expired, so it is told of nothing".to_owned()),
    };
    ViewerBody { node: node_ref(tailnet, id), router: router.map(|node| node_ref(tailnet, node)), via, because }
}
