//! SPDY/3.1 frames as bytes. No I/O here.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::dictionary::DICTIONARY;
use super::wire::PIECE_BYTES;

/// The largest control frame that we take.
const CONTROL_BYTES_MAX: usize = 64 << 10;
/// The largest header block, uncompressed.
const HEADER_BYTES_MAX: usize = 64 << 10;
const FLAG_FIN: u8 = 1;

/// Header fields of a stream.
pub(super) type Headers = Vec<(String, String)>;

/// One frame, as far as we care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        id: u32,
        headers: Headers,
        fin: bool,
    },
    SynReply {
        id: u32,
        headers: Headers,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    /// Read: at most [`PIECE_BYTES`] of a frame of any length, the end of the stream with the last.
    Data {
        id: u32,
        bytes: Bytes,
        fin: bool,
    },
    /// SETTINGS, WINDOW_UPDATE, HEADERS and unknown types: nothing follows from them.
    Ignored,
}

/// Why bytes are not SPDY.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum FrameError {
    #[error("a control frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("SPDY version {0} is not spoken here")]
    Version(u16),
    #[error("a control frame is too short")]
    Short,
    #[error("a header block cannot be decompressed")]
    Inflate,
    #[error("a header block cannot be compressed")]
    Deflate,
    #[error("a header block is malformed")]
    Headers,
}

/// Takes frames from a byte stream. Keeps the decompressor of the connection.
pub(super) struct Decoder {
    inflate: Decompress,
    data: Option<DataFrame>,
}

/// The rest of a data frame.
struct DataFrame {
    id: u32,
    left: usize,
    fin: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(true), data: None }
    }

    /// The next control frame or piece of a data frame in `buffer`, if there is one.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.data.is_some() {
            return Ok(self.piece(buffer));
        }
        let Some(head) = buffer.first_chunk::<8>() else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let fin = head[4] & FLAG_FIN != 0;
        if first >> 31 == 0 {
            buffer.advance(8);
            self.data = Some(DataFrame { id: first, left: length, fin });
            return Ok(self.piece(buffer));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        buffer.advance(8);
        let mut payload = buffer.split_to(length).freeze();
        let version = (first >> 16) as u16 & 0x7fff;
        if version != 3 {
            return Err(FrameError::Version(version));
        }
        let number = |payload: &mut Bytes| payload.try_get_u32().map_err(|_| FrameError::Short);
        Ok(Some(match first & 0xffff {
            1 => {
                let id = number(&mut payload)? & 0x7fff_ffff;
                let _associated = number(&mut payload)?;
                payload.try_get_u16().map_err(|_| FrameError::Short)?;
                Frame::SynStream { id, headers: self.headers(&payload)?, fin }
            }
            2 => {
                let id = number(&mut payload)? & 0x7fff_ffff;
                Frame::SynReply { id, headers: self.headers(&payload)? }
            }
            3 => Frame::Reset {
                id: number(&mut payload)? & 0x7fff_ffff,
                status: number(&mut payload)?,
            },
            6 => Frame::Ping(number(&mut payload)?),
            7 => Frame::GoAway { last: number(&mut payload)?, status: number(&mut payload)? },
            8 => {
                // Skipped, but the decompressor has to see it.
                number(&mut payload)?;
                self.headers(&payload)?;
                Frame::Ignored
            }
            _ => Frame::Ignored,
        }))
    }

    /// The next piece of the data frame; a copy, so that it keeps no buffer alive.
    fn piece(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        let data = self.data.as_mut()?;
        let count = data.left.min(buffer.len()).min(PIECE_BYTES);
        if count == 0 && data.left > 0 {
            return None;
        }
        let bytes = Bytes::copy_from_slice(&buffer[..count]);
        buffer.advance(count);
        data.left -= count;
        let (id, ended) = (data.id, data.left == 0);
        let fin = ended && data.fin;
        if ended {
            self.data = None;
        }
        Some(Frame::Data { id, bytes, fin })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        let bytes = self.inflate(block)?;
        let mut rest = &bytes[..];
        let count = rest.try_get_u32().map_err(|_| FrameError::Headers)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = text(&mut rest)?;
            let value = text(&mut rest)?;
            headers.push((name.to_ascii_lowercase(), value));
        }
        Ok(headers)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut output = Vec::with_capacity(2048);
        loop {
            let (taken, given) = (self.inflate.total_in(), output.len());
            let result = self.inflate.decompress_vec(input, &mut output, FlushDecompress::Sync);
            let taken = usize::try_from(self.inflate.total_in() - taken).unwrap_or(0);
            input = input.get(taken..).unwrap_or_default();
            match result {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Inflate)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Inflate),
            }
            if output.len() < output.capacity() {
                if input.is_empty() || (taken == 0 && output.len() == given) {
                    return Ok(output);
                }
            } else if output.len() >= HEADER_BYTES_MAX {
                return Err(FrameError::Inflate);
            } else {
                output.reserve(output.len());
            }
        }
    }
}

