//! WebSocket frames as bytes (RFC 6455, section 5), server side. No I/O here.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The largest message that we take.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A whole message or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Text or binary, assembled from its fragments.
    Data(Bytes),
    Ping(Bytes),
    Pong,
    Close,
}

/// Why bytes are not WebSocket frames of a client.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum MessageError {
    #[error("a message is too long")]
    TooLong,
    #[error("a frame is not masked")]
    Unmasked,
    #[error("reserved bits or opcodes are in use")]
    Reserved,
    #[error("fragments are out of order")]
    Fragments,
}

/// Assembles messages from a byte stream.
#[derive(Default)]
pub(super) struct Decoder {
    /// The fragments so far of a message that is not complete.
    partial: Option<BytesMut>,
}

impl Decoder {
    /// The next whole message in `buffer`, if there is one.
    pub(super) fn decode(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<Message>, MessageError> {
        loop {
            let Some((fin, opcode, payload)) = frame(buffer)? else { return Ok(None) };
            match opcode {
                0 => {
                    let partial = self.partial.as_mut().ok_or(MessageError::Fragments)?;
                    if partial.len() + payload.len() > MESSAGE_BYTES_MAX {
                        return Err(MessageError::TooLong);
                    }
                    partial.extend_from_slice(&payload);
                    if fin && let Some(whole) = self.partial.take() {
                        return Ok(Some(Message::Data(whole.freeze())));
                    }
                }
                1 | 2 if self.partial.is_some() => return Err(MessageError::Fragments),
                1 | 2 if fin => return Ok(Some(Message::Data(payload.freeze()))),
                1 | 2 => self.partial = Some(payload),
                8..=10 if !fin || payload.len() > 125 => return Err(MessageError::Fragments),
                8 => return Ok(Some(Message::Close)),
                9 => return Ok(Some(Message::Ping(payload.freeze()))),
                10 => return Ok(Some(Message::Pong)),
                _ => return Err(MessageError::Reserved),
            }
        }
    }
}

fn frame(buffer: &mut BytesMut) -> Result<Option<(bool, u8, BytesMut)>, MessageError> {
    let mut head = &buffer[..];
    let (Ok(first), Ok(second)) = (head.try_get_u8(), head.try_get_u8()) else { return Ok(None) };
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
    let Ok(length) = length else { return Ok(None) };
    let length = usize::try_from(length).map_err(|_| MessageError::TooLong)?;
    if length > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong);
    }
    let Ok(mask) = head.try_get_u32() else { return Ok(None) };
    if head.len() < length {
        return Ok(None);
    }
    let skip = buffer.len() - head.len();
    buffer.advance(skip);
    let mut payload = buffer.split_to(length);
    let mask = mask.to_be_bytes();
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Some((first & 0x80 != 0, first & 0x0f, payload)))
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
