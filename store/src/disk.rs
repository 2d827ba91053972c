//! The files behind the store: a redb database with one table of records and one of counters, and
//! a journal in front of it.
//!
//! Invariant: what the journal's present generation holds is not in the database, and the commit
//! that takes it over names the next generation; so each batch counts exactly once, wherever a
//! crash falls.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::journal::{Contents, Journal};
use crate::record::Revision;

const RECORDS: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("records");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const CEILING: &str = "revision-ceiling";
/// Which generation of the journal belongs to this state of the database.
const GENERATION: &str = "journal-generation";

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
    pub(crate) value: Bytes,
}

/// One key of a batch: `None` removes it.
#[derive(Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) key: &'a str,
    pub(crate) record: Option<(Revision, &'a Bytes)>,
}

/// The open files.
pub(crate) struct Disk {
    path: PathBuf,
    /// `None` after a failed write until it could be opened anew: redb refuses a database that
    /// has seen an I/O error.
    database: Option<Database>,
    journal: Journal,
    /// What the journal holds: the newest state of each key in it, and the newest ceiling.
    unsettled: BTreeMap<Box<str>, Option<(Revision, Bytes)>>,
    ceiling: Option<Revision>,
    /// The journal takes nothing before the database has taken over what it holds.
    must_settle: bool,
}

impl Disk {
    pub(crate) fn open(path: &Path) -> Result<Self, DiskError> {
        let error = |source: redb::Error| DiskError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let mut database = connect(path)?;
        let size = std::fs::metadata(path).map_or(0, |m| m.len());
        if size > COMPACT_MIN_BYTES {
            database.compact().map_err(|e| error(e.into()))?;
        }
        let txn = database.begin_write().map_err(|e| error(e.into()))?;
        txn.open_table(RECORDS).map_err(|e| error(e.into()))?;
        txn.open_table(COUNTERS).map_err(|e| error(e.into()))?;
        txn.commit().map_err(|e| error(e.into()))?;
        let journal = Journal::open(&journal_path(path)).map_err(|source| DiskError::Open {
            path: journal_path(path),
            source: Box::new(source.into()),
        })?;
        Ok(Self {
            path: path.to_owned(),
            database: Some(database),
            journal,
            unsettled: BTreeMap::new(),
            ceiling: None,
            must_settle: true,
        })
    }

    /// Every record, and the first revision that no earlier run can have given out.
    pub(crate) fn load(&mut self) -> Result<(Vec<Loaded>, Revision), DiskError> {
        let read = |source| DiskError::Read { path: self.path.clone(), source: Box::new(source) };
        let (mut loaded, ceiling, generation) = self.load_database().map_err(read)?;
        if let Some(generation) = generation {
            self.replay(generation)?;
        }
        loaded.retain(|l| !self.unsettled.contains_key(&*l.key));
        for (key, record) in &self.unsettled {
            if let Some((revision, value)) = record {
                let (key, value) = (key.to_string(), value.clone());
                loaded.push(Loaded { key, revision: *revision, value });
            }
        }
        Ok((loaded, ceiling.max(self.ceiling.unwrap_or(0))))
    }

    #[allow(clippy::type_complexity)]
    fn load_database(&self) -> Result<(Vec<Loaded>, Revision, Option<u64>), redb::Error> {
        let Some(database) = &self.database else { return Ok((Vec::new(), 0, None)) };
        let txn = database.begin_read()?;
        let counters = txn.open_table(COUNTERS)?;
        let ceiling = counters.get(CEILING)?.map_or(0, |v| v.value());
        let generation = counters.get(GENERATION)?.map(|v| v.value());
        let mut loaded = Vec::new();
        for entry in txn.open_table(RECORDS)?.iter()? {
            let (key, value) = entry?;
            let (revision, bytes) = value.value();
            let value = Bytes::copy_from_slice(bytes);
            loaded.push(Loaded { key: key.value().to_owned(), revision, value });
        }
        Ok((loaded, ceiling, generation))
    }

