//! Rules as sequences of expressions over the registers of the nf_tables machine.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::Attributes;

use super::types::Family;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const DESTINATION_PORT_OFFSET: u32 = 2;

const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;

/// A 32-bit register: `R(0)` is the first of sixteen. A value of several words fills the
/// following registers too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    fn number(self) -> u32 {
        // NFT_REG32_00 = 8.
        8 + self.0
    }
}

/// What `meta` loads or sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The packet mark.
    Mark,
    /// The index of the interface that it came in by.
    InputLink,
    /// The protocol family (`NFPROTO_*`), in tables that have several.
    Family,
    /// The transport protocol.
    TransportProtocol,
    /// The group of the interface that it came in by.
    InputGroup,
}

impl Meta {
    fn number(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::InputLink => 4,
            Self::Family => 15,
            Self::TransportProtocol => 16,
            Self::InputGroup => 21,
        }
    }
}

/// Which address `fib` looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The source address.
    Source,
    /// The destination address.
    Destination,
}

/// What kind of address a `fib` comparison expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FibResult {
    /// One of this machine's own.
    Local,
    /// Any other.
    NotLocal,
}

/// What a rule ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Ends the evaluation of the base chain.
    Accept,
    /// Drops the packet.
    Drop,
    /// Continues in another chain and comes back.
    Jump(&'a str),
}

impl Verdict<'_> {
    pub(super) fn write(self, a: &mut Attributes<'_>) {
        let (code, chain): (i32, Option<&str>) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
        };
        a.nest(DATA_VERDICT, |a| {
            a.be32(1, code as u32);
            if let Some(chain) = chain {
                a.string(2, chain);
            }
        });
    }
}

/// A rule under construction; each method appends one expression.
#[derive(Debug)]
pub struct Rule<'a, 'b> {
    pub(super) list: &'a mut Attributes<'b>,
    pub(super) family: Family,
}

