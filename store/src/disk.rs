//! The files behind the store: a database of records, and a journal in front of it.
//!
//! Invariant: what the journal's present generation holds is not in the database, and the commit
//! that takes it over names the next generation; so each batch counts exactly once, wherever a
//! crash falls.
//!
//! Invariant: after a write or sync of a file has failed, that file is never written again. The
//! kernel may have dropped its pages, and some file systems lose later writes to the same place. A
//! new file takes its name once it is durable; until then no write is acknowledged.

mod database;
mod error;
mod replace;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::files::{Files, Taint};
use crate::journal::{Contents, Journal, Room, new_path};
use crate::record::Revision;
use database::{Connection, Counters, DATABASE_FORMAT};
pub use error::{DiskError, Outcome};

/// Revisions reserved at a time; a crash skips at most this many.
pub(crate) const RESERVE_REVISIONS: u64 = 10_000;
/// A file larger than this is compacted at start when most of it is free.
const COMPACT_MIN_BYTES: u64 = 16 << 20;
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

/// Calls its argument for every record that was acknowledged and belongs on the disk.
pub(crate) type Everything<'e> = dyn Fn(&mut Visit<'_>) -> Result<(), redb::Error> + 'e;
pub(crate) type Visit<'v> = dyn FnMut(Write<'_>) -> Result<(), redb::Error> + 'v;

/// A failure of one step of a commit, and whether a file may hold its writes.
struct Failure {
    source: redb::Error,
    exposed: bool,
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { source: error.into(), exposed: false }
    }
}

/// The open files.
pub(crate) struct Disk {
    files: Arc<dyn Files>,
    path: PathBuf,
    journal_bytes: usize,
    /// `None` after a failed write until it could be opened again: redb refuses a database that
    /// has seen an I/O error.
    database: Option<Connection>,
    /// `None` after a failed write until a new one could be created.
    journal: Option<Journal>,
    /// What the journal holds: the newest state of each key in it, and the newest ceiling.
    unsettled: BTreeMap<Box<str>, Option<(Revision, Bytes)>>,
    ceiling: Option<Revision>,
    /// The newest ceiling that is durable.
    reserved: Revision,
    /// The journal takes nothing before the database has taken over what it holds.
    must_settle: bool,
    /// The database file is never written again; everything goes to a new one.
    tainted: bool,
    /// The files were created by this run.
    fresh: bool,
    /// Until when, and why, a new file is not tried.
    pause: Option<(Instant, io::ErrorKind, String)>,
}

impl Disk {
    /// Opens the files, or creates them where there are none. Nothing is written to files that
    /// hold records.
    pub(crate) fn open(
        files: Arc<dyn Files>,
        path: &Path,
        journal_bytes: usize,
    ) -> Result<Self, DiskError> {
        let error = DiskError::open(path);
        let mut disk = Self {
            path: path.to_owned(),
            files,
            journal_bytes,
            database: None,
            journal: None,
            unsettled: BTreeMap::new(),
            ceiling: None,
            reserved: 0,
            must_settle: true,
            tainted: false,
            fresh: false,
            pause: None,
        };
        disk.prepare_directory().map_err(|e| error(e.into()))?;
        let journal = journal_path(path);
        if disk.files.exists(&journal).map_err(|e| error(e.into()))? {
            let opened = Journal::open(&*disk.files, &journal);
            disk.journal = Some(opened.map_err(|e| DiskError::open(&journal)(e.into()))?);
        }
        disk.tainted = disk.files.exists(&marker_path(path)).map_err(|e| error(e.into()))?;
        // What is read may never have reached the disk, and redb's repair of it would change what
        // did. A connection that writes is opened once it is known that the last run ended in order
        // and that a failure of this one will be known to the next.
        let database = match disk.has_database().map_err(&error)? {
            true => Connection::open_frozen(&*disk.files, path),
            false => {
                disk.fresh = true;
                disk.create_database()
            }
        };
        disk.database = Some(database.map_err(&error)?);
        Ok(disk)
    }

