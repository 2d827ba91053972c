//! Unpacks one layer tar into a directory that serves as an overlayfs lower layer.
//!
//! Invariant: nothing outside the directory is ever opened, created or changed, whatever the tar
//! says. Every path is resolved inside the directory by the kernel (`openat2` with
//! `RESOLVE_IN_ROOT`), and the last component is never followed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use ring::digest::{Context, SHA256};
use tar::{Archive, Entry, EntryType};
use xattr::FileExt;

/// Entries that one layer may have.
const MAX_ENTRIES: u64 = 2_000_000;
/// Plain bytes that one layer may have.
const MAX_LAYER_BYTES: u64 = 64 << 30;
/// Whiteout prefix of the image format; the rest of the name is what it hides.
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory whose lower contents are hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Extended attributes that images may set.
const XATTR_PREFIXES: [&str; 2] = ["security.capability", "user."];

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tar or its compression is broken, or the source failed.
    #[error("read layer: {0}")]
    Read(#[source] io::Error),
    /// An entry cannot be created.
    #[error("unpack {path}: {source}")]
    Entry {
        /// The entry's path in the tar.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The contents of a file cannot be written.
    #[error("unpack {path}: {source}")]
    Write {
        /// The entry's path in the tar.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The layer is larger than any honest one.
    #[error("the layer has more than {MAX_ENTRIES} entries or {MAX_LAYER_BYTES} bytes")]
    TooLarge,
}

impl UnpackError {
    /// Whether the file system is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Entry { source, .. } => matches!(source, Errno::ENOSPC | Errno::EDQUOT),
            Self::Write { source, .. } => {
                matches!(source.raw_os_error(), Some(e) if e == Errno::ENOSPC as i32 || e == Errno::EDQUOT as i32)
            }
            Self::Read(_) | Self::TooLarge => false,
        }
    }
}

/// What came out of a layer.
pub(super) struct Unpacked {
    /// `sha256:…` of the plain tar.
    pub(super) diff_id: String,
    /// Bytes of regular files.
    pub(super) size_bytes: u64,
}

/// Unpacks the plain tar `input` into the existing, empty directory `root`.
pub(super) fn unpack(input: impl Read, root: &Path) -> Result<Unpacked, UnpackError> {
    let root = openat(
        nix::fcntl::AT_FDCWD,
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|source| UnpackError::Entry { path: root.to_owned(), source })?;
    let mut hashed = Hashed { input, context: Context::new(&SHA256), bytes: 0 };
    let mut unpacker = Unpacker { root, size_bytes: 0, directory_times: Vec::new() };
    {
        let mut archive = Archive::new(&mut hashed);
        let entries = archive.entries().map_err(UnpackError::Read)?;
        for (count, entry) in (0u64..).zip(entries) {
            if count >= MAX_ENTRIES {
                return Err(UnpackError::TooLarge);
            }
            unpacker.entry(entry.map_err(UnpackError::Read)?)?;
        }
    }
    // The digest covers the padding behind the last entry too.
    io::copy(&mut hashed, &mut io::sink()).map_err(UnpackError::Read)?;
    if hashed.bytes > MAX_LAYER_BYTES {
        return Err(UnpackError::TooLarge);
    }
    unpacker.finish();
    Ok(Unpacked {
        diff_id: format!("sha256:{}", hex(hashed.context.finish().as_ref())),
        size_bytes: unpacker.size_bytes,
    })
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

struct Hashed<R> {
    input: R,
    context: Context,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.context.update(&buf[..n]);
        self.bytes += n as u64;
        if self.bytes > MAX_LAYER_BYTES {
            return Err(io::Error::other("layer too large"));
        }
        Ok(n)
    }
}

struct Unpacker {
    root: OwnedFd,
    size_bytes: u64,
    /// Set last: creating entries changes them.
    directory_times: Vec<(PathBuf, TimeSpec)>,
}

