//! Unpacks one layer tar into a directory that serves as an overlayfs lower layer.
//!
//! Invariant: nothing outside the directory is ever opened, created or changed, whatever the tar
//! says. Every path is resolved inside the directory by the kernel (`openat2` with
//! `RESOLVE_IN_ROOT`), and the last component is never followed.

mod counted;
#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
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

pub(super) use counted::Counted;
use counted::MAX_RATIO;

/// Entries that one layer may have.
const MAX_ENTRIES: u64 = 2_000_000;
/// Plain bytes that one layer may have, in its tar and in its files: sparse files are larger there.
const MAX_LAYER_BYTES: u64 = 64 << 30;
/// Bytes of one path in a layer, as for the kernel.
const MAX_PATH_BYTES: usize = 4096;
/// Components of one path in a layer.
const MAX_PATH_DEPTH: usize = 256;
/// Bytes on the file system that layers leave free, or a twentieth of a small one.
const MIN_FREE_BYTES: u64 = 256 << 20;
/// Bytes written between two looks at the free space.
const FREE_CHECK_BYTES: u64 = 1 << 20;
/// Inodes of the file system that layers leave free, or a twentieth of a small one.
const MIN_FREE_INODES: u64 = 16 << 10;
/// Inodes created between two looks at the free space; one entry creates no more.
const FREE_CHECK_INODES: u64 = MAX_PATH_DEPTH as u64;
/// Bytes copied at once.
const COPY_BYTES: usize = 64 << 10;
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
    /// The layer unpacks to more than any honest one of its size.
    #[error("the layer unpacks to more than {MAX_RATIO} times its size")]
    Ratio,
    /// A path is longer or deeper than any honest one.
    #[error("a path of the layer has more than {MAX_PATH_BYTES} bytes or {MAX_PATH_DEPTH} levels")]
    Path,
    /// The rest of the file system is for others.
    #[error("unpack: No space left on device: layers leave its last {0} bytes to others")]
    NoSpace(u64),
    /// The rest of the inodes is for others.
    #[error("unpack: No space left on device: layers leave its last {0} inodes to others")]
    NoInodes(u64),
}

impl UnpackError {
    /// Whether the file system is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Entry { source, .. } => matches!(source, Errno::ENOSPC | Errno::EDQUOT),
            Self::Write { source, .. } => {
                matches!(source.raw_os_error(), Some(e) if e == Errno::ENOSPC as i32 || e == Errno::EDQUOT as i32)
            }
            Self::NoSpace(_) | Self::NoInodes(_) => true,
            Self::Read(_) | Self::TooLarge | Self::Ratio | Self::Path => false,
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

/// Unpacks the plain tar `input` into the existing, empty directory `root`; `packed` has counted the
/// bytes that it comes from.
pub(super) fn unpack(
    input: impl Read,
    root: &Path,
    packed: &Counted,
) -> Result<Unpacked, UnpackError> {
    unpack_at_most(MAX_LAYER_BYTES, input, root, packed)
}

/// As [`unpack`], with a bound on the bytes of files.
fn unpack_at_most(
    max_bytes: u64,
    input: impl Read,
    root: &Path,
    packed: &Counted,
) -> Result<Unpacked, UnpackError> {
    let root = openat(
        nix::fcntl::AT_FDCWD,
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|source| UnpackError::Entry { path: root.to_owned(), source })?;
    let mut hashed =
        Hashed { input, context: Context::new(&SHA256), bytes: 0, packed: packed.clone() };
    let mut unpacker = Unpacker {
        root,
        max_bytes,
        packed: packed.clone(),
        size_bytes: 0,
        hole_bytes: 0,
        unchecked: FREE_CHECK_BYTES,
        unchecked_inodes: FREE_CHECK_INODES,
        directory_times: Vec::new(),
    };
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
    packed: Counted,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.context.update(&buf[..n]);
        self.bytes += n as u64;
        if self.bytes > MAX_LAYER_BYTES {
            return Err(io::Error::other(UnpackError::TooLarge));
        }
        if self.bytes > self.packed.allowed_bytes() {
            return Err(io::Error::other(UnpackError::Ratio));
        }
        Ok(n)
    }
}

struct Unpacker {
    root: OwnedFd,
    /// Bytes that may be written to regular files.
    max_bytes: u64,
    packed: Counted,
    /// Bytes written to regular files.
    size_bytes: u64,
    /// Bytes of the holes of sparse files.
    hole_bytes: u64,
    /// Bytes written since the last look at the free space.
    unchecked: u64,
    /// Inodes created since then.
    unchecked_inodes: u64,
    /// Set last: creating entries changes them.
    directory_times: Vec<(PathBuf, TimeSpec)>,
}