    /// Opens the database; a file that fails in that is not written again.
    fn connect(&mut self) -> Result<Connection, redb::Error> {
        let taint = Taint::default();
        let connection = Connection::open(&*self.files, &self.path, &taint);
        if taint.is_set() {
            self.tainted = true;
            self.mark();
        }
        connection
    }

    /// Makes earlier changes of names durable and removes what an interrupted change left.
    fn prepare_directory(&self) -> io::Result<()> {
        for path in [new_path(&self.path), new_path(&journal_path(&self.path))] {
            self.files.remove(&path)?;
        }
        let directory = directory(&self.path);
        self.files.sync_directory(directory)?;
        match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.files.sync_directory(parent),
            _ => Ok(()),
        }
    }

    /// Returns whether there is a database. One whose creation an earlier version did not finish
    /// counts as none, if the journal shows that nothing was ever committed.
    fn has_database(&self) -> Result<bool, redb::Error> {
        if !self.files.exists(&self.path)? {
            return Ok(false);
        }
        let unused = match &self.journal {
            Some(journal) => journal.is_blank()?,
            None => true,
        };
        Ok(!(unused && database::is_unfinished(&*self.files, &self.path)?))
    }

    /// Creates the database under another name and gives it its own once it is whole and durable.
    fn create_database(&self) -> Result<Connection, redb::Error> {
        let fresh = new_path(&self.path);
        let created = (|| {
            let connection = Connection::create(&*self.files, &fresh)?;
            let counters = Counters { ceiling: None, generation: rand::random() };
            connection.commit(&mut std::iter::empty(), Some(counters))?;
            self.files.rename(&fresh, &self.path)?;
            self.files.sync_directory(directory(&self.path))?;
            Ok(connection)
        })();
        if created.is_err() {
            // It is of no use, and the next start removes it too.
            let _ = self.files.remove(&fresh);
        }
        created
    }

    /// Every record, and the first revision that no earlier run can have given out.
    pub(crate) fn load(&mut self) -> Result<(Vec<Loaded>, Revision), DiskError> {
        let Some(database) = &self.database else { return Ok((Vec::new(), 0)) };
        let state = database.load().map_err(DiskError::read(&self.path))?;
        if state.format > DATABASE_FORMAT {
            return Err(DiskError::TooNew {
                path: self.path.clone(),
                found: state.format,
                known: DATABASE_FORMAT,
            });
        }
        if let Some(generation) = state.generation {
            self.replay(generation)?;
        }
        let mut loaded = state.records;
        loaded.retain(|l| !self.unsettled.contains_key(&*l.key));
        for (key, record) in &self.unsettled {
            if let Some((revision, value)) = record {
                let (key, value) = (key.to_string(), value.clone());
                loaded.push(Loaded { key, revision: *revision, value });
            }
        }
        self.reserved = state.ceiling.max(self.ceiling.unwrap_or(0));
        Ok((loaded, self.reserved))
    }

    /// Takes from the journal what a run that did not end in order has left there.
    fn replay(&mut self, generation: u64) -> Result<(), DiskError> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let path = journal_path(&self.path);
        match journal.read(generation) {
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
            Ok(Contents::TooNew(found)) => Err(DiskError::TooNew {
                path,
                found: found.into(),
                known: crate::journal::JOURNAL_FORMAT.into(),
            }),
            Err(source) => Err(DiskError::read(&path)(source.into())),
        }
    }

    /// Begins a run: leaves the journal empty and `ceiling` durable.
    ///
    /// After a run that did not end in order the files are replaced: it may have ended because they
    /// failed, and then even reading them again shows what is not on the disk. On a full disk they
    /// are used as they are, and the journal takes the ceiling.
    pub(crate) fn begin(
        &mut self,
        ceiling: Revision,
        everything: &Everything<'_>,
    ) -> Result<(), DiskError> {
        let closed = closed_path(&self.path);
        let in_order = self.files.exists(&closed).and_then(|found| {
            // It comes back when this run ends in order.
            self.files.remove(&closed).map(|()| found || self.fresh)
        });
        let in_order = in_order.map_err(|e| DiskError::open(&closed)(e.into()))?;
        let failed = self.tainted;
        self.tainted |= !in_order;
        self.compact()?;
        match self.settle(&[], Some(ceiling), everything) {
            Err(error) if error.is_full() && !error.is_unknown() && !failed => {
                self.tainted = false;
                self.pause = None;
                match self.append_last(ceiling) {
                    true => {
                        tracing::warn!(%error, "the disk is full; the journal takes the changes");
                        Ok(())
                    }
                    false => Err(error),
                }
            }
            other => other,
        }
    }

    /// Takes the ceiling to the last blocks of the journal; whether that succeeded.
    fn append_last(&mut self, ceiling: Revision) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        if !matches!(journal.append(&[], Some(ceiling), Room::Last), Ok(true)) {
            return false;
        }
        self.ceiling = Some(ceiling);
        self.reserved = ceiling;
        self.must_settle = false;
        true
    }

    fn compact(&mut self) -> Result<(), DiskError> {
        let Some(mut database) = self.database.take() else { return Ok(()) };
        if self.tainted || database.length() <= COMPACT_MIN_BYTES {
            self.database = Some(database);
            return Ok(());
        }
        if database.is_frozen() {
            drop(database);
            database = match self.connect() {
                Ok(database) => database,
                // Everything is written to a new file next.
                Err(_) if self.tainted => return Ok(()),
                Err(error) => return Err(DiskError::open(&self.path)(error)),
            };
        }
        match database.compact() {
            Ok(()) => self.database = Some(database),
            // Without room it stays as large as it is; the next commit opens it again.
            Err(error) if !database.taint().is_set() => {
                tracing::warn!(%error, "the state file is not compacted");
            }
            Err(error) => return Err(DiskError::open(&self.path)(error)),
        }
        Ok(())
    }

    /// Makes `writes` durable in one commit (fsync) together with the promise that no revision up
    /// to `ceiling` is ever given again by a later run: in the journal while it has room, else in
    /// the database.
    pub(crate) fn reserve(
        &mut self,
        writes: &[Write<'_>],
        ceiling: Option<Revision>,
        everything: &Everything<'_>,
    ) -> Result<(), DiskError> {
        let mut exposed = false;
        if !self.must_settle
            && let Some(journal) = &mut self.journal
        {
            match journal.append(writes, ceiling, Room::Usual) {
                Ok(true) => {
                    self.ceiling = ceiling.or(self.ceiling);
                    self.reserved = ceiling.unwrap_or(self.reserved);
                    for Write { key, record } in writes {
                        let record = record.map(|(revision, value)| (revision, value.clone()));
                        self.unsettled.insert((*key).into(), record);
                    }
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the journal of the store failed; replacing it");
                    exposed = true;
                    self.journal = None;
                    self.mark();
                }
            }
        }
        self.settle(writes, ceiling, everything).map_err(|error| match error {
            DiskError::Write { path, source, .. } if exposed => {
                DiskError::Write { path, source, outcome: Outcome::Unknown }
            }
            error => error,
        })
    }

    /// Has the database take over what the journal holds, and `writes`, in one commit. If the file
    /// of the database fails, everything goes to a new one.
    pub(crate) fn settle(
        &mut self,
        writes: &[Write<'_>],
        ceiling: Option<Revision>,
        everything: &Everything<'_>,
    ) -> Result<(), DiskError> {
        // Until this has succeeded the journal may end in a batch whose writers were refused.
        self.must_settle = true;
        let mut exposed = false;
        if !self.tainted {
            match self.commit(writes, ceiling) {
                Ok(()) => return Ok(()),
                Err(failure) if !self.tainted => return Err(self.write_error(failure)),
                Err(failure) => {
                    tracing::error!(error = %failure.source, "the state file failed; replacing it");
                    exposed = true;
                    self.mark();
                }
            }
        }
        self.rebuild(writes, ceiling, everything).map_err(|failure| {
            let exposed = exposed || failure.exposed;
            self.write_error(Failure { exposed, ..failure })
        })
    }

    fn write_error(&self, Failure { source, exposed }: Failure) -> DiskError {
        let outcome = if exposed { Outcome::Unknown } else { Outcome::Refused };
        DiskError::Write { path: self.path.clone(), source: Box::new(source), outcome }
    }

    /// Commits to the file as it is. A failure before any byte of it has changed leaves it usable.
    fn commit(&mut self, writes: &[Write<'_>], ceiling: Option<Revision>) -> Result<(), Failure> {
        let database = match self.database.take().filter(|database| !database.is_frozen()) {
            Some(database) => database,
            None => self.connect()?,
        };
        let unsettled = self.unsettled.iter().map(|(key, record)| Write {
            key,
            record: record.as_ref().map(|(revision, value)| (*revision, value)),
        });
        let generation = rand::random();
        let counters = Counters { ceiling: ceiling.or(self.ceiling), generation };
        let mut writes = unsettled.chain(writes.iter().copied());
        let taint = database.taint().clone();
        let committed = database.commit(&mut writes, Some(counters));
        match committed {
            Ok(()) => self.database = Some(database),
            Err(error) => {
                drop(database);
                self.tainted = taint.is_set();
                return Err(error.into());
            }
        }
        self.reserved = ceiling.unwrap_or(self.reserved);
        self.settled(generation);
        Ok(())
    }

    /// Empties the journal, or replaces it, after the database has taken over what it held.
    fn settled(&mut self, generation: u64) {
        self.unsettled.clear();
        self.ceiling = None;
        let current = match &self.journal {
            Some(journal) => journal.is_current(self.journal_bytes).unwrap_or(false),
            None => false,
        };
        if !current {
            let path = journal_path(&self.path);
            self.journal = Journal::create(&*self.files, &path, self.journal_bytes)
                .inspect_err(|error| {
                    tracing::warn!(%error, "no journal; commits go to the database");
                })
                .ok();
        }
        self.must_settle = self.journal.is_none();
        if let Some(journal) = &mut self.journal {
            journal.restart(generation);
            let _ = self.files.remove(&marker_path(&self.path));
        }
    }

    /// Leaves everything in the database, so that it is a whole backup by itself.
    pub(crate) fn close(mut self, everything: &Everything<'_>) -> Result<(), DiskError> {
        self.pause = None;
        if self.tainted || !self.unsettled.is_empty() || self.ceiling.is_some() {
            self.settle(&[], None, everything)?;
        }
        self.disconnect();
        if !self.tainted {
            let closed = closed_path(&self.path);
            let created = self.files.create(&closed).map(drop);
            created.map_err(|e| DiskError::open(&closed)(e.into()))?;
        }
        Ok(())
    }

    /// Closes the database, which writes then, too.
    fn disconnect(&mut self) {
        if let Some(database) = self.database.take() {
            let taint = database.taint().clone();
            drop(database);
            if taint.is_set() {
                self.tainted = true;
                self.mark();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.disconnect();
    }
}

/// The directory of a file.
pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The journal lies beside the database.
fn journal_path(path: &Path) -> PathBuf {
    path.with_extension("journal")
}

/// A file that is there while no run uses the files and the last one ended in order.
fn closed_path(path: &Path) -> PathBuf {
    path.with_extension("closed")
}

/// A file that is there after a write has failed and until new files have replaced the old ones.
fn marker_path(path: &Path) -> PathBuf {
    path.with_extension("failed")
}