impl Unpacker {
    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let path = entry.path().map_err(UnpackError::Read)?.into_owned();
        let Some((parent, name)) = split(&path) else {
            return self.root_entry(&entry).map_err(|source| UnpackError::Entry { path, source });
        };
        let at = |source| UnpackError::Entry { path: path.clone(), source };
        let parent_fd = self.directory(&parent).map_err(at)?;
        if name.as_bytes() == OPAQUE {
            let parent = self.open_directory(&parent).map_err(at)?;
            return parent
                .set_xattr("trusted.overlay.opaque", b"y")
                .map_err(|source| UnpackError::Write { path: path.clone(), source });
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return whiteout(&parent_fd, OsStr::from_bytes(hidden)).map_err(at);
        }
        let kind = entry.header().entry_type();
        remove_existing(&parent_fd, &name, kind).map_err(at)?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = create_file(&parent_fd, &name).map_err(at)?;
                let written = io::copy(&mut entry, &mut file)
                    .map_err(|source| UnpackError::Write { path: path.clone(), source })?;
                self.size_bytes += written;
                set_xattrs(&mut entry, &file, &path)?;
            }
            EntryType::Directory => {
                match mkdirat(&parent_fd, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(e) => return Err(at(e)),
                }
                self.directory_times.push((path.clone(), mtime(&entry)));
            }
            EntryType::Symlink => {
                let target = link_name(&entry)?;
                symlinkat(&target, &parent_fd, name.as_os_str()).map_err(at)?;
            }
            EntryType::Link => {
                let target = link_name(&entry)?;
                return self.hard_link(&target, &parent_fd, &name).map_err(at);
            }
            EntryType::Fifo => {
                mknodat(&parent_fd, name.as_os_str(), SFlag::S_IFIFO, Mode::empty(), 0)
                    .map_err(at)?;
            }
            EntryType::Char | EntryType::Block => {
                // Containers get their devices from the runtime; a device node in an image could
                // only serve to reach the machine's.
                tracing::warn!(path = %path.display(), "device node in image layer left out");
                return Ok(());
            }
            _ => return Ok(()),
        }
        set_owner_and_mode(&parent_fd, &name, &entry, kind).map_err(at)
    }

    /// The tar's own root entry (`./`): only its mode and owner matter.
    fn root_entry(&mut self, entry: &Entry<'_, impl Read>) -> Result<(), Errno> {
        let root = self.open_directory(Path::new("")).map_err(|_| Errno::EIO)?;
        nix::sys::stat::fchmod(&root, mode(entry))?;
        nix::unistd::fchown(&root, Some(uid(entry)), Some(gid(entry)))
    }

    /// The directory `path` inside the root, made with its parents where it is missing.
    fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {}
            other => return other,
        }
        let mut at = PathBuf::new();
        for component in path.components() {
            let parent = self.resolve(&at, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            match mkdirat(&parent, component.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(e),
            }
            at.push(component);
        }
        self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY)
    }

    fn open_directory(&self, path: &Path) -> Result<File, Errno> {
        self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map(File::from)
    }

    fn resolve(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how)
    }

    fn hard_link(&self, target: &Path, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let (target_parent, target_name) = split(target).ok_or(Errno::EINVAL)?;
        let target_parent = self.resolve(&target_parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        linkat(&target_parent, target_name.as_os_str(), parent, name, AtFlags::empty())
    }

    fn finish(&self) {
        for (path, time) in self.directory_times.iter().rev() {
            if let Some((parent, name)) = split(path)
                && let Ok(parent) = self.resolve(&parent, OFlag::O_PATH | OFlag::O_DIRECTORY)
            {
                // Times are a courtesy; a file system without them is no failure.
                let _ = set_time(&parent, &name, *time);
            }
        }
    }
}

/// The parent and last component of a tar path, with `.` and leading slashes dropped and `..`
/// kept for the kernel to bound. `None` for the root itself.
fn split(path: &Path) -> Option<(PathBuf, OsString)> {
    let mut components: Vec<&OsStr> = path
        .components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some(OsStr::new("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect();
    let name = components.pop()?;
    if name == ".." {
        return None;
    }
    Some((components.iter().collect(), name.to_owned()))
}

/// An overlayfs whiteout: a character device 0/0.
fn whiteout(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(Errno::EINVAL);
    }
    remove_existing(parent, name, EntryType::Regular)?;
    mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))
}

/// A later entry of the same name replaces an earlier one; a directory stays a directory.
fn remove_existing(parent: &OwnedFd, name: &OsStr, kind: EntryType) -> Result<(), Errno> {
    let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(()),
        Err(e) => return Err(e),
    };
    let is_directory = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    match (is_directory, kind == EntryType::Directory) {
        (true, true) => Ok(()),
        (true, false) => unlinkat(parent, name, UnlinkatFlags::RemoveDir),
        (false, _) => unlinkat(parent, name, UnlinkatFlags::NoRemoveDir),
    }
}

fn create_file(parent: &OwnedFd, name: &OsStr) -> Result<File, Errno> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent.as_fd(), name, flags, Mode::from_bits_truncate(0o600)).map(File::from)
}

fn set_xattrs(
    entry: &mut Entry<'_, impl Read>,
    file: &File,
    path: &Path,
) -> Result<(), UnpackError> {
    let Some(extensions) = entry.pax_extensions().map_err(UnpackError::Read)? else {
        return Ok(());
    };
    for extension in extensions {
        let extension = extension.map_err(UnpackError::Read)?;
        let Some(name) = extension.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) else {
            continue;
        };
        if XATTR_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            file.set_xattr(name, extension.value_bytes())
                .map_err(|source| UnpackError::Write { path: path.to_owned(), source })?;
        }
    }
    Ok(())
}

