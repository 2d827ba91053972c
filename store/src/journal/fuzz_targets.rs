//! Entry points for fuzzing: no content of the file makes the reader of journals panic, and no damage
//! makes it return anything but what was appended.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::*;

/// Size of the file: room for a few batches beside the last blocks.
const FILE_BYTES: usize = 24 * BLOCK_BYTES;
/// Batches that one input may append.
const BATCHES_MAX: usize = 8;
/// Bytes of an appended value for each of its length byte, so that some take several blocks.
const VALUE_STEP_BYTES: usize = 40;
/// Bytes of an instruction of [`journal`].
const STEP_BYTES: usize = 4;
const GENERATION: u64 = 7;

/// Appends batches to a journal, damages the file, and reads it: what it returns are the first of
/// the batches, unaltered. Each instruction has four bytes: appends a write (kind, key, length of
/// the value, fill), or flips bits of the file (kind, two bytes of the offset, bits).
pub fn journal(bytes: &[u8]) {
    let file = Memory::default();
    let path = Path::new("state.journal");
    let Ok(mut journal) = Journal::create(&file, path, FILE_BYTES) else { return };
    journal.restart(GENERATION);
    let mut appended = Vec::new();
    let mut damaged = false;
    for step in bytes.chunks_exact(STEP_BYTES) {
        match step[0] % 4 {
            0 | 1 if appended.len() < BATCHES_MAX && !damaged => {
                let key = format!("bucket/{}", step[1]);
                let value = Bytes::from(vec![step[3]; usize::from(step[2]) * VALUE_STEP_BYTES]);
                let record = (step[0] % 4 == 0).then_some((u64::from(step[3]) + 1, &value));
                let ceiling = (step[0] & 0x80 != 0).then_some(1000);
                let room = if step[0] & 0x40 != 0 { Room::Last } else { Room::Usual };
                let write = Write { key: &key, record };
                if journal.append(&[write], ceiling, room).expect("memory takes a batch") {
                    let record = record.map(|(revision, value)| (revision, value.clone()));
                    appended.push(Batch { ceiling, entries: vec![(key, record)] });
                }
            }
            2 => {
                let offset = usize::from(u16::from_le_bytes([step[1], step[2]]));
                file.bytes()[offset] ^= step[3];
                damaged |= step[3] != 0;
            }
            _ => {}
        }
    }
    let mut journal = Journal::open(&file, path).expect("memory is readable");
    match journal.read(GENERATION).expect("memory is readable") {
        Contents::Batches(batches) => {
            assert!(damaged || batches.len() == appended.len(), "a batch is lost");
            assert_eq!(batches, appended[..batches.len()]);
            assert!(journal.end <= FILE_BYTES);
        }
        Contents::Gap(offset) => {
            assert!(damaged && offset.is_multiple_of(BLOCK_BYTES), "{offset}");
        }
        Contents::TooNew(_) => assert!(damaged),
    }
}

/// Reads a batch whose checksum is put right, and encodes it again.
pub fn journal_batch(bytes: &[u8]) {
    let mut file = FileHeader::block(JOURNAL_FORMAT).to_vec();
    file.extend_from_slice(bytes);
    file.resize(FILE_BYTES, 0);
    batch::seal(&mut file[BLOCK_BYTES..], GENERATION, BLOCK_BYTES);
    let file = Memory(Arc::new(Mutex::new(file)));
    let mut journal = Journal::open(&file, Path::new("state.journal")).expect("memory is readable");
    let contents = journal.read(GENERATION).expect("memory is readable");
    let Contents::Batches(batches) = contents else { return };
    let Some(read) = batches.first() else { return };
    let writes: Vec<Write<'_>> = read
        .entries
        .iter()
        .map(|(key, record)| Write {
            key,
            record: record.as_ref().map(|(revision, value)| (*revision, value)),
        })
        .collect();
    journal.restart(GENERATION);
    let fits = journal.append(&writes, read.ceiling, Room::Last);
    assert!(fits.expect("memory takes a batch"), "a batch that was read does not fit");
    match journal.read(GENERATION).expect("memory is readable") {
        Contents::Batches(again) => assert_eq!(again.first(), Some(read)),
        other => panic!("{other:?}"),
    }
}

/// A file in memory, whatever its path.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for Memory {
    fn open(&self, _: &Path) -> io::Result<Arc<dyn FileHandle>> {
        Ok(Arc::new(self.clone()))
    }

    fn create(&self, _: &Path) -> io::Result<Arc<dyn FileHandle>> {
        self.bytes().clear();
        Ok(Arc::new(self.clone()))
    }

    fn exists(&self, _: &Path) -> io::Result<bool> {
        Ok(true)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl FileHandle for Memory {
    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let from = bytes.get(offset as usize..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut own = self.bytes();
        let range = offset as usize..offset as usize + bytes.len();
        let to = own.get_mut(range).ok_or(io::ErrorKind::StorageFull)?;
        to.copy_from_slice(bytes);
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut own = self.bytes();
        let length = own.len().max(length as usize);
        own.resize(length, 0);
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.bytes().truncate(length as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_damaged_journals_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/journal"), journal);
    }

    #[test]
    fn corpus_of_batches_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/journal_batch"), journal_batch);
    }
}
