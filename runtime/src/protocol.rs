//! What the agent and a shim say to each other over their unix socket.

/// A request the shim understood and refused.
#[derive(Clone, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// Why.
    pub message: String,
    /// The kernel's error number, 0 when there is none.
    pub errno: i32,
}
