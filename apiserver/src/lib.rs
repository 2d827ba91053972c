//! The Kubernetes API over HTTP.
//!
//! A request passes [`server`] (who, may they, which type), then a module of [`verbs`] or
//! [`subresources`], then [`write`] or [`render`]; everything is generic over [`api::Resource`].

mod admission;
mod apply;
pub mod audit;
mod backup;
pub mod body;
mod bootstrap;
mod budget;
mod call;
mod catalog;
mod change_cause;
mod churn;
mod components;
mod config;
mod connections;
mod deadline;
mod decode;
mod discovery;
mod error;
mod event_expiry;
mod guarded;
mod health;
mod heavy;
mod intake;
mod locks;
mod measure;
mod meta;
mod metrics;
mod negotiate;
mod object;
mod openapi;
mod options;
mod percent;
mod progress;
mod public;
mod render;
mod request;
mod requests;
pub mod security;
mod selection;
mod sending;
mod server;
mod services;
mod socket;
mod spending;
pub mod stream_proxy;
mod subresources;
mod table;
pub mod tls_listener;
mod ui;
mod verbs;
mod warning;
mod write;

/// Entry points of the coverage-guided fuzzers (`make fuzz`).
#[cfg(fuzzing)]
pub mod fuzz_targets {
    pub use crate::apply::fuzz_targets::apply;
    pub use crate::audit::policy::fuzz_targets::audit_policy;
    pub use crate::verbs::json_patch::fuzz_targets::json_patch;
    pub use crate::verbs::patch::fuzz_targets::merge_patch;
}

#[cfg(test)]
mod tests;

pub use body::{Body, BoxError};
pub use catalog::Catalog;
pub use config::Config;
pub use connections::Connections;
pub use error::ApiError;
pub use guarded::Guarded;
pub use health::NodeParts;
pub use meta::Meta;
pub use request::{Query, RequestInfo};
pub use server::{ApiServer, open_store};
