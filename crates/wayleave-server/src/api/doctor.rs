//! All that is wrong, in one place, with what to do about it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_tailnet::{Finding, Severity};

use super::ApiState;
use crate::web::{self, PATIENCE};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(doctor))
}

/// Something that a person should know of.
#[derive(Debug, Serialize, ToSchema)]
struct FindingBody {
    /// `error`: something does not work. `warning`: something will not, once something else fails, or is not as it seems. `note`: something
    /// waits for a person, or is so because one wanted it.
    severity: &'static str,
    /// A prefix, a node, or a part of the server.
    about: String,
    /// What is so.
    what: String,
    /// What to do.
    todo: String,
}

impl From<Finding> for FindingBody {
    fn from(Finding { severity, about, what, todo }: Finding) -> Self {
        Self { severity: severity.word(), about, what, todo }
    }
}

/// All that is wrong, or will be: the worst first. It answers also while the control loop does not, or the database.
#[utoipa::path(get, path = "/api/v2/doctor", tag = "server", responses((status = 200, body = Vec<FindingBody>)))]
async fn doctor(State(state): State<ApiState>) -> Json<Vec<FindingBody>> {
    let control = &state.app.control;
    let now = control.clock().now();
    let waiting = tokio::time::timeout(PATIENCE, control.store().calls_waiting());
    let (found, waiting) = tokio::join!(control.read_within(PATIENCE, move |tailnet| tailnet.findings(now)), waiting);
    let server = |what: String, todo: &str| Finding::new(Severity::Error, "the server", what, todo);
    let mut all =
        found.unwrap_or_else(|error| vec![server(error.to_string(), "look at its log; start it again if it stays so")]);
    if control.metrics().store_fails() {
        all.push(server(web::STORE_FAILS.to_owned(), "look at its log, and for room on the disk"));
    }
    if let Some(fault) = state.app.policy_fault() {
        all.push(Finding::new(
            Severity::Error,
            "the policy",
            fault,
            "mend the file: the policy before it stays in force",
        ));
    }
    match waiting {
        Ok(Ok(calls)) => all.extend(calls.into_iter().filter(|(_, calls)| *calls > 0).map(|(webhook, calls)| {
            let what = format!("its receiver has not taken all that it is told: {calls} waiting");
            let todo = format!("`wayleave webhooks test {webhook}` says why");
            Finding::new(Severity::Warning, format!("webhook {webhook}"), what, todo)
        })),
        Ok(Err(_)) | Err(_) => all.push(server("its database can't be read".to_owned(), "look at its log")),
    }
    all.sort();
    Json(all.into_iter().map(FindingBody::from).collect())
}
