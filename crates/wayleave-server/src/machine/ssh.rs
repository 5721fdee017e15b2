//! `/machine/ssh/action/SRC/to/DST`: a client asks whether a connection to its SSH server is let in (protocol.md 3.10).
//!
//! The first question makes a check and is answered at once, with the words that the user in front of the shell reads. Its answer sends
//! the client here again, with the check's key, and that question is held until a person has spoken.

use std::borrow::Cow;

use http::StatusCode;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use wayleave_model::NodeId;
use wayleave_tailnet::{Command, Effect, Outcome, Shell, SshCheckKey, SshVerdict};
use wayleave_wire::control::SshAction;

use super::Connection;
use super::requests::Reply;
use crate::control_loop::CommandError;
use crate::secrets;

/// The path, before the two nodes.
pub(super) const PATH: &str = "/machine/ssh/action/";

pub(super) async fn action(connection: &Connection, path: &str, query: &str) -> Reply {
    let Some((shell, key)) = parse(path, query) else {
        return Reply::refuse(StatusCode::BAD_REQUEST, "this is asked as /machine/ssh/action/SRC/to/DST?local_user=U");
    };
    let app = &connection.app;
    let own = app.control.snapshot().node(shell.to).is_some_and(|to| to.node.machine_key == Some(connection.machine));
    if !own {
        return Reply::refuse(StatusCode::FORBIDDEN, "a machine asks about connections to itself only");
    }
    // Listen first: the answer may come while the question is on its way.
    let mut effects = app.control.effects();
    let ask = || Command::AskShell { shell: shell.clone(), key: key.clone(), fresh: fresh_key() };
    let mut verdict = app.control.command(ask()).await;
    if let Ok(Outcome::Shell(SshVerdict::Waits { key: waits, is_new: false })) = &verdict
        && settled(connection, &mut effects, waits).await
    {
        verdict = app.control.command(ask()).await;
    }
    match verdict {
        Ok(Outcome::Shell(SshVerdict::Accepted)) => Reply::json(&SshAction::accepted()),
        Ok(Outcome::Shell(SshVerdict::Refused(why))) => Reply::json(&SshAction::rejected(format!("{why}\r\n"))),
        Ok(Outcome::Shell(SshVerdict::Waits { key, is_new })) => {
            if is_new {
                announce(connection, &shell, &key);
            }
            let message = if is_new {
                format!("# This connection waits for approval: wayleave ssh approve {key}\r\n")
            } else {
                String::new()
            };
            let user = crate::escape(&shell.user);
            let url = format!("https://unused{PATH}{}/to/{}?local_user={user}&check={key}", shell.from, shell.to);
            Reply::json(&SshAction { message, hold_and_delegate: url, ..SshAction::default() })
        }
        Ok(_) => Reply::empty(StatusCode::INTERNAL_SERVER_ERROR),
        // Not an answer: the client tries again, with backoff.
        Err(
            error @ (CommandError::Store(_)
            | CommandError::Stopping
            | CommandError::Unanswered { .. }
            | CommandError::Refused(_)),
        ) => Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// Ten letters and digits: a person types it.
fn fresh_key() -> SshCheckKey {
    SshCheckKey(secrets::random(10))
}

fn parse(path: &str, query: &str) -> Option<(Shell, Option<SshCheckKey>)> {
    let (from, to) = path.strip_prefix(PATH)?.split_once("/to/")?;
    let (from, to) = (NodeId::new(from.parse().ok()?), NodeId::new(to.parse().ok()?));
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(own, _)| *own == name).and_then(|(_, value)| unescape(value))
    };
    let user = value("local_user").filter(|user| !user.is_empty() && user.len() <= 255)?;
    Some((Shell { from, to, user: user.into_owned() }, value("check").map(|key| SshCheckKey(key.into_owned()))))
}

/// Go escapes a space in a query as `+`.
fn unescape(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Waits until a person has spoken, or the check was given up. Returns whether it is worth asking again now.
async fn settled(connection: &Connection, effects: &mut broadcast::Receiver<Effect>, key: &SshCheckKey) -> bool {
    let spoken = async {
        loop {
            match effects.recv().await {
                Ok(Effect::SshCheckSettled(settled)) if settled == *key => return true,
                Ok(_) => {}
                // It may have been among those that were missed.
                Err(RecvError::Lagged(_)) => return true,
                Err(RecvError::Closed) => return false,
            }
        }
    };
    tokio::select! {
        spoken = tokio::time::timeout(connection.app.options.limits.hold, spoken) => matches!(spoken, Ok(true)),
        () = connection.app.stop.cancelled() => false,
    }
}

fn announce(connection: &Connection, shell: &Shell, key: &SshCheckKey) {
    let snapshot = connection.app.control.snapshot();
    let name = |id| snapshot.node(id).map(|view| view.node.given_name.to_string());
    tracing::info!(
        from.name = name(shell.from),
        to.name = name(shell.to),
        local_user = shell.user,
        "a shell waits for approval: wayleave ssh approve {key}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_clients_write_them() {
        let (shell, key) = parse("/machine/ssh/action/3/to/12", "local_user=j%C3%B6rg+x").unwrap();
        assert_eq!((shell.from, shell.to), (NodeId::new(3), NodeId::new(12)));
        assert_eq!((shell.user.as_str(), key), ("jörg x", None));
        let (_, key) = parse("/machine/ssh/action/3/to/12", "local_user=root&check=AbC123").unwrap();
        assert_eq!(key, Some(SshCheckKey("AbC123".to_owned())));
        for (path, query) in [
            ("/machine/ssh/action/3/to/x", "local_user=root"),
            ("/machine/ssh/action/3", "local_user=root"),
            ("/machine/ssh/action/3/to/4", "local_user="),
            ("/machine/ssh/action/3/to/4", ""),
            ("/machine/ssh/action/3/to/4", "local_user=%zz"),
            ("/machine/ssh/action/3/to/4", "local_user=%ff"),
            ("/machine/ssh/action/3/to/4", "local_user=%4"),
        ] {
            assert_eq!(parse(path, query), None, "{path}?{query}");
        }
    }
}
