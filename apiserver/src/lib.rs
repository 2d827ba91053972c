//! The Kubernetes API over HTTP.

pub mod security;
