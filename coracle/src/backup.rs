//! `coracle backup`: the stored objects, the certificates and keys, and on demand the contents of
//! provisioned volumes, as one tar archive. A node that runs answers with a consistent copy.

mod tree;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use store::{ArchiveWriter, Offline};
use tar::{Builder, EntryType, Header};

pub(crate) use tree::restore_attributes;

use crate::Failure;
use crate::cli::BackupOptions;
use crate::paths::Paths;
use crate::remote::Remote;

/// Format of the archive that this version writes.
pub const BACKUP_FORMAT: u64 = 1;
/// The entry that names the format; always the first.
pub const MANIFEST: &str = "coracle-backup.json";
/// The entry with the stored objects.
pub const STATE: &str = "state";
/// The entry that closes the archive; a file that was cut off lacks it. It says how many files of
/// certificates and keys come before it.
pub const END: &str = "coracle-backup.end";
/// The path of the API that answers with a copy of the stored objects.
const STATE_PATH: &str = "/coracle/backup";
/// Bytes of records that are written at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Writes the archive; it has its name only when it is whole and durable.
pub fn run(options: &BackupOptions) -> Result<(), Failure> {
    let paths = Paths::new(&options.dirs);
    let file = target(&options.file)?;
    let staged = staged(&file);
    let written = write(options, &paths, &staged);
    let _ = fs::remove_file(state_file(&staged));
    if written.is_err() {
        let _ = fs::remove_file(&staged);
    }
    let skipped = written?;
    fs::rename(&staged, &file)?;
    File::open(directory(&file))?.sync_all()?;
    println!("backup of {} in {}", paths.data_dir.display(), file.display());
    if skipped > 0 {
        println!("{skipped} file(s) of volumes are not in it; see above");
    }
    Ok(())
}

/// The file that the archive replaces or becomes: what a symbolic link leads to, never a device, pipe or
/// directory.
fn target(file: &Path) -> Result<PathBuf, Failure> {
    match fs::metadata(file) {
        Ok(found) if found.is_file() => Ok(fs::canonicalize(file)?),
        Ok(_) => Err(format!("{} exists and is not a regular file", file.display()).into()),
        // A link that leads nowhere would be replaced.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !file.is_symlink() => {
            Ok(file.to_owned())
        }
        Err(error) => Err(format!("{}: {error}", file.display()).into()),
    }
}

fn write(options: &BackupOptions, paths: &Paths, staged: &Path) -> Result<usize, Failure> {
    let state = state_file(staged);
    copy_state(options, paths, &mut create(&state)?)?;
    let mut archive = Builder::new(create(staged)?);
    archive.follow_symlinks(false);
    let manifest = json!({
        "format": BACKUP_FORMAT,
        "version": env!("CARGO_PKG_VERSION"),
        "volumes": options.volumes,
    });
    append(&mut archive, MANIFEST, manifest.to_string().as_bytes())?;
    archive.append_path_with_name(&state, STATE)?;
    let mut pki_files = 0;
    for entry in fs::read_dir(paths.pki())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // What a crash left of a file that was being replaced is none.
        if entry.file_type()?.is_file() && !name.ends_with(".new") {
            append(&mut archive, &format!("pki/{name}"), &fs::read(entry.path())?)?;
            pki_files += 1;
        }
    }
    let volumes = paths.volumes();
    let skipped = match options.volumes && volumes.is_dir() {
        true => tree::append(&mut archive, &volumes, "volumes")?,
        false => 0,
    };
    append(&mut archive, END, json!({"pki": pki_files}).to_string().as_bytes())?;
    archive.into_inner()?.sync_all()?;
    Ok(skipped)
}

/// Writes the copy of the store: from the node if it runs, else from its files.
fn copy_state(options: &BackupOptions, paths: &Paths, out: &mut File) -> Result<(), Failure> {
    if paths.running().is_some() {
        let remote = Remote::from_kubeconfig(&options.dirs.kubeconfig)?;
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio.block_on(remote.download(STATE_PATH, out))?;
        out.sync_all()?;
        // A copy that is cut off shows now, not when it is needed.
        out.rewind()?;
        store::read_archive(io::BufReader::new(out))?;
        return Ok(());
    }
    let _lock = paths.take_lock()?;
    let store = Offline::open(&paths.store())?;
    let mut piece = Vec::new();
    let mut writer = ArchiveWriter::begin(store.revision(), &mut piece);
    for record in store.records() {
        writer.record(&record.key, record.revision, &record.value, &mut piece);
        if piece.len() >= PIECE_BYTES {
            out.write_all(&piece)?;
            piece.clear();
        }
    }
    writer.end(&mut piece);
    out.write_all(&piece)?;
    Ok(())
}

fn append(archive: &mut Builder<File>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, name, bytes)
}

/// A new file that only root may read: it holds keys and Secrets.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn staged(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn state_file(staged: &Path) -> PathBuf {
    staged.with_extension("state")
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
