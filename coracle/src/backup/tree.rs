//! The contents of a directory that pods write to, as entries of a tar archive.
//!
//! Pods may replace any part of a path while it is read, so each one is opened below the directory
//! without following symbolic links.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use runtime::printable::printable;
use tar::{Builder, EntryType, Header};
use xattr::FileExt;

/// Appends everything below `root` under `name`; returns how many files could not be read.
pub(super) fn append(archive: &mut Builder<File>, root: &Path, name: &str) -> io::Result<usize> {
    let top = File::open(root)?;
    let mut skipped = 0;
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        let under = Path::new(name).join(&relative);
        match entry(archive, &top, &relative, &under)? {
            Taken::Directory(children) => {
                waiting.extend(children.into_iter().map(|child| relative.join(child)));
            }
            Taken::Done => {}
            Taken::Skipped(why) => {
                let path = root.join(&relative).display().to_string();
                eprintln!("not in the backup: {}: {why}", printable(&path));
                skipped += 1;
            }
        }
    }
    Ok(skipped)
}

enum Taken {
    Directory(Vec<PathBuf>),
    Done,
    Skipped(String),
}

/// Opens a path below `top`, no part of which may be a symbolic link.
fn open(top: &File, path: &Path, flags: OFlag) -> io::Result<File> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(top, path, how)?.into())
}

/// Appends one path. An error is one of the archive; what cannot be read is skipped.
fn entry(archive: &mut Builder<File>, top: &File, path: &Path, under: &Path) -> io::Result<Taken> {
    let skipped = |error: io::Error| Ok(Taken::Skipped(error.to_string()));
    let found = open(top, path, OFlag::O_PATH).or_else(|error| link(top, path).ok_or(error));
    let metadata = match found.and_then(|file| file.metadata()) {
        Ok(metadata) => metadata,
        Err(error) => return skipped(error),
    };
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    let kind = metadata.file_type();
    if kind.is_symlink() {
        let target = match parent(top, path).and_then(|(dir, name)| Ok(readlinkat(dir, name)?)) {
            Ok(target) => target,
            Err(error) => return skipped(error),
        };
        header.set_entry_type(EntryType::Symlink);
        archive.append_link(&mut header, under, &target)?;
        return Ok(Taken::Done);
    }
    if kind.is_fifo() {
        header.set_entry_type(EntryType::Fifo);
        archive.append_data(&mut header, under, io::empty())?;
        return Ok(Taken::Done);
    }
    if !kind.is_file() && !kind.is_dir() {
        let what = if kind.is_socket() { "a socket" } else { "a device" };
        return Ok(Taken::Skipped(what.into()));
    }
    let file = match open(top, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
        Ok(file) => file,
        Err(error) => return skipped(error),
    };
    attributes(archive, &file)?;
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        archive.append_data(&mut header, under, io::empty())?;
        return match children(&file) {
            Ok(children) => Ok(Taken::Directory(children)),
            Err(error) => skipped(error),
        };
    }
    header.set_entry_type(EntryType::Regular);
    header.set_size(metadata.len());
    // A file that changes meanwhile still takes what its header says.
    let bytes = file.take(metadata.len()).chain(io::repeat(0)).take(metadata.len());
    archive.append_data(&mut header, under, bytes)?;
    Ok(Taken::Done)
}

/// A symbolic link itself, which cannot be opened with its path as a whole.
fn link(top: &File, path: &Path) -> Option<File> {
    let (dir, name) = parent(top, path).ok()?;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
    Some(openat2(&dir, name, how).ok()?.into())
}

fn parent<'p>(top: &File, path: &'p Path) -> io::Result<(File, &'p OsStr)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let dir = open(top, path.parent().unwrap_or(Path::new("")), OFlag::O_PATH)?;
    Ok((dir, name))
}

/// The names in an open directory.
fn children(directory: &File) -> io::Result<Vec<PathBuf>> {
    use std::os::fd::AsRawFd;
    let entries = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    entries.map(|entry| Ok(entry?.file_name().into())).collect()
}

/// Appends the extended attributes of the next entry.
fn attributes(archive: &mut Builder<File>, file: &File) -> io::Result<()> {
    let mut extensions: Vec<(String, Vec<u8>)> = Vec::new();
    for name in file.list_xattr().into_iter().flatten() {
        let value = file.get_xattr(&name);
        if let (Some(text), Ok(Some(value))) = (name.to_str(), value) {
            extensions.push((format!("SCHILY.xattr.{text}"), value));
        }
    }
    let extensions = extensions.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    archive.append_pax_extensions(extensions)
}

/// Sets the extended attributes that an entry carries on what was made of it.
pub fn restore_attributes<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
            xattr::set(path, OsStr::from_bytes(name), extension.value_bytes())?;
        }
    }
    Ok(())
}
