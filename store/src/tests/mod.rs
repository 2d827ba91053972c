//! Failing disks and power cuts: the store keeps what it acknowledged.
#![allow(clippy::unwrap_used, clippy::panic)]

mod faults;
mod formats;
mod power_cuts;
mod simulated;
mod space;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use crate::store::{Action, Durability, Options, Store, WriteError};
use simulated::Simulated;

const PATH: &str = "/data/state.redb";
/// Small, so that the database takes over often.
const JOURNAL: usize = 28 * 4096;

type Plain = Store<()>;

fn open(files: &Simulated) -> Result<Plain, crate::DiskError> {
    open_with(files, Options::default())
}

fn open_with(files: &Simulated, options: Options) -> Result<Plain, crate::DiskError> {
    Store::open_on(Arc::new(files.clone()), Path::new(PATH), JOURNAL, options, |_, _| Ok(()))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn write(store: &Plain, key: &str, value: Option<&[u8]>) -> Result<(), WriteError<()>> {
    let written = store.write(key, Durability::Durable, |current, _| {
        Ok(match value {
            Some(value) => Action::Put { value: value.to_vec().into(), meta: () },
            None => match current {
                Some(current) => Action::Delete { value: current.value.clone(), meta: () },
                None => Action::Keep,
            },
        })
    });
    wait(written).map(drop)
}

/// The state that each key must hold, and those that it may hold besides.
#[derive(Default)]
struct Model {
    acknowledged: BTreeMap<String, Vec<u8>>,
    /// States of an unknown outcome since the last success.
    unknown: Vec<(String, Option<Vec<u8>>)>,
    revision: u64,
}

impl Model {
    /// Notes how a write ended; whether it succeeded.
    fn note(
        &mut self,
        store: &Plain,
        key: &str,
        value: Option<Vec<u8>>,
        result: &Result<(), WriteError<()>>,
    ) -> bool {
        match result {
            Ok(()) => {
                self.unknown.clear();
                match value {
                    Some(value) => drop(self.acknowledged.insert(key.to_owned(), value)),
                    None => drop(self.acknowledged.remove(key)),
                }
                self.revision = store.revision();
                true
            }
            Err(WriteError::Disk(error)) if error.is_unknown() => {
                self.unknown.push((key.to_owned(), value));
                false
            }
            Err(WriteError::Disk(_)) => false,
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Compares a store with what it must hold, whole values.
    fn check(&self, store: &Plain, context: &str) {
        let mut found: BTreeMap<String, Vec<u8>> = store
            .list("", None, 0)
            .records
            .iter()
            .map(|record| (record.key.to_string(), record.value.to_vec()))
            .collect();
        for (key, value) in &self.acknowledged {
            let found = found.remove(key);
            let may = |found: &Option<Vec<u8>>| {
                self.unknown.iter().any(|(k, state)| k == key && state == found)
            };
            assert!(found.as_ref() == Some(value) || may(&found), "{context}: {key} is altered");
        }
        for (key, value) in found {
            let known = self.unknown.contains(&(key.clone(), Some(value)));
            assert!(known, "{context}: {key} was refused or deleted, and is there");
        }
        assert!(store.revision() > self.revision, "{context}: a revision is given twice");
    }
}

/// Some keys change until one write fails (or all the time, if `stubborn`); then the store closes.
fn load(store: &Plain, model: &mut Model, random: &mut StdRng, writes: usize, stubborn: bool) {
    for _ in 0..writes {
        let key = format!("core.configmaps/default/c{}", random.random_range(0..12));
        let size = [10, 3000, 9000, 300_000][random.random_range(0..16_usize).saturating_sub(12)];
        let value = (random.random_bool(0.8)).then(|| {
            let mut value = vec![0; size];
            random.fill(&mut value[..]);
            value
        });
        let result = write(store, &key, value.as_deref());
        if !model.note(store, &key, value, &result) && !stubborn {
            break;
        }
    }
}

/// Waits until the store has recovered from a failure that is over.
fn recover(store: &Plain) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = wait(store.check()) {
        assert!(Instant::now() < deadline, "the store does not recover: {error}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
