//! The store's promises: order, durability, watches, conflicts, survival of `kill -9`.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use coracle_store::{
    Action, ChangeKind, Durability, Options, Store, WatchError, WriteError, Written,
};

type Plain = Store<usize>;

fn open(directory: &Path) -> Plain {
    let path = directory.join("state.redb");
    Store::open(&path, Options::default(), |_, bytes| Ok(bytes.len())).unwrap()
}

async fn put(store: &Plain, key: &str, value: &str, durability: Durability) -> u64 {
    let value = value.to_owned();
    let written = store.write(key, durability, |_, _| {
        let meta = value.len();
        Ok::<_, ()>(Action::Put { value: value.into(), meta })
    });
    match written.await.unwrap() {
        Written::Put(record) => record.revision,
        other => panic!("{other:?}"),
    }
}

async fn delete(store: &Plain, key: &str, durability: Durability) {
    let written = store.write(key, durability, |current, _| {
        let current = current.ok_or(())?;
        Ok::<_, ()>(Action::Delete { value: current.value.clone(), meta: current.meta })
    });
    assert!(matches!(written.await.unwrap(), Written::Deleted(_)));
}

fn keys(store: &Plain) -> Vec<String> {
    store.list("", None, 0, |_| true).records.iter().map(|r| r.key.to_string()).collect()
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
                    let add = |current: Option<&std::sync::Arc<coracle_store::Record<usize>>>,
                               _| {
                        let count = current
                            .map_or(0, |r| std::str::from_utf8(&r.value).unwrap().parse().unwrap());
                        let value = (count + 1).to_string();
                        Ok::<_, ()>(Action::Put { value: value.into(), meta: 0 })
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

#[tokio::test]
async fn pages_follow_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for i in 0..5 {
        put(&store, &format!("p/{i}"), "x", Durability::Volatile).await;
    }
    put(&store, "q/0", "x", Durability::Volatile).await;
    let first = store.list("p/", None, 2, |_| true);
    assert_eq!((first.records.len(), first.remaining), (2, 3));
    let rest = store.list("p/", Some("p/1"), 0, |_| true);
    assert_eq!(rest.records.len(), 3);
}

#[tokio::test]
async fn a_closed_store_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.close();
    let refused = store
        .write("a/b", Durability::Durable, |_, _| {
            Ok::<_, ()>(Action::Put { value: "x".into(), meta: 0 })
        })
        .await;
    assert!(matches!(refused, Err(WriteError::Closed)));
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
