//! Batches of datagrams: what has come is taken with one system call, what is answered goes with one.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

/// The largest query that is read whole.
const MAX_QUERY_BYTES: usize = 4096;
/// Datagrams per system call.
const BATCH: usize = 32;

/// Reads and writes batches on a blocking socket.
pub(crate) struct Datagrams<'s> {
    socket: &'s UdpSocket,
    /// Hold the senders; sending would make them point elsewhere.
    incoming: MultiHeaders<SockaddrStorage>,
    outgoing: MultiHeaders<SockaddrStorage>,
    buffers: Vec<[u8; MAX_QUERY_BYTES]>,
    received: Vec<(usize, SocketAddr)>,
    replies: Vec<(Vec<u8>, SockaddrStorage)>,
}

impl<'s> Datagrams<'s> {
    pub(crate) fn new(socket: &'s UdpSocket) -> Self {
        Self {
            socket,
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; MAX_QUERY_BYTES]; BATCH],
            received: Vec::with_capacity(BATCH),
            replies: Vec::with_capacity(BATCH),
        }
    }

    /// Waits for a datagram and takes it with those behind it. Errors are those of earlier answers
    /// (a client is gone), and leave nothing received.
    pub(crate) fn receive(&mut self) -> nix::Result<()> {
        self.received.clear();
        let mut slices: Vec<_> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let results = recvmmsg(
            self.socket.as_raw_fd(),
            &mut self.incoming,
            slices.iter_mut(),
            MsgFlags::MSG_WAITFORONE,
            None,
        )?;
        let senders = results.map(|message| {
            // A length of nothing serves for a sender that cannot be answered.
            let sender = message.address.as_ref().and_then(address);
            sender.map_or((0, SocketAddr::from(([0; 4], 0))), |sender| (message.bytes, sender))
        });
        self.received.extend(senders);
        Ok(())
    }

    /// What was received last: each message with its sender.
    pub(crate) fn received(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let messages = self.received.iter().zip(&self.buffers);
        messages.map(|((length, sender), buffer)| (&buffer[..*length], *sender))
    }

    /// Sends each reply to its client. What cannot be sent is lost, as datagrams may be.
    pub(crate) fn send(&mut self, replies: impl Iterator<Item = (Vec<u8>, SocketAddr)>) {
        self.replies.clear();
        self.replies.extend(replies.map(|(reply, client)| (reply, client.into())));
        let mut rest = &self.replies[..];
        while !rest.is_empty() {
            let slices: Vec<_> = rest.iter().map(|(reply, _)| [IoSlice::new(reply)]).collect();
            let clients: Vec<_> = rest.iter().map(|(_, client)| Some(*client)).collect();
            let sent = sendmmsg(
                self.socket.as_raw_fd(),
                &mut self.outgoing,
                &slices,
                &clients,
                [],
                MsgFlags::empty(),
            );
            let done = match sent {
                Ok(results) => results.count().max(1),
                Err(Errno::EINTR) => 0,
                // The first of them is what failed.
                Err(_) => 1,
            };
            rest = &rest[done.min(rest.len())..];
        }
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn batches_come_and_go_in_both_families() {
        for loopback in [Ipv4Addr::LOCALHOST.into(), std::net::IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let Ok(server) = UdpSocket::bind((loopback, 0)) else {
                eprintln!("SKIPPED: this machine has no {loopback}");
                continue;
            };
            let clients: Vec<_> = (0..3).map(|_| UdpSocket::bind((loopback, 0)).unwrap()).collect();
            let own = server.local_addr().unwrap();
            let mut datagrams = Datagrams::new(&server);
            for _ in 0..3 {
                round(&mut datagrams, &clients, own);
            }
        }
    }

    fn round(datagrams: &mut Datagrams<'_>, clients: &[UdpSocket], own: SocketAddr) {
        for (number, client) in clients.iter().enumerate() {
            client.send_to(&vec![b'q'; number], own).unwrap();
        }
        let mut seen = Vec::new();
        while seen.len() < clients.len() {
            datagrams.receive().unwrap();
            seen.extend(datagrams.received().map(|(bytes, from)| (bytes.to_vec(), from)));
        }
        let nobody = SocketAddr::new(own.ip(), 0);
        let replies = seen.into_iter().flat_map(|(mut bytes, client)| {
            bytes.push(b'r');
            [(b"lost".to_vec(), nobody), (bytes, client)]
        });
        datagrams.send(replies.collect::<Vec<_>>().into_iter());
        for (number, client) in clients.iter().enumerate() {
            let mut reply = [0; 8];
            let (length, from) = client.recv_from(&mut reply).unwrap();
            assert_eq!((length, from), (number + 1, own));
            assert_eq!(reply[number], b'r');
        }
    }
}
