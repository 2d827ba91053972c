//! Cluster DNS: names of Services and pods, and forwarding of everything else.
//!
//! Follows the Kubernetes DNS specification 1.1.0. Queries are answered from memory
//! ([`answer`]) that two watches keep up to date ([`records`]); other names go to the machine's
//! resolvers ([`upstream`]).

mod answer;
mod cache;
mod clients;
mod config;
mod datagrams;
mod facts;
mod load;
mod name;
mod records;
mod resolvers;
mod server;
mod upstream;
mod watch;
mod wire;

pub use config::{DnsConfig, DnsError, Result};
pub use server::run;

/// Entry points of the coverage-guided fuzzers (`make fuzz`).
#[cfg(fuzzing)]
pub mod fuzz_targets {
    pub use crate::wire::fuzz_targets::{query, response};
}
