//! Shims found by their sockets.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, getsockopt, socket,
    sockopt,
};

/// Connects to a shim, without waiting for one that takes no connections.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect_socket(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

/// Returns whether a failed connection proves that there is no shim.
pub(crate) fn proves_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Kills the process that made the socket at the other end.
pub(super) fn kill(stream: &UnixStream) {
    let Ok(peer) = getsockopt(stream, sockopt::PeerCredentials) else { return };
    if peer.pid() > 1 && peer.pid() != nix::unistd::getpid().as_raw() {
        let pid = nix::unistd::Pid::from_raw(peer.pid());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_missing_listener_proves_absence() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shim.sock");
        assert!(proves_absence(&connect(&path).unwrap_err()));
        let listener = UnixListener::bind(&path).unwrap();
        drop(connect(&path).unwrap());
        // One that accepts nothing does not keep the caller waiting.
        let mut held = Vec::new();
        let error = loop {
            match connect(&path) {
                Ok(stream) if held.len() < 10_000 => held.push(stream),
                Ok(_) => return,
                Err(error) => break error,
            }
        };
        assert!(!proves_absence(&error), "{error}");
        drop(listener);
        assert!(proves_absence(&connect(&path).unwrap_err()));
        let emfile = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(!proves_absence(&emfile));
    }
}
