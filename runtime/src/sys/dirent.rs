//! Directories read by descriptor, from positions that outlive the descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::check;

/// Size of one read of a directory, in bytes.
const BUFFER_BYTES: usize = 4 << 10;

/// Offsets in `struct linux_dirent64`: inode, position after the entry, record length, type, name.
const POSITION: usize = 8;
const LENGTH: usize = 16;
const TYPE: usize = 18;
const NAME: usize = 19;

/// An open directory.
pub struct Directory {
    fd: OwnedFd,
    buffer: Vec<u8>,
    next: usize,
    end: usize,
    /// The position behind the entry returned last, as the file system counts.
    position: i64,
}

/// One entry of a directory; borrowed from the directory's buffer.
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a CStr,
    /// True for a directory; `None` where the file system does not say.
    pub is_directory: Option<bool>,
    /// The position from which the directory has to be read to return this entry first.
    pub position: i64,
}

impl Directory {
    /// Reads the directory from its start; `fd` is open for reading.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, buffer: Vec::new(), next: 0, end: 0, position: 0 }
    }

    /// Reads the directory from a position of an [`Entry`].
    pub fn at(fd: OwnedFd, position: i64) -> nix::Result<Self> {
        let mut directory = Self::new(fd);
        directory.seek(position)?;
        Ok(directory)
    }

    /// Goes on at a position; 0 is the start.
    pub fn seek(&mut self, position: i64) -> nix::Result<()> {
        // SAFETY: the call takes integers only.
        let result = unsafe { libc::lseek(self.fd.as_raw_fd(), position, libc::SEEK_SET) };
        if result < 0 {
            return Err(Errno::last());
        }
        (self.next, self.end, self.position) = (0, 0, position);
        Ok(())
    }

    /// Returns the next entry other than `.` and `..`; `None` at the end.
    pub fn next(&mut self) -> nix::Result<Option<Entry<'_>>> {
        loop {
            if self.next >= self.end && !self.fill()? {
                return Ok(None);
            }
            let record = &self.buffer[self.next..self.end];
            let length = usize::from(u16::from_ne_bytes(bytes(record, LENGTH)?));
            let after = i64::from_ne_bytes(bytes(record, POSITION)?);
            let (start, position) = (self.next + NAME, self.position);
            if length <= NAME || length > record.len() {
                return Err(Errno::EIO);
            }
            let is_directory = match record[TYPE] {
                libc::DT_UNKNOWN => None,
                kind => Some(kind == libc::DT_DIR),
            };
            let end = self.next + length;
            self.next = end;
            self.position = after;
            if matches!(&self.buffer[start..end], [b'.', 0, ..] | [b'.', b'.', 0, ..]) {
                continue;
            }
            let name = CStr::from_bytes_until_nul(&self.buffer[start..end]);
            let name = name.map_err(|_| Errno::EIO)?;
            return Ok(Some(Entry { name, is_directory, position }));
        }
    }

    fn fill(&mut self) -> nix::Result<bool> {
        self.buffer.resize(BUFFER_BYTES, 0);
        // SAFETY: pointer and length describe the buffer.
        let length = check(unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                self.fd.as_raw_fd(),
                self.buffer.as_mut_ptr(),
                self.buffer.len(),
            )
        });
        (self.next, self.end) = match length {
            Ok(length) => (0, length as usize),
            // The directory was removed.
            Err(Errno::ENOENT) => (0, 0),
            Err(errno) => return Err(errno),
        };
        Ok(self.end > 0)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn bytes<const N: usize>(record: &[u8], at: usize) -> nix::Result<[u8; N]> {
    record.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EIO)
}
