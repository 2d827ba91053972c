//! Pulls for pods: in a child process each, one at a time per image, few at a time per registry, so
//! that a registry that hangs holds up nobody but those who want something from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use runtime::image::{Credentials, ImageStore, PullOptions, PullRequest, Reference, pull_in_child};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::blocking::{self, Deadline};
use crate::config::Registries;
use crate::credential::{self, Credential};
use crate::machine::{ImageError, Pulled};

/// Pulls that one registry serves at the same time.
const PULLS_PER_REGISTRY: usize = 3;
/// How long a registry that could not be reached is not asked again for images that are here.
const UNREACHABLE_FOR: Duration = Duration::from_secs(10);
/// Registries whose absence is remembered.
const UNREACHABLE_MAX: usize = 64;

/// Pulls images into a store.
pub struct Puller {
    store: ImageStore,
    registries: Registries,
    turns: Turns,
    absent: Absent,
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
            known.insert(registry.to_owned(), (Instant::now(), why.to_owned()));
        }
    }
}

/// Semaphores by name, for as long as somebody holds or awaits them.
#[derive(Default)]
struct Turns(Mutex<HashMap<String, Weak<Semaphore>>>);

impl Turns {
    fn of(&self, name: &str, permits: usize) -> Arc<Semaphore> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, semaphore| semaphore.strong_count() > 0);
        if let Some(semaphore) = known.get(name).and_then(Weak::upgrade) {
            return semaphore;
        }
        let semaphore = Arc::new(Semaphore::new(permits));
        known.insert(name.to_owned(), Arc::downgrade(&semaphore));
        semaphore
    }
}

impl Puller {
    /// A puller that asks the registries as it is told to.
    pub fn new(store: ImageStore, registries: Registries) -> Self {
        Self { store, registries, turns: Turns::default(), absent: Absent::default() }
    }

    /// Fetches an image. With a `patience` it is here already: the registry has only that long to
    /// accept a connection, and one that did not lately is not asked at all.
    pub async fn pull(
        &self,
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
        };
        // Who comes second finds the layers of the first and asks the registry for the manifest
        // only. Semaphores that are never closed always give a permit.
        let image_turn = self.turns.of(&reference.to_string(), 1);
        let registry_turn = self.turns.of(registry, PULLS_PER_REGISTRY);
        let _image = image_turn.acquire().await;
        let _registry = registry_turn.acquire().await;
        if patience.is_some()
            && let Some(why) = self.absent.lately(registry)
        {
            return Err(ImageError::Unreachable(why));
        }
        let begun = Instant::now();
        let (program, arguments) = &self.registries.pull_command;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let pulled = pull_in_child(program, &arguments, &self.store, &request, &|_| {}).await;
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
