//! Full disks and full stores.

use std::sync::Arc;

use super::simulated::Simulated;
use super::{open, open_with, wait, write};
use crate::{Action, Durability, Exceeded, Options, Store, Weigh, WriteError};

const KIB: u64 = 1 << 10;

#[test]
fn full_disk_refuses_and_recovers() {
    let files = Simulated::new();
    let store = open(&files).unwrap();
    let value = vec![b'v'; 300_000];
    write(&store, "core.configmaps/a/first", Some(&value)).unwrap();
    files.set_full(true);
    let refused = (0..50)
        .find_map(|i| write(&store, &format!("core.configmaps/a/c{i}"), Some(&value)).err())
        .unwrap();
    let WriteError::Disk(error) = refused else { panic!("{refused:?}") };
    assert!(error.is_full() && !error.is_unknown(), "{error}");
    let before = store.list("", None, 0).records.len();
    assert!(store.alarms().borrow().disk);
    files.set_full(false);
    write(&store, "core.configmaps/a/last", Some(&value)).unwrap();
    wait(store.check()).unwrap();
    assert!(!store.alarms().borrow().disk);
    store.close();
    let store = open(&files.remounted()).unwrap();
    assert_eq!(store.list("", None, 0).records.len(), before + 1);
}

#[test]
fn full_disk_does_not_prevent_starts() {
    let files = Simulated::new();
    let store = open(&files).unwrap();
    let value = vec![b'v'; 3000];
    for i in 0..10 {
        write(&store, &format!("core.configmaps/a/c{i}"), Some(&value)).unwrap();
    }
    files.set_full(true);
    let large = vec![b'v'; 200_000];
    while write(&store, "core.configmaps/a/large", Some(&large)).is_ok() {
        write(&store, &format!("core.configmaps/a/{}", store.revision()), Some(&large)).ok();
    }
    let before: Vec<_> = store.list("", None, 0).records;
    let mut revision = store.revision();
    std::mem::forget(store);
    for _ in 0..5 {
        let store = open(&files).unwrap();
        let found: Vec<_> = store.list("", None, 0).records;
        assert_eq!(found.len(), before.len());
        for (found, before) in found.iter().zip(&before) {
            assert_eq!((&found.key, &found.value), (&before.key, &before.value));
        }
        assert!(store.revision() > revision);
        revision = store.revision();
        std::mem::forget(store);
    }
    files.set_full(false);
    let store = open(&files).unwrap();
    write(&store, "core.configmaps/a/last", Some(&value)).unwrap();
}

