//! No stream of bytes makes the frame readers panic, and none makes them go round without end.

use bytes::BytesMut;

use super::{spdy_frame, websocket_frame};

#[test]
fn spdy_frames() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/spdy"), |bytes| {
        let mut buffer = BytesMut::from(bytes);
        let mut decoder = spdy_frame::Decoder::new();
        loop {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Ok(Some(_)) => assert!(buffer.len() < before, "a frame took no bytes"),
                Ok(None) | Err(_) => break,
            }
        }
    });
}

#[test]
fn websocket_frames() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/websocket"), |bytes| {
        let mut buffer = BytesMut::from(bytes);
        let mut decoder = websocket_frame::Decoder::default();
        loop {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Ok(Some(_)) => assert!(buffer.len() < before, "a frame took no bytes"),
                Ok(None) | Err(_) => break,
            }
        }
    });
}
