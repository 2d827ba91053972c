//! Domain names in wire format: length-prefixed labels, ended by an empty one.

use std::net::IpAddr;

/// RFC 1035 §2.3.4
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

/// A lower-case name in wire format.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// A name of these labels; `None` when one is empty or too long.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        wire.push(0);
        (wire.len() <= MAX_NAME).then(|| Self(wire.into()))
    }

    /// Reads `a.b.c` or `a.b.c.`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        Self::from_labels(text.split('.').filter(|_| !text.is_empty()))
    }

    /// The name with labels in front: `prefix.self`.
    pub fn prepend<'a>(&self, labels: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let prefix = Self::from_labels(labels)?;
        let mut wire = prefix.0[..prefix.0.len() - 1].to_vec();
        wire.extend_from_slice(&self.0);
        (wire.len() <= MAX_NAME).then(|| Self(wire.into()))
    }

    /// The name under which an address is looked up in reverse.
    pub fn reverse(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets().map(|octet| octet.to_string());
                Self::from_labels([&*d, &*c, &*b, &*a, "in-addr", "arpa"])
            }
            IpAddr::V6(address) => {
                let digits: Vec<String> = address
                    .octets()
                    .iter()
                    .rev()
                    .flat_map(|octet| [format!("{:x}", octet & 15), format!("{:x}", octet >> 4)])
                    .collect();
                Self::from_labels(digits.iter().map(String::as_str).chain(["ip6", "arpa"]))
            }
        }
    }

    /// The wire format.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The wire format of the name and of every name above it, the root last.
    pub fn levels(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::successors(Some(&*self.0), |wire| {
            let length = usize::from(*wire.first()?);
            if length == 0 { None } else { wire.get(length + 1..) }
        })
    }
}

/// Splits a lower-case wire name into labels.
pub fn labels(wire: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::with_capacity(8);
    let mut at = 0;
    while let Some(length) = wire.get(at).map(|length| usize::from(*length)) {
        if length == 0 {
            break;
        }
        let Some(label) = wire.get(at + 1..at + 1 + length) else { break };
        labels.push(label);
        at += 1 + length;
    }
    labels
}

/// Whether a lower-case wire name is `zone` or below it; the length of what stands before it.
pub fn within(wire: &[u8], zone: &[u8]) -> Option<usize> {
    let before = wire.len().checked_sub(zone.len())?;
    if &wire[before..] != zone {
        return None;
    }
    // The suffix must begin at a label.
    let mut at = 0;
    while at < before {
        at += 1 + usize::from(wire[at]);
    }
    (at == before).then_some(before)
}

/// The address that a reverse name stands for.
pub fn reverse_address(wire: &[u8]) -> Option<IpAddr> {
    let labels = labels(wire);
    let text = |label: &&[u8]| std::str::from_utf8(label).ok().map(str::to_owned);
    match labels.as_slice() {
        [digits @ .., b"in-addr", b"arpa"] if digits.len() == 4 => {
            let octets: Vec<String> = digits.iter().rev().filter_map(text).collect();
            octets.join(".").parse().ok().map(IpAddr::V4)
        }
        [digits @ .., b"ip6", b"arpa"] if digits.len() == 32 => {
            let digits: Vec<String> = digits.iter().rev().filter_map(text).collect();
            let groups: Vec<String> = digits.chunks(4).map(|group| group.concat()).collect();
            groups.join(":").parse().ok().map(IpAddr::V6)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let name = Name::parse("Web.default.svc.cluster.local.").unwrap();
        assert_eq!(name.wire(), b"\x03web\x07default\x03svc\x07cluster\x05local\0");
        assert_eq!(labels(name.wire())[0], b"web");
        assert_eq!(
            Name::parse("cluster.local").unwrap().prepend(["a"]),
            Name::parse("a.cluster.local")
        );
        assert!(Name::parse("a..b").is_none());
        assert!(Name::parse(&"a".repeat(64)).is_none());
        assert_eq!(Name::parse("").unwrap().wire(), b"\0");
    }

    #[test]
    fn zones_begin_at_labels() {
        let zone = Name::parse("cluster.local").unwrap();
        let inside = |text: &str| within(Name::parse(text).unwrap().wire(), zone.wire());
        assert_eq!(inside("cluster.local"), Some(0));
        assert_eq!(inside("a.cluster.local"), Some(2));
        assert_eq!(inside("acluster.local"), None);
        assert_eq!(inside("local"), None);
    }

    #[test]
    fn reverse_names() {
        for text in ["10.47.240.10", "fd00::12:3"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(reverse_address(Name::reverse(address).unwrap().wire()), Some(address));
        }
        assert_eq!(reverse_address(Name::parse("1.2.in-addr.arpa").unwrap().wire()), None);
    }
}
