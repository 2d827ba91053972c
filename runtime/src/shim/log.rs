//! CRI container logs: `2006-01-02T15:04:05.999999999Z stdout F text`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::protocol::LogPlan;

/// Longest text of one log line, in bytes; longer lines are split and tagged `P`.
pub const MAX_LINE_BYTES: usize = 16 << 10;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or everything from a terminal.
    Stdout = 0,
    /// Standard error.
    Stderr = 1,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts a stream into lines; keeps what is not a whole line yet.
#[derive(Default)]
pub struct Lines {
    carry: Vec<u8>,
}

impl Lines {
    /// Takes output and hands out lines, `true` for one that is complete.
    pub fn push(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES - self.carry.len();
            match bytes.iter().take(room + 1).position(|&b| b == b'\n') {
                Some(end) => {
                    if self.carry.is_empty() {
                        emit(&bytes[..end], true);
                    } else {
                        self.carry.extend_from_slice(&bytes[..end]);
                        emit(&self.carry, true);
                        self.carry.clear();
                    }
                    bytes = &bytes[end + 1..];
                }
                // More than fits and no end in sight: a part of a line.
                None if bytes.len() > room => {
                    self.carry.extend_from_slice(&bytes[..room]);
                    emit(&self.carry, false);
                    self.carry.clear();
                    bytes = &bytes[room..];
                }
                None => {
                    self.carry.extend_from_slice(bytes);
                    bytes = &[];
                }
            }
        }
    }

    /// Hands out what is left at the end of the stream; a line without an end is a part.
    pub fn finish(&mut self, emit: &mut impl FnMut(&[u8], bool)) {
        if !self.carry.is_empty() {
            emit(&self.carry, false);
        }
        self.carry = Vec::new();
    }
}

/// The log file of one container.
pub struct Log {
    plan: LogPlan,
    file: Option<File>,
    size_bytes: u64,
    streams: [Lines; 2],
    buffer: Vec<u8>,
}

impl Log {
    /// Opens the log for appending.
    pub fn open(plan: LogPlan) -> io::Result<Self> {
        let file = open(&plan.path)?;
        let size_bytes = file.metadata()?.len();
        Ok(Self {
            plan,
            file: Some(file),
            size_bytes,
            streams: Default::default(),
            buffer: Vec::new(),
        })
    }

    /// Opens the file anew, after somebody has moved it away.
    fn reopen(&mut self) -> io::Result<()> {
        let file = open(&self.plan.path)?;
        self.size_bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes output that arrived now; rotates when the file has grown too large.
    pub fn append(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        let buffer = &mut self.buffer;
        let head = Head::new(now, stream);
        self.streams[stream as usize].push(bytes, &mut |line, whole| head.put(buffer, line, whole));
        self.flush(now);
    }

    /// Writes what is left of a stream that has ended.
    pub fn finish(&mut self, stream: Stream, now: Timestamp) {
        let buffer = &mut self.buffer;
        let head = Head::new(now, stream);
        self.streams[stream as usize].finish(&mut |line, whole| head.put(buffer, line, whole));
        self.flush(now);
    }

    fn flush(&mut self, now: Timestamp) {
        if self.buffer.is_empty() {
            return;
        }
        if self.file.is_none() {
            let _ = self.reopen();
        }
        if let Some(file) = &mut self.file {
            // A full disk loses lines; it must not stop the container, nor leave a part of a line.
            if file.write_all(&self.buffer).is_ok() {
                self.size_bytes += self.buffer.len() as u64;
            } else if file.set_len(self.size_bytes).is_err() {
                self.file = None;
            }
        }
        self.buffer.clear();
        self.buffer.shrink_to(MAX_LINE_BYTES);
        if self.plan.max_bytes > 0 && self.size_bytes >= self.plan.max_bytes {
            self.rotate(now);
        }
    }

    fn rotate(&mut self, now: Timestamp) {
        let stamp = now.strftime("%Y%m%d-%H%M%S").to_string();
        let mut target = suffixed(&self.plan.path, &stamp);
        let mut number = 1;
        while target.exists() {
            target = suffixed(&self.plan.path, &format!("{stamp}-{number:03}"));
            number += 1;
        }
        if fs::rename(&self.plan.path, &target).is_err() {
            return;
        }
        self.file = None;
        let _ = self.reopen();
        let keep = self.plan.max_files.max(2) as usize - 1;
        let mut rotated = rotated(&self.plan.path);
        rotated.sort();
        let excess = rotated.len().saturating_sub(keep);
        for old in &rotated[..excess] {
            let _ = fs::remove_file(old);
        }
    }
}

/// What stands before the text of each line that arrived at one moment.
struct Head(String);

impl Head {
    fn new(now: Timestamp, stream: Stream) -> Self {
        Self(format!("{} {} ", now.strftime("%Y-%m-%dT%H:%M:%S.%9fZ"), stream.name()))
    }

