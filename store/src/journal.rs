//! The journal: a short file of fixed size in front of the database, in which a commit becomes
//! durable with one write and one fsync.
//!
//! Batches lie one behind the other from the beginning of the file, each on blocks of its own, so
//! that no write touches what an earlier one made durable. Once the database has taken them all
//! over, the next ones overwrite them under a new generation, which makes the old ones void.

mod batch;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

pub(crate) use batch::Batch;
use batch::{BLOCK_BYTES, Header};

use crate::disk::Write;
use crate::record::Revision;

/// Size of the file. What it holds is what a start after a crash has to replay, and what the
/// database then takes over in one commit.
const CAPACITY_BYTES: usize = 2 << 20;
/// A larger batch goes to the database at once, or its bytes would be written twice.
const BATCH_MAX_BYTES: usize = 256 << 10;
/// A larger buffer is not kept between writes.
const BUFFER_KEPT_BYTES: usize = 64 << 10;

/// The open file.
pub(crate) struct Journal {
    file: File,
    /// Which of the batches in the file count.
    generation: u64,
    /// Where the next batch goes.
    end: usize,
    buffer: Vec<u8>,
}

/// What the file holds.
pub(crate) enum Contents {
    /// The batches of the generation, in the order of their commits.
    Batches(Vec<Batch>),
    /// A batch lies behind one that cannot be read, at this offset: something was durable and is
    /// no longer.
    Gap(usize),
}

impl Journal {
    /// Opens the file, or makes it: all its blocks are written once, so that later writes change
    /// no metadata of the file system and never find the disk full.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).mode(0o600).open(path)?;
        let present = usize::try_from(file.metadata()?.len()).unwrap_or(CAPACITY_BYTES);
        if present < CAPACITY_BYTES {
            let zeros = [0; BLOCK_BYTES];
            for offset in (present..CAPACITY_BYTES).step_by(BLOCK_BYTES) {
                let length = BLOCK_BYTES.min(CAPACITY_BYTES - offset);
                file.write_all_at(&zeros[..length], offset as u64)?;
            }
            file.sync_all()?;
            if let Some(directory) = path.parent() {
                File::open(directory)?.sync_all()?;
            }
        }
        Ok(Self { file, generation: 0, end: 0, buffer: Vec::new() })
    }

    /// Reads the batches of one generation. A last one that is not whole was never acknowledged.
    pub(crate) fn read(&self, generation: u64) -> io::Result<Contents> {
        let mut batches = Vec::new();
        let mut offset = 0;
        while let Some((batch, length)) = self.read_at(generation, offset)? {
            batches.push(batch);
            offset += length;
        }
        // One batch is durable before the next one is written, so nothing can follow a torn one.
        while offset + BLOCK_BYTES <= CAPACITY_BYTES {
            if self.read_at(generation, offset)?.is_some() {
                return Ok(Contents::Gap(offset));
            }
            offset += BLOCK_BYTES;
        }
        Ok(Contents::Batches(batches))
    }

    /// The whole batch at an offset, and how much of the file it takes.
    fn read_at(&self, generation: u64, offset: usize) -> io::Result<Option<(Batch, usize)>> {
        if offset + BLOCK_BYTES > CAPACITY_BYTES {
            return Ok(None);
        }
        let mut block = [0; BLOCK_BYTES];
        self.file.read_exact_at(&mut block, offset as u64)?;
        let Some(header) = Header::parse(&block, generation, offset) else { return Ok(None) };
        let length = header.batch_bytes();
        if length > BATCH_MAX_BYTES || offset + length > CAPACITY_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset as u64)?;
        Ok(Batch::parse(&header, &bytes).map(|batch| (batch, length)))
    }

    /// Voids what the file holds: from now on batches of this generation count.
    pub(crate) fn restart(&mut self, generation: u64) {
        self.generation = generation;
        self.end = 0;
    }

    /// Makes a batch durable, or says that there is no room for it here.
    pub(crate) fn append(
        &mut self,
        writes: &[Write<'_>],
        ceiling: Option<Revision>,
    ) -> io::Result<bool> {
        let room = BATCH_MAX_BYTES.min(CAPACITY_BYTES - self.end);
        let fits =
            batch::encode(&mut self.buffer, (self.generation, self.end), writes, ceiling, room);
        if fits {
            self.file.write_all_at(&self.buffer, self.end as u64)?;
            self.file.sync_data()?;
            self.end += self.buffer.len();
        }
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(fits)
    }
}

#[cfg(test)]
mod tests;
