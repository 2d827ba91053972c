//! Links, addresses, routes and neighbours through rtnetlink.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;

use crate::netlink::{
    ACK, CREATE, DUMP, EXCL, NetlinkError, Protocol, REPLACE, Socket, Writer, attribute, nested,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_OPERSTATE: u16 = 16;
const IF_OPER_UP: u8 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_HOST: u8 = 254;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const NUD_PERMANENT: u16 = 0x80;

/// Marks our routes in `ip route` (`proto 172`); no other program has this number.
pub const ROUTE_PROTOCOL: u8 = 172;
/// Metric of the catch-all route of the pod range: any real route wins.
const CATCH_ALL_METRIC: u32 = 1 << 30;

/// The group of the node's ends of pod links (`ip link show group`), by which rules know them.
pub const POD_LINK_GROUP: u32 = 0x636f_7261;

/// A hardware address.
pub type Mac = [u8; 6];

/// A network interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Hardware address, all zero when it has none.
    pub mac: Mac,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// It carries packets now. After both ends of a veth pair were brought up the kernel makes
    /// the first one usable in the background, and loses what is sent before.
    pub ready: bool,
}

/// How widely an address may serve as a source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Any destination.
    Global,
    /// Never chosen as a source; it only receives.
    Host,
}

/// One end of a veth pair to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Hardware address.
    pub mac: Mac,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Its group; zero for the usual one.
    pub group: u32,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Directly out of this interface.
    Link(u32),
    /// Through a gateway on this interface.
    Gateway(Ipv4Addr, u32),
    /// Nowhere: the sender gets "host unreachable".
    Unreachable,
}

/// A batch of changes; each is acknowledged on its own.
#[derive(Debug, Default)]
pub struct Changes {
    writer: Writer,
}

impl Changes {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a veth pair: `near` in the socket's namespace, `far` in `namespace`. Both stay down:
    /// the kernel refuses a far end that is up from the start.
    pub fn veth(
        &mut self,
        near: VethEnd<'_>,
        far: VethEnd<'_>,
        namespace: Option<BorrowedFd<'_>>,
    ) -> &mut Self {
        let header = link_header(0, 0, 0);
        self.writer.message("create veth", RTM_NEWLINK, ACK | CREATE | EXCL, &header, |a| {
            a.string(IFLA_IFNAME, near.name);
            a.bytes(IFLA_ADDRESS, &near.mac);
            a.u32(IFLA_MTU, near.mtu);
            a.u32(IFLA_GROUP, near.group);
            a.nest(IFLA_LINKINFO, |a| {
                a.string(INFO_KIND, "veth");
                a.nest(INFO_DATA, |a| {
                    a.nest(VETH_INFO_PEER, |a| {
                        a.raw(&link_header(0, 0, 0));
                        a.string(IFLA_IFNAME, far.name);
                        a.bytes(IFLA_ADDRESS, &far.mac);
                        a.u32(IFLA_MTU, far.mtu);
                        a.u32(IFLA_GROUP, far.group);
                        if let Some(namespace) = namespace {
                            a.u32(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
                        }
                    });
                });
            });
        });
        self
    }

    /// Stops the interface from giving itself an IPv6 link-local address, which would send
    /// router solicitations. Fails where the kernel has no IPv6.
    pub fn no_ipv6_autoconfiguration(&mut self, index: u32) -> &mut Self {
        let header = link_header(index, 0, 0);
        self.writer.message("disable IPv6 autoconfiguration", RTM_NEWLINK, ACK, &header, |a| {
            a.nest(IFLA_AF_SPEC, |a| {
                a.nest(libc::AF_INET6 as u16, |a| {
                    a.u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE);
                });
            });
        });
        self
    }

    /// Puts an interface into a group.
    pub fn group(&mut self, index: u32, group: u32) -> &mut Self {
        let header = link_header(index, 0, 0);
        self.writer.message("set link group", RTM_NEWLINK, ACK, &header, |a| {
            a.u32(IFLA_GROUP, group);
        });
        self
    }

    /// Brings an interface up.
    pub fn up(&mut self, index: u32) -> &mut Self {
        let up = libc::IFF_UP as u32;
        self.writer.message("set link up", RTM_NEWLINK, ACK, &link_header(index, up, up), |_| {});
        self
    }

