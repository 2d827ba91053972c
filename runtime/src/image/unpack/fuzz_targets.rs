//! Entry points for fuzzing: no layer changes anything outside its directory, or has more in it than its
//! tar says.

use std::os::unix::fs::MetadataExt;

use super::*;

/// Bytes that one input may write to files.
const FILES_MAX_BYTES: u64 = 1 << 20;
/// Bytes of a block of a tar.
const BLOCK_BYTES: usize = 512;
/// The place where directories are made: in memory, if that is there.
const MEMORY: &str = "/dev/shm";

/// Unpacks a plain tar whose checksums are put right.
pub fn layer(bytes: &[u8]) {
    let Ok(outer) = tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir()) else { return };
    let (root, victim) = (outer.path().join("root"), outer.path().join("victim"));
    std::fs::create_dir(&root).expect("an empty directory takes a directory");
    std::fs::write(&victim, "intact").expect("an empty directory takes a file");
    let before = std::fs::symlink_metadata(&victim).expect("the file is there");
    let tar = with_checksums(bytes);
    let unpacked = unpack_at_most(FILES_MAX_BYTES, &tar[..], &root, &Counted::default());
    let after = std::fs::symlink_metadata(&victim).expect("the file is still there");
    let facts = |of: &std::fs::Metadata| {
        (of.ino(), of.mode(), of.uid(), of.gid(), of.nlink(), of.mtime(), of.mtime_nsec())
    };
    assert_eq!(facts(&after), facts(&before));
    assert_eq!(std::fs::read(&victim).ok().as_deref(), Some(&b"intact"[..]));
    let beside = std::fs::read_dir(outer.path()).expect("the directory is readable");
    assert_eq!(beside.count(), 2, "something came beside the directory of the layer");
    if let Ok(unpacked) = unpacked {
        assert!(unpacked.size_bytes <= FILES_MAX_BYTES);
        let digest = hex(ring::digest::digest(&SHA256, &tar).as_ref());
        assert_eq!(unpacked.diff_id, format!("sha256:{digest}"));
    }
}

/// The tar with the checksum of every header right.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + BLOCK_BYTES) {
        let mut header = tar::Header::from_byte_slice(block).clone();
        header.set_cksum();
        let size = usize::try_from(header.entry_size().unwrap_or(0)).unwrap_or(usize::MAX);
        if block.iter().any(|byte| *byte != 0) {
            block.copy_from_slice(header.as_bytes());
        }
        let data = size.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(usize::MAX);
        at = at.saturating_add(BLOCK_BYTES).saturating_add(data).min(tar.len());
    }
    tar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_layers_is_unpacked() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/layer"), layer);
    }
}
