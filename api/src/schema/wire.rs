//! The protobuf wire format: tags, varints and lengths.

use super::protobuf::ProtobufError;

/// The payload of one field.
#[derive(Debug)]
pub enum Datum<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Datum<'a> {
    /// The error of a payload that `field` cannot have.
    pub fn wrong(&self, field: &str) -> ProtobufError {
        let wire = match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32 => 5,
        };
        ProtobufError::WireType { wire, field: field.to_owned() }
    }

    /// The payload as a number.
    pub fn varint(&self, field: &str) -> Result<u64, ProtobufError> {
        match self {
            Self::Varint(number) => Ok(*number),
            other => Err(other.wrong(field)),
        }
    }

    /// The payload as bytes.
    pub fn bytes(&self, field: &str) -> Result<&'a [u8], ProtobufError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(other.wrong(field)),
        }
    }

    /// The payload as text.
    pub fn text(&self, field: &'static str) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| ProtobufError::Utf8(field))
    }
}

/// What is left of a message.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The tag and payload of the next field.
    pub fn next(&mut self) -> Result<Option<(u64, Datum<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = key >> 3;
        let datum = match (key & 7) as u8 {
            0 => Datum::Varint(self.varint()?),
            1 => {
                let mut bits = [0; 8];
                bits.copy_from_slice(self.take(8)?);
                Datum::Fixed64(u64::from_le_bytes(bits))
            }
            2 => {
                let length = self.varint()?;
                Datum::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Datum::Fixed32
            }
            wire => return Err(ProtobufError::WireType { wire, field: tag.to_string() }),
        };
        Ok(Some((tag, datum)))
    }

    /// A bare varint.
    pub fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut number = 0;
        for (index, byte) in self.0.iter().enumerate() {
            if index == 9 && *byte > 1 {
                return Err(ProtobufError::Overflow);
            }
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Ok(number);
            }
        }
        Err(ProtobufError::Truncated)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtobufError> {
        let length = usize::try_from(length).map_err(|_| ProtobufError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}