    /// Deletes an interface.
    pub fn delete_link(&mut self, index: u32) -> &mut Self {
        self.writer.message("delete link", RTM_DELLINK, ACK, &link_header(index, 0, 0), |_| {});
        self
    }

    /// Gives an interface a single address (`/32`).
    pub fn address(&mut self, index: u32, address: Ipv4Addr, scope: Scope) -> &mut Self {
        let scope = match scope {
            Scope::Global => RT_SCOPE_UNIVERSE,
            Scope::Host => RT_SCOPE_HOST,
        };
        let mut header = vec![libc::AF_INET as u8, 32, 0, scope];
        header.extend_from_slice(&index.to_ne_bytes());
        self.writer.message("add address", RTM_NEWADDR, ACK | CREATE | REPLACE, &header, |a| {
            a.bytes(IFA_LOCAL, &address.octets());
            a.bytes(IFA_ADDRESS, &address.octets());
        });
        self
    }

    /// Takes a single address from an interface.
    pub fn delete_address(&mut self, index: u32, address: Ipv4Addr) -> &mut Self {
        let mut header = vec![libc::AF_INET as u8, 32, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        self.writer.message("delete address", RTM_DELADDR, ACK, &header, |a| {
            a.bytes(IFA_LOCAL, &address.octets());
        });
        self
    }

    /// Adds or replaces a route.
    pub fn route(&mut self, destination: Ipv4Net, via: Via) -> &mut Self {
        self.route_message("add route", RTM_NEWROUTE, CREATE | REPLACE, destination, via)
    }

    /// Deletes a route that [`Changes::route`] made.
    pub fn delete_route(&mut self, destination: Ipv4Net, via: Via) -> &mut Self {
        self.route_message("delete route", RTM_DELROUTE, 0, destination, via)
    }

    fn route_message(
        &mut self,
        label: &'static str,
        kind: u16,
        flags: u16,
        destination: Ipv4Net,
        via: Via,
    ) -> &mut Self {
        let (scope, route) = match via {
            Via::Link(_) => (RT_SCOPE_LINK, RTN_UNICAST),
            Via::Gateway(..) => (RT_SCOPE_UNIVERSE, RTN_UNICAST),
            Via::Unreachable => (RT_SCOPE_UNIVERSE, RTN_UNREACHABLE),
        };
        let header = [
            libc::AF_INET as u8,
            destination.prefix_len(),
            0,
            0,
            RT_TABLE_MAIN,
            ROUTE_PROTOCOL,
            scope,
            route,
            0,
            0,
            0,
            0,
        ];
        self.writer.message(label, kind, ACK | flags, &header, |a| {
            if destination.prefix_len() > 0 {
                a.bytes(RTA_DST, &destination.network().octets());
            }
            match via {
                Via::Link(index) => a.u32(RTA_OIF, index),
                Via::Gateway(gateway, index) => {
                    a.bytes(RTA_GATEWAY, &gateway.octets());
                    a.u32(RTA_OIF, index);
                }
                Via::Unreachable => a.u32(RTA_PRIORITY, CATCH_ALL_METRIC),
            }
        });
        self
    }

    /// A neighbour entry that never expires, so that no ARP is needed.
    pub fn neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> &mut Self {
        let mut header = vec![libc::AF_INET as u8, 0, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        header.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
        header.extend_from_slice(&[0, 0]);
        self.writer.message("add neighbour", RTM_NEWNEIGH, ACK | CREATE | REPLACE, &header, |a| {
            a.bytes(NDA_DST, &address.octets());
            a.bytes(NDA_LLADDR, &mac);
        });
        self
    }
}

/// An rtnetlink socket.
#[derive(Debug)]
pub struct Routes {
    socket: Socket,
}

impl Routes {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }

    /// Carries out the changes in order; the first refusal is returned, later changes were
    /// still tried.
    pub fn apply(&self, changes: &Changes) -> Result<(), NetlinkError> {
        self.socket.request(&changes.writer)
    }

    /// Every interface of the namespace.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut writer = Writer::new();
        writer.message("list links", RTM_GETLINK, DUMP, &link_header(0, 0, 0), |_| {});
        self.socket.dump(&writer, |links: &mut Vec<Link>, message| {
            if message.kind == RTM_NEWLINK
                && let Some(link) = parse_link(message.payload)
            {
                links.push(link);
            }
        })
    }

