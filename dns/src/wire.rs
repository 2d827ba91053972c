//! DNS messages: reading queries, writing answers, walking the records of a foreign answer.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;
mod question;

pub use question::Question;

use std::net::IpAddr;

/// RFC 1035 §4.1.1
pub const HEADER: usize = 12;
const QR: u16 = 0x8000;
const AA: u16 = 0x0400;
/// The answer did not fit.
pub const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const CD: u16 = 0x0010;
const OPCODE: u16 = 0x7800;

/// What we tell peers to send us at most (the common recommendation against fragmentation).
const OUR_UDP_SIZE: u16 = 1232;
/// Answers over UDP never exceed this, whatever a client offers.
const MAX_UDP_SIZE: usize = 4096;
/// RFC 1035 §2.3.4
const PLAIN_UDP_SIZE: usize = 512;
/// The length of a message over TCP has 16 bits (RFC 1035 §4.2.2).
const MESSAGE_BYTES_MAX: usize = 65_535;
/// The EDNS part of an answer.
const OPT_BYTES: usize = 11;

/// A pointer to the name of the question, which starts after the header.
const QUESTION_POINTER: [u8; 2] = [0xc0, HEADER as u8];

/// Record types.
pub mod kind {
    #![allow(missing_docs)]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// RFC 1035 §3.2.4
pub const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

/// Response codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// Done.
    NoError = 0,
    /// The query is malformed.
    FormErr = 1,
    /// The server cannot answer now.
    ServFail = 2,
    /// No such name.
    NxDomain = 3,
    /// The operation is unknown.
    NotImp = 4,
    /// The server does not want to.
    Refused = 5,
    /// An EDNS version that we do not know.
    BadVers = 16,
}

/// The EDNS part of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// The largest datagram that the client takes.
    pub size: u16,
    /// The client wants DNSSEC records.
    pub dnssec: bool,
    version: u8,
}

/// A query with one question.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    bytes: &'a [u8],
    flags: u16,
    /// The name as the client wrote it.
    name_end: usize,
    /// The record type asked for.
    pub kind: u16,
    /// The class asked for.
    pub class: u16,
    /// Its EDNS part.
    pub edns: Option<Edns>,
}

/// Why a message gets no ordinary answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswerable {
    /// Not a query: answering could start a loop.
    Ignore,
    /// A short answer with a code.
    Refuse(Vec<u8>),
}

impl<'a> Query<'a> {
    /// Reads a query. Never panics, whatever the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Unanswerable> {
        let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let flags = word(2).filter(|_| bytes.len() >= HEADER).ok_or(Unanswerable::Ignore)?;
        if flags & QR != 0 {
            return Err(Unanswerable::Ignore);
        }
        let refuse = |code: Rcode| Unanswerable::Refuse(header_only(bytes, flags, code));
        if flags & OPCODE != 0 {
            return Err(refuse(Rcode::NotImp));
        }
        let malformed = || refuse(Rcode::FormErr);
        if word(4) != Some(1) || word(6) != Some(0) || word(8) != Some(0) {
            return Err(malformed());
        }
        let name_end = plain_name_end(bytes).ok_or_else(malformed)?;
        let kind = word(name_end).ok_or_else(malformed)?;
        let class = word(name_end + 2).ok_or_else(malformed)?;
        let mut query = Self { bytes, flags, name_end, kind, class, edns: None };
        let mut at = name_end + 4;
        for _ in 0..word(10).unwrap_or(0).min(4) {
            let record = Record::read(bytes, at).ok_or_else(malformed)?;
            if record.kind == kind::OPT {
                if query.edns.is_some() || bytes.get(at) != Some(&0) {
                    return Err(malformed());
                }
                query.edns = Some(Edns {
                    size: record.class,
                    dnssec: record.ttl & 0x8000 != 0,
                    version: (record.ttl >> 16) as u8,
                });
            }
            at = record.end;
        }
        if query.edns.is_some_and(|edns| edns.version > 0) {
            return Err(Unanswerable::Refuse(query.failure(Rcode::BadVers)));
        }
        Ok(query)
    }

    /// The message's id.
    pub fn id(&self) -> [u8; 2] {
        [self.bytes[0], self.bytes[1]]
    }

    /// The name in wire format as the client wrote it.
    pub fn name(&self) -> &'a [u8] {
        &self.bytes[HEADER..self.name_end]
    }

    /// The question: name, type and class.
    pub fn question(&self) -> &'a [u8] {
        &self.bytes[HEADER..self.name_end + 4]
    }

    /// Returns whether the client wants resolvers to be asked.
    pub fn recursion_desired(&self) -> bool {
        self.flags & RD != 0
    }

    /// Returns whether the client validates for itself and wants answers that a resolver holds for
    /// forged.
    pub fn checking_disabled(&self) -> bool {
        self.flags & CD != 0
    }

    /// Whether the class is one that we have records of.
    pub fn is_internet(&self) -> bool {
        self.class == CLASS_IN || self.class == CLASS_ANY
    }

    /// The largest answer that the client takes.
    pub fn limit(&self, udp: bool) -> usize {
        if !udp {
            return usize::from(u16::MAX);
        }
        let offered = self.edns.map_or(PLAIN_UDP_SIZE, |edns| usize::from(edns.size));
        offered.clamp(PLAIN_UDP_SIZE, MAX_UDP_SIZE)
    }

    /// An answer without records.
    pub fn failure(&self, code: Rcode) -> Vec<u8> {
        Reply::new(self, code, false).finish(usize::MAX)
    }

    /// The answer cut down to "ask again over TCP".
    pub fn truncated(&self) -> Vec<u8> {
        let mut reply = Reply::new(self, Rcode::NoError, false);
        reply.flags |= TC;
        reply.finish(usize::MAX)
    }
}

