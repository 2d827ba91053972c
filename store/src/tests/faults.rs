//! Failures of single operations, and of all from one on.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::simulated::{Fault, Plan, Simulated};
use super::{JOURNAL, Model, PATH, load, open, recover, wait, write};
use crate::WriteError;
use crate::disk::Disk;
use crate::files::Files;

/// Places that one test tries, spread over all operations.
const PLACES: u64 = 40;

/// Opens the store; a start that fails may be repeated once the failure is over.
fn start(files: &Simulated, context: &str) -> super::Plain {
    match open(files) {
        Ok(store) => store,
        Err(error) => {
            assert!(!error.is_damaged(), "{context}: {error}");
            files.plan(None);
            open(files).unwrap_or_else(|error| panic!("{context}: again: {error}"))
        }
    }
}

/// Runs a store over a failing disk, then compares: after a start in the same mount, and after the
/// next mount.
fn fail(seed: u64, plan: Plan) -> Simulated {
    let context = format!("seed {seed}, {plan:?}");
    let files = Simulated::new();
    files.plan(Some(plan));
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    let store = start(&files, &context);
    load(&store, &mut model, &mut random, 25, true);
    store.close();
    // This start may fail again, or find pages that are not on the disk.
    let store = start(&files, &context);
    model.check(&store, &format!("{context}\n{}", files.log()));
    files.plan(None);
    recover(&store);
    load(&store, &mut model, &mut random, 12, true);
    assert!(model.unknown.is_empty(), "{context}: the last write failed");
    store.close();
    let store = open(&files).unwrap_or_else(|e| panic!("{context}: {e}\n{}", files.log()));
    model.check(&store, &context);
    drop(store);
    let store = open(&files.remounted())
        .unwrap_or_else(|e| panic!("{context}: mounted: {e}\n{}", files.log()));
    model.check(&store, &format!("{context}: mounted again"));
    store.close();
    files
}

fn everywhere(seed: u64, fault: Fault, length: u64) {
    let nothing = Plan { first: 0, last: 0, fault };
    let operations = fail(seed, nothing).operations() * 2 / 3;
    for place in 0..PLACES {
        let first = 1 + place * operations / PLACES;
        fail(seed, Plan { first, last: first.saturating_add(length), fault });
    }
}

#[test]
fn one_failed_operation_loses_nothing() {
    everywhere(11, Fault::Io, 0);
}

#[test]
fn failing_disk_never_applies_refused_writes() {
    everywhere(12, Fault::Io, 30);
    everywhere(13, Fault::Io, u64::MAX);
}

#[test]
fn short_write_loses_nothing() {
    everywhere(14, Fault::Short, 0);
}

#[test]
fn lack_of_space_loses_nothing() {
    everywhere(15, Fault::NoSpace, 0);
    everywhere(16, Fault::NoSpace, 40);
}

#[test]
fn panic_of_writer_is_answered_and_survived() {
    let files = Simulated::new();
    let store = open(&files).unwrap();
    write(&store, "core.configmaps/default/a", Some(b"before")).unwrap();
    // In the journal's write and in its sync; redb ends the process if it panics itself.
    for ahead in [1, 2] {
        let first = files.operations() + ahead;
        files.plan(Some(Plan { first, last: first, fault: Fault::Panic }));
        let error = write(&store, "core.configmaps/default/b", Some(b"lost")).unwrap_err();
        assert!(matches!(&error, WriteError::Disk(error) if error.is_unknown()), "{error}");
        assert!(store.alarms().borrow().disk);
        files.plan(None);
        recover(&store);
        assert!(store.get("core.configmaps/default/b").is_none());
        write(&store, "core.configmaps/default/a", Some(b"after")).unwrap();
    }
    store.close();
    let store = open(&files.remounted()).unwrap();
    assert_eq!(&store.get("core.configmaps/default/a").unwrap().value[..], b"after");
    assert!(store.get("core.configmaps/default/b").is_none());
}

#[test]
fn opening_changes_no_database() {
    for closes in [true, false] {
        let files = Simulated::new();
        let store = open(&files).unwrap();
        load(&store, &mut Model::default(), &mut StdRng::seed_from_u64(7), 25, true);
        if closes {
            store.close();
        }
        drop(store);
        let path = Path::new(PATH);
        let before = files.contents(path).unwrap();
        let mut disk = Disk::open(Arc::new(files.clone()), path, JOURNAL).unwrap();
        assert!(!disk.load().unwrap().0.is_empty());
        drop(disk);
        assert!(files.contents(path).unwrap() == before, "closed: {closes}");
    }
}

#[test]
fn settled_journal_holds_nothing() {
    let files = Simulated::new();
    let store = open(&files).unwrap();
    let key = |i: usize| format!("core.configmaps/a/c{i}");
    for i in 0..20 {
        write(&store, &key(i), Some(format!("{i}").as_bytes())).unwrap();
    }
    for i in 0..5 {
        write(&store, &key(i), None).unwrap();
    }
    wait(store.settle()).unwrap();
    std::mem::forget(store);
    files.remove(Path::new("/data/state.journal")).unwrap();
    let store = open(&files).unwrap();
    let found: BTreeSet<String> =
        store.list("", None, 0).records.iter().map(|r| r.key.to_string()).collect();
    assert_eq!(found, (5..20).map(key).collect());
}
