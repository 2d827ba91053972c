//! Bodies that are recorded while they pass.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use super::event::Raw;
use super::trail::Trail;
use crate::body::{Body, BoxError};

/// Bytes of one body that are recorded (upstream's default bound of an event).
pub(super) const MAX_BODY_BYTES: usize = 10 << 20;

/// The side of the exchange that a body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// Returns the body, which hands what passes to the trail; the end of a response ends the trail.
pub(super) fn tee(inner: Body, trail: Arc<Trail>, side: Side, records: bool) -> Body {
    Tee { inner, trail, side, records, kept: 0 }.boxed_unsync()
}

struct Tee {
    inner: Body,
    trail: Arc<Trail>,
    side: Side,
    records: bool,
    /// Bytes that are recorded.
    kept: usize,
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref().filter(|_| self.records)
        {
            self.kept += data.len();
            let kept = (self.kept <= MAX_BODY_BYTES).then(|| data.clone());
            self.trail.record(self.side, kept);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        if self.side == Side::Response {
            self.trail.complete();
        }
    }
}

impl Raw {
    /// Adds a piece; `None` is one too many.
    pub(super) fn add(&mut self, piece: Option<Bytes>) {
        match piece {
            Some(piece) if !self.is_cut => self.pieces.push(piece),
            Some(_) => {}
            None => {
                self.is_cut = true;
                self.pieces.clear();
            }
        }
    }
}
