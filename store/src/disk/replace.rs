//! Replacing the database by a new file, after the old one has failed.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::database::{Connection, Counters};
use super::{Disk, Everything, Failure, Write, directory, marker_path};
use crate::journal::new_path;
use crate::record::Revision;

/// Bytes that one commit takes to a new file while everything is written to it.
const REBUILD_COMMIT_BYTES: usize = 4 << 20;
/// Pause after writing everything again has failed, as a multiple of the time that it took.
const REBUILD_PAUSE_FACTOR: u32 = 4;
/// The longest such pause.
const REBUILD_PAUSE_MAX: Duration = Duration::from_secs(30);

impl Disk {
    /// Writes everything to a new file, which then takes the place of the old one.
    pub(super) fn rebuild(
        &mut self,
        writes: &[Write<'_>],
        ceiling: Option<Revision>,
        everything: &Everything<'_>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        if let Some((until, kind, message)) = &self.pause
            && began < *until
        {
            return Err(io::Error::new(*kind, message.clone()).into());
        }
        self.database = None;
        let ceiling = ceiling.unwrap_or(self.reserved);
        match self.write_new(writes, ceiling, everything) {
            Ok((database, generation)) => {
                tracing::warn!("the state file is replaced by a new one");
                self.pause = None;
                self.tainted = false;
                self.database = Some(database);
                self.reserved = ceiling;
                // Whatever the journal's file is, it may be the one that failed.
                self.journal = None;
                self.settled(generation);
                Ok(())
            }
            Err(failure) => {
                let _ = self.files.remove(&new_path(&self.path));
                let pause = (began.elapsed() * REBUILD_PAUSE_FACTOR).min(REBUILD_PAUSE_MAX);
                let kind = match &failure.source {
                    redb::Error::Io(error) => error.kind(),
                    _ => io::ErrorKind::Other,
                };
                self.pause = Some((Instant::now() + pause, kind, failure.source.to_string()));
                Err(failure)
            }
        }
    }

    fn write_new(
        &self,
        writes: &[Write<'_>],
        ceiling: Revision,
        everything: &Everything<'_>,
    ) -> Result<(Connection, u64), Failure> {
        let fresh = new_path(&self.path);
        let database = Connection::create(&*self.files, &fresh)?;
        let mut waiting: Vec<(Box<str>, Revision, Bytes)> = Vec::new();
        let mut bytes = 0;
        let flush = |waiting: &mut Vec<(Box<str>, Revision, Bytes)>| {
            let mut writes = waiting
                .iter()
                .map(|(key, revision, value)| Write { key, record: Some((*revision, value)) });
            database.commit(&mut writes, None)?;
            waiting.clear();
            Ok::<_, redb::Error>(())
        };
        everything(&mut |write| {
            let Some((revision, value)) = write.record else { return Ok(()) };
            bytes += write.key.len() + value.len();
            waiting.push((write.key.into(), revision, value.clone()));
            if bytes >= REBUILD_COMMIT_BYTES {
                bytes = 0;
                flush(&mut waiting)?;
            }
            Ok(())
        })?;
        flush(&mut waiting)?;
        let generation = rand::random();
        let counters = Counters { ceiling: Some(ceiling), generation };
        database.commit(&mut writes.iter().copied(), Some(counters))?;
        self.files.rename(&fresh, &self.path)?;
        let synced = self.files.sync_directory(directory(&self.path));
        synced.map_err(|error| Failure { source: error.into(), exposed: true })?;
        Ok((database, generation))
    }

    /// Stops writing to the present files, as after a panic in the middle of a commit.
    pub(crate) fn taint(&mut self) {
        self.tainted = true;
        self.must_settle = true;
        self.pause = None;
        self.mark();
        if let Some(database) = self.database.take() {
            // redb's locks may be poisoned, and then it panics when it is dropped too.
            let dropped = std::panic::AssertUnwindSafe(|| drop(database));
            let _ = std::panic::catch_unwind(dropped);
        }
    }

    /// Tells a later start, which may find pages in memory that never reached the disk, to write
    /// everything to new files.
    pub(super) fn mark(&self) {
        let _ = self.files.create(&marker_path(&self.path));
    }
}
