//! The Service proxy: watches Services and EndpointSlices and keeps nftables maps equal to them.
//!
//! [`plan`] is pure and says what each Service needs; [`sync`] remembers what the kernel has and
//! writes the difference; [`run`](run()) connects both to the API.

mod chains;
mod config;
mod conflict;
#[cfg(test)]
mod fake;
mod frontends;
mod health;
mod keys;
mod known;
mod nftables;
mod plan;
mod room;
mod rules;
mod run;
mod sync;
mod withdrawal;

pub use config::{ProxyConfig, ProxyError, Result};
pub use keys::ServiceKey;
pub(crate) use nftables::SIBLING;
pub use plan::{Endpoint, Frontend, Target, When, plan_service};
pub(crate) use rules::TABLE;
pub use run::run;
pub use sync::{PortConflict, Proxy};
pub use withdrawal::{Questions, Withdrawals, withdrawals};
