//! Pulls for pods: in a child process each, one at a time per image, few at a time per registry and
//! namespace, so that a registry that hangs holds up only pulls from itself.

mod turns;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime::cgroup::Hierarchies;
use runtime::image::{
    Credentials, ImageStore, PullOptions, PullRequest, Reference, WorkerCommand, pull_in_child,
};
use runtime::printable::cut;
use runtime::sandbox::pull_group;
use tokio::time::Instant;

use crate::blocking::{self, Deadline};
use crate::config::{AgentConfig, Registries};
use crate::credential::{self, Credential};
use crate::machine::{ImageError, Pulled};
use turns::{TURN_TIME, Turns, Want, pulls};

/// How long a registry that could not be reached is not asked again for images that are here.
const UNREACHABLE_FOR: Duration = Duration::from_secs(10);
/// Registries whose absence is remembered.
const UNREACHABLE_MAX: usize = 64;
/// Bytes that are remembered of what was said of one of them.
const UNREACHABLE_BYTES: usize = 512;
/// Least memory that all pulls have together, in bytes.
const MIN_GROUP_BYTES: u64 = 256 << 20;
/// The part of the node's memory that all pulls have together, where that is more.
const GROUP_PART: u64 = 4;

/// Pulls images into a store.
pub struct Puller {
    store: ImageStore,
    registries: Registries,
    turns: Arc<Turns>,
    absent: Absent,
    /// The files that take a pull into the control group of pulls; empty where none can be made.
    group: Vec<PathBuf>,
}

/// When registries could not be reached lately, and what was said of it.
#[derive(Default)]
struct Absent(Mutex<HashMap<String, (Instant, String)>>);

impl Absent {
    fn lately(&self, registry: &str) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, why) = known.get(registry)?;
        (at.elapsed() < UNREACHABLE_FOR).then(|| why.clone())
    }

    fn note(&self, registry: &str, why: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < UNREACHABLE_FOR);
        if known.len() < UNREACHABLE_MAX {
            let why = cut(why.to_owned(), UNREACHABLE_BYTES);
            known.insert(registry.to_owned(), (Instant::now(), why));
        }
    }
}

impl Puller {
    /// A puller for a node of this configuration that may have so many open files.
    pub fn new(store: ImageStore, config: &AgentConfig, open_files: u64) -> Self {
        let turns = Turns::new(pulls(open_files, config.memory_bytes));
        let group = group(config).unwrap_or_else(|error| {
            tracing::warn!(%error, "pulls run without a control group of their own");
            Vec::new()
        });
        let registries = config.registries.clone();
        Self { store, registries, turns, absent: Absent::default(), group }
    }

    /// Fetches an image. With a `patience` it is here already: the registry has only that long to
    /// accept a connection, and one that did not lately is not asked at all.
    pub async fn pull(
        &self,
        namespace: &str,
        reference: &Reference,
        credentials: &[Credential],
        patience: Option<Duration>,
    ) -> Result<Pulled, ImageError> {
        let registry = reference.registry();
        let repository = reference.name();
        let repository = repository.split_once('/').map_or("", |(_, path)| path);
        let fitting = {
            let known = credentials.to_vec();
            let (registry, repository) = (registry.to_owned(), repository.to_owned());
            let fit = move || credential::fitting(&known, &registry, &repository);
            blocking::run(&reference.to_string(), "Matching credentials", Deadline::Short, fit)
                .await
                .map_err(|error| ImageError::Refused(error.to_string()))?
        };
        let request = PullRequest {
            store: self.store.directory().to_owned(),
            reference: reference.to_string(),
            options: PullOptions {
                credentials: fitting
                    .into_iter()
                    .map(|c| Credentials { username: c.username, password: c.password })
                    .collect(),
                mirrors: self.registries.mirrors.clone(),
                plain_http: self.registries.plain_http.clone(),
                connect_timeout: patience,
            },
            group: self.group.clone(),
        };
        let want = Want {
            namespace: namespace.to_owned(),
            registry: registry.to_owned(),
            image: reference.to_string(),
        };
        let mut turn = self.turns.turn(want).await;
        if patience.is_some()
            && let Some(why) = self.absent.lately(registry)
        {
            return Err(ImageError::Unreachable(why));
        }
        let begun = Instant::now();
        let (program, arguments) = &self.registries.pull_command;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let command = WorkerCommand { program, arguments: &arguments };
        let over = turn.over();
        let pulled = tokio::select! {
            pulled = pull_in_child(command, &self.store, &request, None, turn) => pulled,
            () = over => {
                let minutes = TURN_TIME.as_secs() / 60;
                return Err(ImageError::Refused(format!(
                    "failed to pull and unpack image \"{reference}\": it took more than {minutes} \
                     minutes while other pulls waited for their turn"
                )));
            }
        };
        match pulled {
            Ok(image) => Ok(Pulled { image, took: begun.elapsed() }),
            Err(error) if error.is_unreachable() => {
                let why = error.to_string();
                self.absent.note(registry, &why);
                Err(ImageError::Unreachable(why))
            }
            Err(error) => Err(ImageError::Refused(error.to_string())),
        }
    }
}

/// Makes the control group of pulls: their memory is not that of pods, and when it runs out, one of
/// them ends and nothing else.
fn group(config: &AgentConfig) -> std::io::Result<Vec<PathBuf>> {
    let bytes = (config.memory_bytes / GROUP_PART).max(MIN_GROUP_BYTES);
    Hierarchies::detect()?.create_bounded(&pull_group(&config.cgroup_root), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_remembered_of_absent_registries() {
        let absent = Absent::default();
        absent.note("r", &"x".repeat(1 << 20));
        assert_eq!(absent.lately("r").map(|why| why.len()), Some(UNREACHABLE_BYTES));
    }
}
