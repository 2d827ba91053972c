//! The body of a list, written from the stored objects while the client takes it. It holds
//! references to what the store has in memory anyway, and one piece.

use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Frame, SizeHint};
use store::Record;

use crate::body::BoxError;
use crate::catalog::Found;
use crate::error::ApiError;
use crate::meta::Meta;
use crate::object::Encoded;
use crate::render;
use crate::sending::PIECE_BYTES;

/// Memory that compressing takes besides the bytes.
const GZIP_STATE_BYTES: usize = 320 << 10;

/// A list around the objects' own bytes.
pub(super) struct ListBody {
    records: std::vec::IntoIter<Arc<Record<Meta>>>,
    found: Found,
    /// The text that is being written.
    current: Bytes,
    stage: Stage,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// Bytes that are still to come; `None` when that is not known.
    rest: Option<usize>,
    weight: usize,
}

/// The part that is written next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    FirstItem,
    Items,
    /// Nothing but the current bytes, and the end of the compressed ones.
    Closed,
    Done,
}

const CLOSING: &[u8] = b"]}\n";

impl ListBody {
    /// A list that begins with `head`, the text up to its first object.
    pub(super) fn new(head: String, records: Vec<Arc<Record<Meta>>>, found: Found) -> Self {
        let items: usize = records.iter().map(|record| record.value.len()).sum();
        let commas = records.len().saturating_sub(1);
        let as_stored = std::ptr::eq(found.1, &found.0.served[0]);
        let whole = head.len() + items + commas + CLOSING.len();
        Self {
            records: records.into_iter(),
            found,
            current: head.into(),
            stage: Stage::FirstItem,
            gzip: None,
            rest: as_stored.then_some(whole),
            weight: items + PIECE_BYTES.min(whole),
        }
    }

    /// The same list, compressed on its way.
    pub(super) fn compressed(mut self) -> Self {
        self.gzip = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        self.rest = None;
        self.weight += GZIP_STATE_BYTES;
        self
    }

    /// Bytes that are kept in memory for the list at the most: an object that is replaced or deleted
    /// meanwhile stays for it alone.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// The whole list at once.
    pub(super) fn into_bytes(mut self) -> Result<Vec<u8>, ApiError> {
        let mut whole = Vec::with_capacity(self.rest.unwrap_or(self.weight));
        while self.write(&mut whole, usize::MAX)? {}
        Ok(whole)
    }

    /// Appends up to `limit` bytes; returns false when nothing is left.
    fn write(&mut self, piece: &mut Vec<u8>, limit: usize) -> Result<bool, ApiError> {
        while piece.len() < limit {
            if self.current.is_empty() && !self.advance(piece)? {
                return Ok(false);
            }
            let size = self.current.len().min(limit.saturating_sub(piece.len()));
            piece.extend_from_slice(&self.current.split_to(size));
        }
        Ok(true)
    }

    /// Makes the next object, or the end of the list, the current bytes.
    fn advance(&mut self, piece: &mut Vec<u8>) -> Result<bool, ApiError> {
        let stage = self.stage;
        if matches!(stage, Stage::Closed | Stage::Done) {
            return Ok(false);
        }
        let Some(record) = self.records.next() else {
            self.stage = Stage::Closed;
            self.current = Bytes::from_static(CLOSING);
            return Ok(true);
        };
        if stage == Stage::Items {
            piece.push(b',');
        }
        self.stage = Stage::Items;
        self.current = self.item(&record)?;
        Ok(true)
    }

    fn item(&self, record: &Record<Meta>) -> Result<Bytes, ApiError> {
        let (resource, served) = self.found;
        if !self.converts() {
            return Ok(record.value.clone());
        }
        let mut object = render::parse(record)?;
        resource.encode(served, &mut object);
        Ok(Encoded::new(&object, served).at(record.revision))
    }

    /// Returns whether the objects are converted, which takes long for large ones.
    pub(super) fn converts(&self) -> bool {
        let (resource, served) = self.found;
        !std::ptr::eq(served, &resource.served[0])
    }

    /// The next piece; `None` at the end.
    pub(super) fn next_piece(&mut self) -> Result<Option<Bytes>, BoxError> {
        if self.stage == Stage::Done {
            return Ok(None);
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES.min(self.rest.unwrap_or(PIECE_BYTES)));
        let more = self.write(&mut piece, PIECE_BYTES)?;
        if let Some(rest) = &mut self.rest {
            *rest = rest.saturating_sub(piece.len());
        }
        if !more || self.rest == Some(0) {
            self.stage = Stage::Done;
        }
        let Some(gzip) = &mut self.gzip else { return Ok(Some(piece.into())) };
        gzip.write_all(&piece)?;
        if self.stage == Stage::Done {
            gzip.try_finish()?;
        } else if gzip.get_ref().is_empty() {
            // The client gets something of each piece, however small it becomes.
            gzip.flush()?;
        }
        Ok(Some(std::mem::take(gzip.get_mut()).into()))
    }
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = self.next_piece().map(|piece| piece.map(Frame::data));
        if piece.is_err() {
            self.stage = Stage::Done;
        }
        Poll::Ready(piece.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.stage == Stage::Done
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest {
            Some(rest) => SizeHint::with_exact(rest as u64),
            None => SizeHint::default(),
        }
    }
}
