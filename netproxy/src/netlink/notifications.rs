//! A netlink socket that receives what the kernel multicasts about changes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};
use tokio::io::unix::AsyncFd;

use super::message::{Message, messages};
use super::socket::{NetlinkError, Protocol, register};

/// Notifications that may wait; a big change overflows this, which [`Received::Lost`] reports.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// The kernel composes notifications of at most 32 KiB.
const DATAGRAM_BYTES: usize = 64 << 10;

/// The result of one read of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Messages, which were visited.
    Messages,
    /// More came than fits into the socket's buffer: some are lost.
    Lost,
    /// Nothing waits.
    Nothing,
}

/// A subscription to notifications about nf_tables in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Notifications {
    fd: AsyncFd<OwnedFd>,
}

impl Notifications {
    /// Subscribes to a multicast group of the netfilter subsystem. Must be called within a Tokio
    /// runtime.
    pub fn open(group: u32) -> Result<Self, NetlinkError> {
        Self::try_open(group)
            .map_err(|source| NetlinkError::Open { protocol: Protocol::Netfilter, source })
    }

    fn try_open(group: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let number = Some(SockProtocol::NetlinkNetFilter);
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, number)?;
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            let _ = setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES);
        }
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1 << (group - 1)))?;
        Ok(Self { fd: register(fd)? })
    }

    /// Waits for the next datagram and hands its messages to `visit`. Cancelling loses nothing.
    pub async fn next(&self, visit: impl FnMut(Message<'_>)) -> Result<Received, NetlinkError> {
        let mut visit = visit;
        loop {
            let failed = |source| NetlinkError::Transfer { step: "await", source };
            let mut ready = self.fd.readable().await.map_err(failed)?;
            match self.take(&mut visit)? {
                Received::Nothing => ready.clear_ready(),
                received => return Ok(received),
            }
        }
    }

    /// Reads a datagram that waits, if one does.
    pub fn take(&self, mut visit: impl FnMut(Message<'_>)) -> Result<Received, NetlinkError> {
        let mut buffer = vec![0u8; DATAGRAM_BYTES];
        match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                messages(&buffer[..length]).for_each(&mut visit);
                Ok(Received::Messages)
            }
            Err(Errno::EAGAIN) => Ok(Received::Nothing),
            Err(Errno::EINTR) => self.take(visit),
            Err(Errno::ENOBUFS) => Ok(Received::Lost),
            Err(errno) => Err(NetlinkError::Transfer { step: "receive", source: errno.into() }),
        }
    }
}
