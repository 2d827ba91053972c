//! Hostile tenants and containers: after each scenario the node answers, the pods of others are
//! untouched, and at the end nothing is left. The node has 512 MiB of memory and 1,024 descriptors.
#![allow(clippy::unwrap_used, clippy::panic)]

mod clients;
mod containers;
mod memory;
mod network;
mod objects;
mod pods;
mod pulls;
mod sessions;
mod tenant;
