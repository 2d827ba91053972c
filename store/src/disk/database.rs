//! The redb database: one table of records and one of counters.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Loaded, Write};
use crate::files::{FileHandle, Files, Staged, Taint};
use crate::record::Revision;

const RECORDS: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("records");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const CEILING: &str = "revision-ceiling";
/// The generation of the journal that belongs to this state of the database.
const GENERATION: &str = "journal-generation";
const FORMAT: &str = "format";
/// Format of the tables that this program writes; a database without a number has format 0.
pub(crate) const DATABASE_FORMAT: u64 = 1;

/// redb's page cache; the records live in memory anyway.
const CACHE_BYTES: usize = 1 << 20;
/// Bytes that redb writes at the very beginning once a new file is whole.
const MAGIC_BYTES: usize = 9;

/// The counters that a commit sets.
#[derive(Clone, Copy)]
pub(super) struct Counters {
    pub(super) ceiling: Option<Revision>,
    pub(super) generation: u64,
}

/// Everything that the database holds.
pub(super) struct State {
    pub(super) records: Vec<Loaded>,
    pub(super) ceiling: Revision,
    pub(super) generation: Option<u64>,
    pub(super) format: u64,
}

/// The open database.
pub(super) struct Connection {
    database: Database,
    file: Arc<dyn FileHandle>,
    taint: Taint,
    frozen: bool,
}

impl Connection {
    /// Opens a database that exists without changing its file: what redb repairs is there for this
    /// connection alone.
    pub(super) fn open_frozen(files: &dyn Files, path: &Path) -> Result<Self, redb::Error> {
        let file = files.open(path)?;
        let frozen = Self::with(file.clone(), Staged::frozen(file)?, &Taint::default())?;
        Ok(Self { frozen: true, ..frozen })
    }

    /// Opens a database that exists. `taint` is set if its file fails in that.
    pub(super) fn open(files: &dyn Files, path: &Path, taint: &Taint) -> Result<Self, redb::Error> {
        let file = files.open(path).inspect_err(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                taint.set();
            }
        })?;
        // Room for what earlier versions left as holes, if there is any.
        let _ = file.allocate(file.length()?);
        Self::over(file, taint)
    }

    /// Creates an empty database in a new file, which redb fills in.
    pub(super) fn create(files: &dyn Files, path: &Path) -> Result<Self, redb::Error> {
        Self::over(files.create(path)?, &Taint::default())
    }

    fn over(file: Arc<dyn FileHandle>, taint: &Taint) -> Result<Self, redb::Error> {
        Self::with(file.clone(), Staged::new(file, taint.clone())?, taint)
    }

    fn with(file: Arc<dyn FileHandle>, staged: Staged, taint: &Taint) -> Result<Self, redb::Error> {
        let taint = taint.clone();
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(staged)?;
        Ok(Self { database, file, taint, frozen: false })
    }

    /// Returns whether commits reach no file.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// The flag that tells whether a write of the file has failed.
    pub(super) fn taint(&self) -> &Taint {
        &self.taint
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.file.length().unwrap_or(0)
    }

    pub(super) fn compact(&mut self) -> Result<(), redb::Error> {
        self.database.compact()?;
        Ok(())
    }

    pub(super) fn load(&self) -> Result<State, redb::Error> {
        let txn = self.database.begin_read()?;
        let mut state = State { records: vec![], ceiling: 0, generation: None, format: 0 };
        match txn.open_table(COUNTERS) {
            Ok(counters) => {
                state.ceiling = counters.get(CEILING)?.map_or(0, |v| v.value());
                state.generation = counters.get(GENERATION)?.map(|v| v.value());
                state.format = counters.get(FORMAT)?.map_or(0, |v| v.value());
            }
            // An interrupted first start of an earlier version had no tables yet.
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if state.format > DATABASE_FORMAT {
            return Ok(state);
        }
        let records = match txn.open_table(RECORDS) {
            Ok(records) => records,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(state),
            Err(error) => return Err(error.into()),
        };
        for entry in records.iter()? {
            let (key, value) = entry?;
            let (revision, bytes) = value.value();
            let value = Bytes::copy_from_slice(bytes);
            state.records.push(Loaded { key: key.value().to_owned(), revision, value });
        }
        Ok(state)
    }

    /// Makes writes durable in one commit.
    pub(super) fn commit<'a>(
        &self,
        writes: &mut dyn Iterator<Item = Write<'a>>,
        counters: Option<Counters>,
    ) -> Result<(), redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut records = txn.open_table(RECORDS)?;
            for write in writes {
                match write.record {
                    Some((revision, value)) => {
                        drop(records.insert(write.key, (revision, &value[..]))?);
                    }
                    None => drop(records.remove(write.key)?),
                }
            }
            if let Some(Counters { ceiling, generation }) = counters {
                let mut table = txn.open_table(COUNTERS)?;
                table.insert(FORMAT, DATABASE_FORMAT)?;
                table.insert(GENERATION, generation)?;
                if let Some(ceiling) = ceiling {
                    table.insert(CEILING, ceiling)?;
                }
            }
        }
        txn.commit()?;
        Ok(())
    }
}

/// Returns whether a file is what an interrupted creation by an earlier version left: redb writes
/// the first bytes last.
pub(super) fn is_unfinished(files: &dyn Files, path: &Path) -> Result<bool, redb::Error> {
    let file = files.open(path)?;
    let length = usize::try_from(file.length()?).unwrap_or(MAGIC_BYTES);
    let mut magic = vec![0; length.min(MAGIC_BYTES)];
    file.read_at(0, &mut magic)?;
    Ok(magic.iter().all(|byte| *byte == 0))
}
