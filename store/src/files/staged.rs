//! A file under the database whose writes stay in memory until the database syncs them.
//!
//! Room on the disk is reserved before the first byte is written. So a full disk refuses a commit
//! while the file is still what the last commit left, and only a disk that fails leaves it unknown.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::FileHandle;

/// Size of the pieces in which writes are held.
const BLOCK_BYTES: usize = 4096;
/// Blocks that one call writes at most (256 KiB).
const WRITE_MAX_BLOCKS: usize = 64;

type Block = Box<[u8; BLOCK_BYTES]>;

/// True once a write or sync of a file has failed, after which neither its content on the disk nor
/// its pages in the kernel can be relied on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taint(Arc<AtomicBool>);

impl Taint {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The file with what is not synced yet.
#[derive(Debug)]
pub(crate) struct Staged {
    file: Arc<dyn FileHandle>,
    taint: Taint,
    /// The file is read only: what is synced stays in memory.
    frozen: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Length as the database sees it.
    length: u64,
    /// Length of the file itself; of a frozen one, the part of it that still counts.
    allocated: u64,
    blocks: BTreeMap<u64, Block>,
}

impl Staged {
    /// A file without staged writes; a failed write or sync sets `taint`.
    pub(crate) fn new(file: Arc<dyn FileHandle>, taint: Taint) -> io::Result<Self> {
        let length = file.length()?;
        let state = State { length, allocated: length, blocks: BTreeMap::new() };
        Ok(Self { file, taint, frozen: false, state: Mutex::new(state) })
    }

    /// A file that is read only; what the database changes of it is there for this reader alone.
    pub(crate) fn frozen(file: Arc<dyn FileHandle>) -> io::Result<Self> {
        Ok(Self { frozen: true, ..Self::new(file, Taint::default())? })
    }

    /// Refuses to change a file of which a write or sync has failed.
    fn check(&self) -> io::Result<()> {
        if self.taint.is_set() {
            return Err(io::Error::other("a write of the file has failed before"));
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from the file; what lies behind its end is zero.
    fn read_file(&self, state: &State, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let present = state.allocated.saturating_sub(offset);
        let present = usize::try_from(present).unwrap_or(usize::MAX).min(out.len());
        out[present..].fill(0);
        match present {
            0 => Ok(()),
            _ => self.file.read_at(offset, &mut out[..present]),
        }
    }

    fn write_back(&self, state: &mut State) -> io::Result<()> {
        let blocks: Vec<(u64, &Block)> =
            state.blocks.iter().map(|(index, block)| (*index, block)).collect();
        let mut run = Vec::new();
        let consecutive = |a: &(u64, &Block), b: &(u64, &Block)| a.0 + 1 == b.0;
        for chunk in blocks.chunk_by(consecutive).flat_map(|run| run.chunks(WRITE_MAX_BLOCKS)) {
            run.clear();
            chunk.iter().for_each(|(_, block)| run.extend_from_slice(&block[..]));
            let offset = chunk[0].0 * BLOCK_BYTES as u64;
            let end = state.length.saturating_sub(offset);
            run.truncate(usize::try_from(end).unwrap_or(usize::MAX));
            if !run.is_empty() {
                self.file.write_at(offset, &run)?;
            }
        }
        self.file.sync()
    }

    /// Reserves room for what is longer than the file. A failure leaves the file as it was.
    fn reserve_room(&self, state: &State) -> io::Result<()> {
        self.file.allocate(state.length).inspect_err(|_| {
            // Some file systems have made it longer by then.
            if self.file.truncate(state.allocated).is_err() {
                self.taint.set();
            }
        })
    }
}

impl StorageBackend for Staged {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if offset.saturating_add(out.len() as u64) > state.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(&state, offset, out)?;
        let end = offset + out.len() as u64;
        let first = offset / BLOCK_BYTES as u64;
        for (index, block) in state.blocks.range(first..end.div_ceil(BLOCK_BYTES as u64)) {
            let (from, to, start) = overlap(*index, offset, out.len());
            out[from..to].copy_from_slice(&block[start..start + (to - from)]);
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.state();
        if length < state.length {
            let kept = length.div_ceil(BLOCK_BYTES as u64);
            state.blocks.split_off(&kept);
            let inside = (length % BLOCK_BYTES as u64) as usize;
            if let Some(block) = state.blocks.get_mut(&(length / BLOCK_BYTES as u64)) {
                block[inside..].fill(0);
            }
            // What grows again later has to read as zeros.
            if length < state.allocated {
                if !self.frozen {
                    self.check()?;
                    self.file.truncate(length).inspect_err(|_| self.taint.set())?;
                }
                state.allocated = length;
            }
        }
        state.length = length;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let first = offset / BLOCK_BYTES as u64;
        for index in first..(offset + data.len() as u64).div_ceil(BLOCK_BYTES as u64) {
            let (from, to, start) = overlap(index, offset, data.len());
            if !state.blocks.contains_key(&index) {
                let mut block: Block = Box::new([0; BLOCK_BYTES]);
                if to - from < BLOCK_BYTES {
                    self.read_file(&state, index * BLOCK_BYTES as u64, &mut block[..])?;
                }
                state.blocks.insert(index, block);
            }
            if let Some(block) = state.blocks.get_mut(&index) {
                block[start..start + (to - from)].copy_from_slice(&data[from..to]);
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.frozen {
            return Ok(());
        }
        self.check()?;
        let mut state = self.state();
        if state.length > state.allocated {
            self.reserve_room(&state)?;
        }
        self.write_back(&mut state).inspect_err(|_| self.taint.set())?;
        state.allocated = state.length;
        state.blocks = BTreeMap::new();
        Ok(())
    }
}

/// Returns the bytes of a piece of `length` bytes at `offset` that lie in a block, and where in the
/// block they begin.
fn overlap(block: u64, offset: u64, length: usize) -> (usize, usize, usize) {
    let begin = block * BLOCK_BYTES as u64;
    let from = usize::try_from(begin.saturating_sub(offset)).unwrap_or(length);
    let end = usize::try_from((begin + BLOCK_BYTES as u64).saturating_sub(offset));
    let start = usize::try_from(offset.saturating_sub(begin)).unwrap_or(0);
    (from, end.unwrap_or(length).min(length), start)
}
