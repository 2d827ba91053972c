//! The store's promises: order, durability, watches, conflicts, survival of `kill -9`.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use coracle_store::{
    Action, ChangeKind, Durability, Options, Store, WatchError, WriteError, Written,
};

type Plain = Store<()>;

fn open(directory: &Path) -> Plain {
    let path = directory.join("state.redb");
    Store::open(&path, Options::default(), |_, _| Ok(())).unwrap()
}

async fn put(store: &Plain, key: &str, value: &str, durability: Durability) -> u64 {
    let value = value.to_owned();
    let written = store
        .write(key, durability, |_, _| Ok::<_, ()>(Action::Put { value: value.into(), meta: () }));
    match written.await.unwrap() {
        Written::Put(record) => record.revision,
        other => panic!("{other:?}"),
    }
}

async fn delete(store: &Plain, key: &str, durability: Durability) {
    let written = store.write(key, durability, |current, _| {
        let current = current.ok_or(())?;
        Ok::<_, ()>(Action::Delete { value: current.value.clone(), meta: () })
    });
    assert!(matches!(written.await.unwrap(), Written::Deleted(_)));
}

fn keys(store: &Plain) -> Vec<String> {
    store.list("", None, 0).records.iter().map(|r| r.key.to_string()).collect()
}

#[tokio::test]
async fn every_durability_but_volatile_survives_a_close() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, "a/durable", "1", Durability::Durable).await;
    put(&store, "a/gone", "1", Durability::Durable).await;
    put(&store, "a/lazy", "1", Durability::Lazy).await;
    delete(&store, "a/gone", Durability::Lazy).await;
    let last = put(&store, "a/volatile", "1", Durability::Volatile).await;
    assert_eq!(keys(&store), ["a/durable", "a/lazy", "a/volatile"]);
    store.close();
    let store = open(directory.path());
    assert_eq!(keys(&store), ["a/durable", "a/lazy"]);
    assert!(store.revision() > last);
    assert!(put(&store, "a/new", "1", Durability::Durable).await > last);
}

#[tokio::test]
async fn a_decision_sees_the_newest_accepted_state() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    let add = |current: Option<&std::sync::Arc<coracle_store::Record<()>>>, _| {
                        let count = current
                            .map_or(0, |r| std::str::from_utf8(&r.value).unwrap().parse().unwrap());
                        let value = (count + 1).to_string();
                        Ok::<_, ()>(Action::Put { value: value.into(), meta: () })
                    };
                    store.write("n/counter", Durability::Durable, add).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(&store.get("n/counter").unwrap().value[..], b"400");
    let refused = store.write("n/counter", Durability::Durable, |_, _| Err("no")).await;
    assert!(matches!(refused, Err(WriteError::Rejected("no"))));
}

#[tokio::test]
async fn watches_see_every_change_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, "w/before", "1", Durability::Durable).await;
    let mut watch = store.watch("w/", 0).unwrap();
    let writers: Vec<_> = [Durability::Durable, Durability::Lazy, Durability::Volatile]
        .into_iter()
        .enumerate()
        .map(|(writer, durability)| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..100 {
                    put(&store, &format!("w/{writer}-{i}"), "x", durability).await;
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    while seen.len() < 300 {
        watch.changed().await;
        let batch = watch.poll().unwrap();
        seen.extend(batch.changes.iter().map(|c| c.record.revision));
    }
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(watch.poll().unwrap().changes.is_empty());
    delete(&store, "w/before", Durability::Durable).await;
    let batch = watch.poll().unwrap();
    assert_eq!(batch.changes[0].kind, ChangeKind::Deleted);
    assert!(batch.changes[0].previous.is_some());
}

#[tokio::test]
async fn slow_watch_takes_changes_in_parts() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut watch = store.watch("p/", 0).unwrap();
    let mut written = Vec::new();
    for i in 0..7 {
        put(&store, "other/x", "y", Durability::Volatile).await;
        written.push(put(&store, &format!("p/{i}"), "0123456789", Durability::Volatile).await);
    }
    let mut seen = Vec::new();
    for (changes, is_complete) in [(3, false), (3, false), (1, true), (0, true)] {
        let batch = watch.poll_at_most(25).unwrap();
        assert_eq!((batch.changes.len(), batch.is_complete), (changes, is_complete));
        seen.extend(batch.changes.iter().map(|change| change.record.revision));
        if !is_complete {
            assert_eq!(Some(&batch.revision), seen.last());
        }
    }
    assert_eq!(seen, written);
}

