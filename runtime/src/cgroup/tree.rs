//! Groups and those below them. A container that may write to its groups makes as many levels as it
//! likes, so they are walked by descriptor.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

use crate::sys::dirent::Directory;
use crate::tree::{Visitor, walk};

/// Entries of one tree of groups that are looked at; each group has some 30 files.
const MAX_GROUP_ENTRIES: u64 = 4 << 20;

/// Groups of one level that are removed without a walk.
const MAX_GROUPS_AT_ONCE: usize = 256;

struct Each<F>(F);

impl<F: FnMut(BorrowedFd<'_>)> Visitor for Each<F> {
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, stat: &FileStat) -> bool {
        if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return false;
        }
        if let Ok(group) = open(parent, name) {
            (self.0)(group.as_fd());
        }
        true
    }

    fn only_directories(&self) -> bool {
        true
    }
}

/// Visits a group, then those below it. One that does not exist is not visited.
pub(super) fn each_group(group: &Path, mut visit: impl FnMut(BorrowedFd<'_>)) {
    let Ok(top) = File::open(group) else { return };
    visit(top.as_fd());
    let _ = walk(group, MAX_GROUP_ENTRIES, &mut Each(visit));
}

struct Remove {
    failed: Option<Errno>,
}

impl Visitor for Remove {
    fn entry(&mut self, _parent: BorrowedFd<'_>, _name: &CStr, stat: &FileStat) -> bool {
        stat.st_mode & libc::S_IFMT == libc::S_IFDIR
    }

    fn only_directories(&self) -> bool {
        true
    }

    fn left(&mut self, parent: BorrowedFd<'_>, name: &CStr) {
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => {
                self.failed.get_or_insert(errno);
            }
        }
    }
}

/// Removes a group and those below it; `EBUSY` while there are processes in one.
pub(super) fn remove(group: &Path) -> io::Result<()> {
    // Most have none below them.
    match std::fs::remove_dir(group) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => return other,
    }
    // Most of the others have one level.
    remove_below(group)?;
    match std::fs::remove_dir(group) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => return other,
    }
    let mut removal = Remove { failed: None };
    match walk(group, MAX_GROUP_ENTRIES, &mut removal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    match std::fs::remove_dir(group) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(removal.failed.map_or(error, Into::into)),
    }
}

/// Removes the groups directly below one that can be removed.
fn remove_below(group: &Path) -> io::Result<()> {
    let mut directory = match File::open(group) {
        Ok(file) => Directory::new(file.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut below = Vec::new();
    while let Some(entry) = directory.next()? {
        if entry.is_directory != Some(false) && below.len() < MAX_GROUPS_AT_ONCE {
            below.push(entry.name.to_owned());
        }
    }
    for name in below {
        // What stays is for the walk.
        let _ = unlinkat(&directory, name.as_c_str(), UnlinkatFlags::RemoveDir);
    }
    Ok(())
}

/// The processes directly in a group.
pub(super) fn processes(group: BorrowedFd<'_>) -> Vec<i32> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut text = String::new();
    if let Ok(file) = openat(group, c"cgroup.procs", flags, Mode::empty()) {
        let _ = File::from(file).read_to_string(&mut text);
    }
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// Kills the processes directly in a group.
pub(super) fn kill_processes(group: BorrowedFd<'_>) {
    for pid in processes(group) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Kills the processes directly in the group of this directory.
pub(crate) fn kill_all(directory: &Path) {
    if let Ok(group) = File::open(directory) {
        kill_processes(group.as_fd());
    }
}

/// Writes a file of a group; a kernel without it has nothing to write.
pub(super) fn write(group: BorrowedFd<'_>, file: &CStr, value: &[u8]) {
    if let Ok(file) = openat(group, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        let _ = nix::unistd::write(file, value);
    }
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<std::os::fd::OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}
