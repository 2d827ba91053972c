//! The file behind the store: a redb database with one table of records and one of counters.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::record::Revision;

const RECORDS: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("records");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const CEILING: &str = "revision-ceiling";

/// redb's page cache; the records live in memory anyway.
const CACHE_BYTES: usize = 1 << 20;
/// Revisions reserved at a time; a crash skips at most this many.
pub(crate) const RESERVE_REVISIONS: u64 = 10_000;
/// A file larger than this is compacted at start when most of it is free.
const COMPACT_MIN_BYTES: u64 = 16 << 20;

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be opened or is not a database.
    #[error("open {path}: {source}")]
    Open {
        /// The database file.
        path: PathBuf,
        /// redb's error.
        source: Box<redb::Error>,
    },
    /// Reading at start failed.
    #[error("read {path}: {source}")]
    Read {
        /// The database file.
        path: PathBuf,
        /// redb's error.
        source: Box<redb::Error>,
    },
    /// What was read is not what was written.
    #[error("read {path}: {message}")]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// Which record, and what is wrong with it.
        message: String,
    },
    /// A commit failed; nothing of the batch is stored.
    #[error("write {path}: {source}")]
    Write {
        /// The database file.
        path: PathBuf,
        /// redb's error.
        source: Box<redb::Error>,
    },
}

impl DiskError {
    /// Whether the file system is full.
    pub fn is_full(&self) -> bool {
        self.source_is(|e| {
            matches!(e, redb::Error::Io(e) if matches!(e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        })
    }

    /// Whether the file is not, or no longer, a database that this program can read.
    pub fn is_damaged(&self) -> bool {
        matches!(self, Self::Damaged { .. })
            || self.source_is(|e| {
                matches!(e, redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_))
                    || matches!(e, redb::Error::Io(e) if matches!(e.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof))
            })
    }

    fn source_is(&self, test: impl Fn(&redb::Error) -> bool) -> bool {
        match self {
            Self::Open { source, .. } | Self::Read { source, .. } | Self::Write { source, .. } => {
                test(source)
            }
            Self::Damaged { .. } => false,
        }
    }
}

/// One record read at start.
pub(crate) struct Loaded {
    pub(crate) key: String,
    pub(crate) revision: Revision,
    pub(crate) value: Vec<u8>,
}

/// One key of a batch: `None` removes it.
pub(crate) struct Write<'a> {
    pub(crate) key: &'a str,
    pub(crate) record: Option<(Revision, &'a [u8])>,
}

/// The open database.
pub(crate) struct Disk {
    path: PathBuf,
    /// `None` after a failed write until it could be opened anew: redb refuses a database that
    /// has seen an I/O error.
    database: Option<Database>,
}

impl Disk {
    pub(crate) fn open(path: &Path) -> Result<Self, DiskError> {
        let mut disk = Self { path: path.to_owned(), database: None };
        let error = |source: redb::Error| DiskError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let mut database = disk.connect()?;
        let size = std::fs::metadata(path).map_or(0, |m| m.len());
        if size > COMPACT_MIN_BYTES {
            database.compact().map_err(|e| error(e.into()))?;
        }
        let txn = database.begin_write().map_err(|e| error(e.into()))?;
        txn.open_table(RECORDS).map_err(|e| error(e.into()))?;
        txn.open_table(COUNTERS).map_err(|e| error(e.into()))?;
        txn.commit().map_err(|e| error(e.into()))?;
        disk.database = Some(database);
        Ok(disk)
    }

    fn connect(&self) -> Result<Database, DiskError> {
        Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&self.path)
            .map_err(|e| DiskError::Open { path: self.path.clone(), source: Box::new(e.into()) })
    }

    /// Every record, and the first revision that no earlier run can have given out.
    pub(crate) fn load(&self) -> Result<(Vec<Loaded>, Revision), DiskError> {
        self.load_inner()
            .map_err(|source| DiskError::Read { path: self.path.clone(), source: Box::new(source) })
    }

    fn load_inner(&self) -> Result<(Vec<Loaded>, Revision), redb::Error> {
        let Some(database) = &self.database else { return Ok((Vec::new(), 0)) };
        let txn = database.begin_read()?;
        let ceiling = txn.open_table(COUNTERS)?.get(CEILING)?.map_or(0, |v| v.value());
        let mut loaded = Vec::new();
        for entry in txn.open_table(RECORDS)?.iter()? {
            let (key, value) = entry?;
            let (revision, bytes) = value.value();
            loaded.push(Loaded { key: key.value().to_owned(), revision, value: bytes.to_vec() });
        }
        Ok((loaded, ceiling))
    }

    /// Makes `writes` durable in one commit (fsync) together with the promise that no revision up
    /// to `ceiling` is ever given again by a later run.
    pub(crate) fn reserve<'a>(
        &mut self,
        writes: impl Iterator<Item = Write<'a>>,
        ceiling: Option<Revision>,
    ) -> Result<(), DiskError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.connect()?,
        };
        match commit(&database, writes, ceiling) {
            Ok(()) => {
                self.database = Some(database);
                Ok(())
            }
            Err(source) => {
                Err(DiskError::Write { path: self.path.clone(), source: Box::new(source) })
            }
        }
    }
}

fn commit<'a>(
    database: &Database,
    writes: impl Iterator<Item = Write<'a>>,
    ceiling: Option<Revision>,
) -> Result<(), redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    {
        let mut records = txn.open_table(RECORDS)?;
        for write in writes {
            match write.record {
                Some(value) => drop(records.insert(write.key, value)?),
                None => drop(records.remove(write.key)?),
            }
        }
        if let Some(ceiling) = ceiling {
            txn.open_table(COUNTERS)?.insert(CEILING, ceiling)?;
        }
    }
    txn.commit()?;
    Ok(())
}
