//! The journal: a short file of fixed size in front of the database, in which a commit becomes
//! durable with one write and one fsync.
//!
//! The first block names the format. Batches lie one behind the other from there, each on blocks of
//! its own, so that no write touches what an earlier one made durable. Once the database has taken
//! them all over, the next ones overwrite them under a new generation, which makes the old ones void.

mod batch;
#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use batch::Batch;
use batch::{BLOCK_BYTES, FileHeader, Header};

use crate::disk::Write;
use crate::files::{FileHandle, Files};
use crate::record::Revision;

/// Size of the file. What it holds is what a start after a crash has to replay, and what the
/// database then takes over in one commit.
pub(crate) const JOURNAL_BYTES: usize = 2 << 20;
/// A larger batch goes to the database at once, or its bytes would be written twice.
const BATCH_MAX_BYTES: usize = 256 << 10;
/// A larger buffer is not kept between writes.
const BUFFER_KEPT_BYTES: usize = 64 << 10;
/// Room that only [`Room::Last`] may use: a start on a full disk takes one block of it.
const LAST_BYTES: usize = 16 * BLOCK_BYTES;
/// Format of the file that this program writes; one without a number has format 0.
pub(crate) const JOURNAL_FORMAT: u32 = 1;

/// The open file.
pub(crate) struct Journal {
    file: Arc<dyn FileHandle>,
    /// Size of the file in bytes.
    capacity: usize,
    /// The offset of the first batch: format 0 has no block in front of it.
    begin: usize,
    /// Which of the batches in the file count.
    generation: u64,
    /// Where the next batch goes.
    end: usize,
    buffer: Vec<u8>,
}

/// What the file holds.
#[derive(Debug)]
pub(crate) enum Contents {
    /// The batches of the generation, in the order of their commits.
    Batches(Vec<Batch>),
    /// A batch lies behind one that cannot be read, at this offset: something was durable and is
    /// no longer.
    Gap(usize),
    /// The file has a format that this program does not know.
    TooNew(u32),
}

/// The part of the file that a batch may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// All but the last blocks.
    Usual,
    /// All of it.
    Last,
}

impl Journal {
    /// Creates the file in place of any earlier one: all its blocks are written once, so that later
    /// writes change no metadata of the file system and never find the disk full. It has its name,
    /// durably, only when it is whole.
    pub(crate) fn create(files: &dyn Files, path: &Path, capacity: usize) -> io::Result<Self> {
        let fresh = new_path(path);
        let file = files.create(&fresh)?;
        let written = (|| {
            file.allocate(capacity as u64)?;
            let zeros = vec![0; BUFFER_KEPT_BYTES];
            file.write_at(0, &FileHeader::block(JOURNAL_FORMAT))?;
            for offset in (BLOCK_BYTES..capacity).step_by(zeros.len()) {
                file.write_at(offset as u64, &zeros[..zeros.len().min(capacity - offset)])?;
            }
            file.sync()?;
            files.rename(&fresh, path)?;
            files.sync_directory(crate::disk::directory(path))
        })();
        if written.is_err() {
            // The disk may be full, and this is of no use to anything.
            let _ = files.remove(&fresh);
        }
        written?;
        let (begin, buffer) = (BLOCK_BYTES, Vec::new());
        Ok(Self { file, capacity, begin, generation: 0, end: begin, buffer })
    }

