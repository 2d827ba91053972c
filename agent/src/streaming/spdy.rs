//! A SPDY/3.1 connection, server side: the peer opens streams, we accept them.

use std::collections::HashMap;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::spdy_frame::{Decoder, Encoder, Frame, Headers};
use super::wire::{
    Connection, Inlet, Outgoing, Outlet, PIECE_BYTES, Piece, QUEUE_CHUNKS, QUEUE_PIECES, Room,
};

/// Streams open at the same time on one connection: two for each forwarded one.
const STREAMS_MAX: usize = 256;
/// RST_STREAM status "refused".
const REFUSED: u32 = 3;

/// A stream that the peer opened and we accepted.
pub(super) struct Stream {
    pub(super) headers: Headers,
    pub(super) inlet: Inlet,
    pub(super) outlet: Outlet,
    /// Cancelled when the peer breaks the stream off.
    pub(super) reset: CancellationToken,
}

impl Stream {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }
}

/// Speaks SPDY over `io` in tasks of its own until `closed`. Flow control is not enforced: clients of Kubernetes
/// never announce a usable window, and TCP's own back-pressure with our bounded queues does.
pub(super) fn serve<T>(io: T, closed: CancellationToken) -> (mpsc::Receiver<Stream>, Connection)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    let (queue, outgoing) = mpsc::channel(QUEUE_CHUNKS);
    let (opened, streams) = mpsc::channel(QUEUE_PIECES);
    tokio::spawn({
        let closed = closed.clone();
        async move {
            tokio::select! {
                () = write(writer, outgoing) => {}
                () = closed.cancelled() => {}
            }
        }
    });
    tokio::spawn({
        let (queue, closed) = (queue.downgrade(), closed.clone());
        async move {
            tokio::select! {
                () = read(reader, queue, opened) => {}
                () = closed.cancelled() => {}
            }
            closed.cancel();
        }
    });
    (streams, Connection { queue, closed })
}

struct Open {
    inlet: Option<mpsc::Sender<Piece>>,
    reset: CancellationToken,
}

async fn read<T: AsyncRead>(
    mut reader: ReadHalf<T>,
    queue: mpsc::WeakSender<Outgoing>,
    opened: mpsc::Sender<Stream>,
) {
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::new();
    let room = Room::new();
    let mut open: HashMap<u32, Open> = HashMap::new();
    let mut opened = Some(opened);
    loop {
        let frame = match decoder.decode(&mut buffer) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                buffer.reserve(PIECE_BYTES);
                match reader.read_buf(&mut buffer).await {
                    Ok(1..) => continue,
                    _ => return,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a SPDY peer broke the protocol");
                return;
            }
        };
        match frame {
            Frame::SynStream { id, headers, fin } => {
                // Nobody sends any more: the session is over.
                let Some(queue) = queue.upgrade() else { continue };
                open.retain(|_, open| open.inlet.as_ref().is_some_and(|i| !i.is_closed()));
                let wanted = opened.as_ref().filter(|o| !o.is_closed());
                let Some(accept) = wanted.filter(|_| open.len() < STREAMS_MAX) else {
                    opened = opened.filter(|o| !o.is_closed());
                    let _ = queue.send(Outgoing::Reset(id)).await;
                    continue;
                };
                let (sender, inlet) = mpsc::channel(QUEUE_PIECES);
                let reset = CancellationToken::new();
                let inlet_sender = (!fin).then_some(sender);
                open.insert(id, Open { inlet: inlet_sender, reset: reset.clone() });
                let _ = queue.send(Outgoing::Reply(id)).await;
                let outlet = Outlet { stream: id, queue };
                let _ = accept.send(Stream { headers, inlet, outlet, reset }).await;
            }
            Frame::Data { id, bytes, fin } => {
                let Some(stream) = open.get_mut(&id) else { continue };
                if let Some(inlet) = &stream.inlet
                    && !bytes.is_empty()
                {
                    room.queue(inlet, bytes).await;
                }
                if fin {
                    stream.inlet = None;
                }
            }
            Frame::Reset { id, .. } => {
                if let Some(stream) = open.remove(&id) {
                    stream.reset.cancel();
                }
            }
            Frame::Ping(id) => {
                // Odd pings are the client's; even ones would be echoes of our own.
                if id % 2 == 1
                    && let Some(queue) = queue.upgrade()
                {
                    let bytes = Bytes::copy_from_slice(&id.to_be_bytes());
                    let _ = queue.send(Outgoing::Pong(bytes)).await;
                }
            }
            Frame::GoAway { .. } | Frame::SynReply { .. } | Frame::Ignored => {}
        }
    }
}

async fn write<T: AsyncWrite>(mut writer: WriteHalf<T>, mut queue: mpsc::Receiver<Outgoing>) {
    let Ok(mut encoder) = Encoder::new() else { return };
    let mut buffer = BytesMut::new();
    while let Some(outgoing) = queue.recv().await {
        let frame = match outgoing {
            Outgoing::Data { stream, bytes, fin } => Frame::Data { id: stream, bytes, fin },
            Outgoing::Reply(id) => Frame::SynReply { id, headers: Vec::new() },
            Outgoing::Reset(id) => Frame::Reset { id, status: REFUSED },
            Outgoing::Pong(mut bytes) => Frame::Ping(bytes.try_get_u32().unwrap_or(0)),
            // Clients lose what they have not processed yet when they see GOAWAY or the end of
            // the connection; every stream is finished, so they hang up by themselves.
            Outgoing::Close => std::future::pending().await,
        };
        let written = match encoder.encode(&frame, &mut buffer) {
            Ok(()) => writer.write_all_buf(&mut buffer).await.is_ok(),
            Err(_) => false,
        };
        if !written || writer.flush().await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}
