//! The server's own relay: who may use it, and its connections.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncRead, AsyncWrite};
use wayleave_derp::{Admission, Relay, RelayError};
use wayleave_model::NodeKey;

use crate::app::App;
use crate::control_loop::Control;
use crate::listener::Peer;

/// Admits the nodes of the tailnet whose keys have not expired. The answer comes from the newest snapshot, which a registration is in
/// before the client is told that it is registered.
pub(crate) struct Members {
    pub(crate) control: OnceLock<Control>,
    pub(crate) everybody: bool,
}

impl Admission for Members {
    fn admits(&self, node: &NodeKey, _source: IpAddr) -> bool {
        if self.everybody {
            return true;
        }
        let Some(control) = self.control.get() else { return false };
        let snapshot = control.snapshot();
        snapshot.by_node_key.get(node).and_then(|id| snapshot.node(*id)).is_some_and(|view| !view.expired)
    }
}

/// Serves one relay connection until it ends.
pub(crate) async fn serve<S>(app: &Arc<App>, relay: Relay, stream: S, peer: &Peer)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match relay.serve(stream, peer.address.ip(), &app.stop, || peer.known()).await {
        Ok(()) | Err(RelayError::Io(_)) => {}
        Err(error) => tracing::debug!(%error, "a relay connection ended"),
    }
}
