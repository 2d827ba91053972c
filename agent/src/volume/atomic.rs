//! Files that are replaced all at once: a container sees the old set or the new one, never a mix.
//!
//! The files live in a directory named after the time of writing; `..data` points to the current
//! one, and each visible name points through `..data`. Renaming that one symlink is the update.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::files::Files;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Who owns the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Group with read access, from `fsGroup`.
    pub group: Option<u32>,
    /// User, for tokens of pods whose containers all run as one user.
    pub user: Option<u32>,
}

/// Brings a directory to hold exactly these files; returns whether anything was written.
pub fn write(directory: &Path, files: &Files, owner: Owner, stamp: &str) -> io::Result<bool> {
    if is_current(directory, files, owner)? {
        return Ok(false);
    }
    let old = fs::read_link(directory.join(DATA)).ok();
    let fresh = unused_name(directory, stamp);
    let path = directory.join(&fresh);
    let mode = if owner.group.is_some() { 0o2755 } else { 0o755 };
    make_directory(&path, mode, owner)?;
    for (name, file) in files.iter() {
        let target = path.join(name);
        let mut parents: Vec<&Path> = target.ancestors().skip(1).collect();
        parents.reverse();
        for parent in parents {
            if parent.starts_with(&path) && !parent.exists() {
                make_directory(parent, mode, owner)?;
            }
        }
        let mut options = fs::OpenOptions::new();
        let mut handle = options.write(true).create_new(true).mode(0o600).open(&target)?;
        io::Write::write_all(&mut handle, &file.data)?;
        chown(&target, owner.user, owner.group)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(effective(file.mode, owner)))?;
    }
    let temporary = directory.join(NEW_DATA);
    remove_if_there(&temporary)?;
    symlink(&fresh, &temporary)?;
    fs::rename(&temporary, directory.join(DATA))?;

    let wanted: BTreeSet<&str> = files.keys().map(|name| first_part(name)).collect();
    for name in &wanted {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
        // Directories of earlier writers that did not come to their end.
        if name.starts_with("..2") && *name != *fresh && old.as_deref() != Some(Path::new(&*name)) {
            runtime::tree::remove(&entry.path())?;
        }
    }
    if let Some(old) = old.filter(|old| *old != Path::new(&fresh)) {
        runtime::tree::remove(&directory.join(old))?;
    }
    Ok(true)
}

fn effective(mode: u32, owner: Owner) -> u32 {
    if owner.group.is_some() { mode | 0o440 } else { mode }
}

fn first_part(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

fn unused_name(directory: &Path, stamp: &str) -> String {
    let mut name = format!("..{stamp}");
    let mut serial = 0;
    while directory.join(&name).exists() {
        serial += 1;
        name = format!("..{stamp}_{serial}");
    }
    name
}

fn make_directory(path: &Path, mode: u32, owner: Owner) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(path)?;
    chown(path, None, owner.group)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(ignore_missing)
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn is_current(directory: &Path, files: &Files, owner: Owner) -> io::Result<bool> {
    let data = directory.join(DATA);
    let mut present = BTreeSet::new();
    if fs::metadata(&data).is_err() {
        return Ok(false);
    }
    collect(&data, &mut present)?;
    if present.len() != files.len() {
        return Ok(false);
    }
    for (name, file) in files.iter() {
        let path = data.join(name);
        let Ok(metadata) = fs::metadata(&path) else { return Ok(false) };
        let mode = metadata.permissions().mode() & 0o777;
        let same_length = metadata.len() == file.data.len() as u64;
        if mode != effective(file.mode, owner) || !same_length || fs::read(&path)? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Collects the paths of all files below a directory, relative to it.
fn collect(top: &Path, names: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let mut pending = vec![PathBuf::new()];
    while let Some(prefix) = pending.pop() {
        for entry in fs::read_dir(top.join(&prefix))? {
            let entry = entry?;
            let name = prefix.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                pending.push(name);
            } else {
                names.insert(name);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::volume::files::File;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { data: text.as_bytes().to_vec(), mode: 0o644 };
        let mut files = Files::default();
        for (name, text) in list {
            files.insert((*name).to_owned(), file(text)).unwrap();
        }
        files
    }

    #[test]
    fn sets_of_files_replace_each_other() {
        let directory = std::env::temp_dir().join(format!("coracle-atomic-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let owner = Owner::default();
        let read = |name: &str| fs::read_to_string(directory.join(name));

        let first = files(&[("a", "1"), ("x/y", "2")]);
        assert!(write(&directory, &first, owner, "2026_1").unwrap());
        assert_eq!((read("a").unwrap(), read("x/y").unwrap()), ("1".into(), "2".into()));
        assert_eq!(fs::read_link(directory.join("a")).unwrap(), Path::new("..data/a"));
        assert!(!write(&directory, &first, owner, "2026_2").unwrap(), "nothing changed");

        assert!(write(&directory, &files(&[("a", "3"), ("b", "4")]), owner, "2026_1").unwrap());
        assert_eq!((read("a").unwrap(), read("b").unwrap()), ("3".into(), "4".into()));
        assert!(read("x/y").is_err());
        let hidden = fs::read_dir(&directory).unwrap();
        let hidden = hidden.filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("..2")
        });
        assert_eq!(hidden.count(), 1, "the old directory is gone");
        fs::remove_dir_all(&directory).unwrap();
    }
}
