//! The CronJob controller: Jobs at the times of a schedule, each at most once.

mod controller;
pub mod due;
pub mod plan;

pub use controller::workers;
