//! WebSocket frames as bytes (RFC 6455, section 5), server side. No I/O here.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::wire::PIECE_BYTES;

/// A piece of a message, or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// At most [`PIECE_BYTES`] of text or binary. Messages of any length come in pieces, of which one
    /// is the first and one the last.
    Data {
        bytes: Bytes,
        first: bool,
        last: bool,
    },
    Ping(Bytes),
    Pong,
    Close,
}

/// Why bytes are not WebSocket frames of a client.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum MessageError {
    #[error("a frame is not masked")]
    Unmasked,
    #[error("reserved bits or opcodes are in use")]
    Reserved,
    #[error("fragments are out of order")]
    Fragments,
}

/// Takes messages from a byte stream.
#[derive(Default)]
pub(super) struct Decoder {
    /// The data frame whose payload is being taken.
    frame: Option<DataFrame>,
    /// True while the message of the last data frame goes on.
    in_message: bool,
    /// True once a piece of the message was returned.
    has_begun: bool,
}

/// The rest of a data frame.
struct DataFrame {
    left: u64,
    mask: [u8; 4],
    fin: bool,
}

/// The first bytes of a frame.
struct Head {
    fin: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
    /// Its own length.
    bytes: usize,
}

impl Decoder {
    /// The next piece of a message or control frame in `buffer`, if there is one.
    pub(super) fn decode(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<Message>, MessageError> {
        loop {
            if let Some(frame) = &mut self.frame {
                if buffer.is_empty() && frame.left > 0 {
                    return Ok(None);
                }
                let bytes = frame.take(buffer);
                let (ended, fin) = (frame.left == 0, frame.fin);
                if ended {
                    self.frame = None;
                    self.in_message = !fin;
                }
                let last = ended && fin;
                let first = !std::mem::replace(&mut self.has_begun, !last);
                if bytes.is_empty() && !last {
                    self.has_begun = !first;
                    continue;
                }
                return Ok(Some(Message::Data { bytes, first, last }));
            }
            let Some(head) = Head::read(buffer)? else { return Ok(None) };
            match head.opcode {
                0 if !self.in_message => return Err(MessageError::Fragments),
                1 | 2 if self.in_message => return Err(MessageError::Fragments),
                0..=2 => {
                    buffer.advance(head.bytes);
                    let Head { length: left, mask, fin, .. } = head;
                    self.frame = Some(DataFrame { left, mask, fin });
                }
                8..=10 => {
                    let Some(payload) = head.control(buffer)? else { return Ok(None) };
                    return Ok(Some(match head.opcode {
                        8 => Message::Close,
                        9 => Message::Ping(payload),
                        _ => Message::Pong,
                    }));
                }
                _ => return Err(MessageError::Reserved),
            }
        }
    }
}

impl DataFrame {
    /// The next piece of the payload; a copy, so that it keeps no buffer alive.
    fn take(&mut self, buffer: &mut BytesMut) -> Bytes {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = left.min(buffer.len()).min(PIECE_BYTES);
        let bytes = unmasked(&buffer[..count], self.mask);
        buffer.advance(count);
        self.left -= count as u64;
        self.mask.rotate_left(count % 4);
        bytes
    }
}

impl Head {
    fn read(buffer: &BytesMut) -> Result<Option<Self>, MessageError> {
        let mut head = &buffer[..];
        let (Ok(first), Ok(second)) = (head.try_get_u8(), head.try_get_u8()) else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(MessageError::Reserved);
        }
        if second & 0x80 == 0 {
            return Err(MessageError::Unmasked);
        }
        let length = match second & 0x7f {
            126 => head.try_get_u16().map(u64::from),
            127 => head.try_get_u64(),
            small => Ok(u64::from(small)),
        };
        let (Ok(length), Ok(mask)) = (length, head.try_get_u32()) else { return Ok(None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        let bytes = buffer.len() - head.len();
        Ok(Some(Self { fin, opcode, length, mask: mask.to_be_bytes(), bytes }))
    }

    /// The payload of a control frame, once it is there.
    fn control(&self, buffer: &mut BytesMut) -> Result<Option<Bytes>, MessageError> {
        const CONTROL_BYTES_MAX: u64 = 125;
        if !self.fin || self.length > CONTROL_BYTES_MAX {
            return Err(MessageError::Fragments);
        }
        let end = self.bytes + self.length as usize;
        let Some(payload) = buffer.get(self.bytes..end) else { return Ok(None) };
        let payload = unmasked(payload, self.mask);
        buffer.advance(end);
        Ok(Some(payload))
    }
}

fn unmasked(payload: &[u8], mask: [u8; 4]) -> Bytes {
    payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

/// Opcodes that we send.
#[derive(Clone, Copy)]
pub(super) enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Pong = 10,
}

/// Appends a whole message made of `parts`.
pub(super) fn encode(opcode: Opcode, parts: &[&[u8]], output: &mut BytesMut) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    output.put_u8(0x80 | opcode as u8);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(small @ ..126), _) => output.put_u8(small),
        (_, Ok(medium)) => {
            output.put_u8(126);
            output.put_u16(medium);
        }
        _ => {
            output.put_u8(127);
            output.put_u64(length as u64);
        }
    }
    for part in parts {
        output.put_slice(part);
    }
}
