//! Connection tracking entries: listing and deleting through ctnetlink.
//!
//! A UDP flow lives on as long as its client keeps sending, so entries that lead to an endpoint
//! that is gone must be deleted. TCP notices by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{ACK, DUMP, NetlinkError, Socket, Writer, attribute, nested};
use crate::nft::Family;
use crate::protocol::Protocol;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const CT_GET: u16 = 1;
const CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_SOURCE: u16 = 3;
const IP_V6_DESTINATION: u16 = 4;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE_PORT: u16 = 2;
const PROTO_DESTINATION_PORT: u16 = 3;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port.
    pub destination: (IpAddr, u16),
}

/// A tracked UDP flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// As the client sent it.
    pub original: Tuple,
    /// As answers come back: its source is the endpoint that was chosen.
    pub reply: Tuple,
    /// The original tuple as the kernel encoded it, to name the entry in a deletion.
    identity: Vec<u8>,
}

/// Deletes the UDP flows that `stale` picks; returns how many there were.
pub fn forget_udp(
    socket: &Socket,
    family: Family,
    stale: impl Fn(&Flow) -> bool,
) -> Result<usize, NetlinkError> {
    let header = [address_family(family), 0, 0, 0];
    let mut list = Writer::new();
    list.message("list flows", NFNL_SUBSYS_CTNETLINK << 8 | CT_GET, DUMP, &header, |_| {});
    let flows: Vec<Flow> = socket.dump(&list, |found: &mut Vec<Flow>, message| {
        found.extend(parse_flow(message.after(4)).filter(&stale));
    })?;
    let mut deleted = 0;
    for flow in &flows {
        let mut delete = Writer::new();
        let kind = NFNL_SUBSYS_CTNETLINK << 8 | CT_DELETE;
        delete.message("delete flow", kind, ACK, &header, |a| {
            a.nest(CTA_TUPLE_ORIG, |a| a.raw(&flow.identity));
        });
        match socket.request(&delete) {
            Ok(()) => deleted += 1,
            // It expired by itself meanwhile.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

fn address_family(family: Family) -> u8 {
    match family {
        Family::Ipv4 => libc::AF_INET as u8,
        Family::Ipv6 => libc::AF_INET6 as u8,
    }
}

/// Reads a dumped entry; `None` for another protocol than UDP.
fn parse_flow(attributes: &[u8]) -> Option<Flow> {
    let original = attribute(attributes, CTA_TUPLE_ORIG)?;
    let reply = attribute(attributes, CTA_TUPLE_REPLY)?;
    Some(Flow {
        original: parse_tuple(original)?,
        reply: parse_tuple(reply)?,
        identity: original.to_vec(),
    })
}

fn parse_tuple(tuple: &[u8]) -> Option<Tuple> {
    let addresses = attribute(tuple, TUPLE_IP)?;
    let ports = attribute(tuple, TUPLE_PROTO)?;
    if nested(ports, &[PROTO_NUMBER])? != [Protocol::Udp.number()] {
        return None;
    }
    let address = |v4, v6| {
        attribute(addresses, v4).or_else(|| attribute(addresses, v6)).and_then(parse_address)
    };
    let port = |kind| Some(u16::from_be_bytes(attribute(ports, kind)?.try_into().ok()?));
    Some(Tuple {
        source: (address(IP_V4_SOURCE, IP_V6_SOURCE)?, port(PROTO_SOURCE_PORT)?),
        destination: (
            address(IP_V4_DESTINATION, IP_V6_DESTINATION)?,
            port(PROTO_DESTINATION_PORT)?,
        ),
    })
}

fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}
