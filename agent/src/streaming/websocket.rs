//! WebSocket connections, server side: the numbered channels of `channel.k8s.io`, and a tunnel for
//! raw bytes.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::websocket_frame::{Decoder, Message, Opcode, encode};
use super::wire::{
    Connection, Inlet, Outgoing, PIECE_BYTES, Piece, QUEUE_CHUNKS, QUEUE_PIECES, Room,
};

pub(super) const STDIN: u32 = 0;
pub(super) const STDOUT: u32 = 1;
pub(super) const STDERR: u32 = 2;
pub(super) const ERROR: u32 = 3;
pub(super) const RESIZE: u32 = 4;
/// The first byte of a v5 message that closes the channel in its second.
const CLOSE_CHANNEL: u8 = 255;
/// Bytes in flight in each direction of a tunnel.
const TUNNEL_BYTES: usize = 64 << 10;

/// Speaks one of the `channel.k8s.io` protocols over `io` in tasks of its own until `closed`; hands
/// out what comes in on each of the channels `inward`, in their order.
pub(super) fn channels<T>(
    io: T,
    base64: bool,
    inward: &[u32],
    closed: CancellationToken,
) -> (Vec<Inlet>, Connection)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    let (queue, outgoing) = mpsc::channel(QUEUE_CHUNKS);
    let mut senders = HashMap::new();
    let mut inlets = Vec::new();
    for &channel in inward {
        let (sender, inlet) = mpsc::channel(QUEUE_PIECES);
        senders.insert(channel, sender);
        inlets.push(inlet);
    }
    tokio::spawn({
        let closed = closed.clone();
        async move {
            tokio::select! {
                () = write(writer, outgoing, base64) => {}
                () = closed.cancelled() => {}
            }
        }
    });
    tokio::spawn({
        let (queue, closed) = (queue.downgrade(), closed.clone());
        async move {
            tokio::select! {
                () = read(reader, queue, Channels::new(senders, base64)) => {}
                () = closed.cancelled() => {}
            }
            closed.cancel();
        }
    });
    (inlets, Connection { queue, closed })
}

async fn read<T: AsyncRead>(
    mut reader: ReadHalf<T>,
    queue: mpsc::WeakSender<Outgoing>,
    mut channels: Channels,
) {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    while let Some(message) = next(&mut reader, &mut decoder, &mut buffer).await {
        match message {
            Message::Data { bytes, first, last } => {
                if channels.take(bytes, first, last).await.is_none() {
                    return;
                }
            }
            Message::Ping(bytes) => {
                if let Some(queue) = queue.upgrade() {
                    let _ = queue.send(Outgoing::Pong(bytes)).await;
                }
            }
            Message::Pong => {}
            Message::Close => return,
        }
    }
}

/// The receivers of the pieces of messages.
struct Channels {
    senders: HashMap<u32, mpsc::Sender<Piece>>,
    base64: bool,
    room: Room,
    /// The channel of the message that is being taken, which its first byte names.
    channel: Option<u8>,
    /// In base64: digits that do not make up a group yet.
    digits: Vec<u8>,
}

impl Channels {
    fn new(senders: HashMap<u32, mpsc::Sender<Piece>>, base64: bool) -> Self {
        Self { senders, base64, room: Room::new(), channel: None, digits: Vec::new() }
    }

    /// Hands a piece of a message on; `None` when the client broke the protocol.
    async fn take(&mut self, mut bytes: Bytes, first: bool, last: bool) -> Option<()> {
        if first {
            self.channel = None;
            self.digits.clear();
        }
        if self.channel.is_none() && !bytes.is_empty() {
            self.channel = Some(bytes.split_to(1)[0]);
        }
        let Some(channel) = self.channel else { return Some(()) };
        if channel == CLOSE_CHANNEL {
            if let Some(&closed) = bytes.first() {
                self.senders.remove(&u32::from(closed));
            }
            return Some(());
        }
        // In base64 the channel is a digit.
        let channel = if self.base64 { channel.wrapping_sub(b'0') } else { channel };
        let bytes = if self.base64 { self.decode(&bytes, last)? } else { bytes };
        if let Some(sender) = self.senders.get(&u32::from(channel)).filter(|_| !bytes.is_empty()) {
            self.room.queue(sender, bytes).await;
        }
        Some(())
    }

