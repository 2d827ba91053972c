//! Mounts on the machine that belong to pods: made, found again, removed without a trace.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mountinfo::{self, Mount};

/// Mounts an empty memory file system unless one is there already.
pub fn tmpfs(path: &Path, size_bytes: u64, mode: u32, keep_off_swap: bool) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let options = format!("size={size_bytes},mode={mode:o}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let attempt = |options: &str| mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options));
    // Kernels before 6.4 do not know the option, and log each attempt.
    static UNKNOWN: AtomicBool = AtomicBool::new(false);
    if keep_off_swap && !UNKNOWN.load(Ordering::Relaxed) {
        match attempt(&format!("{options},noswap")) {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EINVAL) => UNKNOWN.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
    }
    attempt(&options).map_err(io::Error::from)
}

/// Binds one file or directory of an open descriptor's path to another place.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    let none: Option<&str> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .map_err(io::Error::from)
}

/// Whether something is mounted on that very directory.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let own = fs::symlink_metadata(path)?;
    let Some(parent) = path.parent() else { return Ok(true) };
    Ok(own.dev() != fs::symlink_metadata(parent)?.dev())
}

/// Takes away whatever is mounted on a path; nothing there is no error.
pub fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a directory tree and every mount below it, the deepest first; what is mounted from
/// elsewhere keeps its contents.
pub fn remove_tree(root: &Path) -> io::Result<()> {
    let mut points = mount_points_below(root, &mountinfo::read()?);
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in &points {
        unmount(point)?;
    }
    // A mount that appeared meanwhile must not lose its contents.
    if !mount_points_below(root, &mountinfo::read()?).is_empty() {
        return Err(io::Error::from(io::ErrorKind::ResourceBusy));
    }
    runtime::tree::remove(root)
}

fn mount_points_below(root: &Path, mounts: &[Mount]) -> Vec<PathBuf> {
    let points = mounts.iter().map(|mount| &mount.point);
    points.filter(|point| point.starts_with(root)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_directory() {
        let info = b"1 2 0:1 / /var/pods/u/volumes/s rw - tmpfs tmpfs rw\n\
                    1 2 0:1 / /var/pods/u/volumes/a\\040b rw - tmpfs tmpfs rw\n\
                    1 2 0:1 / /mnt/caf\xe9 rw - tmpfs tmpfs rw\n\
                    1 2 0:1 / /var/pods/uu rw - tmpfs tmpfs rw\n";
        assert_eq!(
            mount_points_below(Path::new("/var/pods/u"), &mountinfo::parse(info)),
            [Path::new("/var/pods/u/volumes/s"), Path::new("/var/pods/u/volumes/a b")]
        );
    }
}