fn put(store: &Store<()>, key: &str, bytes: u64, durability: Durability) -> Result<(), Exceeded> {
    let value = vec![0; bytes as usize];
    let decide = |_: Option<&Arc<_>>, _| Ok::<_, ()>(Action::Put { value: value.into(), meta: () });
    match wait(store.write(key, durability, decide)) {
        Ok(_) => Ok(()),
        Err(WriteError::Exceeded(exceeded)) => Err(exceeded),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn full_store_refuses_growth_and_takes_deletions() {
    let files = Simulated::new();
    let options = Options { max_bytes: 1000 * KIB, ..Options::default() };
    let store = open_with(&files, options.clone()).unwrap();
    let durable = Durability::Durable;
    let fill = |share: &str| {
        (0..).find_map(|i| {
            put(&store, &format!("core.configmaps/{share}/c{i}"), 40 * KIB, durable).err()
        })
    };
    let alarms = store.alarms();
    let share = Exceeded::Share { share: "a".into() };
    assert_eq!(fill("a"), Some(share));
    assert!(!alarms.borrow().space);
    // One namespace leaves room for the others.
    assert_eq!(fill("b"), Some(Exceeded::Share { share: "b".into() }));
    assert!(alarms.borrow().space);
    assert_eq!(fill("c"), Some(Exceeded::Store));
    let (used, max) = store.usage();
    assert!(used > 900 * KIB && used <= max);
    // Statuses and small changes go on, within bounds, and so does everything that shrinks.
    put(&store, "core.configmaps/b/c0", 41 * KIB, durable).unwrap();
    put(&store, "core.events/b/e", 20 * KIB, Durability::Volatile).unwrap();
    put(&store, "core.configmaps/a/c0", KIB, durable).unwrap();
    assert!(put(&store, "core.events/b/e", 400 * KIB, Durability::Volatile).is_err());
    for i in 0..12 {
        write(&store, &format!("core.configmaps/a/c{i}"), None).unwrap();
    }
    assert!(!alarms.borrow().space);
    put(&store, "core.configmaps/c/again", 40 * KIB, durable).unwrap();
    let (used, _) = store.usage();
    store.close();
    // What was only in memory is gone.
    let again = open_with(&files, options).unwrap();
    assert!(again.usage().0 <= used && again.usage().0 > used - 21 * KIB);
}

/// As many bytes as its value says are kept elsewhere.
struct Kept(u64);

impl Weigh for Kept {
    fn kept_bytes(&self) -> u64 {
        self.0
    }
}

impl Kept {
    fn of(value: &[u8]) -> Self {
        Self(std::str::from_utf8(value).unwrap().parse().unwrap())
    }
}

#[test]
fn memory_kept_elsewhere_counts() {
    let files = Simulated::new();
    let open = || {
        let options = Options { max_bytes: 1000 * KIB, ..Options::default() };
        let path = std::path::Path::new(super::PATH);
        let derive = |_: &str, value: &[u8]| Ok(Kept::of(value));
        Store::open_on(Arc::new(files.clone()), path, super::JOURNAL, options, derive).unwrap()
    };
    let put = |store: &Store<Kept>, key: &str, kept: u64| {
        let value = kept.to_string().into_bytes();
        let decide = |_: Option<&Arc<_>>, _| {
            Ok::<_, ()>(Action::Put { meta: Kept::of(&value), value: value.clone().into() })
        };
        wait(store.write(key, Durability::Durable, decide)).map(drop)
    };
    let store = open();
    put(&store, "core.pods/a/p0", 300 * KIB).unwrap();
    let refused = put(&store, "core.pods/a/p1", 300 * KIB);
    assert!(matches!(refused, Err(WriteError::Exceeded(Exceeded::Share { .. }))));
    put(&store, "core.pods/b/p1", 300 * KIB).unwrap();
    let used = store.usage().0;
    assert!((600 * KIB..602 * KIB).contains(&used), "{used}");
    store.close();
    // What was counted is counted again after a restart, and given back.
    let store = open();
    assert_eq!(store.usage().0, used);
    put(&store, "core.pods/a/p0", 0).unwrap();
    put(&store, "core.pods/b/p1", 0).unwrap();
    assert!(store.usage().0 < 2 * KIB);
}

#[test]
fn refused_writes_take_no_space() {
    let files = Simulated::new();
    let store = open(&files).unwrap();
    write(&store, "core.configmaps/a/first", Some(&[0; 100])).unwrap();
    let (before, _) = store.usage();
    files.set_full(true);
    let value = vec![0; 300_000];
    let refused = (0..50).map(|_| write(&store, "core.configmaps/a/b", Some(&value)));
    assert!(refused.filter(Result::is_err).count() > 0);
    let found = store.get("core.configmaps/a/b").map_or(0, |_| 300_000 + 256 + 2 * 19);
    assert_eq!(store.usage().0, before + found);
}

#[test]
fn forgotten_history_ends_only_older_watches() {
    let store = open(&Simulated::new()).unwrap();
    for number in 0..10 {
        write(&store, &format!("maps/{number}"), Some(b"value")).unwrap();
    }
    let half = store.get("maps/4").unwrap().revision;
    store.forget_history_until(half);
    let poll = |revision| store.watch("maps/", revision).and_then(|mut watch| watch.poll());
    assert!(poll(half - 1).is_err());
    let later = poll(half).unwrap();
    let keys: Vec<&str> = later.changes.iter().map(|change| &*change.record.key).collect();
    assert_eq!(keys, ["maps/5", "maps/6", "maps/7", "maps/8", "maps/9"]);
}
