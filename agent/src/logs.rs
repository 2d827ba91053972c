//! Container logs in CRI format: read from the end, filtered, followed.
//!
//! A line is `<time> <stdout|stderr> <F|P> <text>`; `P` marks a part of a line that goes on.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Most bytes before the text of a line: time, stream and tag.
const MAX_HEAD_BYTES: usize = 64;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Stay and send what comes.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<usize>,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<usize>,
}

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// As written.
    pub time: &'a str,
    /// Whether the line of the process ends here.
    pub full: bool,
    /// Text without a newline.
    pub text: &'a [u8],
}

/// Takes a line of a log file apart.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let _stream = parts.next()?;
    let tag = parts.next()?;
    let text = parts.next().unwrap_or_default();
    Some(Entry { time, full: !tag.starts_with(b"P"), text })
}

/// Turns log lines into what a client gets.
struct Filter {
    options: LogOptions,
    sent: usize,
    continued: bool,
}

impl Filter {
    /// Appends the output for one line; says whether more is wanted.
    fn push(&mut self, line: &[u8], out: &mut BytesMut) -> bool {
        let Some(entry) = parse(line) else { return true };
        if let Some(since) = self.options.since
            && entry.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return true;
        }
        let begun = out.len();
        if self.options.timestamps && !self.continued {
            out.extend_from_slice(entry.time.as_bytes());
            out.extend_from_slice(b" ");
        }
        out.extend_from_slice(entry.text);
        if entry.full {
            out.extend_from_slice(b"\n");
        }
        self.continued = !entry.full;
        self.sent += out.len() - begun;
        match self.options.limit_bytes {
            Some(limit) if self.sent >= limit => {
                out.truncate(out.len() - (self.sent - limit));
                false
            }
            _ => true,
        }
    }
}

/// All files of one attempt, the oldest first: `0.log.<time>`… and `0.log`.
fn files(log: &Path) -> Vec<PathBuf> {
    let Some(name) = log.file_name().map(|name| name.to_string_lossy().into_owned()) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let directory = log.parent().unwrap_or(Path::new("/"));
    let mut rotated: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    rotated.sort();
    rotated.push(log.to_owned());
    rotated
}

/// Where the last `lines` whole lines begin in a file, and how many were found.
fn tail_offset(file: &mut File, lines: usize) -> std::io::Result<(u64, usize)> {
    let length = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok((length, 0));
    }
    let mut end = length;
    let mut found = 0;
    let mut buffer = vec![0; CHUNK];
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let size = usize::try_from(end - start).unwrap_or(CHUNK);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut buffer[..size])?;
        for index in (0..size).rev() {
            let position = start + index as u64;
            // A newline ends a line; the one before begins the next.
            if buffer[index] == b'\n' && position + 1 != length {
                found += 1;
                if found == lines {
                    return Ok((position + 1, found));
                }
            }
        }
        end = start;
    }
    Ok((0, found + usize::from(length > 0)))
}

/// The last lines of a log as text, within a bound: for termination messages.
pub fn tail_text(log: &Path, lines: usize, bytes: usize) -> String {
    let Ok(mut file) = File::open(log) else { return String::new() };
    let Ok((offset, _)) = tail_offset(&mut file, lines) else { return String::new() };
    // Each line has a head of some 40 bytes; nothing before the last bytes can be in the result.
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let longest = (bytes + lines * MAX_HEAD_BYTES) as u64;
    let offset = offset.max(length.saturating_sub(longest));
    let mut raw = Vec::new();
    let read =
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(longest).read_to_end(&mut raw));
    if read.is_err() {
        return String::new();
    }
    let mut filter = Filter { options: LogOptions::default(), sent: 0, continued: false };
    let mut out = BytesMut::new();
    for line in raw.split(|byte| *byte == b'\n') {
        filter.push(line, &mut out);
    }
    let text = String::from_utf8_lossy(&out).into_owned();
    let cut = text.len().saturating_sub(bytes);
    let cut = (cut..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[cut..].to_owned()
}

