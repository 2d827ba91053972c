//! The text of watch events, which shares the bytes of large objects with the store.

use std::collections::VecDeque;

use bytes::Bytes;

/// An object of so many bytes or more is not copied.
const SHARED_BYTES_MIN: usize = 16 << 10;

/// Lines of events that wait to be sent.
#[derive(Default)]
pub(super) struct Lines {
    frames: VecDeque<Bytes>,
    last: Vec<u8>,
}

impl Lines {
    /// Adds the line of an event.
    pub(super) fn push(&mut self, kind: &str, object: &Bytes) {
        self.last.extend_from_slice(b"{\"type\":\"");
        self.last.extend_from_slice(kind.as_bytes());
        self.last.extend_from_slice(b"\",\"object\":");
        if object.len() < SHARED_BYTES_MIN {
            self.last.extend_from_slice(object);
        } else {
            self.frames.push_back(std::mem::take(&mut self.last).into());
            self.frames.push_back(object.clone());
        }
        self.last.extend_from_slice(b"}\n");
    }

    /// The frames of all lines.
    pub(super) fn into_frames(mut self) -> VecDeque<Bytes> {
        if !self.last.is_empty() {
            self.frames.push_back(self.last.into());
        }
        self.frames
    }
}
