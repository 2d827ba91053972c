//! Questions to the machine's resolvers, in messages of our own.

use super::{CD, CLASS_IN, OUR_UDP_SIZE, Query, RD, kind};
use crate::name::Name;

/// A question as it goes to resolvers: equal ones get equal answers, for every client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// Name, type and class in lower case.
    pub wire: Vec<u8>,
    /// EDNS: absent, present, with DNSSEC records.
    pub edns: Option<bool>,
    /// Answers that a resolver holds for forged are wanted.
    pub checking_disabled: bool,
}

impl Question {
    /// The question of a client. What else its query holds (a subnet, cookies) is left out.
    pub fn of(query: &Query<'_>) -> Self {
        Self {
            wire: query.question().to_ascii_lowercase(),
            edns: query.edns.map(|edns| edns.dnssec),
            checking_disabled: query.checking_disabled(),
        }
    }

    /// A question for the records of a name.
    pub fn about(name: &Name, kind: u16) -> Self {
        let mut wire = name.wire().to_vec();
        wire.extend_from_slice(&kind.to_be_bytes());
        wire.extend_from_slice(&CLASS_IN.to_be_bytes());
        Self { wire, edns: Some(false), checking_disabled: false }
    }

    /// The query to send to a resolver.
    pub fn query(&self, id: u16) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        let flags = if self.checking_disabled { RD | CD } else { RD };
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        bytes.extend_from_slice(&self.wire);
        if let Some(dnssec) = self.edns {
            bytes.push(0);
            bytes.extend_from_slice(&kind::OPT.to_be_bytes());
            bytes.extend_from_slice(&OUR_UDP_SIZE.to_be_bytes());
            bytes.extend_from_slice(&[0, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
        }
        bytes
    }
}
