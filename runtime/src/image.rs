//! The image store: content-addressed layers, pulls, archives, garbage collection.

mod archive;
mod compression;
mod digest;
mod incoming;
mod pull;
mod record;
mod reference;
mod registry;
mod store;
mod unpack;
mod usage;
mod worker;

pub use archive::ArchiveError;
pub use pull::{Credentials, Progress, PullError, PullOptions};
pub use reference::{Reference, ReferenceError};
pub use store::{Image, ImageStore, ImageSummary, StoreError};
pub use unpack::UnpackError;
#[cfg(fuzzing)]
pub use unpack::fuzz_targets::layer;
pub use worker::{OnProgress, PullRequest, WorkerCommand, pull_in_child, worker_main};

pub use crate::launch::max_layers;