impl Unpacker {
    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let path = entry.path().map_err(UnpackError::Read)?.into_owned();
        check_path(&path)?;
        self.unchecked_inodes += 1;
        self.check_free(&path)?;
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
        if kind == EntryType::GNUSparse {
            self.count_holes(&entry)?;
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = create_file(&parent_fd, &name).map_err(at)?;
                self.copy(&mut entry, &mut file, &path)?;
                self.unchecked += set_xattrs(&mut entry, &file, &path)?;
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
                check_path(&target)?;
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

    /// Refuses a sparse file before it is written: the size of the tar does not bound its holes.
    fn count_holes(&mut self, entry: &Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let packed = entry.header().entry_size().unwrap_or(0);
        self.hole_bytes = self.hole_bytes.saturating_add(entry.size().saturating_sub(packed));
        if self.hole_bytes > self.packed.allowed_bytes() { Err(UnpackError::Ratio) } else { Ok(()) }
    }

    /// Writes the contents of a file. What counts is what is written: a sparse file takes more than
    /// it has in the tar.
    fn copy(
        &mut self,
        from: &mut impl Read,
        to: &mut File,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let failed = |source| UnpackError::Write { path: path.to_owned(), source };
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            self.size_bytes += count as u64;
            self.unchecked += count as u64;
            if self.size_bytes > self.max_bytes {
                return Err(UnpackError::TooLarge);
            }
            self.check_free(path)?;
            to.write_all(&buffer[..count]).map_err(failed)?;
        }
    }

    /// Checks that the file system keeps its reserve, if much was written since the last look.
    fn check_free(&mut self, path: &Path) -> Result<(), UnpackError> {
        if self.unchecked < FREE_CHECK_BYTES && self.unchecked_inodes < FREE_CHECK_INODES {
            return Ok(());
        }
        (self.unchecked, self.unchecked_inodes) = (0, 0);
        let space = nix::sys::statvfs::fstatvfs(&self.root)
            .map_err(|source| UnpackError::Entry { path: path.to_owned(), source })?;
        let block = space.fragment_size();
        let reserve = MIN_FREE_BYTES.min(space.blocks().saturating_mul(block) / 20);
        let free = space.blocks_available().saturating_mul(block);
        if free < reserve + FREE_CHECK_BYTES {
            return Err(UnpackError::NoSpace(reserve));
        }
        // A file system that makes inodes as they are needed reports none.
        let reserve = MIN_FREE_INODES.min(space.files() / 20);
        if space.files() > 0 && space.files_available() < reserve + 2 * FREE_CHECK_INODES {
            return Err(UnpackError::NoInodes(reserve));
        }
        Ok(())
    }

    /// The tar's own root entry (`./`): only its mode and owner matter.
    fn root_entry(&mut self, entry: &Entry<'_, impl Read>) -> Result<(), Errno> {
        let root = self.open_directory(Path::new("")).map_err(|_| Errno::EIO)?;
        nix::sys::stat::fchmod(&root, mode(entry))?;
        nix::unistd::fchown(&root, Some(uid(entry)), Some(gid(entry)))
    }

    /// The directory `path` inside the root, made with its parents where it is missing.
    fn directory(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {}
            other => return other,
        }
        let mut at = PathBuf::new();
        for component in path.components() {
            self.unchecked_inodes += 1;
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

fn check_path(path: &Path) -> Result<(), UnpackError> {
    let length = path.as_os_str().len();
    if length >= MAX_PATH_BYTES || path.components().count() > MAX_PATH_DEPTH {
        return Err(UnpackError::Path);
    }
    Ok(())
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

/// Sets the extended attributes of a file; returns their bytes.
fn set_xattrs(
    entry: &mut Entry<'_, impl Read>,
    file: &File,
    path: &Path,
) -> Result<u64, UnpackError> {
    let mut bytes = 0;
    let Some(extensions) = entry.pax_extensions().map_err(UnpackError::Read)? else {
        return Ok(bytes);
    };
    for extension in extensions {
        let extension = extension.map_err(UnpackError::Read)?;
        let Some(name) = extension.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) else {
            continue;
        };
        if XATTR_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            file.set_xattr(name, extension.value_bytes())
                .map_err(|source| UnpackError::Write { path: path.to_owned(), source })?;
            bytes += (name.len() + extension.value_bytes().len()) as u64;
        }
    }
    Ok(bytes)
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
mod tests;
