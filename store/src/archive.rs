//! A copy of all records as a stream of bytes, for backups.
//!
//! The stream (all numbers little-endian): magic, format u32, revision of the store u64; for each
//! record its revision u64 (never 0), bytes of the key u32, bytes of the value u32, key, value; then
//! 0 u64, number of records u64, checksum u32 of everything before it. So a stream that was cut off
//! differs from a whole one.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use std::io::{self, Read};

use bytes::Bytes;
use flate2::Crc;

use crate::record::Revision;

const MAGIC: &[u8; 8] = b"CORACLE\n";
/// Format of the stream that this program writes.
pub const ARCHIVE_FORMAT: u32 = 1;
/// Bytes of a key or value that are believed; a larger number is damage.
const FIELD_MAX_BYTES: u32 = 64 << 20;

/// One record of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// `bucket/rest`.
    pub key: String,
    /// The revision of the write that made it.
    pub revision: Revision,
    /// The bytes, exactly as they were encoded.
    pub value: Bytes,
}

/// The reason why a stream is not a copy of a store.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("read the copy of the store: {0}")]
    Read(#[from] io::Error),
    /// A newer version of this program wrote it.
    #[error("the copy of the store has format {found}, this version reads up to {known}")]
    TooNew {
        /// The format of the stream.
        found: u32,
        /// The newest format that this program reads.
        known: u32,
    },
    /// It is not what was written.
    #[error("the copy of the store is damaged: {0}")]
    Damaged(&'static str),
}

/// Encodes a copy piece by piece.
pub struct ArchiveWriter {
    sum: Crc,
    records: u64,
}

impl ArchiveWriter {
    /// Begins a copy of the store at `revision`.
    pub fn begin(revision: Revision, out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&ARCHIVE_FORMAT.to_le_bytes());
        out.extend_from_slice(&revision.to_le_bytes());
        let mut sum = Crc::new();
        sum.update(&out[start..]);
        Self { sum, records: 0 }
    }

    /// Adds a record.
    pub fn record(&mut self, key: &str, revision: Revision, value: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&revision.to_le_bytes());
        // Requests bound both far below 4 GiB.
        out.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value);
        self.sum.update(&out[start..]);
        self.records += 1;
    }

    /// Ends the copy.
    pub fn end(mut self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        self.sum.update(&out[start..]);
        out.extend_from_slice(&self.sum.sum().to_le_bytes());
    }
}

/// Reads a whole copy: the store's revision, and the records.
pub fn read_archive(input: impl Read) -> Result<(Revision, Vec<Stored>), ArchiveError> {
    let mut input = Summed { input, sum: Crc::new() };
    if &input.array::<8>()? != MAGIC {
        return Err(ArchiveError::Damaged("it does not begin like one"));
    }
    let found = u32::from_le_bytes(input.array()?);
    if found > ARCHIVE_FORMAT {
        return Err(ArchiveError::TooNew { found, known: ARCHIVE_FORMAT });
    }
    let store_revision = u64::from_le_bytes(input.array()?);
    let mut records = Vec::new();
    loop {
        let revision = u64::from_le_bytes(input.array()?);
        if revision == 0 {
            break;
        }
        let (key, value) = (input.array()?, input.array()?);
        let (key, value) = (u32::from_le_bytes(key), u32::from_le_bytes(value));
        let key = String::from_utf8(input.bytes(key)?);
        let key = key.map_err(|_| ArchiveError::Damaged("a key is not UTF-8"))?;
        records.push(Stored { key, revision, value: input.bytes(value)?.into() });
    }
    let count = u64::from_le_bytes(input.array()?);
    let sum = input.sum.sum();
    if count != records.len() as u64 || u32::from_le_bytes(input.array()?) != sum {
        return Err(ArchiveError::Damaged("the checksum is another"));
    }
    Ok((store_revision, records))
}

/// A reader that keeps the checksum of what it has read.
struct Summed<R> {
    input: R,
    sum: Crc,
}

impl<R: Read> Summed<R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ArchiveError> {
        let mut array = [0; N];
        self.input.read_exact(&mut array).map_err(cut_off)?;
        self.sum.update(&array);
        Ok(array)
    }

    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, ArchiveError> {
        if length > FIELD_MAX_BYTES {
            return Err(ArchiveError::Damaged("a record is too long"));
        }
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes).map_err(cut_off)?;
        self.sum.update(&bytes);
        Ok(bytes)
    }
}

fn cut_off(error: io::Error) -> ArchiveError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Damaged("it is cut off"),
        _ => ArchiveError::Read(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn archive() -> (Vec<u8>, Vec<Stored>) {
        let record = |key: &str, revision, size: usize| {
            let value = (0..size).map(|i| (i * 7) as u8).collect::<Vec<u8>>().into();
            Stored { key: key.to_owned(), revision, value }
        };
        let records = vec![record("a/b/c", 3, 0), record("a/b/ü", 9, 100_000)];
        let mut out = Vec::new();
        let mut writer = ArchiveWriter::begin(77, &mut out);
        for Stored { key, revision, value } in &records {
            writer.record(key, *revision, value, &mut out);
        }
        writer.end(&mut out);
        (out, records)
    }

    #[test]
    fn archive_is_read_back_whole() {
        let (bytes, records) = archive();
        assert_eq!(read_archive(&bytes[..]).unwrap(), (77, records));
    }

    #[test]
    fn damaged_archive_is_refused() {
        let (bytes, _) = archive();
        for end in [0, 5, 19, 30, 5000, bytes.len() - 1] {
            assert!(matches!(read_archive(&bytes[..end]), Err(ArchiveError::Damaged(_))), "{end}");
        }
        for at in [0, 13, 45, 5000, bytes.len() - 3] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            assert!(matches!(read_archive(&bytes[..]), Err(ArchiveError::Damaged(_))), "{at}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        let error = read_archive(&newer[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::TooNew { found: 2, known: 1 }), "{error}");
    }
}