    fn put(&self, buffer: &mut Vec<u8>, line: &[u8], whole: bool) {
        buffer.extend_from_slice(self.0.as_bytes());
        buffer.extend_from_slice(if whole { b"F " } else { b"P " });
        buffer.extend_from_slice(line);
        buffer.push(b'\n');
    }
}

/// Opens a log. If a tenant puts something else in its place, a link is not followed, and a pipe
/// without a reader is not waited for.
fn open(path: &Path) -> io::Result<File> {
    let (directory, name) = match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => (directory, name),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = File::options().read(true).custom_flags(flags).open(directory)?;
    let flags = OFlag::O_APPEND
        | OFlag::O_CREAT
        | OFlag::O_WRONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o640);
    let file = File::from(nix::fcntl::openat(&directory, name, flags, mode)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("the log is not a regular file"))
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Earlier files of the same log.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<(usize, bool)> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.push(chunk, &mut |line, whole| out.push((line.len(), whole)));
        }
        lines.finish(&mut |line, whole| out.push((line.len(), whole)));
        out
    }

    #[test]
    fn lines_are_cut_as_containerd_cuts_them() {
        let long = vec![b'x'; MAX_LINE_BYTES];
        let longer = vec![b'x'; MAX_LINE_BYTES + 5];
        assert_eq!(cut(&[b"ab", b"c\n\nd"]), [(3, true), (0, true), (1, false)]);
        assert_eq!(cut(&[&long, b"\n"]), [(MAX_LINE_BYTES, true)]);
        assert_eq!(cut(&[&longer, b"\n"]), [(MAX_LINE_BYTES, false), (5, true)]);
    }

    #[test]
    fn only_a_regular_file_is_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "intact").unwrap();
        let link = directory.path().join("link.log");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert!(open(&link).is_err());
        let pipe = directory.path().join("pipe.log");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(open(&pipe).is_err());
        let elsewhere = directory.path().join("elsewhere");
        std::os::unix::fs::symlink(directory.path(), &elsewhere).unwrap();
        assert!(open(&elsewhere.join("new.log")).is_err());
        open(&directory.path().join("new.log")).unwrap();
        assert_eq!(fs::read_to_string(victim).unwrap(), "intact");
    }

    #[test]
    fn full_disk_keeps_no_part_of_a_line() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root to mount a small filesystem");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        let options = Some("size=16k");
        nix::mount::mount(Some("tmpfs"), directory.path(), Some("tmpfs"), flags, options).unwrap();
        let path = directory.path().join("0.log");
        let plan = LogPlan { path: path.clone(), max_bytes: 0, max_files: 1 };
        let mut log = Log::open(plan).unwrap();
        let now = Timestamp::from_nanosecond(1_700_000_000_000_000_001).unwrap();
        let line = [&[b'x'; 1000][..], b"\n"].concat();
        for _ in 0..30 {
            log.append(Stream::Stdout, &line, now);
        }
        let filled = fs::read_to_string(&path).unwrap();
        log.append(Stream::Stdout, b"short\n", now);
        drop(log);
        nix::mount::umount2(directory.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert!(filled.len() > 8 << 10, "{}", filled.len());
        assert!(filled.lines().all(|l| l.ends_with(&"x".repeat(1000))), "{filled}");
        assert!(filled.ends_with('\n'));
    }

    #[test]
    fn the_format_and_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let plan = LogPlan { path: path.clone(), max_bytes: 100, max_files: 3 };
        let mut log = Log::open(plan).unwrap();
        let now = Timestamp::from_nanosecond(1_700_000_000_000_000_001).unwrap();
        log.append(Stream::Stderr, b"hello\n", now);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "2023-11-14T22:13:20.000000001Z stderr F hello\n"
        );
        for _ in 0..20 {
            log.append(Stream::Stdout, b"hello\n", now);
        }
        assert_eq!(rotated(&path).len(), 2);
        assert!(fs::metadata(&path).unwrap().len() < 100);
    }
}
