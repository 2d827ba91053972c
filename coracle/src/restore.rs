//! `coracle restore`: puts a backup in the place of a node's state.
//!
//! Everything is unpacked beside the data first. One rename then decides; what follows only moves
//! directories, and the next start finishes it if it is interrupted.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use store::Offline;
use tar::EntryType;

use crate::Failure;
use crate::backup::{BACKUP_FORMAT, END, MANIFEST, STATE, restore_attributes};
use crate::cli::RestoreOptions;
use crate::paths::{Paths, remove};

/// Unpacked, but not decided upon.
const UNPACKED: &str = "restore.new";
/// Decided upon; to be moved into its place.
const READY: &str = "restore.ready";
/// The largest manifest, in bytes.
const MANIFEST_MAX_BYTES: u64 = 64 << 10;
/// Parts of the data directory that a backup can replace. The database goes last: it voids the
/// journal.
const PARTS: [&str; 3] = ["pki", "volumes", "state.redb"];
/// Files that belong to a database that is replaced.
const COMPANIONS: [&str; 3] = ["state.journal", "state.closed", "state.failed"];

/// Restores a backup into the data directory of a node that does not run.
pub fn run(options: &RestoreOptions) -> Result<(), Failure> {
    let paths = Paths::new(&options.dirs);
    paths.create()?;
    let _lock = paths.take_lock()?;
    finish(&paths)?;
    let present = PARTS.iter().find(|part| paths.data_dir.join(part).exists());
    if let Some(part) = present.filter(|_| !options.force) {
        return Err(format!(
            "{} is there already; --force replaces it",
            paths.data_dir.join(part).display()
        )
        .into());
    }
    let unpacked = paths.data_dir.join(UNPACKED);
    remove(&unpacked)?;
    let outcome = unpack(&options.file, &unpacked);
    if outcome.is_err() {
        remove(&unpacked)?;
    }
    let objects = outcome?;
    let ready = paths.data_dir.join(READY);
    fs::rename(&unpacked, &ready)?;
    sync(&paths.data_dir)?;
    finish(&paths)?;
    println!("{objects} object(s) restored into {}", paths.data_dir.display());
    Ok(())
}

/// Moves a restored state into its place, if a restore was interrupted in that.
pub fn finish(paths: &Paths) -> Result<(), Failure> {
    let ready = paths.data_dir.join(READY);
    if !ready.exists() {
        return Ok(());
    }
    for part in PARTS {
        let (from, to) = (ready.join(part), paths.data_dir.join(part));
        if !from.exists() {
            continue;
        }
        if part == "state.redb" {
            for companion in COMPANIONS {
                remove(&paths.data_dir.join(companion))?;
            }
        } else {
            remove(&to)?;
        }
        fs::rename(from, to)?;
    }
    sync(&paths.data_dir)?;
    remove(&ready)?;
    Ok(sync(&paths.data_dir)?)
}

/// Unpacks an archive into a new directory, durably; returns the number of objects.
fn unpack(file: &Path, into: &Path) -> Result<usize, Failure> {
    DirBuilder::new().mode(0o700).create(into)?;
    let mut archive = tar::Archive::new(BufReader::new(File::open(file)?));
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    let mut objects = None;
    let mut known = false;
    let (mut pki_files, mut complete) = (0, false);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if complete {
            return Err(format!("{}: {} follows its end", file.display(), path.display()).into());
        }
        if !known {
            check_manifest(&path, &mut entry)?;
            known = true;
            continue;
        }
        if path == Path::new(STATE) {
            let (revision, records) = store::read_archive(&mut entry)?;
            Offline::create(&into.join("state.redb"), revision, &records)?;
            objects = Some(records.len());
            continue;
        }
        if path == Path::new(END) {
            complete = document(&mut entry)?["pki"] == pki_files;
            if !complete {
                return Err(format!("{}: certificates or keys are missing", file.display()).into());
            }
            continue;
        }
        pki_files += usize::from(path.starts_with("pki") && entry.header().entry_type().is_file());
        let expected = path.components().all(|part| matches!(part, Component::Normal(_)))
            && (path.starts_with("pki") || path.starts_with("volumes"));
        let unpacked = expected
            && match entry.header().entry_type() {
                EntryType::Symlink | EntryType::Fifo => special(&entry, into, &path)?,
                _ => entry.unpack_in(into)?,
            };
        if !unpacked {
            return Err(format!("{}: {} is unexpected", file.display(), path.display()).into());
        }
        if entry.header().entry_type().is_file() || entry.header().entry_type().is_dir() {
            restore_attributes(&mut entry, &into.join(&path))?;
        }
    }
    if !complete {
        return Err(format!("{}: it is cut off", file.display()).into());
    }
    let objects = objects.ok_or_else(|| format!("{}: no objects in it", file.display()))?;
    // The journal of the new database is empty, and its start makes another.
    for companion in COMPANIONS {
        remove(&into.join(companion))?;
    }
    nix::unistd::syncfs(File::open(into)?)?;
    Ok(objects)
}

/// Makes a symbolic link or a FIFO; returns false if its directory lies elsewhere.
fn special<R: Read>(entry: &tar::Entry<'_, R>, into: &Path, path: &Path) -> io::Result<bool> {
    let target = into.join(path);
    let parent = target.parent().unwrap_or(into).canonicalize()?;
    if !parent.starts_with(into.canonicalize()?) {
        return Ok(false);
    }
    let header = entry.header();
    match entry.link_name()? {
        Some(link) if header.entry_type() == EntryType::Symlink => symlink(link, &target)?,
        _ => {
            mkfifo(&target, Mode::empty())?;
            fs::set_permissions(&target, fs::Permissions::from_mode(header.mode()?))?;
        }
    }
    let id = |id: u64| u32::try_from(id).map_err(|_| io::ErrorKind::InvalidData);
    lchown(&target, Some(id(header.uid()?)?), Some(id(header.gid()?)?))?;
    Ok(true)
}

fn check_manifest(path: &Path, entry: &mut impl Read) -> Result<(), Failure> {
    if path != Path::new(MANIFEST) {
        return Err("this is no backup of coracle".into());
    }
    match document(entry)?["format"].as_u64() {
        Some(format) if format <= BACKUP_FORMAT => Ok(()),
        Some(format) => {
            Err(format!("the backup has format {format}, this version reads up to {BACKUP_FORMAT}")
                .into())
        }
        None => Err("this is no backup of coracle".into()),
    }
}

/// Reads an entry of the archive that describes it.
fn document(entry: &mut impl Read) -> Result<Value, Failure> {
    Ok(serde_json::from_reader(entry.take(MANIFEST_MAX_BYTES))?)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
