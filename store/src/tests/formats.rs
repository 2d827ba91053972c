//! Files of earlier and later versions.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::simulated::Simulated;
use super::{PATH, open, write};
use crate::DiskError;

fn unpacked(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name);
    let file = std::fs::File::open(path).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

fn value(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| ((seed * 31 + at) % 251) as u8).collect()
}

/// Returns what the generator of the files had acknowledged: the database holds 40 objects, the
/// journal replaces ten of them, adds ten and removes five.
fn expected() -> BTreeMap<String, Vec<u8>> {
    let name = |number: usize| format!("core.configmaps/default/c{number}");
    let old = (5..30).map(|i| (name(i), value(i, 10 + i * 97)));
    let new = (30..50).map(|i| (name(i), value(i + 1000, 10 + i * 97)));
    old.chain(new).collect()
}

#[test]
fn every_earlier_format_is_read() {
    let files = Simulated::new();
    files.put(Path::new(PATH), unpacked("0/state.redb.gz"));
    files.put(Path::new("/data/state.journal"), unpacked("0/state.journal.gz"));
    for round in 0..3 {
        let store = open(&files).unwrap();
        let found: BTreeMap<String, Vec<u8>> = store
            .list("core.", None, 0)
            .records
            .iter()
            .map(|record| (record.key.to_string(), record.value.to_vec()))
            .collect();
        let differs = |(key, value): (&String, &Vec<u8>)| expected().get(key) != Some(value);
        let different: Vec<_> = found.iter().filter(|pair| differs(*pair)).map(|p| p.0).collect();
        assert!(found == expected(), "round {round}: {different:?} of {}", found.len());
        write(&store, "other/default/x", Some(b"x")).unwrap();
        // Without an orderly end the next start replays the journal of the new format.
        if round == 2 {
            store.close();
        }
    }
}

#[test]
fn newer_formats_are_refused_as_such() {
    let files = Simulated::new();
    let store = open(&files).unwrap();
    write(&store, "core.configmaps/default/a", Some(b"a")).unwrap();
    let journal = Path::new("/data/state.journal");
    let newer = files.remounted();
    let mut bytes = files.contents(journal).unwrap();
    bytes[..4096].copy_from_slice(&crate::journal::file_header(7));
    newer.put(journal, bytes);
    let error = open(&newer).err().unwrap();
    assert!(matches!(error, DiskError::TooNew { found: 7, known: 1, .. }), "{error}");
    assert!(!error.is_damaged());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let open_real = || crate::Store::<()>::open(&path, crate::Options::default(), |_, _| Ok(()));
    open_real().unwrap().close();
    let database = redb::Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    let counters = redb::TableDefinition::<&str, u64>::new("counters");
    txn.open_table(counters).unwrap().insert("format", 9).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = open_real().err().unwrap();
    assert!(matches!(error, DiskError::TooNew { found: 9, known: 1, .. }), "{error}");
    assert!(error.to_string().ends_with("has format 9, this version reads up to 1"), "{error}");
    // Nothing was converted.
    assert!(matches!(open_real().err().unwrap(), DiskError::TooNew { found: 9, .. }));
}

#[test]
fn interrupted_creation_by_earlier_version_is_repeated() {
    let files = Simulated::new();
    files.put(Path::new(PATH), vec![0; 73_728]);
    let store = open(&files).unwrap();
    write(&store, "core.configmaps/default/a", Some(b"a")).unwrap();
    store.close();
    // With commits in the journal the same file is damage.
    let mut journal = unpacked("0/state.journal.gz");
    journal.truncate(2 << 20);
    files.put(Path::new(PATH), vec![0; 73_728]);
    files.put(Path::new("/data/state.journal"), journal);
    assert!(open(&files).err().unwrap().is_damaged());
}