fn text(rest: &mut &[u8]) -> Result<String, FrameError> {
    let length = rest.try_get_u32().map_err(|_| FrameError::Headers)? as usize;
    let (text, after) = rest.split_at_checked(length).ok_or(FrameError::Headers)?;
    *rest = after;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Turns frames into bytes. Keeps the compressor of the connection.
pub(super) struct Encoder {
    deflate: Compress,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, FrameError> {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Deflate)?;
        Ok(Self { deflate })
    }

    pub(super) fn encode(
        &mut self,
        frame: &Frame,
        output: &mut BytesMut,
    ) -> Result<(), FrameError> {
        match frame {
            Frame::Data { id, bytes, fin } => {
                output.put_u32(id & 0x7fff_ffff);
                length(output, *fin, bytes.len());
                output.put_slice(bytes);
            }
            Frame::SynStream { id, headers, fin } => {
                let block = self.block(headers)?;
                control(output, 1, *fin, 10 + block.len());
                output.put_u32(*id);
                output.put_u32(0);
                output.put_u16(0);
                output.put_slice(&block);
            }
            Frame::SynReply { id, headers } => {
                let block = self.block(headers)?;
                control(output, 2, false, 4 + block.len());
                output.put_u32(*id);
                output.put_slice(&block);
            }
            Frame::Reset { id, status } => {
                control(output, 3, false, 8);
                output.put_u32(*id);
                output.put_u32(*status);
            }
            Frame::Ping(id) => {
                control(output, 6, false, 4);
                output.put_u32(*id);
            }
            Frame::GoAway { last, status } => {
                control(output, 7, false, 8);
                output.put_u32(*last);
                output.put_u32(*status);
            }
            Frame::Ignored => {}
        }
        Ok(())
    }

    fn block(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let mut plain = BytesMut::new();
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        plain.put_u32(size(headers.len()));
        for (name, value) in headers {
            plain.put_u32(size(name.len()));
            plain.put_slice(name.as_bytes());
            plain.put_u32(size(value.len()));
            plain.put_slice(value.as_bytes());
        }
        let mut input = &plain[..];
        let mut output = Vec::with_capacity(plain.len() + 128);
        loop {
            let taken = self.deflate.total_in();
            self.deflate
                .compress_vec(input, &mut output, FlushCompress::Sync)
                .map_err(|_| FrameError::Deflate)?;
            let taken = usize::try_from(self.deflate.total_in() - taken).unwrap_or(0);
            input = input.get(taken..).unwrap_or_default();
            if input.is_empty() && output.len() < output.capacity() {
                return Ok(output);
            }
            output.reserve(256);
        }
    }
}

fn control(output: &mut BytesMut, kind: u16, fin: bool, bytes: usize) {
    output.put_u16(0x8003);
    output.put_u16(kind);
    length(output, fin, bytes);
}

fn length(output: &mut BytesMut, fin: bool, bytes: usize) {
    output.put_u8(if fin { FLAG_FIN } else { 0 });
    output.put_uint(bytes as u64, 3);
}
