//! The agent's side of a connection to a shim.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::protocol::{
    self, Answer, Event, Failure, HEADER_BYTES, MAX_DESCRIPTORS, Message, Operation, Request,
};
use crate::{Error, Result};

/// Requests that wait to be written to one shim.
const MAX_QUEUED_REQUESTS: usize = 64;

type Reply = (std::result::Result<Answer, Failure>, Vec<OwnedFd>);

/// The messages of a connection that answer no request.
pub(crate) enum News {
    /// The shim reports.
    Event(Event),
    /// The shim has closed the connection: it is gone.
    Gone,
    /// This side of the connection has failed; the shim may run.
    Failed,
}

/// A connection; requests of many tasks share it.
pub(crate) struct Link {
    sandbox: String,
    stream: UnixStream,
    /// Messages for the shim; a task of their own writes them, so that a caller that gives up leaves
    /// none half written.
    outgoing: mpsc::Sender<(Vec<u8>, Vec<OwnedFd>)>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    next: AtomicU64,
    closed: AtomicBool,
    /// True if the end of the connection is of no interest.
    abandoned: AtomicBool,
}

/// Drops the entry of a request that is answered or given up.
struct Forget<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.link.waiting().remove(&self.id);
    }
}

impl Link {
    /// Takes over a connected socket. `on_news` gets each event, and one of the ends.
    pub fn new(
        sandbox: String,
        stream: std::os::unix::net::UnixStream,
        on_news: impl Fn(News) + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        stream.set_nonblocking(true)?;
        let (outgoing, queue) = mpsc::channel(MAX_QUEUED_REQUESTS);
        let link = Arc::new(Self {
            sandbox,
            stream: UnixStream::from_std(stream)?,
            outgoing,
            waiting: Mutex::new(HashMap::new()),
            next: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
        });
        let writer = Arc::clone(&link);
        let writing = tokio::spawn(async move {
            let written = AssertUnwindSafe(writer.write_all(queue)).catch_unwind().await;
            if written.is_err() {
                tracing::error!(sandbox = writer.sandbox, "writing to a shim panicked");
            }
            // The reader ends the connection.
            writer.close();
            written.is_err()
        });
        let reader = Arc::clone(&link);
        tokio::spawn(async move {
            let read = AssertUnwindSafe(reader.read(&on_news)).catch_unwind().await;
            match &read {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(sandbox = reader.sandbox, %error, "reading from a shim failed");
                }
                Err(_) => tracing::error!(sandbox = reader.sandbox, "reading from a shim panicked"),
            }
            reader.close();
            writing.abort();
            reader.closed.store(true, Ordering::SeqCst);
            // Requests that wait for an answer get an error.
            reader.waiting().clear();
            if reader.abandoned.load(Ordering::SeqCst) {
                return;
            }
            let closed = match read {
                Ok(Ok(())) => true,
                Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionReset,
                Err(_) => false,
            };
            let failed = !closed || matches!(writing.await, Ok(true));
            on_news(if failed { News::Failed } else { News::Gone });
        });
        Ok(link)
    }

    /// Whether the shim still answers.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::SeqCst)
    }

    /// Asks the shim for something and waits for the answer.
    pub async fn request(
        &self,
        operation: Operation,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(id, sender);
        let bytes = protocol::encode(&Request { id, operation }, descriptors.len())
            .map_err(|source| Error::Malformed { what: "request", source })?;
        let _forget = Forget { link: self, id };
        if !self.is_open() || self.outgoing.send((bytes, descriptors)).await.is_err() {
            return Err(self.lost());
        }
        if !self.is_open() {
            return Err(self.lost());
        }
        let (result, descriptors) = receiver.await.map_err(|_| self.lost())?;
        match result {
            Ok(answer) => Ok((answer, descriptors)),
            Err(Failure::Launch(error)) => Err(Error::Launch(error)),
            Err(Failure::NotFound(id)) => Err(Error::NotFound(id)),
            Err(Failure::State(state)) => {
                Err(Error::Shim(protocol::Refusal { message: state, errno: 0 }))
            }
            Err(Failure::Refused(refusal)) => Err(Error::Shim(refusal)),
        }
    }

    /// Ends the connection.
    pub fn close(&self) {
        let socket = self.stream.as_raw_fd();
        let _ = nix::sys::socket::shutdown(socket, nix::sys::socket::Shutdown::Both);
    }

    /// Ends the connection without any news of that.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.close();
    }

    fn lost(&self) -> Error {
        Error::ShimLost(self.sandbox.clone())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Reply>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_all(&self, mut queue: mpsc::Receiver<(Vec<u8>, Vec<OwnedFd>)>) {
        while let Some((bytes, descriptors)) = queue.recv().await {
            if let Err(error) = self.write(&bytes, descriptors).await {
                tracing::debug!(sandbox = self.sandbox, %error, "writing to the shim failed");
                return;
            }
        }
    }

    async fn write(&self, bytes: &[u8], mut descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            self.stream.writable().await?;
            let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
            let result = self.stream.try_io(Interest::WRITABLE, || {
                let rights = [ControlMessage::ScmRights(&raw)];
                let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
                let slices = [IoSlice::new(&bytes[sent..])];
                let flags = MsgFlags::MSG_NOSIGNAL;
                Ok(sendmsg::<UnixAddr>(self.stream.as_raw_fd(), &slices, control, flags, None)?)
            });
            match result {
                Ok(count) => {
                    sent += count;
                    descriptors.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read(&self, on_news: &(impl Fn(News) + Send + Sync)) -> io::Result<()> {
        const READ_BYTES: usize = 4 << 10;
        let mut received = Vec::new();
        let mut descriptors = VecDeque::new();
        loop {
            self.stream.readable().await?;
            let start = received.len();
            received.resize(start + READ_BYTES, 0);
            let result = self.stream.try_io(Interest::READABLE, || {
                self.receive(&mut received[start..], &mut descriptors)
            });
            match result {
                Ok(0) => return Ok(()),
                Ok(count) => received.truncate(start + count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    received.truncate(start);
                    continue;
                }
                Err(error) => return Err(error),
            }
            while let Some((end, count)) = protocol::frame(&received).map_err(io::Error::other)? {
                if received.len() < end || descriptors.len() < count {
                    break;
                }
                let message = serde_json::from_slice(&received[HEADER_BYTES..end])?;
                received.drain(..end);
                let own: Vec<OwnedFd> = descriptors.drain(..count).collect();
                match message {
                    Message::Event(event) => on_news(News::Event(event)),
                    Message::Reply { id, result } => {
                        if let Some(waiting) = self.waiting().remove(&id) {
                            // Nobody waits any more: the caller was cancelled.
                            let _ = waiting.send((result, own));
                        }
                    }
                }
            }
            received.shrink_to(READ_BYTES);
        }
    }

    fn receive(&self, buffer: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        let mut slices = [IoSliceMut::new(buffer)];
        let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let message = recvmsg::<UnixAddr>(
            self.stream.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(fds) = control {
                descriptors.extend(fds.into_iter().map(crate::sys::own));
            }
        }
        Ok(message.bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::sandbox::Exit;

    /// A request that waits for an answer would wait for ever.
    #[tokio::test]
    async fn panic_of_the_reader_fails_its_callers() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (sender, mut ends) = mpsc::unbounded_channel();
        let link = Link::new("s".to_owned(), ours, move |news| match news {
            News::Event(_) => panic!("by the test"),
            end => sender.send(end).unwrap(),
        });
        let link = link.unwrap();
        let caller = Arc::clone(&link);
        let request =
            tokio::spawn(async move { caller.request(Operation::Status, Vec::new()).await });
        tokio::task::yield_now().await;
        let exit = Exit {
            code: 0,
            signal: None,
            oom_killed: false,
            finished_at: std::time::SystemTime::UNIX_EPOCH,
        };
        let event = Message::Event(Event::Exited { container: "c".to_owned(), exit });
        theirs.write_all(&protocol::encode(&event, 0).unwrap()).unwrap();
        let answered = tokio::time::timeout(Duration::from_secs(10), request).await;
        assert!(matches!(answered.unwrap().unwrap(), Err(Error::ShimLost(_))));
        assert!(matches!(ends.recv().await, Some(News::Failed)));
        assert!(!link.is_open());
        assert!(link.request(Operation::Status, Vec::new()).await.is_err());
    }

    #[tokio::test]
    async fn end_of_the_shim_is_no_failure() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (sender, mut ends) = mpsc::unbounded_channel();
        let _link = Link::new("s".to_owned(), ours, move |news| sender.send(news).unwrap());
        drop(theirs);
        assert!(matches!(ends.recv().await, Some(News::Gone)));
    }
}
