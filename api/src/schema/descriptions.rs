//! The published descriptions of types and fields, kept compressed until a document needs them.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::table::{Field, Message, messages};

const COMPRESSED: &[u8] = include_bytes!("descriptions.z");

/// The uncompressed descriptions; about 0.7 MB, so it should not be kept.
pub struct Descriptions {
    text: String,
    /// Where each description starts: message, its fields, next message.
    starts: Vec<u32>,
}

impl Descriptions {
    /// Uncompresses them.
    pub fn load() -> Self {
        let mut text = String::new();
        // A damaged file can only come out of a damaged build; then there are no descriptions.
        if ZlibDecoder::new(COMPRESSED).read_to_string(&mut text).is_err() {
            text.clear();
        }
        let mut starts = vec![0];
        starts.extend(text.match_indices('\0').map(|(at, _)| at as u32 + 1));
        Self { text, starts }
    }

    fn nth(&self, index: usize) -> &str {
        match self.starts.get(index..index + 2) {
            Some(&[start, end]) => &self.text[start as usize..end as usize - 1],
            _ => "",
        }
    }

    /// The description of a type.
    pub fn message(&self, message: &Message) -> &str {
        self.nth(message.first_field() + message.index())
    }

    /// The description of a field, which [`Message::fields`] or [`Message::members`] gave.
    pub fn field(&self, field: &'static Field) -> &str {
        let index = super::table::field_index(field);
        // Before the field come the descriptions of all messages up to its own.
        let owner = messages().partition_point(|message| message.first_field() <= index);
        self.nth(index + owner)
    }
}
