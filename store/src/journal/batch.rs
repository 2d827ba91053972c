//! The encoding of the journal's first block and of a batch of writes.
//!
//! The first block (all numbers little-endian): magic u32, checksum u32 of everything behind it,
//! format u32, zeros. Format 0 had no such block.
//!
//! A batch is a header: magic u32, checksum u32 of everything behind it, generation u64, offset in
//! the file u64, ceiling of revisions u64 (0 for none), bytes of the entries u32, number of entries
//! u32. Then the entries: revision u64 (0 for a removed key), bytes of the key u32, bytes of the
//! value u32, key, value. Zeros fill the last block.

use bytes::Bytes;
use flate2::Crc;

use crate::disk::Write;
use crate::record::Revision;

/// Batches begin at multiples of this: what a disk writes as one.
pub(super) const BLOCK_BYTES: usize = 4096;

const MAGIC: u32 = 0x4c4e_4a43;
const FILE_MAGIC: u32 = 0x464e_4a43;
const HEADER_BYTES: usize = 40;
const CHECKED_FROM: usize = 8;
const ENTRY_BYTES: usize = 16;

/// The block that names the format of the file.
pub(super) struct FileHeader;

impl FileHeader {
    pub(super) fn block(format: u32) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[..4].copy_from_slice(&FILE_MAGIC.to_le_bytes());
        block[CHECKED_FROM..12].copy_from_slice(&format.to_le_bytes());
        let sum = checksum(&block[CHECKED_FROM..]);
        block[4..CHECKED_FROM].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// Returns the format, or `None` for a block that is no such header.
    pub(super) fn parse(block: &[u8]) -> Option<u32> {
        let mut reader = Reader(block);
        let (magic, sum) = (reader.u32()?, reader.u32()?);
        let whole = magic == FILE_MAGIC && sum == checksum(&block[CHECKED_FROM..]);
        whole.then(|| reader.u32())?
    }
}

/// A batch that was read back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The promise about revisions that came with it.
    pub(crate) ceiling: Option<Revision>,
    /// Each key with its new state; `None` removes it.
    pub(crate) entries: Vec<(String, Option<(Revision, Bytes)>)>,
}

/// The head of a batch; the rest is not checked yet.
pub(super) struct Header {
    checksum: u32,
    ceiling: Revision,
    entries_bytes: usize,
    entries: usize,
}

impl Header {
    /// The header at the start of `block`, if it belongs to this generation and offset.
    pub(super) fn parse(block: &[u8], generation: u64, offset: usize) -> Option<Self> {
        let mut reader = Reader(block);
        let (magic, checksum) = (reader.u32()?, reader.u32()?);
        if magic != MAGIC || reader.u64()? != generation || reader.u64()? != offset as u64 {
            return None;
        }
        Some(Self {
            checksum,
            ceiling: reader.u64()?,
            entries_bytes: reader.size()?,
            entries: reader.size()?,
        })
    }

    /// Bytes that the batch takes in the file.
    pub(super) fn batch_bytes(&self) -> usize {
        HEADER_BYTES.saturating_add(self.entries_bytes).next_multiple_of(BLOCK_BYTES)
    }
}

impl Batch {
    /// The batch behind a header, if it is whole.
    pub(super) fn parse(header: &Header, bytes: &[u8]) -> Option<Self> {
        let end = HEADER_BYTES.checked_add(header.entries_bytes)?;
        if checksum(bytes.get(CHECKED_FROM..end)?) != header.checksum {
            return None;
        }
        let mut reader = Reader(&bytes[HEADER_BYTES..end]);
        let mut entries = Vec::new();
        for _ in 0..header.entries {
            let revision = reader.u64()?;
            let (key, value) = (reader.size()?, reader.size()?);
            let key = std::str::from_utf8(reader.take(key)?).ok()?.to_owned();
            let value = reader.take(value)?;
            let record = (revision != 0).then(|| (revision, Bytes::copy_from_slice(value)));
            entries.push((key, record));
        }
        let ceiling = Some(header.ceiling).filter(|ceiling| *ceiling != 0);
        reader.0.is_empty().then_some(Self { ceiling, entries })
    }
}

/// Writes a batch into `buffer`, unless it takes more than `room`.
pub(super) fn encode(
    buffer: &mut Vec<u8>,
    (generation, offset): (u64, usize),
    writes: &[Write<'_>],
    ceiling: Option<Revision>,
    room: usize,
) -> bool {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
    let mut entries: u32 = 0;
    for Write { key, record } in writes {
        let (revision, value) = record.map_or((0, &[][..]), |(revision, value)| (revision, value));
        let (Ok(key_bytes), Ok(value_bytes)) =
            (u32::try_from(key.len()), u32::try_from(value.len()))
        else {
            return false;
        };
        if buffer.len() + ENTRY_BYTES + key.len() + value.len() > room {
            return false;
        }
        buffer.extend_from_slice(&revision.to_le_bytes());
        buffer.extend_from_slice(&key_bytes.to_le_bytes());
        buffer.extend_from_slice(&value_bytes.to_le_bytes());
        buffer.extend_from_slice(key.as_bytes());
        buffer.extend_from_slice(value);
        entries += 1;
    }
    let Ok(entries_bytes) = u32::try_from(buffer.len() - HEADER_BYTES) else { return false };
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&generation.to_le_bytes());
    header.extend_from_slice(&(offset as u64).to_le_bytes());
    header.extend_from_slice(&ceiling.unwrap_or(0).to_le_bytes());
    header.extend_from_slice(&entries_bytes.to_le_bytes());
    header.extend_from_slice(&entries.to_le_bytes());
    buffer[..HEADER_BYTES].copy_from_slice(&header);
    let sum = checksum(&buffer[CHECKED_FROM..]);
    buffer[4..CHECKED_FROM].copy_from_slice(&sum.to_le_bytes());
    buffer.resize(buffer.len().next_multiple_of(BLOCK_BYTES), 0);
    buffer.len() <= room
}

/// Makes the header at the start of `bytes` one of this generation and offset with the right checksum,
/// whatever follows it.
#[cfg(any(test, fuzzing))]
pub(super) fn seal(bytes: &mut [u8], generation: u64, offset: usize) {
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&generation.to_le_bytes());
    bytes[16..24].copy_from_slice(&(offset as u64).to_le_bytes());
    let entries = Header::parse(bytes, generation, offset).map_or(0, |header| header.entries_bytes);
    let end = HEADER_BYTES.saturating_add(entries).min(bytes.len());
    let sum = checksum(&bytes[CHECKED_FROM..end]);
    bytes[4..CHECKED_FROM].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Takes numbers and slices off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.u32()?).ok()
    }
}
