//! The policy, in the words of the command line. Tools that speak Tailscale's API find it in `acl`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_policy::{Fault, PolicyError, TestRun};
use wayleave_tailnet::{Command, Outcome, Tailnet};

use super::error::{ApiError, Body, ErrorBody};
use super::{ApiState, Caller};
use crate::policy_file::PolicyFileError;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(show, set)).routes(routes!(check)).routes(routes!(test)).routes(routes!(reload))
}

/// What holds where no policy was set.
pub(super) const NONE: &str =
    "// No policy was set: everybody may reach everything, and routes wait for a person.\n{}\n";

/// The policy in force.
#[derive(Debug, Serialize, ToSchema)]
struct PolicyBody {
    /// Grows with every policy that is set; 0: none was.
    revision: u64,
    /// HuJSON, comments and all.
    text: String,
    /// When it was set.
    set_at: Option<String>,
    /// Who set it: `cli`, `api:<key>`, `file`.
    set_by: Option<String>,
    /// The file that is its home; absent where the database is.
    file: Option<String>,
    /// Why that file was not taken in when it was read last.
    file_fault: Option<String>,
}

/// Something that is wrong with a policy, or that its author should know.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// From 1; absent where it is about no place.
    line: Option<usize>,
    /// In characters, from 1.
    column: Option<usize>,
    /// In one line.
    pub(super) message: String,
    /// With its place, the line itself, and the place marked in it.
    shown: String,
}

impl Problem {
    fn new(fault: &Fault, text: &str) -> Self {
        let place = fault.position(text);
        Self {
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            message: fault.message.clone(),
            shown: fault.shown(text).to_string(),
        }
    }

    fn all(faults: &[Fault], text: &str) -> Vec<Self> {
        faults.iter().map(|fault| Self::new(fault, text)).collect()
    }
}

/// A text that is or could be a policy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    /// HuJSON.
    text: String,
}

/// The policy in force.
#[utoipa::path(get, path = "/api/v2/policy", tag = "policy", responses((status = 200, body = PolicyBody)))]
async fn show(State(state): State<ApiState>) -> Result<Json<PolicyBody>, ApiError> {
    let row = state.app.control.read(|tailnet| tailnet.policy_row().cloned()).await?;
    Ok(Json(PolicyBody {
        revision: row.as_ref().map_or(0, |row| row.revision),
        text: row.as_ref().map_or_else(|| NONE.to_owned(), |row| row.text.to_string()),
        set_at: row.as_ref().map(|row| row.set_at.to_string()),
        set_by: row.map(|row| row.set_by),
        file: state.app.options.policy_file.as_ref().map(|path| path.display().to_string()),
        file_fault: state.app.policy_fault(),
    }))
}

/// A policy to be set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPolicy {
    /// HuJSON.
    text: String,
    /// The revision that it replaces, 0 for none: refused if another is in force. Absent: whichever.
    replaces: Option<u64>,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
struct Done {
    /// The revision in force.
    revision: u64,
    /// It was in force before.
    unchanged: bool,
}

/// Sets a policy, unless its home is a file.
pub(super) async fn set_policy(
    state: &ApiState,
    text: String,
    replaces: Option<u64>,
    by: &Caller,
) -> Result<u64, ApiError> {
    if let Some(path) = &state.app.options.policy_file {
        let text = format!(
            "the home of the policy is the file {} (`policy.file`): change it there, then `wayleave policy reload`",
            path.display()
        );
        return Err(ApiError::new(StatusCode::CONFLICT, text));
    }
    let command = Command::SetPolicy { text, replaces, by: by.0.to_string() };
    let outcome = state.app.control.command(command).await?;
    let Outcome::Policy(revision) = outcome else {
        return Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the policy was set, and its revision is not known",
        ));
    };
    Ok(revision)
}

/// Sets the policy. One that is none, or that fails its own tests, is refused, and the one before stays in force.
#[utoipa::path(put, path = "/api/v2/policy", tag = "policy", request_body = NewPolicy,
    responses((status = 200, body = Done), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 412, body = ErrorBody)))]
