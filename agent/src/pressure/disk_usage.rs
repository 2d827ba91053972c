//! The disk space that the directories of a pod take.

use std::path::PathBuf;

use crate::blocking::{self, Deadline};

/// Most entries of one directory that are counted; what is beyond them does not count.
const MAX_COUNTED_ENTRIES: u64 = 8_000_000;

/// Returns the bytes on disk of everything below these directories, each on its own file system.
/// Files that disappear meanwhile take no space.
pub async fn bytes_below(owner: &str, directories: Vec<PathBuf>) -> u64 {
    let count = move || {
        let usages = directories.iter().map(|path| runtime::tree::usage(path, MAX_COUNTED_ENTRIES));
        usages.flatten().map(|usage| usage.bytes).sum()
    };
    let counted = blocking::run(owner, "Counting the disk usage", Deadline::Long, count).await;
    counted.unwrap_or_else(|error| {
        tracing::warn!(owner, %error, "disk usage is unknown");
        0
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use nix::fcntl::{OFlag, open, openat};
    use nix::sys::stat::{Mode, mkdirat};

    use super::*;

    #[tokio::test]
    async fn files_below_path_max_are_counted() {
        let top = std::env::temp_dir().join(format!("coracle-usage-{}", std::process::id()));
        std::fs::create_dir_all(&top).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut current = open(&top, flags, Mode::empty()).unwrap();
        let name = "d".repeat(200);
        for _ in 0..60 {
            mkdirat(&current, &*name, Mode::from_bits_truncate(0o700)).unwrap();
            current = openat(&current, &*name, flags, Mode::empty()).unwrap();
        }
        let create = OFlag::O_WRONLY | OFlag::O_CREAT;
        let file = openat(&current, "file", create, Mode::from_bits_truncate(0o600)).unwrap();
        nix::unistd::write(&file, &vec![1; 1 << 20]).unwrap();
        nix::unistd::fsync(&file).unwrap();
        let bytes = bytes_below("pod", vec![top.clone(), top.join("missing")]).await;
        assert!(bytes >= 1 << 20, "{bytes}");
        runtime::tree::remove(&top).unwrap();
    }
}
