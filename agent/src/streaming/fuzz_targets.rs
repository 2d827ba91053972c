//! Entry points for fuzzing: no stream of bytes makes the frame readers panic or loop without end.

use bytes::BytesMut;

use super::{spdy_frame, websocket_frame};

/// Decodes SPDY frames until the bytes end or one is refused.
pub fn spdy(bytes: &[u8]) {
    let mut decoder = spdy_frame::Decoder::new();
    decode(bytes, |buffer| decoder.decode(buffer));
}

/// Decodes WebSocket frames until the bytes end or one is refused.
pub fn websocket(bytes: &[u8]) {
    let mut decoder = websocket_frame::Decoder::default();
    decode(bytes, |buffer| decoder.decode(buffer));
}

fn decode<T, E>(bytes: &[u8], mut frame: impl FnMut(&mut BytesMut) -> Result<Option<T>, E>) {
    let mut buffer = BytesMut::from(bytes);
    loop {
        let before = buffer.len();
        match frame(&mut buffer) {
            Ok(Some(_)) => assert!(buffer.len() < before, "a frame took no bytes"),
            Ok(None) | Err(_) => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_spdy_frames_is_decoded() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/spdy"), spdy);
    }

    #[test]
    fn corpus_of_websocket_frames_is_decoded() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/websocket"), websocket);
    }
}