fn set_owner_and_mode(
    parent: &OwnedFd,
    name: &OsStr,
    entry: &Entry<'_, impl Read>,
    kind: EntryType,
) -> Result<(), Errno> {
    let owner = (Some(uid(entry)), Some(gid(entry)));
    fchownat(parent, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != EntryType::Symlink {
        fchmodat(parent, name, mode(entry), FchmodatFlags::FollowSymlink)?;
    }
    set_time(parent, name, mtime(entry))
}

fn set_time(parent: &OwnedFd, name: &OsStr, time: TimeSpec) -> Result<(), Errno> {
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
}

fn link_name(entry: &Entry<'_, impl Read>) -> Result<PathBuf, UnpackError> {
    entry
        .link_name()
        .map_err(UnpackError::Read)?
        .map(|name| name.into_owned())
        .ok_or_else(|| UnpackError::Read(io::Error::other("link without a target")))
}

fn uid(entry: &Entry<'_, impl Read>) -> Uid {
    Uid::from_raw(entry.header().uid().unwrap_or(0) as u32)
}

fn gid(entry: &Entry<'_, impl Read>) -> Gid {
    Gid::from_raw(entry.header().gid().unwrap_or(0) as u32)
}

fn mode(entry: &Entry<'_, impl Read>) -> Mode {
    Mode::from_bits_truncate(entry.header().mode().unwrap_or(0o644) & 0o7777)
}

fn mtime(entry: &Entry<'_, impl Read>) -> TimeSpec {
    TimeSpec::new(entry.header().mtime().unwrap_or(0) as i64, 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    fn header(kind: EntryType, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_uid(nix::unistd::getuid().as_raw().into());
        header.set_gid(nix::unistd::getgid().as_raw().into());
        header
    }

    fn put(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: EntryType, data: &str) {
        let mut h = header(kind, if kind == EntryType::Regular { data.len() } else { 0 });
        // The builder refuses `..`, which is what these tests are about.
        h.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        if matches!(kind, EntryType::Link | EntryType::Symlink) {
            h.set_link_name_literal(data).unwrap();
        }
        h.set_cksum();
        let body = if kind == EntryType::Regular { data.as_bytes() } else { &[] };
        tar.append(&h, body).unwrap();
    }

    #[test]
    fn nothing_escapes_the_directory() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(outer.path().join("victim"), "intact").unwrap();
        let victim = outer.path().join("victim").display().to_string();
        let mut tar = tar::Builder::new(Vec::new());
        put(&mut tar, "../victim", EntryType::Regular, "x");
        put(&mut tar, "/etc/absolute", EntryType::Regular, "inside");
        put(&mut tar, "up", EntryType::Symlink, "../..");
        put(&mut tar, "up/victim2", EntryType::Regular, "x");
        put(&mut tar, "abs", EntryType::Symlink, outer.path().to_str().unwrap());
        put(&mut tar, "file", EntryType::Symlink, &victim);
        put(&mut tar, "file", EntryType::Regular, "replaces the link");
        let bytes = tar.into_inner().unwrap();
        unpack(&bytes[..], &root).unwrap();
        assert_eq!(std::fs::read_to_string(outer.path().join("victim")).unwrap(), "intact");
        assert!(!outer.path().join("victim2").exists());
        assert_eq!(std::fs::read_to_string(root.join("etc/absolute")).unwrap(), "inside");
        assert_eq!(std::fs::read_to_string(root.join("victim2")).unwrap(), "x");
        assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "replaces the link");
    }

    #[test]
    fn hard_links_to_the_outside_fail() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(outer.path().join("victim"), "intact").unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        put(&mut tar, "link", EntryType::Link, "../victim");
        let bytes = tar.into_inner().unwrap();
        let error = unpack(&bytes[..], &root).err().unwrap();
        assert!(matches!(error, UnpackError::Entry { source: Errno::ENOENT, .. }), "{error}");
    }

    #[test]
    fn whiteouts_become_overlay_whiteouts() {
        if !nix::unistd::getuid().is_root() {
            eprintln!("skipped: needs root to make device nodes");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        put(&mut tar, "dir/.wh.gone", EntryType::Regular, "");
        let bytes = tar.into_inner().unwrap();
        unpack(&bytes[..], root.path()).unwrap();
        let meta = std::fs::symlink_metadata(root.path().join("dir/gone")).unwrap();
        assert!(meta.file_type().is_char_device());
        assert_eq!(meta.rdev(), 0);
    }

    #[test]
    fn the_digest_covers_the_whole_tar() {
        let root = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        put(&mut tar, "a", EntryType::Regular, "hello");
        let bytes = tar.into_inner().unwrap();
        let want = hex(ring::digest::digest(&SHA256, &bytes).as_ref());
        let unpacked = unpack(&bytes[..], root.path()).unwrap();
        assert_eq!(unpacked.diff_id, format!("sha256:{want}"));
        assert_eq!(unpacked.size_bytes, 5);
    }
}
