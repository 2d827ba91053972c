//! Whole requests against a server over a fresh store, in process.
#![allow(clippy::unwrap_used)]

pub(crate) mod harness;

mod applying;
mod deletion;
mod doors;
mod listing;
mod memory;
mod objects;
mod patches;
mod pod_security;
mod scopes;
mod services;
mod subresources;
mod warnings;
mod watching;
