//! Entry points for fuzzing: no stream of bytes makes the frame readers panic or loop without end.

use bytes::BytesMut;

use super::{spdy_frame, websocket_frame};

/// Decodes SPDY frames until the bytes end or one is refused.
pub fn spdy(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let mut decoder = spdy_frame::Decoder::new();
    loop {
        let before = buffer.len();
        match decoder.decode(&mut buffer) {
            Ok(Some(_)) => assert!(buffer.len() < before, "a frame took no bytes"),
            Ok(None) | Err(_) => break,
        }
    }
}

/// Decodes WebSocket frames until the bytes end or one is refused.
pub fn websocket(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let mut decoder = websocket_frame::Decoder::default();
    loop {
        let before = buffer.len();
        match decoder.decode(&mut buffer) {
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
