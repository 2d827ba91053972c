//! `coracle state`: the stored objects of a node that does not run, by key, even those that keep it
//! from starting.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};

use runtime::printable::printable;
use serde_json::{Value, json};
use store::Offline;

use crate::Failure;
use crate::cli::{DirOptions, KeyOptions, PrefixOptions, RemoveKeysOptions};
use crate::paths::Paths;

/// Opens the store while no node runs, for as long as the lock is held.
fn open(options: &DirOptions) -> Result<(impl Sized, Offline), Failure> {
    let paths = Paths::new(options);
    let lock = paths.take_lock()?;
    crate::restore::finish(&paths)?;
    Ok((lock, Offline::open(&paths.store())?))
}

/// Prints the keys that begin with a prefix, with the sizes of their objects.
pub fn list(options: &PrefixOptions) -> Result<(), Failure> {
    let (_lock, store) = open(&options.dirs)?;
    let mut out = io::stdout().lock();
    for record in store.records().iter().filter(|r| r.key.starts_with(&options.prefix)) {
        writeln!(out, "{:>9}  {}", record.value.len(), printable(&record.key))?;
    }
    Ok(())
}

/// Prints one object as it is stored.
pub fn get(options: &KeyOptions) -> Result<(), Failure> {
    let (_lock, store) = open(&options.dirs)?;
    let found = store.records().iter().find(|record| record.key == options.key);
    let record = found.ok_or_else(|| format!("{}: no such key", options.key))?;
    let mut out = io::stdout().lock();
    match out.is_terminal() {
        true => out.write_all(printable(&String::from_utf8_lossy(&record.value)).as_bytes())?,
        false => out.write_all(&record.value)?,
    }
    writeln!(out)?;
    Ok(())
}

/// Bucket and empty namespace of the keys of Namespaces.
const NAMESPACES: &str = "core.namespaces//";

/// Removes objects; none if one of the keys is not there, or if it is a Namespace that would leave its
/// objects behind.
pub fn remove(options: &RemoveKeysOptions) -> Result<(), Failure> {
    let (_lock, store) = open(&options.keys.dirs)?;
    let stored: BTreeSet<&String> = store.records().iter().map(|record| &record.key).collect();
    let mut removed: BTreeSet<String> = options.keys.keys.iter().cloned().collect();
    if let Some(missing) = removed.iter().find(|key| !stored.contains(key)) {
        return Err(format!("{missing}: no such key; nothing was removed").into());
    }
    let inside =
        stored.into_iter().filter(|key| is_inside(key, &removed) && !removed.contains(*key));
    let inside: Vec<String> = inside.cloned().collect();
    if let Some(first) = inside.first().filter(|_| !options.recursive) {
        let said = "is in a Namespace that would be removed: use --recursive; nothing was removed";
        return Err(format!("{first} {said}").into());
    }
    removed.extend(inside);
    let removed: Vec<String> = removed.into_iter().collect();
    store.remove(&removed)?;
    removed.iter().for_each(|key| println!("{} removed", printable(key)));
    Ok(())
}

/// Returns whether the object of this key is in one of the Namespaces among `keys`.
fn is_inside(key: &str, keys: &BTreeSet<String>) -> bool {
    let namespace = key.split('/').nth(1).unwrap_or_default();
    !namespace.is_empty() && keys.contains(&format!("{NAMESPACES}{namespace}"))
}

/// Prints the objects whose keys begin with a prefix as a List that `kubectl create` takes.
pub fn export(options: &PrefixOptions) -> Result<(), Failure> {
    let (_lock, store) = open(&options.dirs)?;
    let mut items: Vec<Value> = Vec::new();
    for record in store.records().iter().filter(|r| r.key.starts_with(&options.prefix)) {
        match serde_json::from_slice::<Value>(&record.value) {
            Ok(mut object) => {
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove("resourceVersion");
                    metadata.remove("managedFields");
                }
                items.push(object);
            }
            Err(error) => eprintln!("left out: {}: {error}", printable(&record.key)),
        }
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &list)?;
    writeln!(out)?;
    Ok(())
}
