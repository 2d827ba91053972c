//! A blocking netlink socket: requests with acknowledgements, and dumps.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};

use tokio::io::unix::AsyncFd;

use super::message::{Message, Writer, messages};

/// Large enough for a full replacement of 10,000 Services in one datagram.
const SEND_BUFFER_BYTES: usize = 64 << 20;
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// The kernel sends dumps in pieces of at most 32 KiB.
const DATAGRAM_BYTES: usize = 64 << 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const DUMP_ATTEMPTS: u32 = 5;

/// Which kernel subsystem a socket speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes.
    Route,
    /// nf_tables and connection tracking.
    Netfilter,
    /// Sockets of the namespace.
    SocketDiagnostics,
}

/// A netlink operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket could be opened.
    #[error("open {protocol:?} netlink socket")]
    Open {
        /// The subsystem.
        protocol: Protocol,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// Sending or receiving failed.
    #[error("{step} netlink message")]
    Transfer {
        /// `send` or `receive`.
        step: &'static str,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{operation}: {source}")]
    Refused {
        /// What the request was to do.
        operation: &'static str,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The kernel did not say whether it carried out a request.
    #[error("{operation}: no answer from the kernel")]
    Unanswered {
        /// What the request was to do.
        operation: &'static str,
    },
}

impl NetlinkError {
    fn refused_with(&self, errno: i32) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(errno))
    }

    /// The object does not exist.
    pub fn is_missing(&self) -> bool {
        [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL]
            .into_iter()
            .any(|errno| self.refused_with(errno))
    }

    /// The kernel lacks the feature.
    pub fn is_unsupported(&self) -> bool {
        [libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT]
            .into_iter()
            .any(|errno| self.refused_with(errno))
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// The kernel's name for this socket, which notifications of its changes carry.
    port: u32,
    /// Transactions that the kernel took from this socket.
    commits: AtomicU32,
    /// Room for one datagram, the same each time.
    buffer: Mutex<Box<[u8]>>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        Self::try_open(protocol, 0)
            .map_err(|errno| NetlinkError::Open { protocol, source: errno.into() })
    }

    /// As [`Socket::open`], with a port that is known beforehand unless another socket has it.
    pub fn open_at(protocol: Protocol, port: u32) -> Result<Self, NetlinkError> {
        match Self::try_open(protocol, port) {
            Err(Errno::EADDRINUSE) => Self::open(protocol),
            result => result.map_err(|errno| NetlinkError::Open { protocol, source: errno.into() }),
        }
    }

    fn try_open(protocol: Protocol, port: u32) -> nix::Result<Self> {
        let number = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
            Protocol::SocketDiagnostics => SockProtocol::NetlinkSockDiag,
        };
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(number))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(port, 0))?;
        // Without CAP_NET_ADMIN in the initial namespace the plain limits stay; small batches work.
        if setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER_BYTES).is_err() {
            let _ = setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER_BYTES);
        }
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            let _ = setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES);
        }
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        let buffer = Mutex::new(vec![0; DATAGRAM_BYTES].into());
        Ok(Self { fd, port, commits: AtomicU32::new(0), buffer })
    }

    /// The port by which notifications name this socket.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Returns the number of transactions that the kernel took from this socket; wraps.
    pub fn commits(&self) -> u32 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Counts a transaction.
    pub fn count_commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends every message and waits for the answers of those that asked for one.
    ///
    /// The kernel handles a datagram before `send` returns, so every answer is already queued:
    /// reading ends when the queue is empty. The first refusal is returned.
    pub fn request(&self, writer: &Writer) -> Result<(), NetlinkError> {
        if writer.is_empty() {
            return Ok(());
        }
        self.send(writer)?;
        let mut missing: Vec<u32> = writer.acknowledged().to_vec();
        let mut refused: Option<(u32, i32)> = None;
        self.drain(|message| {
            if let Some(code) = error_code(message) {
                missing.retain(|sequence| *sequence != message.sequence);
                if code != 0 && refused.is_none() {
                    refused = Some((message.sequence, code));
                }
            }
        })?;
        match (refused, missing.first()) {
            (Some((sequence, code)), _) => Err(NetlinkError::Refused {
                operation: writer.label(sequence),
                source: io::Error::from_raw_os_error(code),
            }),
            (None, Some(sequence)) => {
                Err(NetlinkError::Unanswered { operation: writer.label(*sequence) })
            }
            (None, None) => Ok(()),
        }
    }

    /// Sends one dump request and hands every answer to `visit`, repeating a dump that changed
    /// underway (`visit` then sees objects again, after `restart` was called).
    pub fn dump<State: Default>(
        &self,
        writer: &Writer,
        mut visit: impl FnMut(&mut State, Message<'_>),
    ) -> Result<State, NetlinkError> {
        for attempt in 1.. {
            let mut state = State::default();
            let mut interrupted = false;
            self.send(writer)?;
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            'dump: loop {
                let length = self.receive(&mut buffer, MsgFlags::empty())?;
                for message in messages(&buffer[..length]) {
                    interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                    if message.kind == NLMSG_DONE {
                        break 'dump;
                    }
                    if let Some(code) = error_code(message) {
                        if code == 0 {
                            break 'dump;
                        }
                        return Err(NetlinkError::Refused {
                            operation: writer.label(message.sequence),
                            source: io::Error::from_raw_os_error(code),
                        });
                    }
                    visit(&mut state, message);
                }
            }
            if !interrupted || attempt >= DUMP_ATTEMPTS {
                return Ok(state);
            }
        }
        Ok(State::default())
    }

    fn send(&self, writer: &Writer) -> Result<(), NetlinkError> {
        // Answers that nobody read must not be taken for answers to this request.
        self.drain(|_| {})?;
        send(self.fd.as_raw_fd(), writer.as_bytes(), MsgFlags::empty())
            .map(drop)
            .map_err(|errno| NetlinkError::Transfer { step: "send", source: errno.into() })
    }

    fn drain(&self, mut visit: impl FnMut(Message<'_>)) -> Result<(), NetlinkError> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.receive(&mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => messages(&buffer[..length]).for_each(&mut visit),
                Err(NetlinkError::Transfer { source, .. })
                    if source.kind() == io::ErrorKind::WouldBlock =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, NetlinkError> {
        loop {
            match recv(self.fd.as_raw_fd(), buffer, flags) {
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(NetlinkError::Transfer { step: "receive", source: errno.into() });
                }
            }
        }
    }
}

/// Lets Tokio wait for a socket.
#[allow(unsafe_code)]
pub(super) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open description until it is dropped, and the result owns it.
    Ok(unsafe { AsyncFd::register(fd)? })
}

/// The errno of an `NLMSG_ERROR` message, zero for an acknowledgement.
fn error_code(message: Message<'_>) -> Option<i32> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let code = message.payload.get(..4)?.try_into().ok().map(i32::from_ne_bytes)?;
    Some(code.saturating_neg())
}
