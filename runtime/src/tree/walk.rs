//! A walk that holds two descriptors, whatever the tree.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::open_directory;
use crate::sys::dirent::Directory;

/// The actions of a walk on the entries that it meets.
pub trait Visitor {
    /// Takes an entry of `parent`, before what is below it; `stat` does not follow links. Returns
    /// whether the walk goes into it if it is a directory.
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, stat: &FileStat) -> bool;

    /// Returns whether only directories are taken. Other entries then count, but cost no look at them.
    fn only_directories(&self) -> bool {
        false
    }

    /// Takes a directory of `parent` again, after what is below it.
    fn left(&mut self, _parent: BorrowedFd<'_>, _name: &CStr) {}
}

/// A directory above the one that is being read.
struct Above {
    device: u64,
    inode: u64,
    /// The position from which it is read again after the directory below it.
    position: i64,
    /// The inode of that directory.
    below: u64,
}

/// Walks everything below `top`, which is a directory, on the same mount, until `max_entries` were
/// visited. Returns whether the walk is complete: `false` where the bound was reached or the tree
/// was moved about meanwhile.
pub fn walk(top: &Path, max_entries: u64, visitor: &mut dyn Visitor) -> io::Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let top = nix::fcntl::open(top, flags, Mode::empty())?;
    let device = fstat(&top)?.st_dev;
    let mut directory = Directory::new(top);
    let mut above: Vec<Above> = Vec::new();
    let mut visited = 0;
    let mut complete = true;
    let only_directories = visitor.only_directories();
    loop {
        let (name, position) = match directory.next() {
            Ok(Some(entry)) => {
                if visited >= max_entries {
                    return Ok(false);
                }
                visited += 1;
                if only_directories && entry.is_directory == Some(false) {
                    continue;
                }
                (entry.name.to_owned(), entry.position)
            }
            other => {
                complete &= other.is_ok();
                let Some(parent) = above.pop() else { return Ok(complete) };
                directory = match ascend(directory.as_fd(), &parent)? {
                    Some(directory) => directory,
                    None => return Ok(false),
                };
                leave(&mut directory, parent, visitor)?;
                continue;
            }
        };
        // What disappears meanwhile is not there.
        let Ok(stat) = fstatat(&directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if stat.st_dev != device || !visitor.entry(directory.as_fd(), &name, &stat) || !is_directory
        {
            continue;
        }
        match open_directory(&directory, &name) {
            Ok(below) => {
                let own = fstat(&directory)?;
                above.push(Above {
                    device: own.st_dev,
                    inode: own.st_ino,
                    position,
                    below: stat.st_ino,
                });
                directory = Directory::new(below);
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => {}
            Err(_) => complete = false,
        }
    }
}

/// Hands over the directory that was walked, unless something else has its place.
fn leave(directory: &mut Directory, above: Above, visitor: &mut dyn Visitor) -> io::Result<()> {
    let Some(entry) = directory.next()? else { return Ok(()) };
    let name = entry.name.to_owned();
    let stat = fstatat(&*directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
    if stat.is_ok_and(|stat| stat.st_ino == above.below) {
        visitor.left(directory.as_fd(), &name);
    } else {
        directory.seek(above.position)?;
    }
    Ok(())
}

/// Opens the directory above, if it is still the one that the walk came from.
fn ascend(below: BorrowedFd<'_>, expected: &Above) -> io::Result<Option<Directory>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = match openat(below, c"..", flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let stat = fstat(&parent)?;
    if (stat.st_dev, stat.st_ino) != (expected.device, expected.inode) {
        return Ok(None);
    }
    Ok(Some(Directory::at(parent, expected.position)?))
}
