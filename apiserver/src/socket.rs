//! TCP connections of clients. They tell that the client is gone also while the session does not read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Time between two checks that the client of an upgraded connection is still there.
const GONE_INTERVAL: Duration = Duration::from_secs(2);

/// The connection of a client.
pub(crate) struct Socket {
    incoming: Arc<Incoming>,
    outgoing: OwnedWriteHalf,
}

/// The bytes that the client sends. Reading needs the half for itself; the lock is never waited for.
#[derive(Debug)]
struct Incoming {
    half: Mutex<OwnedReadHalf>,
    read_bytes: AtomicUsize,
}

/// The client at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Client(Weak<Incoming>);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let (half, outgoing) = stream.into_split();
        let incoming = Incoming { half: Mutex::new(half), read_bytes: AtomicUsize::new(0) };
        Self { incoming: Arc::new(incoming), outgoing }
    }

    pub(crate) fn client(&self) -> Client {
        Client(Arc::downgrade(&self.incoming))
    }
}

impl Incoming {
    fn has_closed(&self) -> bool {
        let half = self.half.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = half.ready(Interest::READABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(|r| r.is_read_closed()))
    }
}

impl Client {
    /// Waits until the client has closed its end and nothing more of what it sent is being read: a
    /// session whose process does not read would never come to the end.
    pub(crate) async fn gone(&self) {
        let mut read_before = None;
        loop {
            tokio::time::sleep(GONE_INTERVAL).await;
            let Some(incoming) = self.0.upgrade() else { return };
            let read = incoming.read_bytes.load(Ordering::Relaxed);
            if incoming.has_closed() && read_before == Some(read) {
                return;
            }
            read_before = Some(read);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let mut half = self.incoming.half.lock().unwrap_or_else(PoisonError::into_inner);
        ready!(Pin::new(&mut *half).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        self.incoming.read_bytes.fetch_add(count, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.outgoing).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.outgoing).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.outgoing.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.outgoing).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.outgoing).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, Socket::new(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn bytes_pass_in_both_directions() {
        let (mut client, mut socket) = pair().await;
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let sent = content.clone();
        let echo = tokio::spawn(async move {
            let mut all = Vec::new();
            socket.read_to_end(&mut all).await.unwrap();
            socket.write_all(&all).await.unwrap();
            socket.shutdown().await.unwrap();
        });
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        echo.await.unwrap();
        assert!(back == content);
    }

    #[tokio::test]
    async fn departed_client_is_noticed_behind_unread_bytes() {
        let (mut client, mut socket) = pair().await;
        client.write_all(&[7; 10_000]).await.unwrap();
        let mut start = [0; 10];
        socket.read_exact(&mut start).await.unwrap();
        let peer = socket.client();
        assert!(timeout(2 * GONE_INTERVAL, peer.gone()).await.is_err(), "it is there");
        drop(client);
        timeout(4 * GONE_INTERVAL, peer.gone()).await.unwrap();
    }
}
