//! The Kubernetes API over HTTP.

pub mod security;
pub mod tls_listener;
