//! Files that the agent makes for a container and that the container can change: `/etc/hosts`,
//! `/etc/resolv.conf`, `/etc/hostname` and the termination message.
//!
//! They are mounted writable, so that their length and contents are the container's from then on.
//! None is read beyond a bound, none is opened through a symlink, and none is waited for.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// Most bytes read of a file of the machine itself, such as its `/etc/hosts`.
const MAX_HOST_FILE_BYTES: u64 = 1 << 20;

/// Writes a file in place, where its contents are not these already: containers that run have the
/// same file mounted. At most as much as is expected is read of it.
pub fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = open(path, OpenOptions::new().read(true).write(true).create(true).mode(0o644))?;
    let wanted = text.len() as u64;
    if file.metadata()?.len() == wanted {
        let mut found = Vec::with_capacity(text.len());
        (&mut file).take(wanted + 1).read_to_end(&mut found)?;
        if found == text {
            return Ok(());
        }
        file.seek(SeekFrom::Start(0))?;
    }
    file.set_len(0)?;
    file.write_all(text)
}

/// Makes an empty file that any user can write, in place of the one that is there.
pub fn make_writable(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = open(path, OpenOptions::new().write(true).create_new(true).mode(0o666))?;
    file.set_permissions(Permissions::from_mode(0o666))
}

/// Reads at most so many bytes from the start of a regular file.
pub fn read_start(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    open_regular(path)?.take(bytes).read_to_end(&mut start)?;
    Ok(start)
}

/// Reads a file of the machine itself; one that is not there is empty. Symlinks are followed: the
/// machine's `/etc/resolv.conf` often is one.
pub fn host_text(path: &Path) -> String {
    let mut text = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_HOST_FILE_BYTES).read_to_end(&mut text));
    match read {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

/// Opens a regular file for reading, as [`read_start`] does.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true))
}

/// Opens a regular file, and nothing that would block or lead elsewhere.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = options.custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn directory(name: &str) -> std::path::PathBuf {
        let id = std::process::id();
        let path = std::env::temp_dir().join(format!("coracle-own-file-{id}-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn sparse_gigabytes_are_replaced_unread() {
        let directory = directory("sparse");
        let path = directory.join("hosts");
        write(&path, b"127.0.0.1 localhost\n").unwrap();
        let before = std::fs::metadata(&path).unwrap();
        // What `truncate -s 1T /etc/hosts` in the container does.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_start(&path, 4096).unwrap().len(), 4096);
        write(&path, b"127.0.0.1 localhost\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"127.0.0.1 localhost\n");
        let after = std::fs::metadata(&path).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(before.ino(), after.ino(), "it is the file that containers have mounted");
        // The same length with other contents is replaced too.
        std::fs::write(&path, "127.0.0.2 localhost\n").unwrap();
        write(&path, b"127.0.0.1 localhost\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"127.0.0.1 localhost\n");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn symlinks_and_pipes_are_not_opened() {
        let directory = directory("links");
        let (target, link) = (directory.join("target"), directory.join("link"));
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(write(&link, b"changed").is_err());
        assert!(read_start(&link, 10).is_err());
        make_writable(&link).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"kept");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_file());
        let pipe = directory.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(read_start(&pipe, 10).is_err());
        assert!(write(&pipe, b"x").is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
