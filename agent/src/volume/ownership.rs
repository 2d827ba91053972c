//! `fsGroup`: gives the files of a volume to a group, as upstream's `SetVolumeOwnership` does.
//!
//! A pod that has the same volume may move and replace entries meanwhile. Every change is therefore
//! made on a descriptor that was opened without following a link, below the directory that is
//! walked: nothing outside of the volume is ever changed.

use std::ffi::CStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::{Gid, fchownat};
use runtime::tree::{Visitor, walk};

/// Walks that are made of a volume whose entries are moved meanwhile.
const MAX_WALKS: u32 = 3;
/// Entries of one volume.
const MAX_ENTRIES: u64 = 100_000_000;

/// The bits of a mode that say what a file is, and two of their values.
const KIND: u32 = SFlag::S_IFMT.bits();
const DIRECTORY: u32 = SFlag::S_IFDIR.bits();
const SYMLINK: u32 = SFlag::S_IFLNK.bits();

/// The policy for setting the group of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// At each mount.
    Always,
    /// Only where the top of the volume does not have the group and its permissions.
    OnRootMismatch,
}

/// The reason why a volume could not be given to a group.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// A file or directory could not be changed.
    #[error("cannot set the group of the volume: {0}")]
    Change(#[from] io::Error),
    /// The walk did not come to an end in its time.
    #[error("cannot set the group of the volume in time: it has too many files")]
    Deadline,
    /// Entries were moved while the volume was walked.
    #[error("cannot set the group of the volume: its directories were moved meanwhile")]
    Moved,
}

/// Gives `top` and everything below it to a group that can read and write it. Stops at `deadline`.
pub fn set(
    top: &Path,
    group: u32,
    policy: Policy,
    deadline: Instant,
) -> Result<(), OwnershipError> {
    if policy == Policy::OnRootMismatch && !mismatch(top, group)? {
        return Ok(());
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut whole = false;
    for _ in 0..MAX_WALKS {
        let mut setter = Setter { group, deadline, error: None };
        whole = walk(top, MAX_ENTRIES, &mut setter)?;
        if let Some(error) = setter.error {
            return Err(error);
        }
        if whole {
            break;
        }
    }
    if !whole {
        return Err(OwnershipError::Moved);
    }
    // The top is last: a walk that was interrupted leaves a mismatch.
    let handle = open(top, flags, Mode::empty()).map_err(io::Error::from)?;
    change(&handle, group)?;
    Ok(())
}

/// Returns whether the top of a volume lacks the group or its permissions.
fn mismatch(top: &Path, group: u32) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(top)?;
    let wanted = 0o2770;
    Ok(!metadata.is_dir() || metadata.gid() != group || metadata.mode() & wanted != wanted)
}

struct Setter {
    group: u32,
    deadline: Instant,
    error: Option<OwnershipError>,
}