    /// Opens the file, whatever its format and length.
    pub(crate) fn open(files: &dyn Files, path: &Path) -> io::Result<Self> {
        let file = files.open(path)?;
        let capacity = usize::try_from(file.length()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut journal = Self { file, capacity, begin: 0, generation: 0, end: 0, buffer: vec![] };
        if journal.format()? != 0 {
            (journal.begin, journal.end) = (BLOCK_BYTES, BLOCK_BYTES);
        }
        Ok(journal)
    }

    /// Returns whether batches can be appended: the file has the present format and its full size.
    pub(crate) fn is_current(&self, capacity: usize) -> io::Result<bool> {
        Ok(self.format()? == JOURNAL_FORMAT && self.capacity == capacity)
    }

    /// Returns whether nothing was ever written behind the header.
    pub(crate) fn is_blank(&self) -> io::Result<bool> {
        let mut block = [0; BLOCK_BYTES];
        for offset in (self.begin..self.whole_blocks()).step_by(BLOCK_BYTES) {
            self.file.read_at(offset as u64, &mut block)?;
            if block.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn format(&self) -> io::Result<u32> {
        if self.capacity < BLOCK_BYTES {
            return Ok(0);
        }
        let mut block = [0; BLOCK_BYTES];
        self.file.read_at(0, &mut block)?;
        Ok(FileHeader::parse(&block).unwrap_or(0))
    }

    /// The end of the last whole block.
    fn whole_blocks(&self) -> usize {
        self.capacity / BLOCK_BYTES * BLOCK_BYTES
    }

    /// Reads the batches of one generation. A last one that is not whole was never acknowledged.
    /// Later batches go behind them.
    pub(crate) fn read(&mut self, generation: u64) -> io::Result<Contents> {
        let format = self.format()?;
        if format > JOURNAL_FORMAT {
            return Ok(Contents::TooNew(format));
        }
        let mut batches = Vec::new();
        let mut offset = self.begin;
        while let Some((batch, length)) = self.read_at(generation, offset)? {
            batches.push(batch);
            offset += length;
        }
        (self.generation, self.end) = (generation, offset);
        // One batch is durable before the next one is written, so nothing can follow a torn one.
        while offset + BLOCK_BYTES <= self.capacity {
            if self.read_at(generation, offset)?.is_some() {
                return Ok(Contents::Gap(offset));
            }
            offset += BLOCK_BYTES;
        }
        Ok(Contents::Batches(batches))
    }

    /// The whole batch at an offset, and how much of the file it takes.
    fn read_at(&self, generation: u64, offset: usize) -> io::Result<Option<(Batch, usize)>> {
        if offset + BLOCK_BYTES > self.capacity {
            return Ok(None);
        }
        let mut block = [0; BLOCK_BYTES];
        self.file.read_at(offset as u64, &mut block)?;
        let Some(header) = Header::parse(&block, generation, offset) else { return Ok(None) };
        let length = header.batch_bytes();
        if length > BATCH_MAX_BYTES || offset + length > self.capacity {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        self.file.read_at(offset as u64, &mut bytes)?;
        Ok(Batch::parse(&header, &bytes).map(|batch| (batch, length)))
    }

    /// Voids what the file holds: from now on batches of this generation count.
    pub(crate) fn restart(&mut self, generation: u64) {
        self.generation = generation;
        self.end = self.begin;
    }

    /// Makes a batch durable, or says that there is no room for it here.
    pub(crate) fn append(
        &mut self,
        writes: &[Write<'_>],
        ceiling: Option<Revision>,
        room: Room,
    ) -> io::Result<bool> {
        let limit = match room {
            Room::Usual => self.capacity.saturating_sub(LAST_BYTES),
            Room::Last => self.capacity,
        };
        let room = BATCH_MAX_BYTES.min(limit.saturating_sub(self.end));
        let fits =
            batch::encode(&mut self.buffer, (self.generation, self.end), writes, ceiling, room);
        if fits {
            self.file.write_at(self.end as u64, &self.buffer)?;
            self.file.sync()?;
            self.end += self.buffer.len();
        }
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(fits)
    }
}

/// The name of a file until it is whole and takes the place of `path`.
pub(crate) fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// The first block of a journal of any format.
#[cfg(test)]
pub(crate) fn file_header(format: u32) -> [u8; BLOCK_BYTES] {
    FileHeader::block(format)
}

#[cfg(test)]
mod tests;
