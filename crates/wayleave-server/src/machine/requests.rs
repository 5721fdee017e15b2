//! Bodies in, answers out.

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Response, StatusCode};

/// An answer with its whole body.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    body: Bytes,
}

impl Reply {
    /// An answer without a body. Clients leave the bodies of several answers unread, which would hold the stream for ever
    /// (protocol.md 1.7).
    pub(super) const fn empty(status: StatusCode) -> Self {
        Self { status, body: Bytes::new() }
    }

    /// An answer in JSON.
    pub(super) fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status: StatusCode::OK, body: Bytes::from(body) },
            Err(_) => Self::empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// A refusal in words.
    pub(super) fn refuse(status: StatusCode, text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        text.push('\n');
        Self { status, body: Bytes::from(text) }
    }
}

/// Reads a whole body.
pub(super) async fn body(mut stream: RecvStream, most: usize) -> Result<Bytes, Reply> {
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.map_err(|_| Reply::empty(StatusCode::BAD_REQUEST))?;
        if body.len() + chunk.len() > most {
            return Err(Reply::refuse(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {most} bytes")));
        }
        // A connection that is gone needs no more credit.
        drop(stream.flow_control().release_capacity(chunk.len()));
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Sends an answer. A client that has gone away needs none.
pub(super) fn reply(respond: &mut SendResponse<Bytes>, reply: Reply) {
    let Reply { status, body } = reply;
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Ok(mut stream) = respond.send_response(response, body.is_empty())
        && !body.is_empty()
    {
        drop(stream.send_data(body, true));
    }
}
