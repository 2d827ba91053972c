//! Container logs in CRI format: read from the end, filtered, followed.
//!
//! A line is `<time> <stdout|stderr> <F|P> <text>`; `P` marks a part of a line that goes on.

mod watcher;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::blocking::{self, Deadline};
use crate::container::own_file::open_regular as open_log;
use watcher::Watch;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Most bytes before the text of a line: time, stream and tag.
const MAX_HEAD_BYTES: usize = 64;

/// Longest line of a log file; runtimes write at most 16 KiB of text in one.
const MAX_ENTRY_BYTES: usize = 256 << 10;
/// Reads that are made in one turn on a thread that may block.
const MAX_READS: usize = 64;

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
    let Ok(mut file) = open_log(log) else { return String::new() };
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
/// everything is sent. The files are read on threads that may block.
pub async fn read(
    log: PathBuf,
    options: LogOptions,
    running: impl Fn() -> bool + Send + 'static,
    pieces: mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let owner = log.to_string_lossy().into_owned();
    // Watched before it is read, so that nothing is missed.
    let follow = options.follow;
    let watch = if follow { Watch::new(log.parent().unwrap_or(Path::new("/"))) } else { None };
    // Asked before reading: what is written before the end is read after it.
    let mut alive = running() && follow;
    let open = move || {
        let mut reader = Reader::open(log, options)?;
        let step = reader.step(!alive)?;
        Ok((reader, step))
    };
    let (mut reader, mut step) = turn(&owner, open).await?;
    loop {
        match step {
            Step::Piece(piece) => {
                if pieces.send(piece).await.is_err() {
                    return Ok(());
                }
            }
            Step::More => {}
            Step::End => return Ok(()),
            Step::Dry => {
                if !alive {
                    return Ok(());
                }
                let changed = async {
                    match &watch {
                        Some(watch) => watch.changed().await,
                        // The kernel watches no more; looking from time to time is slower.
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = changed => {}
                    () = pieces.closed() => return Ok(()),
                    // The end of a container writes nothing to its log: look from time to time, and
                    // only while a client follows.
                    () = tokio::time::sleep(std::time::Duration::from_millis(500)) => {}
                }
                alive = running();
            }
        }
        let last = !alive;
        let read = move || {
            let step = reader.step(last)?;
            Ok((reader, step))
        };
        (reader, step) = turn(&owner, read).await?;
    }
}

/// Makes one turn of a reader on a thread that may block.
async fn turn(
    owner: &str,
    work: impl FnOnce() -> std::io::Result<(Reader, Step)> + Send + 'static,
) -> std::io::Result<(Reader, Step)> {
    let made = blocking::run(owner, "Reading a log", Deadline::Short, work).await;
    made.unwrap_or_else(|error| Err(error.into()))
}

/// The result of one turn.
enum Step {
    /// Output for the client.
    Piece(Bytes),
    /// Nothing for the client yet, and more to read.
    More,
    /// Everything that is there was read.
    Dry,
    /// The client gets no more.
    End,
}

/// Reads the files of a log one after the other.
struct Reader {
    log: PathBuf,
    filter: Filter,
    /// Files that come after the present one, the next one last, and where to begin.
    later: Vec<(PathBuf, u64)>,
    lines: Lines,
}

impl Reader {
    fn open(log: PathBuf, options: LogOptions) -> std::io::Result<Self> {
        let sources = files(&log);
        // From the end backwards until enough lines are found.
        let mut begin: Vec<u64> = vec![0; sources.len()];
        if let Some(mut wanted) = options.tail_lines {
            for index in (0..sources.len()).rev() {
                let Ok(mut file) = open_log(&sources[index]) else { continue };
                let (offset, found) = tail_offset(&mut file, wanted)?;
                begin[index] = offset;
                wanted -= found.min(wanted);
            }
        }
        let mut later: Vec<(PathBuf, u64)> = sources.into_iter().zip(begin).rev().collect();
        let filter = Filter { options, sent: 0, continued: false };
        loop {
            let Some((path, offset)) = later.pop() else {
                return Err(std::io::Error::from(std::io::ErrorKind::NotFound));
            };
            match open_log(&path) {
                Ok(file) => {
                    let lines = Lines::new(file, offset)?;
                    return Ok(Self { log, filter, later, lines });
                }
                // A rotated file may be removed meanwhile; the present one has to be there.
                Err(error) if later.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Reads until there is something for the client; `last` says that the log is complete.
    fn step(&mut self, last: bool) -> std::io::Result<Step> {
        let mut out = BytesMut::new();
        for _ in 0..MAX_READS {
            // A rotated file is complete.
            let whole = last || !self.later.is_empty();
            let progress = self.lines.read(&mut self.filter, &mut out, whole)?;
            if progress == Progress::Enough && out.is_empty() {
                return Ok(Step::End);
            }
            if !out.is_empty() {
                return Ok(Step::Piece(out.freeze()));
            }
            if progress == Progress::Read {
                continue;
            }
            if let Some((path, offset)) = self.later.pop() {
                match open_log(&path) {
                    Ok(file) => self.lines = Lines::new(file, offset)?,
                    Err(error) if self.later.is_empty() => return Err(error),
                    Err(_) => {}
                }
            } else if self.lines.was_replaced(&self.log) {
                let rest = self.lines.read(&mut self.filter, &mut out, true)?;
                // Not always the newest: a slow reader may be several files behind.
                let next = self.lines.next_file(&self.log);
                if rest != Progress::Enough
                    && let Some(file) = next.and_then(|path| open_log(&path).ok())
                {
                    self.lines = Lines::new(file, 0)?;
                }
                if !out.is_empty() {
                    return Ok(Step::Piece(out.freeze()));
                }
            } else {
                return Ok(Step::Dry);
            }
        }
        // Nothing passed the filter for long: other calls get the thread in between.
        Ok(Step::More)
    }
}

/// The result of one read of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Something was read.
    Read,
    /// The file is at its end.
    AtEnd,
    /// The client gets no more.
    Enough,
}

struct Lines {
    file: File,
    rest: Vec<u8>,
    /// The client gets no more.
    enough: bool,
}

impl Lines {
    fn new(mut file: File, offset: u64) -> std::io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, rest: Vec::new(), enough: false })
    }

    fn was_replaced(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let own = self.file.metadata().map(|metadata| metadata.ino());
        let there = std::fs::metadata(path).map(|metadata| metadata.ino());
        matches!((own, there), (Ok(own), Ok(there)) if own != there)
    }

    /// The file that follows this one; the oldest when this one is no longer kept.
    fn next_file(&self, log: &Path) -> Option<PathBuf> {
        let own = self.file.metadata().ok()?.ino();
        let files = files(log);
        let is_own = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|there| there.ino() == own);
        let next = files.iter().position(is_own).map_or(0, |at| at + 1);
        files.into_iter().nth(next)
    }

    /// Reads once and appends the output; `last` says that a line without an end is complete.
    fn read(
        &mut self,
        filter: &mut Filter,
        out: &mut BytesMut,
        last: bool,
    ) -> std::io::Result<Progress> {
        if self.enough {
            return Ok(Progress::Enough);
        }
        let mut buffer = vec![0; CHUNK];
        let count = self.file.read(&mut buffer)?;
        let mut more = true;
        // What is in `rest` has no newline: only the new bytes are searched.
        let mut searched = self.rest.len();
        self.rest.extend_from_slice(&buffer[..count]);
        let mut consumed = 0;
        while more && let Some(end) = self.rest[searched..].iter().position(|byte| *byte == b'\n') {
            more = filter.push(&self.rest[consumed..searched + end], out);
            searched += end + 1;
            consumed = searched;
        }
        self.rest.drain(..consumed);
        if self.rest.len() > MAX_ENTRY_BYTES {
            // No runtime writes such a line.
            self.rest.clear();
        }
        if count == 0 && last && more && !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            more = filter.push(&rest, out);
        }
        self.enough = !more;
        Ok(match (more, count) {
            (false, _) => Progress::Enough,
            (true, 0) => Progress::AtEnd,
            (true, _) => Progress::Read,
        })
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
