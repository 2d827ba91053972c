//! The file of the audit log: appended to, and set aside when it is full, as upstream's
//! (lumberjack) does.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

/// Megabytes of a file where no other size is set (upstream's default).
const DEFAULT_MAX_MEGABYTES: u64 = 100;
/// Bytes of a megabyte as upstream counts them.
const MEGABYTE: u64 = 1 << 20;
/// The mode of the file: bodies may hold Secrets.
const FILE_MODE: u32 = 0o600;
/// The mode of a directory that is made for it.
const DIRECTORY_MODE: u32 = 0o700;

/// The place of the log, and the number of files that are kept.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Days after which a file that was set aside is removed; 0 is never.
    pub max_age_days: u32,
    /// Files that were set aside and are kept; 0 is all.
    pub max_backups: u32,
    /// Megabytes after which a file is set aside; 0 is 100.
    pub max_megabytes: u32,
}

/// The reason why the log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}: {source}")]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The open log.
#[derive(Debug)]
pub(super) struct File {
    options: FileOptions,
    output: Output,
    /// Bytes in the file.
    size: u64,
}

#[derive(Debug)]
enum Output {
    File(BufWriter<fs::File>),
    Stdout(io::Stdout),
}

impl File {
    /// Opens the file for appending, with its directory.
    pub(super) fn open(options: FileOptions) -> Result<Self, FileError> {
        if options.path == Path::new("-") {
            return Ok(Self { options, output: Output::Stdout(io::stdout()), size: 0 });
        }
        let (file, size) = open(&options.path)?;
        Ok(Self { options, output: Output::File(BufWriter::new(file)), size })
    }

    /// Appends a line; sets the file aside before, when the line no longer fits.
    pub(super) fn write(&mut self, line: &[u8]) -> Result<(), FileError> {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.max_bytes() {
            self.rotate()?;
        }
        let written = match &mut self.output {
            Output::File(file) => file.write_all(line),
            Output::Stdout(stdout) => stdout.write_all(line),
        };
        written.map_err(|source| self.error("write", source))?;
        self.size += length;
        Ok(())
    }

    /// Hands everything to the kernel.
    pub(super) fn flush(&mut self) -> Result<(), FileError> {
        let flushed = match &mut self.output {
            Output::File(file) => file.flush(),
            Output::Stdout(stdout) => stdout.flush(),
        };
        flushed.map_err(|source| self.error("write", source))
    }

    fn max_bytes(&self) -> u64 {
        if matches!(self.output, Output::Stdout(_)) {
            return u64::MAX;
        }
        match u64::from(self.options.max_megabytes) {
            0 => DEFAULT_MAX_MEGABYTES * MEGABYTE,
            megabytes => megabytes * MEGABYTE,
        }
    }

    fn rotate(&mut self) -> Result<(), FileError> {
        self.flush()?;
        let path = &self.options.path;
        let now = Timestamp::now();
        let aside = aside(path, now);
        fs::rename(path, aside).map_err(|source| self.error("set aside", source))?;
        let (file, size) = open(path)?;
        self.output = Output::File(BufWriter::new(file));
        self.size = size;
        if let Err(error) = self.remove_old(now) {
            tracing::warn!(%error, "old audit logs cannot be removed");
        }
        Ok(())
    }

    fn remove_old(&self, now: Timestamp) -> Result<(), FileError> {
        let path = &self.options.path;
        let directory = parent(path);
        let entries =
            fs::read_dir(directory).map_err(|source| self.error("list beside", source))?;
        let mut files: Vec<(Timestamp, PathBuf)> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| Some((time_of(path, &entry.path())?, entry.path())))
            .collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.0));
        let days = i64::from(self.options.max_age_days);
        let oldest = now.checked_sub(SignedDuration::from_hours(24 * days)).unwrap_or(now);
        let kept = match self.options.max_backups {
            0 => usize::MAX,
            count => count as usize,
        };
        for (index, (time, file)) in files.into_iter().enumerate() {
            if index >= kept || (days > 0 && time < oldest) {
                fs::remove_file(file).map_err(|source| self.error("remove beside", source))?;
            }
        }
        Ok(())
    }

    fn error(&self, operation: &'static str, source: io::Error) -> FileError {
        FileError { operation, path: self.options.path.clone(), source }
    }
}

fn open(path: &Path) -> Result<(fs::File, u64), FileError> {
    let error = |operation| {
        let path = path.to_owned();
        move |source| FileError { operation, path, source }
    };
    let directory = parent(path);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE);
    builder.create(directory).map_err(error("make the directory of"))?;
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(FILE_MODE).open(path);
    let file = file.map_err(error("open"))?;
    let metadata = file.metadata().map_err(error("look at"))?;
    // A device or a pipe stays as it is.
    if metadata.is_file() {
        let mode = fs::Permissions::from_mode(FILE_MODE);
        file.set_permissions(mode).map_err(error("set the mode of"))?;
    }
    Ok((file, metadata.len()))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `audit.log` becomes `audit-2026-11-30T07-15-00.123.log`.
fn aside(path: &Path, now: Timestamp) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
    let time = format!("{now:.3}").replace(':', "-");
    let time = time.trim_end_matches('Z');
    path.with_file_name(format!("{stem}-{time}{}", extension.unwrap_or_default()))
}

/// Returns the time at which the log at `path` was set aside as `other`.
fn time_of(path: &Path, other: &Path) -> Option<Timestamp> {
    let name = other.file_name()?.to_str()?;
    let stem = path.file_stem()?.to_str()?;
    let extension = path.extension().map_or(String::new(), |e| format!(".{}", e.to_string_lossy()));
    let time = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
    let (date, clock) = time.split_once('T')?;
    format!("{date}T{}Z", clock.replace('-', ":")).parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn full_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/audit.log");
        let old = [
            "sub/audit-2020-01-01T00-00-00.000.log",
            "sub/audit-2020-01-02T00-00-00.000.log",
            "sub/audit-other.log",
        ];
        fs::create_dir(directory.path().join("sub")).unwrap();
        old.iter().for_each(|name| fs::write(directory.path().join(name), "old").unwrap());
        fs::write(&path, "before\n").unwrap();
        let options = FileOptions {
            path: path.clone(),
            max_backups: 2,
            max_megabytes: 1,
            ..FileOptions::default()
        };
        let mut file = File::open(options).unwrap();
        let line = vec![b'x'; 600 << 10];
        file.write(&line).unwrap();
        file.write(&line).unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), line);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let names = names(path.parent().unwrap());
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(names[0], "audit-2020-01-02T00-00-00.000.log");
        assert_eq!(names[2..], ["audit-other.log", "audit.log"]);
        let aside = fs::read(path.with_file_name(&names[1])).unwrap();
        assert_eq!(aside, [b"before\n".as_slice(), &line].concat());
    }

    #[test]
    fn old_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let old = aside(&path, "2026-01-01T00:00:00.5Z".parse().unwrap());
        let young = aside(&path, "2026-01-09T00:00:00Z".parse().unwrap());
        [&old, &young].iter().for_each(|file| fs::write(file, "").unwrap());
        let options = FileOptions { path: path.clone(), max_age_days: 2, ..FileOptions::default() };
        let file = File::open(options).unwrap();
        file.remove_old("2026-01-10T00:00:00Z".parse().unwrap()).unwrap();
        assert!(!old.exists() && young.exists());
    }
}
