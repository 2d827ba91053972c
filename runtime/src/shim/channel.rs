//! One connection of an agent: framed messages with descriptors, never blocking the shim.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

use crate::protocol::{self, HEADER_BYTES, MAX_DESCRIPTORS, Message, Request};

/// Unsent bytes beyond which an agent that does not read is cut off.
const MAX_UNSENT_BYTES: usize = 4 << 20;

/// Read at once, in bytes.
const READ_BYTES: usize = 16 << 10;

/// Why a connection ended.
#[derive(Debug)]
pub struct Closed;

/// A connection.
pub struct Channel {
    stream: UnixStream,
    received: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    unsent: VecDeque<(Vec<u8>, usize, Vec<OwnedFd>)>,
}

impl Channel {
    /// Takes over a connected socket.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            received: Vec::new(),
            descriptors: VecDeque::new(),
            unsent: VecDeque::new(),
        })
    }

    /// The socket.
    pub fn socket(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether something waits to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads what is there.
    pub fn receive(&mut self) -> Result<(), Closed> {
        loop {
            let start = self.received.len();
            self.received.resize(start + READ_BYTES, 0);
            let mut slices = [IoSliceMut::new(&mut self.received[start..])];
            let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let result = recvmsg::<UnixAddr>(
                self.stream.as_raw_fd(),
                &mut slices,
                Some(&mut control),
                flags,
            )
            .map(|message| {
                let descriptors: Vec<RawFd> = message
                    .cmsgs()
                    .into_iter()
                    .flatten()
                    .filter_map(|control| match control {
                        ControlMessageOwned::ScmRights(fds) => Some(fds),
                        _ => None,
                    })
                    .flatten()
                    .collect();
                (message.bytes, descriptors)
            });
            match result {
                Ok((bytes, descriptors)) => {
                    self.received.truncate(start + bytes);
                    self.descriptors.extend(descriptors.into_iter().map(crate::sys::own));
                    if bytes == 0 {
                        return Err(Closed);
                    }
                    if bytes < READ_BYTES {
                        return Ok(());
                    }
                }
                Err(errno) => {
                    self.received.truncate(start);
                    return match errno {
                        Errno::EAGAIN => Ok(()),
                        Errno::EINTR => continue,
                        _ => Err(Closed),
                    };
                }
            }
        }
    }

    /// The next whole request with its descriptors.
    pub fn next_request(&mut self) -> Result<Option<(Request, Vec<OwnedFd>)>, Closed> {
        let Some((end, count)) = protocol::frame(&self.received).map_err(|_| Closed)? else {
            return Ok(None);
        };
        if self.received.len() < end {
            return Ok(None);
        }
        let request =
            serde_json::from_slice(&self.received[HEADER_BYTES..end]).map_err(|_| Closed)?;
        if self.descriptors.len() < count {
            return Err(Closed);
        }
        let descriptors = self.descriptors.drain(..count).collect();
        self.received.drain(..end);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        Ok(Some((request, descriptors)))
    }

    /// Sends a message, now or when the agent reads.
    pub fn send(&mut self, message: &Message, descriptors: Vec<OwnedFd>) -> Result<(), Closed> {
        let bytes = protocol::encode(message, descriptors.len()).map_err(|_| Closed)?;
        self.unsent.push_back((bytes, 0, descriptors));
        self.flush()?;
        let waiting: usize = self.unsent.iter().map(|(bytes, sent, _)| bytes.len() - sent).sum();
        if waiting > MAX_UNSENT_BYTES { Err(Closed) } else { Ok(()) }
    }

    /// Sends what waits.
    pub fn flush(&mut self) -> Result<(), Closed> {
        while let Some((bytes, sent, descriptors)) = self.unsent.front_mut() {
            let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
            let slices = [IoSlice::new(&bytes[*sent..])];
            let flags = MsgFlags::MSG_NOSIGNAL;
            let socket = self.stream.as_raw_fd();
            match sendmsg::<UnixAddr>(socket, &slices, control, flags, None) {
                Ok(count) => {
                    *sent += count;
                    // They went with the first byte.
                    descriptors.clear();
                    if *sent == bytes.len() {
                        self.unsent.pop_front();
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Closed),
            }
        }
        Ok(())
    }
}
