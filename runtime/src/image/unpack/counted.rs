//! Counts the bytes of a compressed layer, which bound what it may unpack to.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Plain bytes for each byte of a compressed layer, beyond the first [`RATIO_FREE_BYTES`].
pub(super) const MAX_RATIO: u64 = 200;
/// Plain bytes that a layer may have whatever its compressed size.
pub(super) const RATIO_FREE_BYTES: u64 = 1 << 30;

/// Counts the bytes of a compressed layer.
#[derive(Clone, Default)]
pub(in crate::image) struct Counted {
    bytes: Rc<Cell<u64>>,
}

impl Counted {
    /// Counts what is read of `input`.
    pub(in crate::image) fn reader<R: Read>(&self, input: R) -> CountedReader<R> {
        CountedReader { input, count: self.clone() }
    }

    /// Plain bytes that the layer may have, after as much of it as was read.
    pub(super) fn allowed_bytes(&self) -> u64 {
        RATIO_FREE_BYTES.saturating_add(self.bytes.get().saturating_mul(MAX_RATIO))
    }
}

/// A reader whose bytes are counted.
pub(in crate::image) struct CountedReader<R> {
    input: R,
    count: Counted,
}

impl<R: Read> Read for CountedReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.count.bytes.set(self.count.bytes.get() + n as u64);
        Ok(n)
    }
}
