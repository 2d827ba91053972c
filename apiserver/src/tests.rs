//! Whole requests against a server over a fresh store, in process.
#![allow(clippy::unwrap_used)]

pub(crate) mod harness;

mod access;
mod applying;
mod deletion;
mod doors;
mod listing;
mod memory;
mod objects;
mod patches;
mod pod_security;
mod quotas;
mod scopes;
mod services;
mod subresources;
mod turns;
mod warnings;
mod watching;
