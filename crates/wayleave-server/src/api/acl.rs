//! The policy in the words of Tailscale's public API (tailscale.com/api#tag/policyfile), for tools that keep it in a repository.

use std::net::SocketAddr;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wayleave_policy::{PreviewFor, standard_json};

use super::error::{ApiError, Asked, ErrorBody};
use super::policy::{NONE, TestBody, run_tests, set_policy};
use super::{ApiState, Caller};
use crate::secrets;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(show, set)).routes(routes!(validate)).routes(routes!(preview))
}

/// The policy and the number of its revision, 0 for none.
async fn in_force(state: &ApiState) -> Result<(String, u64), ApiError> {
    let row = state.app.control.read(|tailnet| tailnet.policy_row().cloned()).await?;
    Ok(row.map_or_else(|| (NONE.to_owned(), 0), |row| (row.text.to_string(), row.revision)))
}

/// By what a policy is told from another: the SHA-256 of its text, in quotes.
fn etag(text: &str) -> String {
    let hash: String = secrets::hash(text).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hash}\"")
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| text.contains("application/json"))
}

/// A policy in the form that was asked for: as it is written, or as plain JSON without comments.
fn told(text: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let broken = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the policy in force is no HuJSON");
    let (kind, body) = if wants_json(headers) {
        ("application/json", standard_json(text).map_err(broken)?)
    } else {
        ("application/hujson", text.to_owned())
    };
    let etag = HeaderValue::from_str(&etag(text)).expect("a hash in quotes is a header's value");
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::ETAG, etag)], body).into_response())
}

/// How much to tell.
#[derive(Debug, Deserialize, IntoParams)]
struct Details {
    /// `1` or `true`: the text in base64, with its warnings and errors.
    #[serde(default)]
    details: Option<String>,
}

/// The policy in force, as HuJSON, or as JSON where `Accept` says `application/json`.
#[utoipa::path(get, path = "/api/v2/tailnet/{tailnet}/acl", tag = "policy",
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet"), Details),
    responses((status = 200, description = "the policy, with its ETag")))]
async fn show(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Asked(Details { details }): Asked<Details>,
) -> Result<Response, ApiError> {
    let (text, _) = in_force(&state).await?;
    if !details.is_some_and(|details| details == "1" || details == "true") {
        return told(&text, &headers);
    }
    let warnings = state
        .app
        .control
        .read(|tailnet| tailnet.rules().file().warnings.iter().map(|fault| fault.message.clone()).collect::<Vec<_>>())
        .await?;
    let body = json!({ "acl": STANDARD.encode(&text), "warnings": warnings, "errors": null });
    let etag = HeaderValue::from_str(&etag(&text)).expect("a hash in quotes is a header's value");
    Ok(([(header::ETAG, etag)], axum::Json(body)).into_response())
}

fn utf8(body: &Bytes) -> Result<String, ApiError> {
    let text = std::str::from_utf8(body);
    text.map(str::to_owned)
        .map_err(|error| ApiError::bad(format!("a policy is UTF-8; byte {} is not", error.valid_up_to())))
}

/// Sets the policy. `If-Match` holds the ETag of the one that it replaces, or `"ts-default"` where none was set.
#[utoipa::path(post, path = "/api/v2/tailnet/{tailnet}/acl", tag = "policy", request_body = String,
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet"),
        ("If-Match" = Option<String>, Header, description = "the ETag of the policy that is replaced")),
    responses((status = 200, description = "the policy, with its ETag"), (status = 400, body = ErrorBody),
        (status = 412, body = ErrorBody)))]
async fn set(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let text = utf8(&body)?;
    let replaces = match headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()).map(str::trim) {
        None | Some("*" | "\"*\"") => None,
        Some(wanted) => {
            let (current, revision) = in_force(&state).await?;
            let bare = wanted.trim_start_matches("W/").trim_matches('"');
            let fits = if bare == "ts-default" { revision == 0 } else { etag(&current).trim_matches('"') == bare };
            if !fits {
                let text = "precondition failed, invalid old hash: the policy was changed by somebody else in between";
                return Err(ApiError::new(StatusCode::PRECONDITION_FAILED, text));
            }
            Some(revision)
        }
    };
    set_policy(&state, text.clone(), replaces, &caller).await?;
    told(&text, &headers)
}