    /// Decodes what is there in whole groups of digits, and at the end the rest.
    fn decode(&mut self, digits: &[u8], last: bool) -> Option<Bytes> {
        const GROUP: usize = 4;
        self.digits.extend_from_slice(digits);
        let count = self.digits.len();
        let whole = if last { count } else { count - count % GROUP };
        let bytes = STANDARD.decode(&self.digits[..whole]).ok()?;
        self.digits.drain(..whole);
        Some(bytes.into())
    }
}

async fn next<T: AsyncRead>(
    reader: &mut ReadHalf<T>,
    decoder: &mut Decoder,
    buffer: &mut BytesMut,
) -> Option<Message> {
    loop {
        match decoder.decode(buffer) {
            Ok(Some(message)) => return Some(message),
            Ok(None) => {
                buffer.reserve(PIECE_BYTES);
                match reader.read_buf(buffer).await {
                    Ok(1..) => {}
                    _ => return None,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a WebSocket peer broke the protocol");
                return None;
            }
        }
    }
}

async fn write<T: AsyncWrite>(
    mut writer: WriteHalf<T>,
    mut queue: mpsc::Receiver<Outgoing>,
    base64: bool,
) {
    let mut buffer = BytesMut::new();
    while let Some(outgoing) = queue.recv().await {
        match outgoing {
            // Channels other than standard input have no end of their own.
            Outgoing::Data { fin: true, .. } | Outgoing::Reply(_) | Outgoing::Reset(_) => continue,
            Outgoing::Data { stream, bytes, .. } if base64 => {
                let text = STANDARD.encode(bytes);
                encode(Opcode::Text, &[&[b'0' + stream as u8], text.as_bytes()], &mut buffer);
            }
            Outgoing::Data { stream, bytes, .. } => {
                encode(Opcode::Binary, &[&[stream as u8], &bytes], &mut buffer);
            }
            Outgoing::Pong(bytes) => encode(Opcode::Pong, &[&bytes], &mut buffer),
            Outgoing::Close => break,
        }
        if writer.write_all_buf(&mut buffer).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    encode(Opcode::Close, &[&1000_u16.to_be_bytes()], &mut buffer);
    let _ = writer.write_all_buf(&mut buffer).await;
    let _ = writer.flush().await;
}

/// Carries a byte stream in binary messages.
pub(super) fn tunnel<T>(io: T) -> DuplexStream
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    let (near, far) = tokio::io::duplex(TUNNEL_BYTES);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    let (pongs, mut pong) = mpsc::channel::<Bytes>(QUEUE_CHUNKS);
    let ended = CancellationToken::new();
    tokio::spawn({
        let ended = ended.clone();
        async move {
            let mut decoder = Decoder::default();
            let mut buffer = BytesMut::new();
            loop {
                let message = tokio::select! {
                    message = next(&mut reader, &mut decoder, &mut buffer) => message,
                    () = ended.cancelled() => break,
                };
                match message {
                    Some(Message::Data { bytes, .. }) => {
                        if to_near.write_all(&bytes).await.is_err() {
                            break;
                        }
                    }
                    Some(Message::Ping(bytes)) => drop(pongs.send(bytes).await),
                    Some(Message::Pong) => {}
                    Some(Message::Close) | None => break,
                }
            }
            let _ = to_near.shutdown().await;
            ended.cancel();
        }
    });
    tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        let mut chunk = vec![0; 32 << 10];
        loop {
            tokio::select! {
                read = from_near.read(&mut chunk) => match read {
                    Ok(count @ 1..) => encode(Opcode::Binary, &[&chunk[..count]], &mut buffer),
                    _ => break,
                },
                Some(bytes) = pong.recv() => encode(Opcode::Pong, &[&bytes], &mut buffer),
                () = ended.cancelled() => break,
            }
            if writer.write_all_buf(&mut buffer).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
        encode(Opcode::Close, &[&1000_u16.to_be_bytes()], &mut buffer);
        let _ = writer.write_all_buf(&mut buffer).await;
        let _ = writer.shutdown().await;
        // Whoever still reads gets a moment to see the end.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), ended.cancelled()).await;
        ended.cancel();
    });
    near
}
