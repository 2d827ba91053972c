//! Ports of the node that no translation takes: those of the API, and those on which a process of
//! the host listens while a Service or a pod claims the same port.
//!
//! Each table that translates destinations has the two sets of this module, and its chains accept
//! what is in them before any other rule: the packet then goes where it would go without us.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::listeners::Listener;
use crate::nft::{
    Batch, DataType, Direction, Element, Family, FibResult, Key, Meta, Register, SetSpec, Verdict,
};
use crate::protocol::Protocol;

/// Ports at every address of the node.
const HELD: &str = "host-listeners";
/// Ports at one address of the node.
const HELD_AT: &str = "host-listeners-at-address";

/// Ports that belong to the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    everywhere: BTreeSet<(Protocol, u16)>,
    at: BTreeSet<(IpAddr, Protocol, u16)>,
}

impl Held {
    /// Ports that are never given away, at any address of the node.
    pub fn reserved(ports: impl IntoIterator<Item = u16>) -> Self {
        let everywhere = ports.into_iter().map(|port| (Protocol::Tcp, port)).collect();
        Self { everywhere, at: BTreeSet::new() }
    }

    /// Adds the listeners at ports that `claimed` names.
    #[must_use]
    pub fn with<'a>(
        mut self,
        listeners: impl IntoIterator<Item = &'a Listener>,
        claimed: impl Fn(Protocol, u16) -> bool,
    ) -> Self {
        for listener in listeners {
            let port = (listener.protocol, listener.port);
            if !claimed(port.0, port.1) {
                continue;
            }
            if listener.address.is_unspecified() {
                self.everywhere.insert(port);
            } else {
                self.at.insert((listener.address, port.0, port.1));
            }
        }
        self
    }

    /// Returns whether the host has this port at the address.
    pub fn has(&self, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        self.everywhere.contains(&(protocol, port)) || self.at.contains(&(address, protocol, port))
    }

    /// Writes what differs from `before`, which is what the table's sets hold.
    pub fn write(&self, before: &Self, batch: &mut Batch, family: Family) {
        for (set, old, new) in [
            (HELD, before.everywhere_elements(), self.everywhere_elements()),
            (HELD_AT, before.at_elements(family), self.at_elements(family)),
        ] {
            let keys = |keys: &BTreeSet<Key>, without: &BTreeSet<Key>| -> Vec<Element> {
                keys.difference(without).cloned().map(Element::Key).collect()
            };
            batch.remove(set, &keys(&old, &new));
            batch.add(set, &keys(&new, &old));
        }
    }

    fn everywhere_elements(&self) -> BTreeSet<Key> {
        let key =
            |(protocol, port): &(Protocol, u16)| Key::new().protocol(protocol.number()).port(*port);
        self.everywhere.iter().map(key).collect()
    }

    fn at_elements(&self, family: Family) -> BTreeSet<Key> {
        let key = |(address, protocol, port): &(IpAddr, Protocol, u16)| {
            Key::new().address(*address).protocol(protocol.number()).port(*port)
        };
        self.at.iter().filter(|(address, ..)| family.has(*address)).map(key).collect()
    }
}

/// Makes the sets.
pub fn create_sets(batch: &mut Batch, family: Family) {
    let port = [DataType::Protocol, DataType::Port];
    batch.set(SetSpec::new(HELD, &port, &[]));
    batch.set(SetSpec::new(HELD_AT, &[family.address_type(), port[0], port[1]], &[]));
}

/// Lets packets to held ports pass the rest of the chain untouched.
pub fn accept(batch: &mut Batch, chain: &str) {
    batch.rule(chain, |rule| {
        rule.address_type(Direction::Destination, FibResult::Local)
            .load_meta(Meta::TransportProtocol, Register(0))
            .load_destination_port(Register(1))
            .is_in(HELD, Register(0))
            .verdict(Verdict::Accept);
    });
    batch.rule(chain, |rule| {
        let after = rule.family().address_length() / 4;
        rule.load_destination(Register(0))
            .load_meta(Meta::TransportProtocol, Register(after))
            .load_destination_port(Register(after + 1))
            .is_in(HELD_AT, Register(0))
            .verdict(Verdict::Accept);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_claimed_ports_are_held() {
        let listener = |address: &str, port| Listener {
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            port,
            inode: 0,
            ipv6_only: false,
        };
        let listeners = [
            listener("0.0.0.0", 80),
            listener("::", 81),
            listener("192.0.2.1", 82),
            listener("0.0.0.0", 22),
        ];
        let held = Held::reserved([6443])
            .with(&listeners, |protocol, port| protocol == Protocol::Tcp && port >= 80);
        let here: IpAddr = [192, 0, 2, 1].into();
        for (port, expected) in [(80, true), (81, true), (82, true), (22, false), (6443, true)] {
            assert_eq!(held.has(here, Protocol::Tcp, port), expected, "{port}");
            assert!(!held.has(here, Protocol::Udp, port), "{port}");
        }
        assert!(!held.has([192, 0, 2, 2].into(), Protocol::Tcp, 82), "another address");
    }
}
