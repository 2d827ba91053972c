//! Recognises and undoes the compression of layers and archives.

use std::io::{self, BufRead, BufReader, Read};

/// zstd frames may ask for this much window (2^27 bytes); larger ones are refused.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A reader of the plain bytes of `input`, whatever its compression (by magic number).
pub(super) fn decompressed<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let magic = input.fill_buf()?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(input)));
    }
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(input))
}