async fn set(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(NewPolicy { text, replaces }): Body<NewPolicy>,
) -> Result<Json<Done>, ApiError> {
    let revision = set_policy(&state, text, replaces, &caller).await?;
    Ok(Json(Done { revision, unchanged: false }))
}

/// Reads the policy file again.
#[utoipa::path(post, path = "/api/v2/policy/reload", tag = "policy",
    responses((status = 200, body = Done), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn reload(State(state): State<ApiState>) -> Result<Json<Done>, ApiError> {
    let Some(path) = &state.app.options.policy_file else {
        let text = "the home of the policy is the database: `wayleave policy set FILE` changes it";
        return Err(ApiError::new(StatusCode::CONFLICT, text));
    };
    match state.app.reload_policy(path).await {
        Ok(Some(revision)) => Ok(Json(Done { revision, unchanged: false })),
        Ok(None) => {
            let revision = state.app.control.read(|tailnet| tailnet.policy_row().map_or(0, |row| row.revision)).await?;
            Ok(Json(Done { revision, unchanged: true }))
        }
        Err(PolicyFileError::Refused { source, .. }) => Err(source.into()),
        Err(error @ (PolicyFileError::Read { .. } | PolicyFileError::Long(_))) => {
            Err(ApiError::bad(crate::words(&error)))
        }
    }
}

/// Whether a text is a policy that may be set.
#[derive(Debug, Serialize, ToSchema)]
struct Verdict {
    /// It may be set.
    valid: bool,
    /// What is wrong with it, failed tests among it.
    problems: Vec<Problem>,
    /// What its author should know.
    warnings: Vec<Problem>,
}

/// Says whether a policy may be set, for the tailnet as it is. Changes nothing.
#[utoipa::path(post, path = "/api/v2/policy/check", tag = "policy", request_body = PolicyText,
    responses((status = 200, body = Verdict)))]
async fn check(
    State(state): State<ApiState>,
    Body(PolicyText { text }): Body<PolicyText>,
) -> Result<Json<Verdict>, ApiError> {
    let tried = text.clone();
    let verdict = match state.app.control.read(move |tailnet| tailnet.try_policy(&tried)).await? {
        Ok(policy) => {
            let warnings = Problem::all(&policy.rules().file().warnings, &text);
            Verdict { valid: true, problems: Vec::new(), warnings }
        }
        Err(PolicyError { text, faults }) => {
            Verdict { valid: false, problems: Problem::all(&faults, &text), warnings: Vec::new() }
        }
    };
    Ok(Json(verdict))
}

/// A test that was run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TestBody {
    /// Which, such as `tests[0]`.
    test: String,
    /// Its source.
    pub(super) src: String,
    passed: bool,
    /// What does not hold.
    pub(super) problems: Vec<Problem>,
}

impl TestBody {
    fn new(run: TestRun, text: &str) -> Self {
        Self {
            test: format!("{}[{}]", run.section, run.index),
            passed: run.faults.is_empty(),
            problems: Problem::all(&run.faults, text),
            src: run.src,
        }
    }
}

/// Runs the tests in a text: a policy's own, or, where the text holds nothing but tests, against the policy in force.
pub(super) fn run_tests(tailnet: &Tailnet, text: &str) -> Result<Vec<TestBody>, PolicyError> {
    Ok(tailnet.run_tests(text)?.into_iter().map(|run| TestBody::new(run, text)).collect())
}

/// Runs tests: those of a policy, for that policy; or, where the text has only `tests` and `sshTests`, against the policy in force.
#[utoipa::path(post, path = "/api/v2/policy/test", tag = "policy", request_body = PolicyText,
    responses((status = 200, body = Vec<TestBody>), (status = 400, body = ErrorBody)))]
async fn test(
    State(state): State<ApiState>,
    Body(PolicyText { text }): Body<PolicyText>,
) -> Result<Json<Vec<TestBody>>, ApiError> {
    let runs = state.app.control.read(move |tailnet| run_tests(tailnet, &text)).await?;
    runs.map(Json).map_err(ApiError::bad)
}
