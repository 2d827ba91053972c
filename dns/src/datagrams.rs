//! Batches of datagrams: what has come is taken with one system call, what is answered goes with one.

use std::cmp::Reverse;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmmsg,
    sendmmsg, sendmsg,
};

/// The largest query that is read whole.
const MAX_QUERY_BYTES: usize = 4096;
/// Datagrams per system call.
pub(crate) const BATCH: usize = 32;

/// Longer replies are sent one by one: cut up, they still have to fit into a packet of any link.
const SEGMENT_MAX_BYTES: usize = 1200;

type Reply = (Vec<u8>, SocketAddr);

/// Reads and writes batches on a blocking socket.
pub(crate) struct Datagrams<'s> {
    socket: &'s UdpSocket,
    /// Hold the senders; sending would make them point elsewhere.
    incoming: MultiHeaders<SockaddrStorage>,
    outgoing: MultiHeaders<SockaddrStorage>,
    buffers: Vec<[u8; MAX_QUERY_BYTES]>,
    received: Vec<(usize, SocketAddr)>,
    replies: Vec<Reply>,
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
        self.replies.extend(replies);
        // The longest first for each client: see `run_length`.
        self.replies.sort_unstable_by_key(|(reply, client)| (*client, Reverse(reply.len())));
        let mut singles: Vec<&Reply> = Vec::with_capacity(BATCH);
        let mut rest = &self.replies[..];
        while !rest.is_empty() {
            let (run, behind) = rest.split_at(run_length(rest));
            if run.len() == 1 || send_run(self.socket, run).is_err() {
                singles.extend(run);
            }
            rest = behind;
        }
        send_each(self.socket, &singles, &mut self.outgoing);
    }
}

/// How many replies, from the first on, can leave as one: they go to one client and are as long as
/// the first, but for the last, which may be shorter. A resolver that asks for both families of an
/// address in one breath has such a pair coming.
fn run_length(replies: &[Reply]) -> usize {
    let Some((first, client)) = replies.first() else { return 0 };
    if first.len() > SEGMENT_MAX_BYTES {
        return 1;
    }
    let mut pairs = replies.windows(2);
    let joined = |pair: &[Reply]| pair[1].1 == *client && pair[0].0.len() == first.len();
    1 + pairs.position(|pair| !joined(pair)).unwrap_or(replies.len() - 1)
}

/// Sends replies to one client as one packet, which the kernel cuts up where it must
/// (`UDP_SEGMENT`, udp(7)); all or none.
fn send_run(socket: &UdpSocket, run: &[Reply]) -> nix::Result<()> {
    let Some((first, client)) = run.first() else { return Ok(()) };
    let slices: Vec<_> = run.iter().map(|(reply, _)| IoSlice::new(reply)).collect();
    let length = first.len() as u16;
    let cut = [ControlMessage::UdpGsoSegments(&length)];
    let (fd, none) = (socket.as_raw_fd(), MsgFlags::empty());
    match client {
        SocketAddr::V4(v4) => sendmsg(fd, &slices, &cut, none, Some(&SockaddrIn::from(*v4))),
        SocketAddr::V6(v6) => sendmsg(fd, &slices, &cut, none, Some(&SockaddrIn6::from(*v6))),
    }
    .map(drop)
}

fn send_each(socket: &UdpSocket, replies: &[&Reply], headers: &mut MultiHeaders<SockaddrStorage>) {
    let mut rest = replies;
    while !rest.is_empty() {
        let slices: Vec<_> = rest.iter().map(|(reply, _)| [IoSlice::new(reply)]).collect();
        let clients: Vec<_> = rest.iter().map(|(_, client)| Some(storage(client))).collect();
        let (fd, none) = (socket.as_raw_fd(), MsgFlags::empty());
        let done = match sendmmsg(fd, headers, &slices, &clients, [], none) {
            Ok(results) => results.count().max(1),
            Err(Errno::EINTR) => 0,
            // The first of them is what failed.
            Err(_) => 1,
        };
        rest = &rest[done.min(rest.len())..];
    }
}

fn storage(address: &SocketAddr) -> SockaddrStorage {
    match address {
        SocketAddr::V4(v4) => SockaddrStorage::from(*v4),
        SocketAddr::V6(v6) => SockaddrStorage::from(*v6),
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}

#[cfg(test)]
#[path = "../../integration/src/skip.rs"]
mod skip;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn what_leaves_as_one_is_as_long_but_for_the_last() {
        let client = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let runs = |replies: &[(usize, u16)]| {
            let replies: Vec<Reply> =
                replies.iter().map(|(length, port)| (vec![0; *length], client(*port))).collect();
            let (mut rest, mut lengths) = (&replies[..], Vec::new());
            while !rest.is_empty() {
                lengths.push(run_length(rest));
                rest = &rest[run_length(rest)..];
            }
            lengths
        };
        assert_eq!(runs(&[(9, 1), (7, 1), (7, 1)]), [2, 1]);
        assert_eq!(runs(&[(9, 1), (9, 1), (9, 1)]), [3]);
        assert_eq!(runs(&[(9, 1), (9, 1), (7, 1), (9, 2), (9, 3)]), [3, 1, 1]);
        assert_eq!(runs(&[(1300, 1), (1300, 1)]), [1, 1]);
    }

    #[test]
    fn batches_come_and_go_in_both_families() {
        for loopback in [Ipv4Addr::LOCALHOST.into(), std::net::IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let Ok(server) = UdpSocket::bind((loopback, 0)) else {
                skip::skip(&format!("this machine has no {loopback}"), "ipv6");
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

    /// Every client asks three times, and gets what it sent with a letter more, among replies that
    /// cannot be sent.
    fn round(datagrams: &mut Datagrams<'_>, clients: &[UdpSocket], own: SocketAddr) {
        let lengths = |number: usize| [number, number + 1, number + 1];
        for (number, client) in clients.iter().enumerate() {
            for length in lengths(number) {
                client.send_to(&vec![b'q'; length], own).unwrap();
            }
        }
        let mut seen = Vec::new();
        while seen.len() < 3 * clients.len() {
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
            let mut replies = lengths(number).map(|_| {
                let mut reply = [0; 8];
                let (length, from) = client.recv_from(&mut reply).unwrap();
                assert_eq!((from, reply[length - 1]), (own, b'r'));
                length - 1
            });
            replies.sort_unstable();
            assert_eq!(replies, lengths(number));
        }
    }
}
