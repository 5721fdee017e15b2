//! `/machine/register` (protocol.md 2.1).

use http::StatusCode;
use wayleave_model::Owner;
use wayleave_tailnet::{Command, LoginToken, Outcome, Registration, Snapshot};
use wayleave_wire::CapabilityVersion;
use wayleave_wire::control::{Login, RegisterRequest, RegisterResponse, User};

use super::Connection;
use super::requests::Reply;
use crate::control_loop::CommandError;
use crate::imported_keys::{self, Imported};
use crate::secrets;

pub(super) async fn register(connection: &Connection, body: &[u8]) -> Reply {
    let request = match RegisterRequest::from_wire(body) {
        Ok(request) => request,
        Err(error) => return Reply::refuse(StatusCode::BAD_REQUEST, crate::words(&error)),
    };
    let Some(node_key) = request.node_key else {
        return Reply::refuse(StatusCode::BAD_REQUEST, "a registration needs a node key");
    };
    if CapabilityVersion(request.version) < CapabilityVersion::OLDEST {
        return failed("this client is too old for this server: update it to 1.80 or newer");
    }
    let app = &connection.app;
    if let Some(text) = &request.auth_key
        && app.control.snapshot().node_of(&node_key, &connection.machine).is_none()
        && let Err(error) = imported_keys::learn(app, Imported::AuthKey, text).await
    {
        return Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    }
    let mut registration = Registration {
        machine_key: connection.machine,
        node_key,
        old_node_key: request.old_node_key,
        auth_key: request.auth_key.as_deref().map(secrets::hash),
        expiry: request.expiry,
        followup: app.login_of(&request.followup),
        ephemeral: request.ephemeral,
        capability: request.version,
        hostinfo: request.hostinfo,
        fresh_token: LoginToken(secrets::login_token()),
    };
    let mut held = false;
    loop {
        let outcome = app.control.command(Command::Register(Box::new(registration.clone()))).await;
        match outcome {
            Ok(Outcome::Registered(node)) => {
                connection.joined();
                let snapshot = app.control.snapshot();
                let Some(view) = snapshot.node(node) else { return failed("the node was deleted meanwhile") };
                return registered(&snapshot, &view.node.owner);
            }
            // Hold the client until a person has spoken; if nobody does, the same address again says "still waiting".
            Ok(Outcome::LoginWaits(token)) => {
                if held || !wait_for_node(connection, &registration).await {
                    return login(app.login_url(&token));
                }
                held = true;
            }
            Ok(Outcome::LoginNeeded(token)) => {
                let url = app.login_url(&token);
                tracing::info!(
                    node.name = registration.hostinfo.hostname,
                    "a login waits for a person: wayleave nodes register --key {} --user NAME",
                    token.0
                );
                return login(url);
            }
            Ok(Outcome::KeyExpired) => {
                return Reply::json(&RegisterResponse { node_key_expired: true, ..RegisterResponse::default() });
            }
            Ok(Outcome::LoggedOut) => return Reply::json(&RegisterResponse::default()),
            Ok(
                Outcome::Done
                | Outcome::User(_)
                | Outcome::AuthKey(_)
                | Outcome::ApiKey(_)
                | Outcome::Routes(_)
                | Outcome::Policy(_)
                | Outcome::Site(_)
                | Outcome::Shell(_),
            ) => {
                return Reply::empty(StatusCode::INTERNAL_SERVER_ERROR);
            }
            Err(CommandError::Refused(refusal)) => {
                tracing::info!(node.name = registration.hostinfo.hostname, %refusal, "a registration was refused");
                return failed(refusal.to_string());
            }
            // Not an answer: the client tries again, with backoff.
            Err(error @ (CommandError::Store(_) | CommandError::Stopping | CommandError::Unanswered { .. })) => {
                return Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
            }
        }
        registration.auth_key = None;
    }
}

/// Waits until a person has let the node in. Returns whether one did.
async fn wait_for_node(connection: &Connection, registration: &Registration) -> bool {
    let app = &connection.app;
    let Ok(_held) = app.held_logins.try_acquire() else { return false };
    let mut snapshots = app.control.snapshots();
    let known = snapshots.wait_for(|snapshot| snapshot.node_of(&registration.node_key, &connection.machine).is_some());
    tokio::select! {
        known = tokio::time::timeout(app.options.limits.hold, known) => matches!(known, Ok(Ok(_))),
        () = app.stop.cancelled() => false,
    }
}

fn failed(text: impl Into<String>) -> Reply {
    Reply::json(&RegisterResponse { error: text.into(), ..RegisterResponse::default() })
}

fn login(auth_url: String) -> Reply {
    Reply::json(&RegisterResponse { auth_url, ..RegisterResponse::default() })
}

fn registered(snapshot: &Snapshot, owner: &Owner) -> Reply {
    let profile = wayleave_netmap::owner_profile(owner, snapshot);
    Reply::json(&RegisterResponse {
        user: User { id: profile.id, display_name: profile.display_name.clone() },
        login: Login {
            id: profile.id,
            provider: "wayleave".to_owned(),
            login_name: profile.login_name,
            display_name: profile.display_name,
        },
        machine_authorized: true,
        ..RegisterResponse::default()
    })
}
