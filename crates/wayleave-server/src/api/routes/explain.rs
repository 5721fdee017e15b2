//! Why a prefix is where it is, for everybody and for one viewer.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use wayleave_model::{NodeId, Prefix, PrefixKind, Tag, Timestamp};
use wayleave_netmap::{ChosenExit, Reach};
use wayleave_routes::{Explanation, Group, Standing};
use wayleave_tailnet::{Snapshot, Tailnet};

use super::super::error::{ApiError, Asked, ErrorBody};
use super::super::{ApiState, nodes};
use super::{NodeRef, node_ref};

const EXPIRED: &str = "its own key has expired, so it is told of nothing";

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
    back_in_seconds: Option<u64>,
    /// How long a router must be steady before it comes back, in seconds; only while it has fallen back and no time is set.
    back_after_seconds: Option<u64>,
    /// Those that viewers are spread over.
    carriers: Vec<NodeRef>,
    /// Everybody who has a route for it, in the order of joining.
    candidates: Vec<StandingBody>,
}

/// A node that advertises an exit, or is approved for one.
#[derive(Debug, Serialize, ToSchema)]
struct ExitBody {
    node: NodeRef,
    /// The state of its route, in the words of `routes list`: `serving` is one that is approved and up.
    state: &'static str,
    /// Why, where that is not plain.
    reason: Option<String>,
    /// It is advertised and approved for both families.
    approved: bool,
    up: bool,
    /// Whether the viewer may use it for what was asked; absent where no viewer was named.
    usable: Option<bool>,
    /// Whether the viewer has chosen it; absent where no viewer was named.
    chosen: Option<bool>,
}

/// What one viewer has of the prefix.
#[derive(Debug, Serialize, ToSchema)]
struct ViewerBody {
    node: NodeRef,
    /// The router that it uses, or the exit; absent: none.
    router: Option<NodeRef>,
    /// The tags of the group that its grants steer it through; empty: none do.
    via: Vec<String>,
    /// Why that one, or why none.
    because: String,
}

/// Why a prefix is where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExplainBody {
    /// The prefix that is explained: of several that hold an address the narrowest that anybody carries; the default route where no subnet
    /// holds it and there are exits.
    prefix: String,
    /// The prefix as people read it.
    shown: String,
    /// Wider prefixes that somebody has a route for.
    wider: Vec<String>,
    /// What is set for the prefix; this and the next three are absent for an exit, of which nothing can be set.
    when_down: Option<&'static str>,
    on_withdraw: Option<&'static str>,
    spread: Option<&'static str>,
    failback_after: Option<String>,
    frozen_until: Option<String>,
    frozen_by: Option<String>,
    /// The tailnet's own election first, then those of groups. None for an exit: a client chooses its exit itself.
    elections: Vec<ElectionBody>,
    /// The same of the wider prefix that the viewer uses while this one has fallen back.
    #[schema(no_recursion)]
    instead: Option<Box<ExplainBody>>,
    /// Everybody who advertises an exit or is approved for one, where no subnet takes what was asked for.
    exits: Vec<ExitBody>,
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
        let reached = |prefix: &&Prefix| {
            matches!(
                wayleave_netmap::reach(snapshot, id, prefix),
                Reach::Through { .. } | Reach::Itself | Reach::Instead(_)
            )
        };
        holding.iter().find(reached).copied()
    });
    let carried = holding.iter().find(|prefix| table.seat(prefix).is_some()).copied();
    let taken = if viewer.is_some() { told } else { carried };
    let exits = if taken.is_none() { exits(tailnet, snapshot, asked, viewer) } else { Vec::new() };
    let Some(prefix) = told.or(carried).or_else(|| holding.first().copied()) else {
        if exits.is_empty() {
            let what =
                if asked.is_exit() { "is an exit".to_owned() } else { format!("has a route that holds {asked}") };
            return Err(ApiError::none(format!("no node {what}; `wayleave routes list` shows all")));
        }
        return Ok(of_exits(tailnet, snapshot, asked, viewer, exits));
    };
    let mut body = of_prefix(tailnet, snapshot, &prefix, viewer, now);
    body.wider =
        holding.iter().filter(|wide| **wide != prefix && wide.covers(&prefix)).map(Prefix::to_string).collect();
    if let (Some(id), Some(viewer)) = (viewer, &mut body.viewer) {
        if !exits.is_empty() {
            let (_, words) = chosen_exit(tailnet, snapshot, id, &asked);
            viewer.because = format!("{}; {words}", viewer.because);
        }
        if let Reach::Instead(wide) = wayleave_netmap::reach(snapshot, id, &prefix) {
            body.instead = Some(Box::new(of_prefix(tailnet, snapshot, &wide, Some(id), now)));
        }
    }
    body.exits = exits;
    Ok(body)
}

