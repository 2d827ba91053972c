//! How much of the disk a directory takes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Size of the blocks that `st_blocks` counts.
const BLOCK_BYTES: u64 = 512;

/// Bytes on disk of everything below `path` on the same file system.
pub fn bytes_below(path: &Path) -> u64 {
    let Ok(top) = std::fs::symlink_metadata(path) else { return 0 };
    let mut total = 0;
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            // What disappears while it is looked at takes no space.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != top.dev() {
                continue;
            }
            total += metadata.blocks() * BLOCK_BYTES;
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    total
}
