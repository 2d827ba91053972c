//! The kubelet's side of exec, attach and port-forward: SPDY/3.1 and WebSocket servers.
//!
//! [`exec`], [`attach`] and [`port_forward`] answer an upgradable request with 101 and go on in a
//! task of their own until either side ends.

mod dictionary;
mod negotiate;
mod port_forward;
mod remote_command;
mod spdy;
mod spdy_frame;
mod websocket;
mod websocket_frame;
mod wire;

use http::Extensions;
use tokio_util::sync::CancellationToken;

pub use negotiate::Body;
pub use port_forward::{Dial, Pod, port_forward};
pub use remote_command::{StreamOptions, attach, exec};

/// Among a request's extensions: cancelled when the other end of the connection is gone, which a
/// session that waits for its process to read does not see otherwise.
#[derive(Clone, Debug, Default)]
pub struct PeerGone(pub CancellationToken);

impl PeerGone {
    /// A token that is cancelled when the peer of this request is gone.
    fn of(extensions: &Extensions) -> CancellationToken {
        extensions.get::<Self>().cloned().unwrap_or_default().0.child_token()
    }
}

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;
#[cfg(test)]
mod tests;