fn header_only(query: &[u8], flags: u16, code: Rcode) -> Vec<u8> {
    let mut bytes = query[..2].to_vec();
    let flags = QR | (flags & (OPCODE | RD | CD)) | RA | code as u16;
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

/// The end of an uncompressed name after the header.
fn plain_name_end(bytes: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return (at - HEADER <= 255).then_some(at);
        }
        if length > 63 {
            return None;
        }
        at += length;
    }
}

/// Whose record it is.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// The name of the question, with the client's capitals.
    Question,
    /// Another name.
    Name(&'a [u8]),
}

/// An answer under construction. Sections must be written in order.
#[derive(Debug)]
pub struct Reply<'a> {
    query: Query<'a>,
    bytes: Vec<u8>,
    flags: u16,
    code: Rcode,
    counts: [u16; 3],
    /// A record did not fit into a message of any size.
    cut: bool,
}

/// Sections of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer = 0,
    /// Where the authority lies; the SOA of negative answers.
    Authority = 1,
    /// What may be useful.
    Additional = 2,
}

impl<'a> Reply<'a> {
    /// An answer to this query.
    pub fn new(query: &Query<'a>, code: Rcode, authoritative: bool) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&query.bytes[..2]);
        bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(query.question());
        let mut flags = QR | RA | (query.flags & (RD | CD));
        if authoritative {
            flags |= AA;
        }
        Self { query: *query, bytes, flags, code, counts: [0; 3], cut: false }
    }

    /// Appends a record whose data `data` writes, unless a message has no room for it.
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        kind: u16,
        ttl: u32,
        data: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        match owner {
            Owner::Question => self.bytes.extend_from_slice(&QUESTION_POINTER),
            Owner::Name(name) => self.bytes.extend_from_slice(name),
        }
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        data(&mut self.bytes);
        let length = (self.bytes.len() - at - 2) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
        if self.bytes.len() > MESSAGE_BYTES_MAX - OPT_BYTES {
            self.bytes.truncate(start);
            // What may be useful may be left out.
            self.cut |= section != Section::Additional;
            return;
        }
        // A record takes twelve bytes at least, so that the count has room.
        self.counts[section as usize] += 1;
    }

    /// Returns whether more records make no difference to a message of at most `limit` bytes.
    pub fn is_full(&self, limit: usize) -> bool {
        self.cut || self.bytes.len() > limit
    }

    /// Whether the answer section is empty.
    pub fn has_no_answer(&self) -> bool {
        self.counts[0] == 0
    }

    /// The message; one that exceeds `limit` bytes becomes "ask again over TCP".
    pub fn finish(mut self, limit: usize) -> Vec<u8> {
        if let Some(edns) = self.query.edns {
            self.bytes.push(0);
            self.bytes.extend_from_slice(&kind::OPT.to_be_bytes());
            self.bytes.extend_from_slice(&OUR_UDP_SIZE.to_be_bytes());
            let dnssec = if edns.dnssec { 0x80 } else { 0 };
            let extended = (self.code as u16 >> 4) as u8;
            self.bytes.extend_from_slice(&[extended, 0, dnssec, 0, 0, 0]);
            self.counts[2] += 1;
        }
        if self.bytes.len() > limit {
            return self.query.truncated();
        }
        if self.cut {
            self.flags |= TC;
        }
        let flags = self.flags | (self.code as u16 & 0xf);
        self.bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        for (at, count) in [6, 8, 10].into_iter().zip(self.counts) {
            self.bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        self.bytes
    }
}

