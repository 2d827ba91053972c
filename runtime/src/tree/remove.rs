//! Removal of a file or a whole tree.
//!
//! Directories are walked depth first with at most [`MAX_HELD_DIRECTORIES`] open. A directory below
//! that depth is renamed to the top of the tree and removed from there later, so neither the
//! descriptors nor the memory grow with the tree, and each directory is moved at most once.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::open_directory;
use super::permit::permitted;
use crate::sys::dirent::Directory;

/// Directories that one removal holds open at a time.
const MAX_HELD_DIRECTORIES: usize = 32;
/// Times that a directory is read again because something was created in it meanwhile.
const MAX_PASSES: usize = 16;

/// Removes a file or a directory with everything below it. A path that does not exist is no error.
///
/// Symbolic links are removed, not followed. Flags that forbid the removal are cleared. What another
/// mount covers is left: the error is then `ResourceBusy`, and everything else is removed
/// nevertheless, as after any other error; the first error is returned.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = match nix::fcntl::open(parent, flags, Mode::empty()) {
        Ok(parent) => File::from(parent),
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let name = CString::new(name.as_bytes())?;
    let mut error = None;
    for _ in 0..MAX_PASSES {
        let opened = match Found::take(parent.as_fd(), &name, true) {
            Ok(Found::Nothing) => return Ok(()),
            Ok(Found::Directory(top)) => top,
            Err(errno) => return Err(errno.into()),
        };
        let mut removal = Removal { top: opened, moved: 0, error: None };
        removal.run();
        error = removal.error;
        match unlink(parent.as_fd(), &name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => error = error.or(Some(errno)),
        }
        // Whatever was created meanwhile is removed by the next pass.
        if !matches!(error, Some(Errno::ENOTEMPTY | Errno::EEXIST)) {
            break;
        }
    }
    error.map_or(Ok(()), |errno| Err(errno.into()))
}

/// The kind of entry that a name turned out to be.
enum Found {
    /// Nothing any more.
    Nothing,
    /// A directory that may have contents.
    Directory(Directory),
}

impl Found {
    /// Removes the entry unless it is a directory, which is opened. One that was a directory when its
    /// name was read is taken for one first.
    fn take(parent: BorrowedFd<'_>, name: &CStr, was_directory: bool) -> nix::Result<Self> {
        // Some tries: it may be replaced by something of the other kind in between.
        for attempt in 0..3 {
            if attempt > 0 || !was_directory {
                match unlink(parent, name, UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => return Ok(Self::Nothing),
                    // POSIX wants EPERM for a directory, Linux says EISDIR.
                    Err(Errno::EISDIR | Errno::EPERM) => {}
                    Err(errno) => return Err(errno),
                }
            }
            match open_directory(parent, name) {
                Ok(fd) => return Ok(Self::Directory(Directory::new(fd))),
                Err(Errno::ENOENT) => return Ok(Self::Nothing),
                Err(Errno::EXDEV) => return Err(Errno::EBUSY),
                Err(Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EPERM)
    }
}

/// A directory that is being emptied below the top.
struct Level {
    directory: Directory,
    name: CString,
}

struct Removal {
    top: Directory,
    /// Directories that were moved to the top so far; they are named by number.
    moved: u64,
    error: Option<Errno>,
}

impl Removal {
    fn run(&mut self) {
        if let Err(errno) = self.contents() {
            self.failed(errno);
        }
        // `moved` grows meanwhile.
        let mut next = 0;
        while next < self.moved {
            let name = moved_name(next);
            next += 1;
            match Found::take(self.top.as_fd(), &name, true) {
                Ok(Found::Nothing) => {}
                Ok(Found::Directory(directory)) => self.below(Level { directory, name }),
                Err(errno) => self.failed(errno),
            }
        }
    }

    fn failed(&mut self, errno: Errno) {
        self.error.get_or_insert(errno);
    }

    /// Removes the entries of the top directory.
    fn contents(&mut self) -> nix::Result<()> {
        self.top.seek(0)?;
        loop {
            let Some(entry) = self.top.next()? else { return Ok(()) };
            let (name, is_directory) = (entry.name.to_owned(), entry.is_directory == Some(true));
            match Found::take(self.top.as_fd(), &name, is_directory) {
                Ok(Found::Nothing) => {}
                Ok(Found::Directory(directory)) => self.below(Level { directory, name }),
                Err(errno) => self.failed(errno),
            }
        }
    }

    /// Removes a directory of the top directory.
    fn below(&mut self, first: Level) {
        let mut levels = vec![first];
        while let Some(mut level) = levels.pop() {
            let found = match level.directory.next() {
                Ok(Some(entry)) => Some((entry.name.to_owned(), entry.is_directory == Some(true))),
                Ok(None) => None,
                Err(errno) => {
                    self.failed(errno);
                    None
                }
            };
            let Some((name, is_directory)) = found else {
                let parent = levels.last().map_or(self.top.as_fd(), |l| l.directory.as_fd());
                match unlink(parent, &level.name, UnlinkatFlags::RemoveDir) {
                    // ENOTDIR: renamed, and something else has its name.
                    Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                    Err(errno) => self.failed(errno),
                }
                continue;
            };
            if levels.len() + 1 < MAX_HELD_DIRECTORIES {
                match Found::take(level.directory.as_fd(), &name, is_directory) {
                    Ok(Found::Nothing) => levels.push(level),
                    Ok(Found::Directory(directory)) => {
                        levels.push(level);
                        levels.push(Level { directory, name });
                    }
                    Err(errno) => {
                        self.failed(errno);
                        levels.push(level);
                    }
                }
            } else {
                if let Err(errno) = self.take_or_move(level.directory.as_fd(), &name) {
                    self.failed(errno);
                }
                levels.push(level);
            }
        }
    }

    /// Removes an entry, or moves it to the top if it is a directory that is not empty.
    fn take_or_move(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
        match unlink(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(errno) => return Err(errno),
        }
        match unlink(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        loop {
            let target = moved_name(self.moved);
            let to = self.top.as_fd();
            let rename = || renameat(parent, name, to, target.as_c_str());
            match permitted(&[parent, to], parent, name, rename) {
                Ok(()) => {
                    self.moved += 1;
                    return Ok(());
                }
                Err(Errno::ENOENT) => return Ok(()),
                // The tenant has used this name; it is removed when its number comes.
                Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => self.moved += 1,
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Removes an entry, whatever flags it and its directory have. The directory above the tree is open
/// as a path only, and keeps its flags.
fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: UnlinkatFlags) -> nix::Result<()> {
    permitted(&[parent], parent, name, || unlinkat(parent, name, flags))
}

fn moved_name(number: u64) -> CString {
    CString::new(format!(".coracle-removed-{number}")).expect("digits contain no NUL")
}