#[tokio::test]
async fn history_is_bounded_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = put(&store, "h/a", "1", Durability::Volatile).await;
    let mut slow = store.watch("h/", first).unwrap();
    for i in 0..5000 {
        put(&store, "h/b", &i.to_string(), Durability::Volatile).await;
    }
    assert_eq!(slow.poll().err(), Some(WatchError::TooOld(first)));
    assert_eq!(store.watch("h/", first).err(), Some(WatchError::TooOld(first)));
    let ahead = store.revision() + 1;
    assert!(matches!(store.watch("h/", ahead), Err(WatchError::Future { .. })));
    store.close();
    let store = open(directory.path());
    assert_eq!(store.watch("h/", first).err(), Some(WatchError::TooOld(first)));
}

/// One change may be larger than all that is remembered of a bucket, and those of ten buckets larger
/// than all that is remembered: watches that keep up see each of them.
#[tokio::test]
async fn largest_changes_reach_watches() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let keys: Vec<String> = (0..10).map(|bucket| format!("b{bucket}/x")).collect();
    let mut watches: Vec<_> =
        (0..10).map(|bucket| store.watch(&format!("b{bucket}/"), 0).unwrap()).collect();
    for round in 0..3 {
        for (key, watch) in keys.iter().zip(&mut watches) {
            let value = format!("{round}").repeat(3 << 20);
            put(&store, key, &value, Durability::Volatile).await;
            let batch = watch.poll().unwrap();
            assert_eq!(batch.changes.len(), 1, "{key}");
            assert_eq!(batch.changes[0].record.value, value.as_bytes());
        }
    }
}

#[tokio::test]
async fn pages_follow_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for i in 0..5 {
        put(&store, &format!("p/{i}"), "x", Durability::Volatile).await;
    }
    put(&store, "q/0", "x", Durability::Volatile).await;
    let first = store.list("p/", None, 2);
    assert_eq!((first.records.len(), first.more, first.count), (2, true, 5));
    let rest = store.list("p/", Some("p/1"), 3);
    assert_eq!((rest.records.len(), rest.more), (3, false));
    let ends = |wanted: &'static str, limit| {
        let page = store.select("p/", Some("p/0"), limit, move |r| r.key.ends_with(wanted));
        (page.records.len(), page.more)
    };
    assert_eq!((ends("3", 1), ends("0", 1), ends("", 3)), ((1, false), (0, false), (3, true)));
    delete(&store, "p/4", Durability::Volatile).await;
    put(&store, "p/3", "y", Durability::Volatile).await;
    assert_eq!((store.count("p/"), store.count("q/"), store.count("r/")), (4, 1, 0));
    drop(store);
    // Volatile records are gone, and not counted any more.
    assert_eq!(open(directory.path()).count("p/"), 0);
}

#[tokio::test]
async fn selection_goes_on_behind_what_it_leaves_out() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for i in 0..3000 {
        put(&store, &format!("p/{i:04}"), "x", Durability::Volatile).await;
    }
    let select = |after, limit, from: &'static str| {
        let page = store.select("p/", after, limit, move |record| &*record.key >= from);
        let keys: Vec<String> = page.records.iter().map(|record| record.key.to_string()).collect();
        (keys, page.more, page.count)
    };
    let keys = |keys: &[&str]| keys.iter().map(|key| format!("p/{key}")).collect::<Vec<_>>();
    assert_eq!(select(None, 2, "p/2997"), (keys(&["2997", "2998"]), true, 3000));
    assert_eq!(select(None, 3, "p/2997"), (keys(&["2997", "2998", "2999"]), false, 3000));
    assert_eq!(select(Some("p/2998"), 3, "p/1"), (keys(&["2999"]), false, 3000));
    assert_eq!(select(None, 0, "p/1000").0.len(), 2000);
    assert_eq!(select(None, 1500, "p/").0.len(), 1500);
    assert_eq!(select(None, 1, "q"), (Vec::new(), false, 3000));
}

#[tokio::test]
async fn a_closed_store_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.close();
    let refused = store
        .write("a/b", Durability::Durable, |_, _| {
            Ok::<_, ()>(Action::Put { value: "x".into(), meta: () })
        })
        .await;
    assert!(matches!(refused, Err(WriteError::Closed)));
}

