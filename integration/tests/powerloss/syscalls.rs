//! The system calls that change the recorded directory: registers become requests, and results
//! become events.

use std::io::IoSliceMut;
use std::path::{Path, PathBuf};

use nix::libc::{self, user_regs_struct};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::recording::{Change, Event, Log, Position};

const PAGE_BYTES: usize = 4096;

/// A system call that concerns the recorded directory, at its entry.
#[derive(Debug)]
pub struct Request {
    pub action: Action,
    /// The number of events that had happened when it began.
    start: Position,
}

#[derive(Debug)]
pub enum Action {
    Open {
        path: PathBuf,
        existed: bool,
        flags: i32,
    },
    Write {
        path: PathBuf,
        fd: u64,
        /// The bytes in the memory of the process: address and length.
        pieces: Vec<(u64, u64)>,
        /// `None`: at the position of the descriptor.
        offset: Option<u64>,
    },
    Change(Change),
    Sync(PathBuf),
    SyncAll,
}

impl Action {
    /// The file that is changed.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Open { path, .. } | Self::Write { path, .. } | Self::Sync(path) => Some(path),
            Self::Change(change) => Some(change.path()),
            Self::SyncAll => None,
        }
    }

    /// The kind of change, in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "create",
            Self::Write { .. } => "write",
            Self::Change(change) => change.name(),
            Self::Sync(_) => "sync",
            Self::SyncAll => "sync all",
        }
    }
}

/// Decodes system calls of traced processes.
pub struct Decoder<'a> {
    /// The directory whose changes count.
    pub directory: &'a Path,
    pub log: &'a Log,
}