/// Sends a log in pieces; when following, until `running` says that the container has ended and
/// everything is sent.
pub async fn read(
    log: PathBuf,
    options: LogOptions,
    running: impl Fn() -> bool + Send + 'static,
    pieces: mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut sources = files(&log);
    let follow = options.follow;
    // From the end backwards until enough lines are found.
    let mut begin: Vec<u64> = vec![0; sources.len()];
    if let Some(mut wanted) = options.tail_lines {
        for index in (0..sources.len()).rev() {
            let Ok(mut file) = File::open(&sources[index]) else { continue };
            let (offset, found) = tail_offset(&mut file, wanted)?;
            begin[index] = offset;
            wanted -= found.min(wanted);
        }
    }
    let mut filter = Filter { options, sent: 0, continued: false };
    let watcher = if follow { Some(Watch::new(&log)?) } else { None };
    let current = sources.pop().unwrap_or(log.clone());
    for (path, offset) in sources.into_iter().zip(&begin) {
        let Ok(file) = File::open(&path) else { continue };
        let mut reader = Lines::new(file, *offset)?;
        if !reader.drain(&mut filter, &pieces, true).await? {
            return Ok(());
        }
    }
    let mut reader = match File::open(&current) {
        Ok(file) => Lines::new(file, begin.last().copied().unwrap_or(0))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !follow => return Err(error),
        Err(error) => return Err(error),
    };
    loop {
        // Asked before reading: what is written before the end is read after it.
        let alive = running();
        if !reader.drain(&mut filter, &pieces, !alive || watcher.is_none()).await? {
            return Ok(());
        }
        let Some(watcher) = &watcher else { return Ok(()) };
        if reader.was_replaced(&log) {
            reader.drain(&mut filter, &pieces, true).await?;
            // Not always the newest: a slow reader may be several files behind.
            if let Some(file) = reader.next_file(&log).and_then(|path| File::open(path).ok()) {
                reader = Lines::new(file, 0)?;
            }
            continue;
        }
        if !alive {
            return Ok(());
        }
        tokio::select! {
            changed = watcher.changed() => changed?,
            () = pieces.closed() => return Ok(()),
            // The end of a container writes nothing to its log: look from time to time, and only
            // while somebody follows.
            () = tokio::time::sleep(std::time::Duration::from_millis(500)) => {}
        }
    }
}

struct Lines {
    file: File,
    rest: Vec<u8>,
}

impl Lines {
    fn new(mut file: File, offset: u64) -> std::io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, rest: Vec::new() })
    }

    /// The file that follows this one; the oldest when this one is no longer kept.
    fn next_file(&self, log: &Path) -> Option<PathBuf> {
        let own = self.file.metadata().ok()?.ino();
        let files = files(log);
        let is_own = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|there| there.ino() == own);
        let next = files.iter().position(is_own).map_or(0, |at| at + 1);
        files.into_iter().nth(next)
    }

    fn was_replaced(&self, path: &Path) -> bool {
        let own = self.file.metadata().map(|metadata| metadata.ino());
        let there = std::fs::metadata(path).map(|metadata| metadata.ino());
        matches!((own, there), (Ok(own), Ok(there)) if own != there)
    }

    /// Sends everything that is there; says whether more is wanted.
    async fn drain(
        &mut self,
        filter: &mut Filter,
        pieces: &mpsc::Sender<Bytes>,
        last: bool,
    ) -> std::io::Result<bool> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = self.file.read(&mut buffer)?;
            let mut out = BytesMut::new();
            let mut more = true;
            self.rest.extend_from_slice(&buffer[..count]);
            let mut consumed = 0;
            while let Some(end) = self.rest[consumed..].iter().position(|byte| *byte == b'\n') {
                more = filter.push(&self.rest[consumed..consumed + end], &mut out);
                consumed += end + 1;
                if !more {
                    break;
                }
            }
            self.rest.drain(..consumed);
            if count == 0 && last && more && !self.rest.is_empty() {
                let rest = std::mem::take(&mut self.rest);
                more = filter.push(&rest, &mut out);
            }
            if !out.is_empty() && pieces.send(out.freeze()).await.is_err() {
                return Ok(false);
            }
            if !more {
                return Ok(false);
            }
            if count == 0 {
                return Ok(true);
            }
        }
    }
}

struct Watch {
    inotify: AsyncFd<OwnedFd>,
}

