//! `subPath`: one file or directory of a volume, resolved so that no symlink leads out of it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::mount;

/// Why a subPath cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// It is absolute or climbs out of the volume.
    #[error("subPath must be a relative path without '..': {0:?}")]
    Invalid(String),
    /// It could not be opened or made.
    #[error("failed to prepare subPath {path:?}: {source}")]
    Open {
        /// The path in the volume.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It could not be bound to its place.
    #[error("failed to bind subPath {path:?}: {source}")]
    Bind {
        /// The path in the volume.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Opens `sub` below `volume`, making directories that are missing, and binds it to `target`:
/// what is mounted is what was checked, whatever happens to the path afterwards.
pub fn bind(volume: &Path, sub: &str, target: &Path) -> Result<(), SubPathError> {
    let handle = resolve(volume, sub)?;
    let wrong = |source| SubPathError::Bind { path: sub.to_owned(), source };
    mount::unmount(target).map_err(wrong)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    let metadata = fs::metadata(&source).map_err(wrong)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(wrong)?;
    }
    if metadata.is_dir() {
        fs::create_dir_all(target).map_err(wrong)?;
    } else {
        fs::OpenOptions::new().create(true).append(true).open(target).map_err(wrong)?;
    }
    mount::bind(&source, target).map_err(wrong)
}

fn resolve(volume: &Path, sub: &str) -> Result<OwnedFd, SubPathError> {
    let parts = parts(sub).ok_or_else(|| SubPathError::Invalid(sub.to_owned()))?;
    let wrong = |error: nix::errno::Errno| SubPathError::Open {
        path: sub.to_owned(),
        source: error.into(),
    };
    let root = open(volume, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(wrong)?;
    let how = || {
        OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    };
    // New directories are as open as the volume itself.
    let mode = fs::metadata(volume).map(|metadata| metadata.permissions().mode() & 0o2777);
    let mode = mode.unwrap_or(0o750);
    let mut path = PathBuf::new();
    let mut current: OwnedFd = openat2(&root, ".", how()).map_err(wrong)?;
    for part in parts {
        path.push(part);
        current = match openat2(&root, &path, how()) {
            Ok(next) => next,
            Err(nix::errno::Errno::ENOENT) => {
                let made = match mkdirat(&current, part, Mode::from_bits_truncate(mode)) {
                    Ok(()) => true,
                    Err(nix::errno::Errno::EEXIST) => false,
                    Err(error) => return Err(wrong(error)),
                };
                let next = openat2(&root, &path, how()).map_err(wrong)?;
                if made {
                    let opened = format!("/proc/self/fd/{}", next.as_raw_fd());
                    fs::set_permissions(opened, fs::Permissions::from_mode(mode))
                        .map_err(|source| SubPathError::Open { path: sub.to_owned(), source })?;
                }
                next
            }
            Err(error) => return Err(wrong(error)),
        };
    }
    Ok(current)
}

fn parts(sub: &str) -> Option<Vec<&OsStr>> {
    Path::new(sub)
        .components()
        .filter(|component| *component != Component::CurDir)
        .map(|component| match component {
            Component::Normal(part) => Some(part),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_volume() {
        let base = std::env::temp_dir().join(format!("coracle-subpath-{}", std::process::id()));
        let volume = base.join("volume");
        fs::create_dir_all(&volume).unwrap();
        fs::write(base.join("outside"), "x").unwrap();
        std::os::unix::fs::symlink("../outside", volume.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("abs")).unwrap();
        assert!(matches!(resolve(&volume, "../outside"), Err(SubPathError::Invalid(_))));
        assert!(matches!(resolve(&volume, "/etc"), Err(SubPathError::Invalid(_))));
        // `..` at the root of the volume stays there: the link dangles, and making a directory of
        // its name fails because the link is in the way.
        assert!(resolve(&volume, "link").is_err());
        assert!(resolve(&volume, "abs/passwd").is_err());
        assert!(resolve(&volume, "new/deep").is_ok());
        assert!(volume.join("new/deep").is_dir());
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(resolve(&volume, "open/deep").is_ok());
        let mode = fs::metadata(volume.join("open/deep")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o777, "whatever the umask says");
        fs::remove_dir_all(&base).unwrap();
    }
}
