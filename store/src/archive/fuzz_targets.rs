//! Entry points for fuzzing: no stream of bytes makes the reader of archives panic, and a copy of what
//! it reads is read back equal.

use super::*;

/// Bytes of the checksum at the end.
const CHECKSUM_BYTES: usize = 4;

/// Reads an archive as it is, and with its checksum put right.
pub fn archive(bytes: &[u8]) {
    reread(bytes);
    if let Some(end) = bytes.len().checked_sub(CHECKSUM_BYTES) {
        let mut sum = Crc::new();
        sum.update(&bytes[..end]);
        let right = sum.sum().to_le_bytes();
        reread(&[&bytes[..end], &right].concat());
    }
}

fn reread(bytes: &[u8]) {
    let Ok((revision, records)) = read_archive(bytes) else { return };
    let mut copy = Vec::new();
    let mut writer = ArchiveWriter::begin(revision, &mut copy);
    for record in &records {
        writer.record(&record.key, record.revision, &record.value, &mut copy);
    }
    writer.end(&mut copy);
    assert!(copy.len() <= bytes.len(), "the records have more bytes than the archive");
    let again = read_archive(&copy[..]);
    assert_eq!(again.ok(), Some((revision, records)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_archives_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/archive"), archive);
    }
}
