//! A store that no node uses: for backups and repairs, whatever its records hold.

use std::path::Path;
use std::sync::Arc;

use crate::archive::Stored;
use crate::disk::{Disk, DiskError, RESERVE_REVISIONS, Write};
use crate::files::SystemFiles;
use crate::journal::JOURNAL_BYTES;
use crate::record::Revision;

/// Distance from the revisions of the copy to those of a restored store: more than a node can have
/// given out since, so that no client sees one twice.
const RESTORE_REVISIONS: Revision = 1_000_000_000;

/// The open files; closed when dropped.
pub struct Offline {
    disk: Disk,
    revision: Revision,
    records: Vec<Stored>,
}

impl Offline {
    /// Opens the files at `path`, which must exist.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        if !path.exists() {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(DiskError::open(path)(missing.into()));
        }
        let mut disk = Disk::open(Arc::new(SystemFiles), path, JOURNAL_BYTES)?;
        let (loaded, ceiling) = disk.load()?;
        let mut records: Vec<Stored> = loaded
            .into_iter()
            .map(|l| Stored { key: l.key, revision: l.revision, value: l.value })
            .collect();
        records.sort_by(|a, b| a.key.cmp(&b.key));
        let newest = records.iter().map(|r| r.revision).max().unwrap_or(0);
        Ok(Self { disk, revision: ceiling.max(newest), records })
    }

    /// Creates a store at `path` that holds a copy.
    pub fn create(path: &Path, revision: Revision, records: &[Stored]) -> Result<(), DiskError> {
        let mut disk = Disk::open(Arc::new(SystemFiles), path, JOURNAL_BYTES)?;
        disk.load()?;
        let writes: Vec<Write<'_>> = records.iter().map(as_write).collect();
        let everything = |visit: &mut crate::disk::Visit<'_>| {
            records.iter().try_for_each(|record| visit(as_write(record)))
        };
        disk.begin(revision.saturating_add(RESTORE_REVISIONS), &everything)?;
        for writes in writes.chunks(1000) {
            disk.settle(writes, None, &everything)?;
        }
        disk.close(&everything)
    }

    /// First revision that no run has given out.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// All records, in the order of their keys.
    pub fn records(&self) -> &[Stored] {
        &self.records
    }

    /// Removes records and closes the store; nothing is removed if it fails.
    pub fn remove(mut self, keys: &[String]) -> Result<(), DiskError> {
        self.records.retain(|record| !keys.contains(&record.key));
        let records = &self.records;
        let everything = |visit: &mut crate::disk::Visit<'_>| {
            records.iter().try_for_each(|record| visit(as_write(record)))
        };
        let writes: Vec<Write<'_>> = keys.iter().map(|key| Write { key, record: None }).collect();
        self.disk.begin(self.revision + RESERVE_REVISIONS, &everything)?;
        self.disk.settle(&writes, None, &everything)?;
        self.disk.close(&everything)
    }
}

fn as_write(record: &Stored) -> Write<'_> {
    Write { key: &record.key, record: Some((record.revision, &record.value)) }
}
