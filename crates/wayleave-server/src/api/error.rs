//! Errors as the API tells them.

use axum::Json;
use axum::extract::FromRequest;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use wayleave_store::StoreError;
use wayleave_tailnet::Refusal;

use crate::control_loop::CommandError;
use crate::imported_keys::LearnError;

/// An error: what is wrong, and what to do.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// In words.
    pub message: String,
    /// It is done if it is asked for again with `force`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub confirm: bool,
}

/// An error of an endpoint.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { message: message.into(), confirm: false } }
    }

    /// What was asked for has a consequence that has to be wanted.
    pub(super) fn confirm(message: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, body: ErrorBody { message: message.into(), confirm: true } }
    }

    pub(super) fn bad(message: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message.to_string())
    }

    pub(super) fn none(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(refusal) => {
                let status = match refusal {
                    Refusal::NoNode(_)
                    | Refusal::NoUser(_)
                    | Refusal::NoKey(_)
                    | Refusal::NoLogin
                    | Refusal::NoSshCheck(_)
                    | Refusal::NoSite(_)
                    | Refusal::NoSiteHost { .. }
                    | Refusal::NoCheck(_)
                    | Refusal::NotFrozen(_)
                    | Refusal::NothingFrozen
                    | Refusal::NoRoute { .. } => StatusCode::NOT_FOUND,
                    Refusal::UserExists(_)
                    | Refusal::UserHasNodes(_)
                    | Refusal::NameTaken { .. }
                    | Refusal::NotMovable { .. }
                    | Refusal::AllFrozen { .. }
                    | Refusal::SiteExists { .. }
                    | Refusal::SiteHasHosts { .. }
                    | Refusal::SiteInPolicy { .. }
                    | Refusal::NoSiteFree
                    | Refusal::NodeIsBack(_) => StatusCode::CONFLICT,
                    Refusal::PolicyChanged { .. } => StatusCode::PRECONDITION_FAILED,
                    Refusal::Policy(_) => StatusCode::BAD_REQUEST,
                    Refusal::TooManyLogins | Refusal::Address(_) => StatusCode::SERVICE_UNAVAILABLE,
                    Refusal::UserName(_)
                    | Refusal::KeyWithoutOwner
                    | Refusal::AuthKeyUnknown
                    | Refusal::AuthKeyExpired(_)
                    | Refusal::AuthKeyRevoked(_)
                    | Refusal::AuthKeyUsed
                    | Refusal::OtherMachine
                    | Refusal::NotBound
                    | Refusal::TagsNotPermitted(_)
                    | Refusal::NoTags
                    | Refusal::Exit(_)
                    | Refusal::NeverRoute { .. }
                    | Refusal::FreezeLength
                    | Refusal::SiteName(_)
                    | Refusal::SiteNumber(_)
                    | Refusal::CheckTarget { .. }
                    | Refusal::CheckPeriod
                    | Refusal::CheckStandbyOfHost(_)
                    | Refusal::InvalidPrefix { .. } => StatusCode::UNPROCESSABLE_ENTITY,
                };
                Self::new(status, refusal.to_string())
            }
            // The cause was logged where it happened; it is not the caller's.
            CommandError::Store(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the database refused, and nothing was changed; the server's log says why",
            ),
            CommandError::Stopping | CommandError::Unanswered { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}

impl From<LearnError> for ApiError {
    fn from(error: LearnError) -> Self {
        match error {
            LearnError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            LearnError::Command(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "a read failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database could not be read; the server's log says why")
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// A JSON body whose faults are told as every other error is.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(ApiError))]
pub(super) struct Body<T>(pub(super) T);

/// A query whose faults are told as every other error is.
#[derive(axum::extract::FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub(super) struct Asked<T>(pub(super) T);