    /// Takes from the journal what a run that did not end in order has left there.
    fn replay(&mut self, generation: u64) -> Result<(), DiskError> {
        let path = journal_path(&self.path);
        match self.journal.read(generation) {
            Ok(Contents::Batches(batches)) => {
                for batch in batches {
                    self.ceiling = batch.ceiling.or(self.ceiling);
                    self.unsettled
                        .extend(batch.entries.into_iter().map(|(key, r)| (key.into(), r)));
                }
                Ok(())
            }
            Ok(Contents::Gap(offset)) => Err(DiskError::Damaged {
                path,
                message: format!("a commit before offset {offset} is not whole"),
            }),
            Err(source) => Err(DiskError::Read { path, source: Box::new(source.into()) }),
        }
    }

    /// Makes `writes` durable in one commit (fsync) together with the promise that no revision up
    /// to `ceiling` is ever given again by a later run: in the journal while it has room, else in
    /// the database.
    pub(crate) fn reserve(
        &mut self,
        writes: &[Write<'_>],
        ceiling: Option<Revision>,
    ) -> Result<(), DiskError> {
        if !self.must_settle {
            match self.journal.append(writes, ceiling) {
                Ok(true) => {
                    self.ceiling = ceiling.or(self.ceiling);
                    for Write { key, record } in writes {
                        let record = record.map(|(revision, value)| (revision, value.clone()));
                        self.unsettled.insert((*key).into(), record);
                    }
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the journal of the store failed"),
            }
        }
        self.settle(writes, ceiling)
    }

    /// Has the database take over what the journal holds, and `writes`, in one commit.
    pub(crate) fn settle(
        &mut self,
        writes: &[Write<'_>],
        ceiling: Option<Revision>,
    ) -> Result<(), DiskError> {
        // Until this has succeeded the journal may end in a batch whose writers were refused.
        self.must_settle = true;
        let database = match self.database.take() {
            Some(database) => database,
            None => connect(&self.path)?,
        };
        let unsettled = self.unsettled.iter().map(|(key, record)| Write {
            key,
            record: record.as_ref().map(|(revision, value)| (*revision, value)),
        });
        let generation = rand::random();
        let counters = (ceiling.or(self.ceiling), generation);
        let mut writes = unsettled.chain(writes.iter().copied());
        commit(&database, &mut writes, counters).map_err(|source| DiskError::Write {
            path: self.path.clone(),
            source: Box::new(source),
        })?;
        self.database = Some(database);
        self.journal.restart(generation);
        self.unsettled.clear();
        self.ceiling = None;
        self.must_settle = false;
        Ok(())
    }

    /// Leaves everything in the database, so that it is a whole backup by itself.
    pub(crate) fn close(mut self) -> Result<(), DiskError> {
        if self.unsettled.is_empty() && self.ceiling.is_none() {
            return Ok(());
        }
        self.settle(&[], None)
    }
}

fn connect(path: &Path) -> Result<Database, DiskError> {
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(path)
        .map_err(|e| DiskError::Open { path: path.to_owned(), source: Box::new(e.into()) })
}

/// The journal lies beside the database.
fn journal_path(path: &Path) -> PathBuf {
    path.with_extension("journal")
}

fn commit<'a>(
    database: &Database,
    writes: &mut dyn Iterator<Item = Write<'a>>,
    (ceiling, generation): (Option<Revision>, u64),
) -> Result<(), redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    {
        let mut records = txn.open_table(RECORDS)?;
        for write in writes {
            match write.record {
                Some((revision, value)) => drop(records.insert(write.key, (revision, &value[..]))?),
                None => drop(records.remove(write.key)?),
            }
        }
        let mut counters = txn.open_table(COUNTERS)?;
        counters.insert(GENERATION, generation)?;
        if let Some(ceiling) = ceiling {
            counters.insert(CEILING, ceiling)?;
        }
    }
    txn.commit()?;
    Ok(())
}