/// Appends an address as record data.
pub fn write_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
    }
}

/// One record of a message, by position.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    start: usize,
    /// The record type.
    pub kind: u16,
    /// The class; for OPT the datagram size.
    pub class: u16,
    /// Seconds that it may be kept; for OPT flags.
    pub ttl: u32,
    /// Where the TTL stands.
    pub ttl_at: usize,
    data: usize,
    /// Where the next record starts.
    pub end: usize,
}

impl Record {
    /// Reads the record that starts here.
    pub fn read(bytes: &[u8], start: usize) -> Option<Self> {
        let at = skip_name(bytes, start)?;
        let fixed = bytes.get(at..at + 10)?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let end = at + 10 + length;
        bytes.get(at + 10..end)?;
        Some(Self {
            start,
            kind: u16::from_be_bytes([fixed[0], fixed[1]]),
            class: u16::from_be_bytes([fixed[2], fixed[3]]),
            ttl: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ttl_at: at + 4,
            data: at + 10,
            end,
        })
    }

    /// The last field of an SOA: how long its absence may be remembered, in seconds.
    pub fn soa_minimum(&self, bytes: &[u8]) -> Option<u32> {
        let minimum = bytes.get(self.end.checked_sub(4)?..self.end)?;
        minimum.try_into().ok().map(u32::from_be_bytes)
    }

    /// The owner's name, expanded.
    pub fn owner(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        expand_name(bytes, self.start)
    }

    /// The data with every name in it expanded, so that it can stand in another message.
    pub fn expanded_data(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let raw = &bytes[self.data..self.end];
        let prefix = match self.kind {
            kind::CNAME | kind::NS | kind::PTR => 0,
            kind::MX => 2,
            kind::SRV => 6,
            kind::SOA => return None,
            _ => return Some(raw.to_vec()),
        };
        let mut data = raw.get(..prefix)?.to_vec();
        data.extend(expand_name(bytes, self.data + prefix)?);
        Some(data)
    }
}

/// A response as others sent it.
#[derive(Debug, Clone)]
pub struct Response {
    /// The response code (without the EDNS extension).
    pub code: u16,
    /// It did not fit.
    pub truncated: bool,
    /// Records of the answer section.
    pub answers: Vec<Record>,
    /// Records of the other sections, OPT included.
    pub others: Vec<Record>,
}

/// Reads a response to this question; `None` when it answers another one or is malformed.
pub fn read_response(bytes: &[u8], id: u16, question: &[u8]) -> Option<Response> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let flags = word(2)?;
    let asked = bytes.get(HEADER..HEADER + question.len())?;
    let same =
        word(0)? == id && flags & QR != 0 && word(4)? == 1 && asked.eq_ignore_ascii_case(question);
    if !same {
        return None;
    }
    let truncated = flags & TC != 0;
    let mut response =
        Response { code: flags & 0xf, truncated, answers: Vec::new(), others: Vec::new() };
    if truncated {
        return Some(response);
    }
    let mut at = HEADER + question.len();
    for section in [6, 8, 10] {
        for _ in 0..word(section)? {
            let record = Record::read(bytes, at)?;
            at = record.end;
            if section == 6 {
                response.answers.push(record);
            } else {
                response.others.push(record);
            }
        }
    }
    Some(response)
}

fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

fn expand_name(bytes: &[u8], mut at: usize) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut jumps = 0;
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => {
                name.push(0);
                return (name.len() <= 255).then_some(name);
            }
            1..=63 => {
                let end = at + 1 + usize::from(length);
                name.extend_from_slice(bytes.get(at..end)?);
                at = end;
            }
            192.. => {
                // A pointer may only lead backwards; the count bounds loops anyway.
                jumps += 1;
                let target = usize::from(length & 63) << 8 | usize::from(*bytes.get(at + 1)?);
                if jumps > 32 || target >= at {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
        if name.len() > 255 {
            return None;
        }
    }
}