impl Visitor for Setter {
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, stat: &FileStat) -> bool {
        if self.error.is_some() {
            return false;
        }
        if Instant::now() >= self.deadline {
            self.error = Some(OwnershipError::Deadline);
            return false;
        }
        let changed = open_entry(parent, name)
            .map_err(io::Error::from)
            .and_then(|entry| change(&entry, self.group));
        match changed {
            Ok(()) => stat.st_mode & KIND == DIRECTORY,
            // It went away meanwhile, or a mount covers it.
            Err(error) if is_gone(&error) => false,
            Err(error) => {
                self.error = Some(error.into());
                false
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::ENOENT, Errno::EXDEV];
    gone.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn open_entry(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    // With O_NOFOLLOW a symlink is opened itself; its name is a single one.
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    loop {
        match openat2(parent, name, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Gives what a descriptor is open on to the group; of a symlink only the link itself.
fn change(entry: &OwnedFd, group: u32) -> io::Result<()> {
    let mode = nix::sys::stat::fstat(entry)?.st_mode;
    fchownat(entry.as_fd(), "", None, Some(Gid::from_raw(group)), AtFlags::AT_EMPTY_PATH)?;
    if mode & KIND == SYMLINK {
        return Ok(());
    }
    let more = if mode & KIND == DIRECTORY { 0o2770 } else { 0o660 };
    // A descriptor without access rights is changed by its name in /proc, which is no link to
    // a path but to the file itself.
    let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
    fs::set_permissions(path, Permissions::from_mode((mode & 0o7777) | more))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let id = std::process::id();
        let path = std::env::temp_dir().join(format!("coracle-ownership-{id}-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// The group of this process, or another one where it may choose.
    fn group() -> u32 {
        if nix::unistd::geteuid().is_root() { 4321 } else { nix::unistd::getegid().as_raw() }
    }

    fn state(path: &Path) -> (u32, u32) {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.gid(), metadata.mode() & 0o7777)
    }

    #[test]
    fn links_lead_nowhere() {
        let top = directory("links");
        let (volume, outside) = (top.join("volume"), top.join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("secret"), "").unwrap();
        fs::write(volume.join("a/file"), "").unwrap();
        for path in [&outside, &outside.join("secret"), &volume.join("a/file")] {
            fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
        }
        symlink(&outside, volume.join("a/dir")).unwrap();
        symlink(outside.join("secret"), volume.join("a/link")).unwrap();
        let before = (state(&outside), state(&outside.join("secret")));
        set(&volume, group(), Policy::Always, soon()).unwrap();
        assert_eq!(state(&volume.join("a/file")), (group(), 0o760));
        assert_eq!(state(&volume.join("a/b")).1 & 0o2770, 0o2770);
        assert_eq!(state(&volume.join("a/b")).0, group());
        assert_eq!((state(&outside), state(&outside.join("secret"))), before);
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn renames_at_the_same_time_change_nothing_outside() {
        let top = directory("race");
        let (volume, outside) = (top.join("volume"), top.join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        fs::create_dir_all(volume.join("real")).unwrap();
        for n in 0..50 {
            fs::write(volume.join(format!("real/f{n}")), "").unwrap();
        }
        fs::write(volume.join("real/file"), "").unwrap();
        symlink(&outside, volume.join("fake")).unwrap();
        for path in [&outside, &outside.join("file")] {
            fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
        }
        let before = (state(&outside), state(&outside.join("file")));
        let swapping = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while swapping.load(std::sync::atomic::Ordering::Relaxed) {
                    // "swap" is a directory now and a link to the outside then.
                    for name in ["real", "fake"] {
                        let (from, to) = (volume.join(name), volume.join("swap"));
                        fs::rename(&from, &to).unwrap();
                        fs::rename(&to, &from).unwrap();
                    }
                }
            });
            for _ in 0..200 {
                // It may give up when directories are moved too often.
                let _ = set(&volume, group(), Policy::Always, soon());
            }
            swapping.store(false, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!((state(&outside), state(&outside.join("file"))), before);
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn matching_root_is_left_alone() {
        let top = directory("policy");
        fs::write(top.join("file"), "").unwrap();
        set(&top, group(), Policy::OnRootMismatch, soon()).unwrap();
        assert_eq!(state(&top.join("file")), (group(), 0o664));
        fs::set_permissions(top.join("file"), Permissions::from_mode(0o600)).unwrap();
        set(&top, group(), Policy::OnRootMismatch, soon()).unwrap();
        assert_eq!(state(&top.join("file")).1, 0o600, "the root has the group");
        set(&top, group(), Policy::Always, soon()).unwrap();
        assert_eq!(state(&top.join("file")).1, 0o660);
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn deep_trees_are_changed_to_the_bottom() {
        let top = directory("deep");
        let mut current = open(&top, OFlag::O_RDONLY, Mode::empty()).unwrap();
        for _ in 0..3_000 {
            nix::sys::stat::mkdirat(&current, "d", Mode::from_bits_truncate(0o700)).unwrap();
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            current = nix::fcntl::openat(&current, "d", flags, Mode::empty()).unwrap();
        }
        set(&top, group(), Policy::Always, soon()).unwrap();
        let bottom = nix::sys::stat::fstat(&current).unwrap();
        assert_eq!((bottom.st_gid, bottom.st_mode & 0o7777), (group(), 0o2770));
        let late = set(&top, group(), Policy::Always, Instant::now());
        assert!(matches!(late, Err(OwnershipError::Deadline)));
        runtime::tree::remove(&top).unwrap();
    }
}