/// A prefix that is no exit, by itself.
fn of_prefix(
    tailnet: &Tailnet,
    snapshot: &Snapshot,
    prefix: &Prefix,
    viewer: Option<NodeId>,
    now: Timestamp,
) -> ExplainBody {
    let table = tailnet.routes();
    let whole = table.explain(prefix, None, now);
    let groups: Vec<Group> = table.seats_of(prefix).filter_map(|(group, _)| group.cloned()).collect();
    let of_groups = groups.iter().map(|group| table.explain(prefix, Some(group), now));
    let elections = std::iter::once(whole.clone()).chain(of_groups);
    ExplainBody {
        prefix: prefix.to_string(),
        shown: tailnet.sites().show(prefix),
        wider: Vec::new(),
        when_down: Some(whole.settings.when_down.word()),
        on_withdraw: Some(whole.settings.on_withdraw.word()),
        spread: Some(whole.settings.spread.word()),
        failback_after: Some(whole.settings.failback.to_string()),
        frozen_until: whole.frozen.as_ref().map(|freeze| freeze.until.to_string()),
        frozen_by: whole.frozen.as_ref().map(|freeze| freeze.by.to_string()),
        elections: elections.map(|election| election_body(tailnet, election, now)).collect(),
        instead: None,
        exits: Vec::new(),
        viewer: viewer.map(|id| viewer_body(tailnet, snapshot, id, prefix)),
    }
}

/// An exit, or what no subnet holds.
fn of_exits(
    tailnet: &Tailnet,
    snapshot: &Snapshot,
    asked: Prefix,
    viewer: Option<NodeId>,
    exits: Vec<ExitBody>,
) -> ExplainBody {
    let prefix = default_route(&asked);
    let viewer = viewer.map(|id| {
        let (router, because) = chosen_exit(tailnet, snapshot, id, &asked);
        let router = router.map(|node| node_ref(tailnet, node));
        ViewerBody { node: node_ref(tailnet, id), router, via: Vec::new(), because }
    });
    ExplainBody {
        prefix: prefix.to_string(),
        shown: prefix.to_string(),
        wider: Vec::new(),
        when_down: None,
        on_withdraw: None,
        spread: None,
        failback_after: None,
        frozen_until: None,
        frozen_by: None,
        elections: Vec::new(),
        instead: None,
        exits,
        viewer,
    }
}

/// The half of an exit that holds a prefix.
fn default_route(prefix: &Prefix) -> Prefix {
    if prefix.network().is_ipv6() { Prefix::EXIT_V6 } else { Prefix::EXIT_V4 }
}

/// Everybody who has a row for an exit, in the order of joining; nobody where no exit may take what is asked for.
fn exits(tailnet: &Tailnet, snapshot: &Snapshot, asked: Prefix, viewer: Option<NodeId>) -> Vec<ExitBody> {
    if asked.invalid().is_some() || asked.kind() == PrefixKind::Via6 {
        return Vec::new();
    }
    let table = tailnet.routes();
    let halves = [Prefix::EXIT_V4, Prefix::EXIT_V6];
    let nodes: BTreeSet<NodeId> = table.rows().filter(|row| row.prefix.is_exit()).map(|row| row.node).collect();
    let told = viewer.map(|id| wayleave_netmap::exits(snapshot, id));
    let exit = |node: NodeId| {
        let row = |half: &Prefix| table.row_of(node, half);
        let shown = row(&default_route(&asked)).or_else(|| halves.iter().find_map(row))?;
        let lacks = halves.iter().find(|half| !row(half).is_some_and(|row| row.advertised));
        let super::RouteBody { state, reason, advertised, .. } = super::body(shown, tailnet);
        let half = || lacks.filter(|_| advertised).map(|half| format!("no exit without {half}"));
        Some(ExitBody {
            node: node_ref(tailnet, node),
            state,
            reason: half().or(reason),
            approved: halves.iter().all(|half| row(half).is_some_and(|row| row.advertised && row.enabled)),
            up: table.is_up(node),
            usable: viewer
                .zip(told.as_ref())
                .map(|(id, (usable, _))| usable.contains(&node) && snapshot.policy.leads_out_to(id, node, &asked)),
            chosen: told.as_ref().map(|(_, chosen)| match chosen {
                ChosenExit::Usable(id) | ChosenExit::Barred(id) => *id == node,
                ChosenExit::None | ChosenExit::Unknown(_) => false,
            }),
        })
    };
    nodes.into_iter().filter_map(exit).collect()
}

