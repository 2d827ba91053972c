//! One stored value.

use bytes::Bytes;

/// The store's clock: one tick per write, never repeated.
pub type Revision = u64;

/// A value as it was written at one revision. `M` is what the caller derives from the bytes once
/// and wants at hand on every read (labels, say).
#[derive(Debug)]
pub struct Record<M> {
    /// `bucket/rest`.
    pub key: Box<str>,
    /// The revision of the write that made this record.
    pub revision: Revision,
    /// The bytes, exactly as the caller encoded them.
    pub value: Bytes,
    /// Derived from the bytes.
    pub meta: M,
    /// True if it belongs on the disk; a key that was on the disk once stays there.
    pub(crate) stored: bool,
}

/// A value derived from an object, which knows the memory that the object takes besides its record.
pub trait Weigh {
    /// Bytes of memory that other parts of the process keep as long as the record is there.
    fn kept_bytes(&self) -> u64;
}

impl Weigh for () {
    fn kept_bytes(&self) -> u64 {
        0
    }
}

/// The bucket of a key: everything before the first slash.
pub(crate) fn bucket_of(key: &str) -> &str {
    key.split_once('/').map_or(key, |(bucket, _)| bucket)
}
