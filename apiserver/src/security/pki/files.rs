//! State files: private to root, replaced whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::PkiError;

/// The directory of state files.
pub(super) struct StateDir {
    dir: PathBuf,
}

impl StateDir {
    pub(super) fn open(dir: &Path) -> Result<Self, PkiError> {
        let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        created
            .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o700)))
            .map_err(|error| PkiError::CreateDir(dir.to_owned(), error))?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<String>, PkiError> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PkiError::Read(self.path(name), error)),
        }
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), PkiError> {
        replace(&self.path(name), text.as_bytes())
            .map_err(|error| PkiError::Write(self.path(name), error))
    }
}

/// Replaces `path` by a file with mode 0600; after a crash it is the old or the new one.
/// One that is the same already is left alone, which needs no room on a full disk.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(path, bytes, None)
}

/// The user and group of a file.
pub(super) type Owner = (u32, u32);

/// Returns the owner of `path`, or of the nearest directory above it that exists.
pub(super) fn owner_of(path: &Path) -> Option<Owner> {
    let metadata = path.ancestors().find_map(|path| fs::metadata(path).ok())?;
    Some((metadata.uid(), metadata.gid()))
}

/// Makes a directory and those above it; the new ones belong to `owner`.
pub(super) fn create_dirs_as(directory: &Path, owner: Option<Owner>) -> io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    fs::create_dir_all(directory)?;
    let Some((user, group)) = owner else { return Ok(()) };
    missing
        .into_iter()
        .filter(|path| !path.as_os_str().is_empty())
        .try_for_each(|path| std::os::unix::fs::lchown(path, Some(user), Some(group)))
}

/// Replaces `path` as [`replace`] does, by a file that belongs to `owner`.
pub(super) fn replace_as(path: &Path, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
    let private =
        |meta: fs::Metadata| meta.is_file() && meta.permissions().mode() & 0o7777 == 0o600;
    if fs::symlink_metadata(path).is_ok_and(private) && fs::read(path).is_ok_and(|b| b == bytes) {
        return Ok(());
    }
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(".{}.new", std::process::id()));
    let staged = PathBuf::from(staged);
    let written = (|| {
        // A file left behind by an earlier crash may have another mode.
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(bytes)?;
        if let Some((user, group)) = owner {
            std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
        }
        file.sync_all()?;
        fs::rename(&staged, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&staged);
        return written;
    }
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}