impl Decoder<'_> {
    /// The request, if this system call may change the directory.
    pub fn enter(&self, pid: Pid, regs: &user_regs_struct) -> Option<Request> {
        let start = self.log.position();
        self.action(pid, regs).map(|action| Request { action, start })
    }

    fn action(&self, pid: Pid, regs: &user_regs_struct) -> Option<Action> {
        let (a, b, c, d) = (regs.rdi, regs.rsi, regs.rdx, regs.r10);
        const CWD: u64 = libc::AT_FDCWD as u64;
        let at = |fd: u64, address: u64| self.path(pid, fd, address);
        Some(match regs.orig_rax as i64 {
            libc::SYS_open => self.open(at(CWD, a)?, b),
            libc::SYS_creat => self.open(at(CWD, a)?, (libc::O_CREAT | libc::O_TRUNC) as u64),
            libc::SYS_openat => self.open(at(a, b)?, c),
            libc::SYS_openat2 => {
                let flags = read_memory(pid, c, 8)?;
                self.open(at(a, b)?, u64::from_le_bytes(flags.try_into().ok()?))
            }
            libc::SYS_write => self.write(pid, a, vec![(b, c)], None)?,
            libc::SYS_pwrite64 => self.write(pid, a, vec![(b, c)], Some(d))?,
            libc::SYS_writev => self.write_vector(pid, a, b, c, None)?,
            libc::SYS_pwritev | libc::SYS_pwritev2 => {
                self.write_vector(pid, a, b, c, Some(d).filter(|offset| *offset as i64 != -1))?
            }
            libc::SYS_ftruncate => {
                Action::Change(Change::Truncate { path: self.file(pid, a)?, size: b })
            }
            libc::SYS_truncate => Action::Change(Change::Truncate { path: at(CWD, a)?, size: b }),
            libc::SYS_fallocate => {
                let path = self.file(pid, a)?;
                if b != 0 {
                    self.log.unsupported(format!("fallocate of {} in mode {b}", path.display()));
                }
                Action::Change(Change::Extend { path, size: c + d })
            }
            libc::SYS_rename => self.rename(at(CWD, a), at(CWD, b), 0)?,
            libc::SYS_renameat => self.rename(at(a, b), at(c, d), 0)?,
            libc::SYS_renameat2 => self.rename(at(a, b), at(c, d), regs.r8)?,
            libc::SYS_link => self.link(at(CWD, a), at(CWD, b))?,
            libc::SYS_linkat => self.link(at(a, b), at(c, d))?,
            libc::SYS_symlink => self.symlink(&at(CWD, b)?),
            libc::SYS_symlinkat => self.symlink(&at(b, c)?),
            libc::SYS_unlink | libc::SYS_rmdir => Action::Change(Change::Unlink(at(CWD, a)?)),
            libc::SYS_unlinkat => Action::Change(Change::Unlink(at(a, b)?)),
            libc::SYS_mkdir => Action::Change(Change::Mkdir(at(CWD, a)?)),
            libc::SYS_mkdirat => Action::Change(Change::Mkdir(at(a, b)?)),
            libc::SYS_fsync | libc::SYS_fdatasync => {
                Action::Sync(self.file(pid, a).or_else(|| self.parent(pid, a))?)
            }
            libc::SYS_sync | libc::SYS_syncfs => Action::SyncAll,
            libc::SYS_fadvise64 if d as i32 == libc::POSIX_FADV_DONTNEED => {
                Action::Change(Change::DropCache(self.file(pid, a)?))
            }
            libc::SYS_mmap => {
                let shared = d & libc::MAP_SHARED as u64 != 0 && c & libc::PROT_WRITE as u64 != 0;
                let path = shared.then(|| self.file(pid, regs.r8)).flatten()?;
                self.log.unsupported(format!("{} is mapped to be written", path.display()));
                return None;
            }
            libc::SYS_sendfile => return self.copied_to(pid, a),
            libc::SYS_copy_file_range | libc::SYS_splice => return self.copied_to(pid, c),
            libc::SYS_io_uring_setup => {
                self.log.unsupported("io_uring is used".into());
                return None;
            }
            _ => return None,
        })
    }

    fn open(&self, path: PathBuf, flags: u64) -> Action {
        let flags = flags as i32;
        if flags & libc::O_TMPFILE == libc::O_TMPFILE {
            self.log.unsupported(format!("a file without a name in {}", path.display()));
        }
        Action::Open { existed: path.symlink_metadata().is_ok(), path, flags }
    }

    fn write(
        &self,
        pid: Pid,
        fd: u64,
        pieces: Vec<(u64, u64)>,
        offset: Option<u64>,
    ) -> Option<Action> {
        Some(Action::Write { path: self.file(pid, fd)?, fd, pieces, offset })
    }

    fn write_vector(
        &self,
        pid: Pid,
        fd: u64,
        address: u64,
        count: u64,
        offset: Option<u64>,
    ) -> Option<Action> {
        self.file(pid, fd)?;
        let vector = read_memory(pid, address, 16 * usize::try_from(count).ok()?)?;
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let pieces = vector.chunks(16).map(|piece| (number(&piece[..8]), number(&piece[8..])));
        self.write(pid, fd, pieces.collect(), offset)
    }

    fn rename(&self, from: Option<PathBuf>, to: Option<PathBuf>, flags: u64) -> Option<Action> {
        if let (None, None) = (&from, &to) {
            return None;
        }
        let (Some(from), Some(to)) = (from, to) else {
            self.log.unsupported("a rename into or out of the directory".into());
            return None;
        };
        if flags & u64::from(libc::RENAME_EXCHANGE) != 0 {
            self.log.unsupported(format!("an exchange with {}", to.display()));
        }
        Some(Action::Change(Change::Rename { from, to }))
    }

    fn link(&self, from: Option<PathBuf>, to: Option<PathBuf>) -> Option<Action> {
        match (from, to) {
            (Some(from), Some(to)) => Some(Action::Change(Change::Link { from, to })),
            (None, Some(to)) => {
                self.log.unsupported(format!("{} is linked from outside", to.display()));
                None
            }
            _ => None,
        }
    }

    fn symlink(&self, path: &Path) -> Action {
        self.log.unsupported(format!("the symbolic link {}", path.display()));
        Action::Sync(path.to_owned())
    }

    fn copied_to(&self, pid: Pid, fd: u64) -> Option<Action> {
        let path = self.file(pid, fd)?;
        self.log.unsupported(format!("the kernel copies into {}", path.display()));
        None
    }

    /// The path of an open file in the directory.
    fn file(&self, pid: Pid, fd: u64) -> Option<PathBuf> {
        let path = descriptor(pid, fd)?;
        path.starts_with(self.directory).then_some(path)
    }

    /// The directory that holds the recorded one: its sync makes the recorded one's name durable.
    fn parent(&self, pid: Pid, fd: u64) -> Option<PathBuf> {
        descriptor(pid, fd).filter(|path| Some(path.as_path()) == self.directory.parent())
    }

    /// The path at `address`, relative to a directory descriptor, if it lies in the directory.
    fn path(&self, pid: Pid, directory: u64, address: u64) -> Option<PathBuf> {
        let path = PathBuf::from(read_text(pid, address)?);
        let path = match directory as i32 {
            _ if path.is_absolute() => path,
            libc::AT_FDCWD => std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?.join(path),
            _ => descriptor(pid, directory)?.join(path),
        };
        path.starts_with(self.directory).then_some(path)
    }

    /// Adds the effect of a request to the log. `result` is the value that the system call returned.
    pub fn exit(&self, pid: Pid, request: Request, result: i64) {
        let Request { action, start } = request;
        if let Action::Sync(path) = action {
            let event = match result {
                0 => Event::Sync { path, start },
                _ => Event::FailedSync { path, start },
            };
            return self.log.push(event);
        }
        if result < 0 {
            return;
        }
        match action {
            Action::Open { path, existed, flags } => {
                if flags & libc::O_CREAT != 0 && !existed {
                    self.log.push(Event::Create(path));
                } else if flags & libc::O_TRUNC != 0 {
                    self.log.push(Event::Change(Change::Truncate { path, size: 0 }));
                }
            }
            Action::Write { path, fd, pieces, offset } => {
                self.written(pid, path, fd, &pieces, offset, result as u64);
            }
            Action::Change(change) => self.log.push(Event::Change(change)),
            Action::SyncAll => self.log.push(Event::SyncAll { start }),
            Action::Sync(_) => {}
        }
    }

    fn written(
        &self,
        pid: Pid,
        path: PathBuf,
        fd: u64,
        pieces: &[(u64, u64)],
        offset: Option<u64>,
        length: u64,
    ) {
        let mut bytes = Vec::new();
        for (address, size) in pieces {
            let wanted = (*size).min(length - bytes.len() as u64);
            match read_memory(pid, *address, wanted as usize) {
                Some(piece) => bytes.extend_from_slice(&piece),
                None => self.log.unsupported(format!("unreadable bytes for {}", path.display())),
            }
        }
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
        let field = |name: &str| {
            info.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        let position = field("pos:").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let flags = field("flags:").and_then(|text| i32::from_str_radix(&text, 8).ok());
        let offset = offset.unwrap_or_else(|| position.saturating_sub(length));
        self.log.push(Event::Write { path: path.clone(), offset, bytes });
        if flags.unwrap_or(0) & libc::O_DSYNC != 0 {
            self.log.push(Event::Sync { path, start: self.log.position() });
        }
    }
}

/// Returns the path of a descriptor; `None` for a removed file, which no start can read.
fn descriptor(pid: Pid, fd: u64) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/{pid}/fd/{}", fd as i32)).ok()?;
    (!path.to_string_lossy().ends_with(" (deleted)")).then_some(path)
}

fn read_memory(pid: Pid, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let remote = RemoteIoVec { base: usize::try_from(address).ok()?, len: length };
    let read = process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &[remote]).ok()?;
    (read == length).then_some(bytes)
}

/// The text up to the first zero byte.
fn read_text(pid: Pid, address: u64) -> Option<String> {
    let mut text = Vec::new();
    while text.len() < PAGE_BYTES {
        let next = usize::try_from(address).ok()? + text.len();
        let piece = read_memory(pid, next as u64, PAGE_BYTES - next % PAGE_BYTES)?;
        let end = piece.iter().position(|byte| *byte == 0);
        text.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
        if end.is_some() {
            return String::from_utf8(text).ok();
        }
    }
    None
}
