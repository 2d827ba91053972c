//! What the journal keeps, loses and refuses.

#![allow(clippy::unwrap_used)]
use bytes::Bytes;

use super::*;
use crate::files::SystemFiles;

fn reopened(directory: &tempfile::TempDir) -> Journal {
    let path = directory.path().join("state.journal");
    Journal::open(&SystemFiles, &path).unwrap()
}

const GENERATION: u64 = 7;

fn journal(directory: &tempfile::TempDir) -> Journal {
    let path = directory.path().join("state.journal");
    let mut journal = Journal::create(&SystemFiles, &path, JOURNAL_BYTES).unwrap();
    journal.restart(GENERATION);
    journal
}

fn put(journal: &mut Journal, key: &str, revision: Revision, value: &Bytes) -> bool {
    let write = Write { key, record: Some((revision, value)) };
    journal.append(&[write], Some(revision + 100), Room::Usual).unwrap()
}

fn keys(journal: &mut Journal, generation: u64) -> Vec<String> {
    match journal.read(generation).unwrap() {
        Contents::Batches(batches) => {
            batches.into_iter().flat_map(|b| b.entries).map(|(key, _)| key).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_appended_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = journal(&directory);
    let value = Bytes::from(vec![b'v'; 5000]);
    let writes = [
        Write { key: "a/1", record: Some((3, &value)) },
        Write { key: "a/ü", record: None },
        Write { key: "", record: Some((4, &Bytes::new())) },
    ];
    assert!(journal.append(&writes, None, Room::Usual).unwrap());
    assert!(put(&mut journal, "b/2", 9, &value));
    assert!(journal.append(&[], Some(77), Room::Usual).unwrap());
    drop(journal);
    let mut journal = reopened(&directory);
    let Contents::Batches(batches) = journal.read(GENERATION).unwrap() else { panic!("a gap") };
    assert_eq!(batches.len(), 3);
    assert_eq!(
        batches[0].entries,
        [
            ("a/1".to_owned(), Some((3, value.clone()))),
            ("a/ü".to_owned(), None),
            (String::new(), Some((4, Bytes::new()))),
        ]
    );
    assert_eq!(batches.iter().map(|b| b.ceiling).collect::<Vec<_>>(), [None, Some(109), Some(77)]);
}

#[test]
fn another_generation_is_void() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = journal(&directory);
    let value = Bytes::from_static(b"v");
    for revision in 1..6 {
        assert!(put(&mut journal, "old", revision, &value));
    }
    journal.restart(GENERATION + 1);
    assert!(put(&mut journal, "new", 6, &value));
    assert_eq!(keys(&mut journal, GENERATION + 1), ["new"]);
}

#[test]
fn a_torn_end_is_no_batch_and_a_torn_middle_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let value = Bytes::from(vec![b'v'; 6000]);
    for (torn, expected) in [(2, Some(vec!["k0", "k1"])), (1, None), (0, None)] {
        // Each batch takes two blocks; what is torn is the second.
        let mut journal = journal(&directory);
        for index in 0..3 {
            assert!(put(&mut journal, &format!("k{index}"), index + 1, &value));
        }
        journal.file.write_at((2 * torn + 2) * BLOCK_BYTES as u64, &[0; 100]).unwrap();
        match (journal.read(GENERATION).unwrap(), expected) {
            (Contents::Batches(_), Some(expected)) => {
                assert_eq!(keys(&mut journal, GENERATION), expected);
            }
            (Contents::Gap(_), None) => {}
            (Contents::TooNew(_), _) => panic!("{torn}: the format is unknown"),
            (Contents::Batches(_), None) => panic!("{torn}: what was durable is missed"),
            (Contents::Gap(_), Some(_)) => panic!("{torn}: what was never durable is missed"),
        }
    }
}

#[test]
fn there_is_an_end_to_its_room() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = journal(&directory);
    let (small, large) = (Bytes::from(vec![0; 100_000]), Bytes::from(vec![0; BATCH_MAX_BYTES]));
    assert!(!put(&mut journal, "large", 1, &large));
    let fitting = (1..).take_while(|revision| put(&mut journal, "k", *revision, &small)).count();
    let usual = JOURNAL_BYTES - BLOCK_BYTES - LAST_BYTES;
    assert_eq!(fitting, usual / 100_000_usize.next_multiple_of(BLOCK_BYTES));
    assert_eq!(keys(&mut journal, GENERATION).len(), fitting);
    let length = std::fs::metadata(directory.path().join("state.journal")).unwrap().len();
    assert_eq!(length, JOURNAL_BYTES as u64);
}
