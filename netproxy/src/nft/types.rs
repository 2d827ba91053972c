//! Data types as the `nft` program numbers them, and keys composed of several fields.

use std::net::IpAddr;

/// The protocol family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `table ip`
    Ipv4,
    /// `table ip6`
    Ipv6,
}

impl Family {
    /// `NFPROTO_*`.
    pub fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    /// The type of an address in this family.
    pub fn address_type(self) -> DataType {
        match self {
            Self::Ipv4 => DataType::Ipv4Address,
            Self::Ipv6 => DataType::Ipv6Address,
        }
    }

    /// Bytes of an address.
    pub fn address_length(self) -> u32 {
        self.address_type().length()
    }

    /// Offset of the source address in the network header.
    pub fn source_offset(self) -> u32 {
        match self {
            Self::Ipv4 => 12,
            Self::Ipv6 => 8,
        }
    }

    /// Offset of the destination address in the network header.
    pub fn destination_offset(self) -> u32 {
        match self {
            Self::Ipv4 => 16,
            Self::Ipv6 => 24,
        }
    }

    /// Whether this address belongs to the family.
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

/// Types of set keys and map data. The numbers are those of `nft`, which reads them back when it
/// lists a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// `verdict` (data of a verdict map only)
    Verdict,
    /// `ipv4_addr`
    Ipv4Address,
    /// `ipv6_addr`
    Ipv6Address,
    /// `inet_proto`
    Protocol,
    /// `inet_service`
    Port,
    /// `mark`: a number in host order. `integer` would do, but then `nft` aborts when it lists.
    Mark,
}

impl DataType {
    fn number(self) -> u32 {
        match self {
            Self::Verdict => 0xffff_ff00,
            Self::Ipv4Address => 7,
            Self::Ipv6Address => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
        }
    }

    /// Bytes of one value.
    pub fn length(self) -> u32 {
        match self {
            Self::Verdict | Self::Ipv4Address | Self::Mark => 4,
            Self::Ipv6Address => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    /// `nft`'s number of a concatenation: six bits per component.
    pub fn concatenated(types: &[Self]) -> u32 {
        types.iter().fold(0, |number, data_type| number << 6 | data_type.number())
    }

    /// Bytes of a concatenation; each component takes whole 32-bit registers.
    pub fn concatenated_length(types: &[Self]) -> u32 {
        match types {
            [single] => single.length(),
            many => many.iter().map(|data_type| data_type.length().next_multiple_of(4)).sum(),
        }
    }
}

/// The value of a set key or of map data, built field by field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Key(pub Vec<u8>);

impl Key {
    /// An empty key.
    pub fn new() -> Self {
        Self(Vec::with_capacity(16))
    }

    /// Appends an address.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.0.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => self.0.extend_from_slice(&address.octets()),
        }
        self
    }

    /// Appends a protocol number.
    #[must_use]
    pub fn protocol(mut self, number: u8) -> Self {
        self.0.extend_from_slice(&[number, 0, 0, 0]);
        self
    }

    /// Appends a port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.0.extend_from_slice(&port.to_be_bytes());
        self.0.extend_from_slice(&[0, 0]);
        self
    }

    /// Appends a number in host order.
    #[must_use]
    pub fn mark(mut self, mark: u32) -> Self {
        self.0.extend_from_slice(&mark.to_ne_bytes());
        self
    }
}
