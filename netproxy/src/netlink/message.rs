//! Encoding and parsing of netlink messages and their attributes; no I/O.

/// `NLM_F_REQUEST`: every message that we send carries it.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`: the kernel answers with a result code.
pub const ACK: u16 = 4;
/// `NLM_F_REPLACE`: an existing object is replaced.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: fail when the object exists.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: make the object when it is missing.
pub const CREATE: u16 = 0x400;
/// `NLM_F_DUMP`: list every object.
pub const DUMP: u16 = 0x300;

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// A sequence of netlink requests that are sent in one call.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    labels: Vec<&'static str>,
    acknowledged: Vec<u32>,
    last: usize,
}

impl Writer {
    /// An empty sequence.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one message. `label` names the operation in an error; `header` is the fixed part
    /// that follows the netlink header (`ifinfomsg`, `nfgenmsg`, …).
    pub fn message(
        &mut self,
        label: &'static str,
        kind: u16,
        flags: u16,
        header: &[u8],
        body: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.last = start;
        let sequence = self.labels.len() as u32;
        self.labels.push(label);
        if flags & ACK != 0 {
            self.acknowledged.push(sequence);
        }
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(header);
        pad(&mut self.bytes);
        body(&mut Attributes { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Asks for an answer to the last message.
    pub fn acknowledge_last(&mut self) {
        if let Some(sequence) = (self.labels.len() as u32).checked_sub(1)
            && self.acknowledged.last() != Some(&sequence)
        {
            let at = self.last + 6;
            let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | ACK;
            self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
            self.acknowledged.push(sequence);
        }
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// True when nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// What the message with this sequence number was to do.
    pub fn label(&self, sequence: u32) -> &'static str {
        self.labels.get(sequence as usize).copied().unwrap_or("unknown request")
    }

    /// Sequence numbers of the messages that ask for an answer.
    pub fn acknowledged(&self) -> &[u32] {
        &self.acknowledged
    }
}

/// Appends attributes to the message under construction.
#[derive(Debug)]
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// An attribute with these bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }

    /// A one-byte attribute.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// A 32-bit attribute in host order, as rtnetlink uses.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// A 32-bit attribute in network order, as nfnetlink uses.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A 64-bit attribute in network order.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string attribute with its terminating zero.
    pub fn string(&mut self, kind: u16, value: &str) {
        self.bytes.extend_from_slice(&((value.len() + 5) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        pad(self.bytes);
    }

    /// An attribute that holds attributes. Its content must stay below 64 KiB.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(&mut Attributes { bytes: self.bytes });
        let length = self.bytes.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "netlink attribute of {length} bytes");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    }

    /// Raw bytes inside the current attribute (a fixed header before nested attributes).
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`, the request that this answers.
    pub sequence: u32,
    /// `nlmsg_pid`: in a notification, the port of the socket that made the change.
    pub port: u32,
    /// What follows the netlink header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The bytes after a fixed header of `header` bytes; empty when the message is shorter.
    pub fn after(&self, header: usize) -> &'a [u8] {
        self.payload.get(header..).unwrap_or(&[])
    }
}

/// Splits a datagram into messages; stops at the first one that does not fit.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let message = Message {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            sequence: u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            port: u32::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
            payload: &bytes[HEADER..length],
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Splits bytes into attributes `(type, value)`; stops at the first one that does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        if length < 4 || length > bytes.len() {
            return None;
        }
        let value = &bytes[4..length];
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The value of the first attribute of this type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The value found by following a path of nested attributes.
pub fn nested<'a>(bytes: &'a [u8], path: &[u16]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, kind| attribute(bytes, *kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let mut writer = Writer::new();
        writer.message("one", 7, ACK, &[1, 2, 3], |a| {
            a.string(1, "abc");
            a.nest(2, |a| {
                a.be32(3, 5);
                a.u8(4, 9);
            });
        });
        writer.message("two", 8, 0, &[], |_| {});
        let found: Vec<_> = messages(writer.as_bytes()).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kind, found[0].flags, found[0].sequence), (7, 5, 0));
        let body = found[0].after(4);
        assert_eq!(attribute(body, 1), Some(&b"abc\0"[..]));
        assert_eq!(nested(body, &[2, 3]), Some(&[0, 0, 0, 5][..]));
        assert_eq!(nested(body, &[2, 4]), Some(&[9][..]));
        assert_eq!(nested(body, &[2, 5]), None);
        assert_eq!(writer.acknowledged(), [0]);
        assert_eq!(writer.label(1), "two");
    }

    #[test]
    fn malformed_input_ends_the_iteration() {
        for bytes in [&[][..], &[1], &[3, 0, 1, 0], &[9, 0, 1, 0, 0], &[0; 20], &[255; 20]] {
            assert_eq!(attributes(bytes).take(10).count(), 0, "{bytes:?}");
            assert_eq!(messages(bytes).take(10).count(), 0, "{bytes:?}");
        }
    }
}