impl Rule<'_, '_> {
    /// The family of the table that the rule belongs to.
    pub fn family(&self) -> Family {
        self.family
    }

    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.list.nest(LIST_ELEM, |a| {
            a.string(EXPR_NAME, name);
            a.nest(EXPR_DATA, data);
        });
        self
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32, to: Register) -> &mut Self {
        self.expression("payload", |a| {
            a.be32(1, to.number());
            a.be32(2, base);
            a.be32(3, offset);
            a.be32(4, length);
        })
    }

    fn compare(&mut self, register: Register, operation: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |a| {
            a.be32(1, register.number());
            a.be32(2, operation);
            a.nest(3, |a| a.bytes(DATA_VALUE, value));
        })
    }

    /// Loads the source address.
    pub fn load_source(&mut self, to: Register) -> &mut Self {
        self.payload(NETWORK_HEADER, self.family.source_offset(), self.family.address_length(), to)
    }

    /// Loads the destination address.
    pub fn load_destination(&mut self, to: Register) -> &mut Self {
        let offset = self.family.destination_offset();
        self.payload(NETWORK_HEADER, offset, self.family.address_length(), to)
    }

    /// Loads the destination port.
    pub fn load_destination_port(&mut self, to: Register) -> &mut Self {
        self.payload(TRANSPORT_HEADER, DESTINATION_PORT_OFFSET, 2, to)
    }

    /// Loads the source port.
    pub fn load_source_port(&mut self, to: Register) -> &mut Self {
        self.payload(TRANSPORT_HEADER, 0, 2, to)
    }

    /// Loads a property of the packet.
    pub fn load_meta(&mut self, meta: Meta, to: Register) -> &mut Self {
        self.expression("meta", |a| {
            a.be32(1, to.number());
            a.be32(2, meta.number());
        })
    }

    /// Sets a property of the packet.
    pub fn set_meta(&mut self, meta: Meta, from: Register) -> &mut Self {
        self.expression("meta", |a| {
            a.be32(2, meta.number());
            a.be32(3, from.number());
        })
    }

    /// `to = (from & mask) ^ xor` on one word.
    pub fn bitwise(&mut self, from: Register, to: Register, mask: u32, xor: u32) -> &mut Self {
        self.bitwise_bytes(from, to, &mask.to_ne_bytes(), &xor.to_ne_bytes())
    }

    fn bitwise_bytes(
        &mut self,
        from: Register,
        to: Register,
        mask: &[u8],
        xor: &[u8],
    ) -> &mut Self {
        self.expression("bitwise", |a| {
            a.be32(1, from.number());
            a.be32(2, to.number());
            a.be32(3, mask.len() as u32);
            a.nest(4, |a| a.bytes(DATA_VALUE, mask));
            a.nest(5, |a| a.bytes(DATA_VALUE, xor));
        })
    }

    /// Continues only when the word equals this number.
    pub fn equals(&mut self, register: Register, number: u32) -> &mut Self {
        self.compare(register, CMP_EQ, &number.to_ne_bytes())
    }

    /// Continues only when the word differs from this number.
    pub fn differs(&mut self, register: Register, number: u32) -> &mut Self {
        self.compare(register, CMP_NEQ, &number.to_ne_bytes())
    }

    /// Continues only for packets of this family, in a table that has several.
    pub fn family_is(&mut self, family: Family) -> &mut Self {
        self.load_meta(Meta::Family, Register(0));
        self.compare(Register(0), CMP_EQ, &[family.number()])
    }

    /// Continues only for this transport protocol.
    pub fn protocol_is(&mut self, number: u8) -> &mut Self {
        self.load_meta(Meta::TransportProtocol, Register(0));
        self.compare(Register(0), CMP_EQ, &[number])
    }

    /// Continues only for this destination port.
    pub fn destination_port_is(&mut self, port: u16) -> &mut Self {
        self.load_destination_port(Register(0));
        self.compare(Register(0), CMP_EQ, &port.to_be_bytes())
    }

    /// Continues only for this source port.
    pub fn source_port_is(&mut self, port: u16) -> &mut Self {
        self.load_source_port(Register(0));
        self.compare(Register(0), CMP_EQ, &port.to_be_bytes())
    }

    /// Continues only when the source (or destination) lies in the network.
    pub fn address_in(&mut self, direction: Direction, network: IpNet) -> &mut Self {
        self.address_compare(direction, network, CMP_EQ)
    }

    /// Continues only when the source (or destination) lies outside the network.
    pub fn address_not_in(&mut self, direction: Direction, network: IpNet) -> &mut Self {
        self.address_compare(direction, network, CMP_NEQ)
    }

    fn address_compare(
        &mut self,
        direction: Direction,
        network: IpNet,
        operation: u32,
    ) -> &mut Self {
        match direction {
            Direction::Source => self.load_source(Register(0)),
            Direction::Destination => self.load_destination(Register(0)),
        };
        let value = octets(network.network());
        if network.prefix_len() < network.max_prefix_len() {
            let zero = vec![0; value.len()];
            self.bitwise_bytes(Register(0), Register(0), &octets(network.netmask()), &zero);
        }
        self.compare(Register(0), operation, &value)
    }

    /// Continues only when the routing table says the address is (or is not) one of ours.
    pub fn address_type(&mut self, direction: Direction, expected: FibResult) -> &mut Self {
        const ADDRESS_TYPE: u32 = 3;
        const RTN_LOCAL: u32 = 2;
        self.expression("fib", |a| {
            a.be32(1, Register(0).number());
            a.be32(2, ADDRESS_TYPE);
            a.be32(3, if direction == Direction::Source { 1 } else { 2 });
        });
        match expected {
            FibResult::Local => self.equals(Register(0), RTN_LOCAL),
            FibResult::NotLocal => self.differs(Register(0), RTN_LOCAL),
        }
    }

    /// Continues only for packets that connection tracking calls invalid.
    pub fn connection_invalid(&mut self) -> &mut Self {
        const STATE: u32 = 0;
        const INVALID_BIT: u32 = 1;
        self.expression("ct", |a| {
            a.be32(1, Register(0).number());
            a.be32(2, STATE);
        });
        self.bitwise(Register(0), Register(0), INVALID_BIT, 0);
        self.differs(Register(0), 0)
    }

    /// A random number below `modulus`.
    pub fn random(&mut self, modulus: u32, to: Register) -> &mut Self {
        const RANDOM: u32 = 1;
        self.expression("numgen", |a| {
            a.be32(1, to.number());
            a.be32(2, modulus);
            a.be32(3, RANDOM);
            a.be32(4, 0);
        })
    }

    /// Continues only when the set has the key that starts at this register.
    pub fn is_in(&mut self, set: &str, key: Register) -> &mut Self {
        self.expression("lookup", |a| {
            a.string(1, set);
            a.be32(2, key.number());
        })
    }

    /// Continues only when the set lacks the key that starts at this register.
    pub fn is_not_in(&mut self, set: &str, key: Register) -> &mut Self {
        const INVERTED: u32 = 1;
        self.expression("lookup", |a| {
            a.string(1, set);
            a.be32(2, key.number());
            a.be32(5, INVERTED);
        })
    }

    /// Looks a key up in a map; continues only when it is there.
    pub fn lookup(&mut self, map: &str, key: Register, to: Register) -> &mut Self {
        self.expression("lookup", |a| {
            a.string(1, map);
            a.be32(2, key.number());
            a.be32(3, to.number());
        })
    }

    /// Looks a key up in a verdict map and follows the verdict.
    pub fn dispatch(&mut self, map: &str, key: Register) -> &mut Self {
        self.expression("lookup", |a| {
            a.string(1, map);
            a.be32(2, key.number());
            a.be32(3, 0);
        })
    }

    /// Adds or refreshes an element of a map from registers.
    pub fn remember(
        &mut self,
        map: &str,
        key: Register,
        data: Register,
        timeout_ms: u64,
    ) -> &mut Self {
        const UPDATE: u32 = 1;
        self.expression("dynset", |a| {
            a.string(1, map);
            a.be32(3, UPDATE);
            a.be32(4, key.number());
            a.be32(5, data.number());
            a.be64(6, timeout_ms);
        })
    }

    /// Changes nothing about an IPv4 address that a lookup found, but gives it a length.
    ///
    /// `nft` 1.0.6 takes what a map yields to be zero bits long, and aborts when it lists a rule
    /// that puts such a value into another map. Packet marks have a length: the address passes
    /// through the mark, which is what it was before afterwards. The register after it must have
    /// been loaded once by other means than the lookup.
    pub fn measure_address(&mut self, address: Register, spare: Register) -> &mut Self {
        self.load_meta(Meta::Mark, spare)
            .set_meta(Meta::Mark, address)
            .load_meta(Meta::Mark, address)
            .set_meta(Meta::Mark, spare)
    }

    /// Rewrites the destination; ends the evaluation.
    pub fn destination_nat(&mut self, address: Register, port: Register) -> &mut Self {
        const DNAT: u32 = 1;
        let family = self.family.number();
        self.expression("nat", |a| {
            a.be32(1, DNAT);
            a.be32(2, u32::from(family));
            a.be32(3, address.number());
            a.be32(5, port.number());
        })
    }

    /// Rewrites the source to the address of the outgoing interface; ends the evaluation.
    pub fn masquerade(&mut self) -> &mut Self {
        // Random ports avoid the race of two connections that choose the same one.
        const FULLY_RANDOM: u32 = 16;
        self.expression("masq", |a| a.be32(1, FULLY_RANDOM))
    }

    /// Refuses the packet with a TCP reset.
    pub fn reject_with_reset(&mut self) -> &mut Self {
        self.expression("reject", |a| {
            a.be32(1, 1);
            a.u8(2, 0);
        })
    }

    /// Refuses the packet with "port unreachable".
    pub fn reject(&mut self) -> &mut Self {
        let code = match self.family {
            Family::Ipv4 => 3,
            Family::Ipv6 => 4,
        };
        self.expression("reject", |a| {
            a.be32(1, 0);
            a.u8(2, code);
        })
    }

    /// Takes the packet out of connection tracking.
    pub fn untracked(&mut self) -> &mut Self {
        self.expression("notrack", |_| {})
    }

    /// Ends with a verdict.
    pub fn verdict(&mut self, verdict: Verdict<'_>) -> &mut Self {
        self.expression("immediate", |a| {
            a.be32(1, 0);
            a.nest(2, |a| verdict.write(a));
        })
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
