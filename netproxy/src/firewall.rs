//! Foreign firewalls: a `drop` policy for forwarded packets (docker, ufw) in another table cannot
//! be overruled from ours, so our pods' traffic is let through in that chain itself.
//!
//! The inserted rules carry a note, by which they are found again and removed.

use ipnet::{IpNet, Ipv4Net};

use crate::netlink::{DUMP, NetlinkError, Socket, Writer, attribute, nested};
use crate::nft::{self, Batch, Direction, Family, Verdict};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const ATTRIBUTE_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_USERDATA: u16 = 7;
const FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;

/// A comment as `nft` stores it: type, length, text.
const NOTE: &[u8] = b"\x00\x0dcoracle pods\x00";

/// Lets pods through every foreign chain that drops forwarded packets by policy. Returns those
/// chains, `table chain`, for whoever explains it to the user.
pub fn open(socket: &Socket, pods: Ipv4Net) -> Result<Vec<String>, NetlinkError> {
    let ours = own_rules(socket)?;
    let mut opened = Vec::new();
    for (table, chain) in dropping_chains(socket)? {
        opened.push(format!("{table} {chain}"));
        if ours.iter().any(|rule| rule.table == table && rule.chain == chain) {
            continue;
        }
        let mut batch = Batch::new(Family::Ipv4, &table);
        for direction in [Direction::Source, Direction::Destination] {
            batch.insert_rule(&chain, NOTE, |rule| {
                rule.address_in(direction, IpNet::V4(pods.trunc())).verdict(Verdict::Accept);
            });
        }
        nft::send(socket, batch)?;
    }
    Ok(opened)
}

/// Removes every rule that [`open`] inserted.
pub fn close(socket: &Socket) -> Result<(), NetlinkError> {
    for rule in own_rules(socket)? {
        let mut batch = Batch::new(Family::Ipv4, &rule.table);
        batch.delete_rule(&rule.chain, rule.handle);
        match nft::send(socket, batch) {
            Err(error) if !error.is_missing() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn dropping_chains(socket: &Socket) -> Result<Vec<(String, String)>, NetlinkError> {
    socket.dump(&list("list chains", GETCHAIN), |found: &mut Vec<_>, message| {
        let attributes = message.after(4);
        let hook = nested(attributes, &[CHAIN_HOOK, HOOK_NUMBER]).and_then(be32);
        let policy = attribute(attributes, CHAIN_POLICY).and_then(be32);
        if hook == Some(FORWARD) && policy == Some(POLICY_DROP) {
            found.extend(text(attributes, ATTRIBUTE_TABLE).zip(text(attributes, CHAIN_NAME)));
        }
    })
}

struct OwnRule {
    table: String,
    chain: String,
    handle: u64,
}

fn own_rules(socket: &Socket) -> Result<Vec<OwnRule>, NetlinkError> {
    socket.dump(&list("list rules", GETRULE), |found: &mut Vec<OwnRule>, message| {
        let attributes = message.after(4);
        if attribute(attributes, RULE_USERDATA) != Some(NOTE) {
            return;
        }
        let handle = attribute(attributes, RULE_HANDLE)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_be_bytes);
        let place = text(attributes, ATTRIBUTE_TABLE).zip(text(attributes, RULE_CHAIN));
        found.extend(place.zip(handle).map(|((table, chain), handle)| OwnRule {
            table,
            chain,
            handle,
        }));
    })
}

fn list(label: &'static str, kind: u16) -> Writer {
    let mut writer = Writer::new();
    let header = [Family::Ipv4.number(), 0, 0, 0];
    writer.message(label, NFNL_SUBSYS_NFTABLES << 8 | kind, DUMP, &header, |_| {});
    writer
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(attributes, kind)?;
    Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
}

fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}
