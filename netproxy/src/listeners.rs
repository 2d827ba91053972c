//! The sockets on which processes of the host listen: TCP listeners and bound UDP sockets, through
//! `sock_diag(7)`, and the processes that own them.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;
#[cfg(test)]
mod tests;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{DUMP, NetlinkError, Protocol as NetlinkProtocol, Socket, Writer, attribute};
use crate::protocol::Protocol;

/// Descriptors that [`process_of`] looks at, of all processes together.
const MAX_DESCRIPTORS_SEARCHED: usize = 1 << 18;
/// Sockets that [`scan`] returns.
const MAX_LISTENERS: usize = 1 << 16;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// `struct inet_diag_msg` before its attributes.
const ANSWER_BYTES: usize = 72;
const TCP_LISTEN: u32 = 10;
/// The state of UDP sockets that are bound and not connected.
const TCP_CLOSE: u32 = 7;

/// A socket on which a process of the host takes connections or datagrams.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address; unspecified when the socket takes what comes to any address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The socket's inode for [`process_of`]; zero for sockets of the kernel.
    pub inode: u64,
    /// True if an unspecified IPv6 address excludes IPv4.
    pub ipv6_only: bool,
}

impl Listener {
    /// Returns whether packets to this port of the address end at this socket.
    pub fn takes(&self, address: IpAddr) -> bool {
        match self.address {
            IpAddr::V6(own) if own.is_unspecified() => address.is_ipv6() || !self.ipv6_only,
            own if own.is_unspecified() => address.is_ipv4(),
            own => own == address,
        }
    }

    /// Returns whether the socket takes IPv4 packets to every address of the host.
    pub fn takes_every_ipv4(&self) -> bool {
        self.address.is_unspecified() && self.takes(Ipv4Addr::LOCALHOST.into())
    }
}

/// A process of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name, as `ps -o comm` prints it.
    pub name: String,
}

/// Lists the listeners of the calling thread's network namespace. Blocks for as long as the kernel
/// needs to walk its socket tables, usually well below a millisecond.
pub fn scan() -> Result<Vec<Listener>, NetlinkError> {
    let socket = Socket::open(NetlinkProtocol::SocketDiagnostics)?;
    let mut listeners = Vec::new();
    for (protocol, state) in [(Protocol::Tcp, TCP_LISTEN), (Protocol::Udp, TCP_CLOSE)] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            match socket.dump(&request(family, protocol, state), |found: &mut Vec<_>, message| {
                found.extend(parse_listener(message.payload, protocol));
            }) {
                Ok(found) => listeners.extend(found),
                // A kernel without IPv6 or without this kind of socket has no such listeners.
                Err(error) if error.is_unsupported() => {}
                Err(error) if error.is_missing() => {
                    listeners.extend(from_proc(family, protocol, state));
                }
                Err(error) => return Err(error),
            }
        }
    }
    listeners.sort();
    listeners.dedup();
    listeners.truncate(MAX_LISTENERS);
    Ok(listeners)
}

/// Returns the listener in the way of a claim on this port: of the address, or of any address of
/// the host when `address` is `None`.
pub fn conflict(
    listeners: &[Listener],
    protocol: Protocol,
    address: Option<IpAddr>,
    port: u16,
) -> Option<&Listener> {
    let address = address.filter(|address| !address.is_unspecified());
    listeners.iter().find(|listener| {
        listener.protocol == protocol
            && listener.port == port
            && address.is_none_or(|address| listener.takes(address))
    })
}

/// Finds the process that holds the socket with this inode. `None` when it has ended, when the
/// socket is the kernel's own, or when the search met its bound.
pub fn process_of(inode: u64) -> Option<Process> {
    if inode == 0 {
        return None;
    }
    let link = format!("socket:[{inode}]");
    let mut left = MAX_DESCRIPTORS_SEARCHED;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            left = left.checked_sub(1)?;
            if fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == &*link) {
                let name = fs::read(process.path().join("comm")).unwrap_or_default();
                let name = String::from_utf8_lossy(&name).trim_end().to_owned();
                return Some(Process { pid, name });
            }
        }
    }
    None
}

fn request(family: libc::c_int, protocol: Protocol, state: u32) -> Writer {
    let mut header = vec![family as u8, protocol.number(), 0, 0];
    header.extend_from_slice(&(1u32 << state).to_ne_bytes());
    // `struct inet_diag_sockid`: any socket.
    header.extend_from_slice(&[0; 48]);
    let mut writer = Writer::new();
    writer.message("list sockets", SOCK_DIAG_BY_FAMILY, DUMP, &header, |_| {});
    writer
}

/// Reads a `struct inet_diag_msg` with its attributes.
fn parse_listener(payload: &[u8], protocol: Protocol) -> Option<Listener> {
    let head = payload.get(..ANSWER_BYTES)?;
    let address = match i32::from(head[0]) {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(&head[8..12]).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(&head[8..24]).ok()?).to_canonical(),
        _ => return None,
    };
    let port = u16::from_be_bytes([head[4], head[5]]);
    let inode = u32::from_ne_bytes(head[68..72].try_into().ok()?);
    let ipv6_only = attribute(&payload[ANSWER_BYTES..], INET_DIAG_SKV6ONLY) == Some(&[1]);
    (port != 0).then_some(Listener { protocol, address, port, inode: inode.into(), ipv6_only })
}

/// Lists the sockets from `/proc/net`, for kernels without socket diagnostics.
fn from_proc(family: libc::c_int, protocol: Protocol, state: u32) -> Vec<Listener> {
    let name = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => return Vec::new(),
    };
    let suffix = if family == libc::AF_INET6 { "6" } else { "" };
    // `/proc/net` is that of the main thread.
    let table = fs::read_to_string(format!("/proc/thread-self/net/{name}{suffix}"));
    let table = table.unwrap_or_default();
    table.lines().filter_map(|line| parse_proc_line(line, protocol, state)).collect()
}

/// Reads a line of `/proc/net/tcp` and its like: number, local, remote, state, …, inode.
fn parse_proc_line(line: &str, protocol: Protocol, state: u32) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().take(10).collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if u32::from_str_radix(fields.get(3)?, 16).ok()? != state {
        return None;
    }
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address = if address.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
        Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).to_canonical()
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    let inode = fields.get(9)?.parse().ok()?;
    // The table does not say whether an IPv6 socket takes IPv4 as well: assume that it does.
    Some(Listener { protocol, address, port, inode, ipv6_only: false })
}