/// The exit that a viewer goes out through to a place, and what there is to say of it.
fn chosen_exit(tailnet: &Tailnet, snapshot: &Snapshot, viewer: NodeId, to: &Prefix) -> (Option<NodeId>, String) {
    if snapshot.node(viewer).is_none_or(|me| me.expired) {
        return (None, EXPIRED.to_owned());
    }
    let name = |id: NodeId| tailnet.name_of(id);
    let leads_there = |exit: &NodeId| snapshot.policy.leads_out_to(viewer, *exit, to);
    let place = || if *to == Prefix::host(to.network()) { to.network().to_string() } else { to.to_string() };
    match wayleave_netmap::exits(snapshot, viewer) {
        (_, ChosenExit::Usable(exit)) if !leads_there(&exit) => {
            let (exit, place) = (name(exit), place());
            (None, format!("it has chosen the exit {exit}, and the policy does not let it through that to {place}"))
        }
        (_, ChosenExit::Usable(exit)) if tailnet.routes().is_up(exit) => {
            (Some(exit), format!("it has chosen the exit {}", name(exit)))
        }
        (_, ChosenExit::Usable(exit)) => (Some(exit), format!("it has chosen the exit {}, which is down", name(exit))),
        (_, ChosenExit::Barred(exit)) => (None, format!("it has chosen the exit {}, which it may not use", name(exit))),
        (_, ChosenExit::Unknown(id)) => (None, format!("it has chosen the exit with the id {id}, and there is none")),
        (usable, ChosenExit::None) if usable.is_empty() => (None, "there is no exit that it may use".to_owned()),
        (usable, ChosenExit::None) if !usable.iter().any(leads_there) => {
            (None, format!("it has chosen no exit, and the policy lets it through none to {}", place()))
        }
        (usable, ChosenExit::None) => {
            let names: Vec<String> = usable.into_iter().filter(leads_there).map(name).collect();
            (None, format!("it has chosen no exit; it may use {}", names.join(", ")))
        }
    }
}

fn election_body(tailnet: &Tailnet, election: Explanation, now: Timestamp) -> ElectionBody {
    let Explanation { prefix: _, group, seat, standings, settings: _, back_after, frozen } = election;
    let seconds = |at: Timestamp| u64::try_from(at.since(now).as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
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
        in_seconds: seconds(pending.at),
    });
    let carriers = seat.as_ref().map(|seat| seat.carriers.clone()).unwrap_or_default();
    let fallen = seat.as_ref().filter(|seat| seat.fallen_back);
    let back_at = fallen.and_then(|seat| seat.back_at);
    ElectionBody {
        via: tags(group.as_ref()),
        router: seat.as_ref().map(|seat| node_ref(tailnet, seat.node)),
        because: seat.as_ref().map(|seat| seat.because.to_string()),
        since: seat.as_ref().map(|seat| seat.since.to_string()),
        pending,
        fallen_back: fallen.is_some(),
        back_at: back_at.map(|at| at.to_string()),
        back_in_seconds: back_at.map(seconds),
        back_after_seconds: fallen.filter(|_| back_at.is_none() && frozen.is_none()).map(|_| back_after.as_secs()),
        carriers: carriers.into_iter().map(|node| node_ref(tailnet, node)).collect(),
        candidates: standings.into_iter().map(standing).collect(),
    }
}

fn viewer_body(tailnet: &Tailnet, snapshot: &Snapshot, id: NodeId, prefix: &Prefix) -> ViewerBody {
    let (router, via, because) = match wayleave_netmap::reach(snapshot, id, prefix) {
        Reach::Through { router, group, because } => (Some(router), tags(group.as_ref()), because.to_string()),
        Reach::Itself => (None, Vec::new(), "carries the prefix itself".to_owned()),
        Reach::Instead(wide) => {
            let because = format!("it has fallen back, and {} is used instead", tailnet.sites().show(&wide));
            (None, Vec::new(), because)
        }
        Reach::Nobody { group } => {
            let via = tags(group.as_ref());
            let whom = if via.is_empty() { "nobody".to_owned() } else { format!("nobody with {}", via.join(" or ")) };
            (None, via, format!("{whom} carries the prefix"))
        }
        Reach::NotAllowed => (None, Vec::new(), "the policy does not let it".to_owned()),
        Reach::Expired => (None, Vec::new(), EXPIRED.to_owned()),
    };
    ViewerBody { node: node_ref(tailnet, id), router: router.map(|node| node_ref(tailnet, node)), via, because }
}