    /// The interface with this name.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// The interface of the default route with the lowest metric.
    pub fn default_link(&self) -> Result<Option<Link>, NetlinkError> {
        let mut writer = Writer::new();
        let header = [libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        writer.message("list routes", RTM_GETROUTE, DUMP, &header, |_| {});
        let defaults: Vec<(u32, u32)> =
            self.socket.dump(&writer, |found: &mut Vec<(u32, u32)>, message| {
                found.extend(parse_default_route(message.payload));
            })?;
        let Some((_, index)) = defaults.into_iter().min() else { return Ok(None) };
        Ok(self.links()?.into_iter().find(|link| link.index == index))
    }

    /// Every route that this crate made.
    pub fn own_routes(&self) -> Result<Vec<(Ipv4Net, Via)>, NetlinkError> {
        let mut writer = Writer::new();
        let header = [libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        writer.message("list routes", RTM_GETROUTE, DUMP, &header, |_| {});
        self.socket.dump(&writer, |found: &mut Vec<(Ipv4Net, Via)>, message| {
            found.extend(parse_own_route(message.payload));
        })
    }

    /// Every IPv4 address of the namespace with the index of its interface.
    pub fn addresses(&self) -> Result<Vec<(u32, Ipv4Addr)>, NetlinkError> {
        let mut writer = Writer::new();
        writer.message(
            "list addresses",
            RTM_GETADDR,
            DUMP,
            &[libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0],
            |_| {},
        );
        self.socket.dump(&writer, |found: &mut Vec<(u32, Ipv4Addr)>, message| {
            let index = message.payload.get(4..8).and_then(ne32);
            let address = attribute(message.after(8), IFA_LOCAL).and_then(ipv4);
            if let (Some(index), Some(address)) = (index, address) {
                found.push((index, address));
            }
        })
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0u8; 4];
    header.extend_from_slice(&index.to_ne_bytes());
    header.extend_from_slice(&flags.to_ne_bytes());
    header.extend_from_slice(&change.to_ne_bytes());
    header
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let index = payload.get(4..8).and_then(ne32)?;
    let attributes = payload.get(16..)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    Some(Link {
        index,
        name: String::from_utf8_lossy(name).into_owned(),
        mac: attribute(attributes, IFLA_ADDRESS)
            .and_then(|mac| mac.try_into().ok())
            .unwrap_or_default(),
        mtu: attribute(attributes, IFLA_MTU).and_then(ne32).unwrap_or_default(),
        ready: attribute(attributes, IFLA_OPERSTATE) == Some(&[IF_OPER_UP]),
    })
}

/// `(metric, interface)` of a default route in the main table.
fn parse_default_route(payload: &[u8]) -> Option<(u32, u32)> {
    let header = payload.get(..12)?;
    let unicast_default = header[1] == 0 && header[4] == RT_TABLE_MAIN && header[7] == RTN_UNICAST;
    if !unicast_default {
        return None;
    }
    let index = attribute(&payload[12..], RTA_OIF).and_then(ne32)?;
    let metric = nested(&payload[12..], &[RTA_PRIORITY]).and_then(ne32).unwrap_or(0);
    Some((metric, index))
}

fn parse_own_route(payload: &[u8]) -> Option<(Ipv4Net, Via)> {
    let header = payload.get(..12)?;
    if header[4] != RT_TABLE_MAIN || header[5] != ROUTE_PROTOCOL {
        return None;
    }
    let attributes = &payload[12..];
    let network = attribute(attributes, RTA_DST).and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let destination = Ipv4Net::new(network, header[1]).ok()?;
    let index = attribute(attributes, RTA_OIF).and_then(ne32);
    let gateway = attribute(attributes, RTA_GATEWAY).and_then(ipv4);
    let via = match (header[7], index, gateway) {
        (RTN_UNREACHABLE, ..) => Via::Unreachable,
        (_, Some(index), Some(gateway)) => Via::Gateway(gateway, index),
        (_, Some(index), None) => Via::Link(index),
        _ => return None,
    };
    Some((destination, via))
}

fn ne32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}
