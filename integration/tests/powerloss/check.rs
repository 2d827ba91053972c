//! Starts the store on an image, as a node does, and compares every object.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use store::{Action, Durability, Options, Store, Written};

use crate::ledger::{Entries, Found, violations};
use crate::recording::Position;

/// The beginning of the keys under which the store of the product keeps the workload's objects.
const PREFIX: &str = "core.configmaps/default/";
/// A key of the check's own.
const PROBE: &str = "core.configmaps/default/kube-root-ca.crt";

/// Returns the violations in the store of a data directory, for a cut after `cut` events. The store
/// is opened twice, with a write in between: the first start must leave a whole store, too.
pub fn store(data: &Path, entries: &Entries, cut: Position) -> Vec<String> {
    let path = data.join("state.redb");
    let mut wrong = Vec::new();
    let mut probe = None;
    for start in ["first", "second"] {
        // A panic counts as an error.
        let opened = catch_unwind(AssertUnwindSafe(|| open(&path)));
        let store = match opened {
            Ok(Ok(store)) => store,
            Ok(Err(error)) => {
                wrong.push(format!("{start} start: {error} (damaged: {})", error.is_damaged()));
                return wrong;
            }
            Err(_) => {
                wrong.push(format!("{start} start: the store panicked"));
                return wrong;
            }
        };
        let found = objects(&store);
        let said = violations(entries, &found, store.revision(), cut);
        wrong.extend(said.into_iter().map(|text| format!("{start} start: {text}")));
        if let Some(expected) = probe
            && store.get(PROBE).map(|record| record.revision) != Some(expected)
        {
            wrong.push(format!("{start} start: a write of the first one is lost"));
        }
        match write(&store) {
            Ok(revision) => probe = Some(revision),
            Err(error) => wrong.push(format!("{start} start: no write succeeds: {error}")),
        }
        store.close();
        if !wrong.is_empty() {
            return wrong;
        }
    }
    wrong
}

fn open(path: &Path) -> Result<Store<()>, store::DiskError> {
    Store::open(path, Options::default(), |_, bytes| {
        serde_json::from_slice::<Value>(bytes).map(drop).map_err(|error| error.to_string())
    })
}

fn objects(store: &Store<()>) -> BTreeMap<String, Found> {
    let records = store.list(PREFIX, None, 0).records;
    let named = records.iter().filter_map(|record| {
        let value: Value = serde_json::from_slice(&record.value).unwrap();
        let found = Found { contents: contents(&value), revision: record.revision };
        Some((record.key.strip_prefix(PREFIX)?.to_owned(), found))
    });
    named.filter(|(name, _)| is_ours(name)).collect()
}

fn write(store: &Store<()>) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let value = br#"{"data":{}}"#.as_slice().into();
    let write = store.write(PROBE, Durability::Durable, |_, _| {
        Ok::<_, std::convert::Infallible>(Action::Put { value, meta: () })
    });
    match runtime.block_on(write) {
        Ok(Written::Put(record)) => Ok(record.revision),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns whether an object is one of the workload's.
pub fn is_ours(name: &str) -> bool {
    name.starts_with("load-")
}

/// The contents of an object of the workload.
pub fn contents(object: &Value) -> Arc<str> {
    match &object["data"]["value"] {
        Value::String(text) => text.as_str().into(),
        other => format!("not a text: {other}").into(),
    }
}
