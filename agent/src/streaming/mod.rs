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

pub use negotiate::Body;
pub use port_forward::{Dial, port_forward};
pub use remote_command::{StreamOptions, attach, exec};

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;
#[cfg(test)]
mod tests;