impl Watch {
    fn new(log: &Path) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let directory = log.parent().unwrap_or(Path::new("/"));
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(directory, flags)?;
        // An owned descriptor is what the replacement asks for, but it is an unsafe function.
        #[allow(deprecated)]
        Ok(Self { inotify: AsyncFd::new(OwnedFd::from(inotify))? })
    }

    async fn changed(&self) -> std::io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut events = [0; 4096];
            match nix::unistd::read(self.inotify.get_ref(), &mut events) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n\
                       2026-01-01T00:00:01.000000001Z stdout P tw\n\
                       2026-01-01T00:00:01.000000002Z stdout F o\n\
                       2026-01-01T00:00:02.000000001Z stderr F three\n";

    async fn all(options: LogOptions, files: &[(&str, &str)]) -> String {
        let id: u64 = rand::random();
        let directory = std::env::temp_dir().join(format!("coracle-logs-{id}"));
        std::fs::create_dir_all(&directory).unwrap();
        for (name, text) in files {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let (sender, mut receiver) = mpsc::channel(64);
        read(directory.join("0.log"), options, || false, sender).await.unwrap();
        let mut text = Vec::new();
        while let Ok(piece) = receiver.try_recv() {
            text.extend_from_slice(&piece);
        }
        std::fs::remove_dir_all(&directory).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn lines_are_joined_cut_and_dated() {
        let files = [("0.log", LOG)];
        assert_eq!(all(LogOptions::default(), &files).await, "one\ntwo\nthree\n");
        let tail = LogOptions { tail_lines: Some(1), ..LogOptions::default() };
        assert_eq!(all(tail, &files).await, "three\n");
        let since = "2026-01-01T00:00:02Z".parse().ok();
        let options = LogOptions { since, ..LogOptions::default() };
        assert_eq!(all(options, &files).await, "three\n");
        let options = LogOptions { limit_bytes: Some(5), ..LogOptions::default() };
        assert_eq!(all(options, &files).await, "one\nt");
        let options = LogOptions { timestamps: true, tail_lines: Some(1), ..LogOptions::default() };
        assert_eq!(all(options, &files).await, "2026-01-01T00:00:02.000000001Z three\n");
    }

    #[tokio::test]
    async fn rotated_files_come_first() {
        let old = "2025-01-01T00:00:00Z stdout F zero\n";
        let files = [("0.log", LOG), ("0.log.20250101-000000", old)];
        assert_eq!(all(LogOptions::default(), &files).await, "zero\none\ntwo\nthree\n");
        let tail = LogOptions { tail_lines: Some(5), ..LogOptions::default() };
        assert_eq!(all(tail, &files).await, "zero\none\ntwo\nthree\n");
        let follow = LogOptions { follow: true, ..LogOptions::default() };
        assert_eq!(all(follow, &files).await, "zero\none\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn slow_follower_misses_no_file() {
        let directory = tempfile_directory("rotation");
        let log = directory.join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        std::fs::write(&log, line("one")).unwrap();
        let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (sender, mut receiver) = mpsc::channel(64);
        let running = {
            let ended = ended.clone();
            move || !ended.load(std::sync::atomic::Ordering::SeqCst)
        };
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let reading = tokio::spawn(read(log.clone(), options, running, sender));
        assert_eq!(receiver.recv().await.unwrap(), "one\n");
        // Two rotations before the reader looks again.
        for (number, text) in [(1, "two"), (2, "three")] {
            let rotated = format!("0.log.2026010{number}-000000");
            std::fs::rename(&log, directory.join(rotated)).unwrap();
            std::fs::write(&log, line(text)).unwrap();
        }
        ended.store(true, std::sync::atomic::Ordering::SeqCst);
        reading.await.unwrap().unwrap();
        let mut rest = Vec::new();
        while let Ok(piece) = receiver.try_recv() {
            rest.extend_from_slice(&piece);
        }
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(String::from_utf8(rest).unwrap(), "two\nthree\n");
    }

    fn tempfile_directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("coracle-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn last_words() {
        let path = std::env::temp_dir().join(format!("coracle-tail-{}", std::process::id()));
        std::fs::write(&path, LOG).unwrap();
        assert_eq!(tail_text(&path, 80, 2048), "one\ntwo\nthree\n");
        assert_eq!(tail_text(&path, 80, 6), "three\n");
        std::fs::remove_file(&path).unwrap();
    }
}
