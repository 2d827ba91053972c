//! What sessions see of a connection, whichever protocol it speaks: byte queues in both directions.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Pieces that may wait in one stream for the process to read them.
pub(super) const QUEUE_PIECES: usize = 16;
/// Bytes of a piece that came in.
pub(super) const PIECE_BYTES: usize = 16 << 10;
/// Bytes that came in on one connection and wait, in all of its streams.
const ROOM_BYTES: usize = 256 << 10;
/// Chunks that may wait for a client that reads slowly, on one connection.
pub(super) const QUEUE_CHUNKS: usize = 4;
/// Bytes read at once from a process or socket.
const CHUNK_BYTES: usize = 32 << 10;

/// Something to be written to the connection.
pub(super) enum Outgoing {
    /// Bytes of a stream (a channel, for WebSockets), and whether they are its last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// Accepts a stream.
    Reply(u32),
    /// Refuses or breaks off a stream.
    Reset(u32),
    /// Answers a ping.
    Pong(Bytes),
    /// Announces the end of the connection.
    Close,
}

/// The queue of bytes that come in; closed when the peer has sent its last.
pub(super) type Inlet = mpsc::Receiver<Piece>;

/// Bytes that came in and count for their connection until they are dropped.
pub(super) struct Piece {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Room for what came in on one connection.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_BYTES)))
    }

    /// Waits until there is room for a piece, of which no more than [`PIECE_BYTES`] count, and queues
    /// it. A stream whose reader is gone discards the piece.
    pub(super) async fn queue(&self, inlet: &mpsc::Sender<Piece>, bytes: Bytes) {
        let count = u32::try_from(bytes.len().clamp(1, PIECE_BYTES)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let Ok(room) = self.0.clone().acquire_many_owned(count).await else { return };
        let _ = inlet.send(Piece { bytes, _room: room }).await;
    }
}

/// Where the bytes of one stream go out.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) stream: u32,
    pub(super) queue: mpsc::Sender<Outgoing>,
}

impl Outlet {
    /// Sends bytes; false when the connection is gone.
    pub(super) async fn send(&self, bytes: Bytes) -> bool {
        self.queue.send(Outgoing::Data { stream: self.stream, bytes, fin: false }).await.is_ok()
    }

    /// Ends the stream.
    pub(super) async fn finish(&self) {
        let last = Outgoing::Data { stream: self.stream, bytes: Bytes::new(), fin: true };
        // A connection that is gone needs no end of stream.
        let _ = self.queue.send(last).await;
    }

    /// Sends everything that `from` gives until its end, until the future that `stop` makes for
    /// each wait is done, or until the connection is gone.
    pub(super) async fn send_all(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        stop: impl Fn() -> BoxFuture<'static, ()>,
    ) {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = tokio::select! {
                biased;
                read = from.read(&mut buffer) => read,
                () = stop() => return,
            };
            // The end of a terminal is an error (EIO) to its reader.
            let Ok(count @ 1..) = read else { return };
            if !self.send(Bytes::copy_from_slice(&buffer[..count])).await {
                return;
            }
        }
    }
}

/// What is left of a connection once its streams are handed out.
pub(super) struct Connection {
    pub(super) queue: mpsc::Sender<Outgoing>,
    /// Cancelled when the peer is gone.
    pub(super) closed: CancellationToken,
}

impl Connection {
    /// Says goodbye and gives the peer a moment to hang up first, so that nothing in flight is
    /// lost to a reset.
    pub(super) async fn close(self) {
        const GOODBYE: std::time::Duration = std::time::Duration::from_secs(5);
        let _ = self.queue.send(Outgoing::Close).await;
        drop(self.queue);
        let _ = tokio::time::timeout(GOODBYE, self.closed.cancelled()).await;
        self.closed.cancel();
    }
}