/// A source whose tests failed.
#[derive(Debug, Serialize, ToSchema)]
struct FailedTest {
    user: String,
    errors: Vec<String>,
}

/// What does not hold. Empty where everything does.
#[derive(Debug, Default, Serialize, ToSchema)]
struct Validity {
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    data: Vec<FailedTest>,
}

impl Validity {
    fn of(runs: Vec<TestBody>) -> Self {
        let failed = runs.into_iter().filter(|run| !run.problems.is_empty());
        let data: Vec<FailedTest> = failed
            .map(|run| FailedTest {
                user: run.src,
                errors: run.problems.into_iter().map(|problem| problem.message).collect(),
            })
            .collect();
        let message = if data.is_empty() { String::new() } else { "test(s) failed".to_owned() };
        Self { message, data }
    }
}

/// Runs tests (a list) against the policy in force, or says whether a policy (an object) may be set. Changes nothing.
#[utoipa::path(post, path = "/api/v2/tailnet/{tailnet}/acl/validate", tag = "policy", request_body = String,
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet")),
    responses((status = 200, body = Validity), (status = 400, body = ErrorBody)))]
async fn validate(State(state): State<ApiState>, body: Bytes) -> Result<axum::Json<Validity>, ApiError> {
    let text = utf8(&body)?;
    let is_list = wayleave_policy::source::parse(&text).is_ok_and(|value| value.is_list());
    let validity = if is_list {
        let text = format!("{{\"tests\": {text}}}");
        let runs = state.app.control.read(move |tailnet| run_tests(tailnet, &text)).await?;
        Validity::of(runs.map_err(|error| ApiError::bad(error.messages()))?)
    } else {
        let done = state.app.control.read(move |tailnet| match tailnet.try_policy(&text) {
            Ok(_) => Validity::default(),
            Err(error) => match run_tests(tailnet, &text) {
                Ok(runs) => Validity::of(runs),
                Err(_) => Validity { message: error.messages(), data: Vec::new() },
            },
        });
        done.await?
    };
    Ok(axum::Json(validity))
}

/// What a preview is about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
struct Preview {
    /// `user` or `ipport`.
    #[serde(rename = "type")]
    kind: String,
    /// A user such as `anna@example.com`, or an address and a port such as `10.0.0.1:80`.
    preview_for: String,
}

/// Which rules of a policy concern a user, or an address and a port. Changes nothing.
#[utoipa::path(post, path = "/api/v2/tailnet/{tailnet}/acl/preview", tag = "policy", request_body = String,
    params(("tailnet" = String, Path, description = "`-`: there is one tailnet"), Preview),
    responses((status = 200, description = "the rules"), (status = 400, body = ErrorBody)))]
async fn preview(
    State(state): State<ApiState>,
    Asked(Preview { kind, preview_for }): Asked<Preview>,
    body: Bytes,
) -> Result<axum::Json<Value>, ApiError> {
    let about = match kind.as_str() {
        "user" => PreviewFor::User(preview_for.clone()),
        "ipport" => {
            let place: SocketAddr = preview_for
                .parse()
                .map_err(|_| ApiError::bad(format!("`{preview_for}` is no address and port such as 10.0.0.1:80")))?;
            PreviewFor::AddressPort(place.ip(), place.port())
        }
        other => return Err(ApiError::bad(format!("`type` is `user` or `ipport`, not `{other}`"))),
    };
    let text = utf8(&body)?;
    let matches = state.app.control.read(move |tailnet| {
        let policy = tailnet.try_policy(&text).map_err(|error| error.messages())?;
        policy.preview(&about, tailnet.surroundings())
    });
    let matches = matches.await?.map_err(ApiError::bad)?;
    let matches: Vec<Value> = matches
        .into_iter()
        .map(|rule| json!({ "users": rule.users, "ports": rule.ports, "lineNumber": rule.line }))
        .collect();
    Ok(axum::Json(json!({ "matches": matches, "type": kind, "previewFor": preview_for })))
}
