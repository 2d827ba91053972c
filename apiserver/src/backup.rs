//! `/coracle/backup`: a copy of all stored objects as of one revision. Roles grant it as any path
//! that is about no resource; it holds every Secret.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use store::{ArchiveWriter, Record};

use crate::body::{self, Body};
use crate::meta::Meta;
use crate::server::ApiServer;

/// Bytes of a piece of the response, before the record that exceeds it.
const PIECE_BYTES: usize = 256 << 10;

/// Answers `GET /coracle/backup`.
pub(crate) fn answer(server: &ApiServer) -> Response<Body> {
    let (revision, records) = server.store.snapshot();
    let mut response =
        Response::new(body::stream(futures::stream::iter(pieces(revision, records))));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Encodes the records as the client takes them.
fn pieces(revision: u64, records: Vec<Arc<Record<Meta>>>) -> impl Iterator<Item = Bytes> {
    let mut piece = Vec::new();
    let mut writer = Some(ArchiveWriter::begin(revision, &mut piece));
    let mut records = records.into_iter();
    std::iter::from_fn(move || {
        let encoder = writer.as_mut()?;
        while piece.len() < PIECE_BYTES {
            let Some(record) = records.next() else {
                writer.take()?.end(&mut piece);
                return Some(std::mem::take(&mut piece).into());
            };
            encoder.record(&record.key, record.revision, &record.value, &mut piece);
        }
        Some(std::mem::take(&mut piece).into())
    })
}