/// What a crash at this moment would leave of the store in `directory`.
fn crashed(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["state.redb", "state.journal"] {
        std::fs::copy(directory.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_crash_at_any_commit_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    // Some go to the journal, some fill it up, some are too large for it.
    let value = |i: usize| ["x", &"y".repeat(90_000), &"z".repeat(400_000)][i % 3].to_owned();
    let mut last = 0;
    for i in 0..60 {
        put(&store, &format!("c/{}", i % 40), &value(i), Durability::Durable).await;
        put(&store, "c/again", &i.to_string(), Durability::Lazy).await;
        if i % 7 == 6 {
            delete(&store, &format!("c/{}", (i - 3) % 40), Durability::Durable).await;
        }
        last = put(&store, "c/last", &i.to_string(), Durability::Durable).await;
        if i % 10 == 9 {
            let copy = crashed(directory.path());
            let survivor = open(copy.path());
            assert_eq!(keys(&survivor), keys(&store));
            for key in keys(&store) {
                let (left, right) = (survivor.get(&key).unwrap(), store.get(&key).unwrap());
                assert_eq!((left.revision, &left.value), (right.revision, &right.value), "{key}");
            }
            assert!(survivor.revision() > last);
            // What was replayed survives the next crash, too.
            put(&survivor, "c/after", "x", Durability::Durable).await;
            let copy = crashed(copy.path());
            let again = open(copy.path());
            assert!(again.get("c/after").is_some());
            assert_eq!(keys(&again), keys(&survivor));
        }
    }
    store.close();
    assert!(open(directory.path()).revision() > last);
}

#[tokio::test]
async fn a_backup_of_the_database_is_not_mixed_with_a_newer_journal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let store = open(directory.path());
    put(&store, "b/old", "1", Durability::Durable).await;
    store.close();
    // After an orderly end the database has everything.
    let backup = std::fs::read(&path).unwrap();
    let store = open(directory.path());
    put(&store, "b/new", "1", Durability::Durable).await;
    delete(&store, "b/old", Durability::Durable).await;
    let copy = crashed(directory.path());
    std::fs::write(copy.path().join("state.redb"), backup).unwrap();
    assert_eq!(keys(&open(copy.path())), ["b/old"]);
    assert_eq!(keys(&store), ["b/new"]);
}

#[tokio::test]
async fn a_journal_that_lost_a_commit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for i in 0..3 {
        put(&store, &format!("d/{i}"), "x", Durability::Durable).await;
    }
    let damaged = |at: u64| {
        let copy = crashed(directory.path());
        let journal = std::fs::OpenOptions::new()
            .write(true)
            .open(copy.path().join("state.journal"))
            .unwrap();
        journal.write_all_at(b"?", at).unwrap();
        let path = copy.path().join("state.redb");
        Plain::open(&path, Options::default(), |_, _| Ok(()))
    };
    // The first block is the header. Of three commits of one block each, the second cannot be missing, but the last can: a crash
    // while it was written looks the same.
    assert!(damaged(2 * 4096 + 50).err().unwrap().is_damaged());
    assert_eq!(keys(&damaged(3 * 4096 + 50).unwrap()), ["d/0", "d/1"]);
}

const CHILD: &str = "CORACLE_STORE_TEST_DIRECTORY";

/// Not a test of its own: the process that the next test kills. It prints each acknowledged write.
#[tokio::test]
async fn child_that_writes_until_killed() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&directory));
    for i in 0.. {
        put(&store, &format!("k/lazy-{i}"), "x", Durability::Lazy).await;
        let revision = put(&store, &format!("k/{i}"), "x", Durability::Durable).await;
        println!("\nacknowledged {i} {revision}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_that_writes_until_killed", "--exact", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        for line in lines.map_while(Result::ok) {
            if let Some(rest) = line.strip_prefix("acknowledged ") {
                let (index, revision) = rest.split_once(' ').unwrap();
                acknowledged.push(index.to_owned());
                let revision: u64 = revision.parse().unwrap();
                assert!(revision > last, "a revision was given twice in round {round}");
                last = revision;
            }
            if acknowledged.len() == 50 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = open(directory.path());
        for index in &acknowledged {
            assert!(store.get(&format!("k/{index}")).is_some(), "{index} is lost");
            // A durable write takes the lazy ones before it along.
            assert!(store.get(&format!("k/lazy-{index}")).is_some());
        }
        assert!(store.revision() > last);
        store.close();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
}
