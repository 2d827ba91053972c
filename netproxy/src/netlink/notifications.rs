//! A netlink socket that receives what the kernel multicasts about changes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};
use socket2::{SockFilter, SockRef};
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
    /// Room for one datagram, the same each time.
    buffer: Mutex<Box<[u8]>>,
}

impl Notifications {
    /// Subscribes to a multicast group of the netfilter subsystem, where the kernel can filter
    /// without what the sockets with these ports cause. Must be called within a Tokio runtime.
    pub fn open(group: u32, except: &[u32]) -> Result<Self, NetlinkError> {
        Self::try_open(group, except)
            .map_err(|source| NetlinkError::Open { protocol: Protocol::Netfilter, source })
    }

    fn try_open(group: u32, except: &[u32]) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let number = Some(SockProtocol::NetlinkNetFilter);
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, number)?;
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            let _ = setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES);
        }
        // Without the filter there is more to read, and nothing else differs.
        let _ = SockRef::from(&fd).attach_filter(&filter(except));
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1 << (group - 1)))?;
        let buffer = Mutex::new(vec![0; DATAGRAM_BYTES].into());
        Ok(Self { fd: register(fd)?, buffer })
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
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                messages(&buffer[..length]).for_each(&mut visit);
                Ok(Received::Messages)
            }
            Err(Errno::EAGAIN) => Ok(Received::Nothing),
            Err(Errno::EINTR) => {
                drop(buffer);
                self.take(visit)
            }
            Err(Errno::ENOBUFS) => Ok(Received::Lost),
            Err(errno) => Err(NetlinkError::Transfer { step: "receive", source: errno.into() }),
        }
    }
}

/// A program for the kernel that keeps datagrams whose first message was not caused by these ports;
/// all messages of a datagram are of one transaction. Classic BPF, as in `bpf(4)`.
fn filter(except: &[u32]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// The place of the port of a message's cause, in the machine's order of bytes; the program sees it
    /// in the network's.
    const PORT_OFFSET: u32 = 12;
    let keep = |bytes| SockFilter::new(RETURN, 0, 0, bytes);
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, PORT_OFFSET)];
    for port in except {
        program.extend([SockFilter::new(JUMP_IF_EQUAL, 0, 1, port.to_be()), keep(0)]);
    }
    program.push(keep(u32::MAX));
    program
}
