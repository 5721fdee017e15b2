//! Routes as they would be, and prefixes that several sites use.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_model::{NodeId, Prefix};
use wayleave_routes::Rank;
use wayleave_tailnet::{Assumption, Collision, Instead, Party, Sites, Tailnet, WhatIf};

use super::difference::{self, DifferenceBody};
use super::error::{ApiError, Body, ErrorBody};
use super::routes::{NodeRef, node_ref};
use super::{ApiState, nodes};
use crate::control_loop::CommandError;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(what_if)).routes(routes!(collisions))
}

/// A route of a node.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Of {
    /// Id, name or address.
    node: String,
    prefix: String,
}

/// How much a node is preferred for a prefix.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Preferred {
    /// Id, name or address.
    node: String,
    prefix: String,
    /// Higher is preferred; 0 where nothing is said.
    priority: i32,
}

/// A case: all of it together.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Case {
    /// These nodes are lost: id, name or address.
    #[serde(default)]
    down: Vec<String>,
    /// These routes are approved.
    #[serde(default)]
    approve: Vec<Of>,
    /// These routes are disabled.
    #[serde(default)]
    disable: Vec<Of>,
    /// Nodes are preferred so much for prefixes.
    #[serde(default)]
    priority: Vec<Preferred>,
    /// This policy is in force: HuJSON.
    policy: Option<String>,
}

/// What would come of it.
#[derive(Debug, Serialize, ToSchema)]
struct WhatIfBody {
    /// The prefixes that another node would be primary for.
    primaries: Vec<PrimaryBody>,
    /// Who gains and who loses.
    viewers: Vec<DifferenceBody>,
}

/// A prefix that would have another primary.
#[derive(Debug, Serialize, ToSchema)]
struct PrimaryBody {
    prefix: String,
    /// As people read it.
    shown: String,
    /// The tags of the group that it would move for; empty: for the tailnet as a whole.
    via: Vec<String>,
    from: Option<NodeRef>,
    to: Option<NodeRef>,
    because: String,
    /// How good the one is that would have it, where it is not steady: a route that is down or suspect leads nobody anywhere.
    rank: Option<String>,
}

/// What would change, for whom, if these things were so. Changes nothing.
#[utoipa::path(post, path = "/api/v2/routes/what-if", tag = "routes", request_body = Case,
    responses((status = 200, body = WhatIfBody), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn what_if(State(state): State<ApiState>, Body(case): Body<Case>) -> Result<Json<WhatIfBody>, ApiError> {
    let sites = state.app.control.snapshot().sites.clone();
    // The control loop gives a copy and goes on; all the work is done elsewhere.
    let tailnet = state.app.control.read(Tailnet::clone).await?;
    let now = state.app.control.clock().now();
    let body = tokio::task::spawn_blocking(move || {
        let assumptions = assumptions(case, &tailnet)?;
        if assumptions.is_empty() {
            return Err(ApiError::bad(
                "say what is to be taken as so: `down`, `approve`, `disable`, `priority`, `policy`",
            ));
        }
        let what = tailnet.what_if(assumptions, now).map_err(CommandError::Refused)?;
        Ok(body(&what, &tailnet, &sites))
    });
    let body =
        body.await.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "it could not be worked out"))?;
    body.map(Json)
}

fn assumptions(case: Case, tailnet: &Tailnet) -> Result<Vec<Assumption>, ApiError> {
    let Case { down, approve, disable, priority, policy } = case;
    let route = |Of { node, prefix }: Of| -> Result<(NodeId, Prefix), ApiError> {
        Ok((nodes::find(tailnet, &node)?, tailnet.sites().prefix(&prefix).map_err(ApiError::bad)?))
    };
    let mut all: Vec<Assumption> = policy.into_iter().map(Assumption::policy).collect();
    for of in approve {
        let (node, prefix) = route(of)?;
        all.push(Assumption::approved(node, prefix));
    }
    for of in disable {
        let (node, prefix) = route(of)?;
        all.push(Assumption::disabled(node, prefix));
    }
    for Preferred { node, prefix, priority } in priority {
        let (node, prefix) = route(Of { node, prefix })?;
        all.push(Assumption::preferred(node, prefix, priority));
    }
    let down: BTreeSet<NodeId> = down.iter().map(|text| nodes::find(tailnet, text)).collect::<Result<_, _>>()?;
    if !down.is_empty() {
        all.push(Assumption::Down(down));
    }
    Ok(all)
}

fn body(what: &WhatIf, tailnet: &Tailnet, sites: &Sites) -> WhatIfBody {
    let primaries = what.moves.iter().map(|moved| PrimaryBody {
        prefix: moved.prefix.to_string(),
        shown: sites.show(&moved.prefix),
        via: moved.group.iter().flat_map(|group| group.iter()).map(ToString::to_string).collect(),
        from: moved.from.map(|node| node_ref(tailnet, node)),
        to: moved.to.map(|node| node_ref(tailnet, node)),
        because: moved.because.to_string(),
        rank: moved.rank.filter(|rank| *rank != Rank::Steady).map(|rank| rank.to_string()),
    });
    WhatIfBody { primaries: primaries.collect(), viewers: difference::body(what) }
}

/// A prefix that several sites use.
#[derive(Debug, Serialize, ToSchema)]
struct CollisionBody {
    prefix: String,
    /// `same`: all advertise this very prefix; `overlap`: some advertise a wider one.
    kind: &'static str,
    /// What looks like one site, each.
    sites: Vec<PartyBody>,
}

/// Nodes that look like one site.
#[derive(Debug, Serialize, ToSchema)]
struct PartyBody {
    nodes: Vec<AdvertisedBody>,
    /// What they could advertise instead; absent for IPv6.
    instead: Option<InsteadBody>,
}

/// A node and what it advertises.
#[derive(Debug, Serialize, ToSchema)]
struct AdvertisedBody {
    node: NodeRef,
    prefix: String,
}

/// 4via6 prefixes in the place of others.
#[derive(Debug, Serialize, ToSchema)]
struct InsteadBody {
    /// The site's number.
    site: u32,
    /// Its name.
    site_name: String,
    /// It has to be made first: `wayleave via6 sites add NAME --id N`.
    new: bool,
    /// In the order of the nodes'.
    prefixes: Vec<String>,
}

/// The same or overlapping prefixes, advertised by nodes that do not look like one site.
#[utoipa::path(get, path = "/api/v2/routes/collisions", tag = "routes",
    responses((status = 200, body = Vec<CollisionBody>)))]
async fn collisions(State(state): State<ApiState>) -> Result<Json<Vec<CollisionBody>>, ApiError> {
    let all = state.app.control.read(|tailnet| {
        let party = |Party { nodes, instead }: Party| PartyBody {
            nodes: nodes
                .into_iter()
                .map(|(node, prefix)| AdvertisedBody { node: node_ref(tailnet, node), prefix: prefix.to_string() })
                .collect(),
            instead: instead.map(|Instead { site, name, is_new, prefixes }| InsteadBody {
                site,
                site_name: name.to_string(),
                new: is_new,
                prefixes: prefixes.iter().map(Prefix::to_string).collect(),
            }),
        };
        let one = |Collision { prefix, same, parties }: Collision| CollisionBody {
            prefix: prefix.to_string(),
            kind: if same { "same" } else { "overlap" },
            sites: parties.into_iter().map(party).collect(),
        };
        tailnet.collisions().into_iter().map(one).collect()
    });
    Ok(Json(all.await?))
}
