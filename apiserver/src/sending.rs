//! Response bodies on their way to clients: sent in pieces, and counted until the client has taken
//! them. A client that reads slowly makes room when others need it.

mod open;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};

use crate::body::{self, Body, BoxError};
use crate::budget::{Budget, Full, Lease};
use crate::error::ApiError;
use open::{Due, Open};

/// Bytes of a body that are handed to a connection, or encoded, at a time.
pub(crate) const PIECE_BYTES: usize = 64 << 10;
/// The last bytes of a frame, which are a piece of their own. HTTP/2 takes it when the pieces before
/// it are nearly sent; so what is not counted any more is small.
const TAIL_BYTES: usize = 1 << 10;
/// Bytes of large responses that clients have not taken yet.
const LARGE_BYTES_MAX: usize = 128 << 20;
/// Bytes of large responses that the clients of one user have not taken yet.
const USER_LARGE_BYTES_MAX: usize = 32 << 20;
/// Bytes of responses, and of frames of watches and logs, that fit into one piece. They have a bound
/// of their own, so that large responses are not in their way.
const SMALL_BYTES_MAX: usize = 64 << 20;
/// Bytes of these for the clients of one user.
const USER_SMALL_BYTES_MAX: usize = 16 << 20;
/// Bytes of large responses to small writes that a user has not taken yet, beyond which it may not
/// write.
const USER_WRITTEN_BYTES_MAX: usize = 8 << 20;
/// Time that a client may take for nothing before its response may be broken off for another.
const SLOW_AFTER: Duration = Duration::from_secs(3);
/// Bytes that a client takes in a second, at least, when its response is to stay.
const SLOW_BYTES_PER_SECOND: usize = 256 << 10;
/// Longest time that a watch or log waits for room before it ends. A large object that was replaced
/// meanwhile is kept for so long.
const ROOM_WAIT: Duration = Duration::from_secs(2);
const ROOM_POLL: Duration = Duration::from_millis(50);

/// Among a response's extensions: the bytes that it keeps in memory, where they are not those of its
/// body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight(pub(crate) usize);

/// Among the extensions of a response that lasts: the bytes that it keeps in memory until `sent`.
#[derive(Clone, Debug)]
pub(crate) struct Beginning {
    pub(crate) bytes: usize,
    pub(crate) sent: Arc<AtomicBool>,
}

/// The purpose of a lease.
enum Kind {
    /// The whole response.
    Complete,
    /// The first bytes that a watch or log keeps; once they are sent, it is a stream.
    Beginning(Arc<AtomicBool>),
    /// The frame that the client is to take next.
    Stream,
}

/// The responses that are being sent.
#[derive(Clone)]
pub(crate) struct Responses(Arc<Shared>);

struct Shared {
    large: Room,
    small: Room,
    /// Large responses to small writes that were done, however much room there is.
    written: Room,
    slow_after: Duration,
    room_wait: Duration,
}

/// The bytes for responses of one size, and the responses that hold them.
struct Room {
    budget: Budget,
    open: Mutex<Open>,
}

impl Room {
    fn new(total: usize, per_user: usize) -> Self {
        Self { budget: Budget::new(total, per_user), open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing that holds the lock panics.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Responses {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            large: Room::new(LARGE_BYTES_MAX, USER_LARGE_BYTES_MAX),
            small: Room::new(SMALL_BYTES_MAX, USER_SMALL_BYTES_MAX),
            written: Room::new(usize::MAX, USER_WRITTEN_BYTES_MAX),
            slow_after: SLOW_AFTER,
            room_wait: ROOM_WAIT,
        }))
    }

    /// Bytes of all responses.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let rooms = [&self.0.large, &self.0.small, &self.0.written];
        rooms.iter().map(|room| room.budget.held()).sum()
    }

    /// Room for a response of so many bytes; others that are slow make room. One response is always
    /// possible when nothing else is being sent, so that every collection can be listed.
    pub(crate) fn room(&self, holder: &Arc<str>, bytes: usize) -> Result<Lease, ApiError> {
        self.take(holder, bytes).ok_or_else(ApiError::too_many)
    }

    /// Room for the response to a write, of which so many bytes are expected. There is none while the
    /// holder's responses take more than its part, as those to writes may.
    pub(crate) fn room_to_write(&self, holder: &Arc<str>, bytes: usize) -> Result<Lease, ApiError> {
        if self.has_too_much(holder) { Err(ApiError::too_many()) } else { self.room(holder, bytes) }
    }

    /// Returns whether a holder's responses to writes take more than its part, and none of them is slow.
    fn has_too_much(&self, holder: &Arc<str>) -> bool {
        while self.0.written.budget.is_over(holder) {
            let mut open = self.0.written.lock();
            let slowest = open.take_slowest(Some(holder), self.0.slow_after, Instant::now());
            drop(open);
            if slowest.is_none() {
                return true;
            }
        }
        false
    }

    /// Sends the response to a read; refuses it without room.
    pub(crate) fn send(
        &self,
        response: Response<Body>,
        holder: &Arc<str>,
    ) -> Result<Response<Body>, ApiError> {
        let lease = self.room(holder, bytes_of(&response))?;
        Ok(self.wrap(response, lease, Kind::Complete))
    }

    /// Sends the response to a write that was done, of which the client must learn. Its room was
    /// taken before and becomes what the response takes, which may be more than was expected: a large
    /// one never takes the room of small ones.
    pub(crate) fn send_in(&self, response: Response<Body>, mut room: Lease) -> Response<Body> {
        let mut response = response;
        if response.status().is_client_error() && self.has_too_much(room.holder()) {
            response = body::failure(&ApiError::too_many());
        }
        let bytes = bytes_of(&response);
        if bytes > PIECE_BYTES && room.budget().is(&self.0.small.budget) {
            room = self.0.written.budget.lease(room.holder());
        }
        room.set(bytes);
        self.wrap(response, room, Kind::Complete)
    }

    /// Sends a response that lasts; refuses it without room for its beginning.
    pub(crate) fn stream(
        &self,
        response: Response<Body>,
        holder: &Arc<str>,
    ) -> Result<Response<Body>, ApiError> {
        let beginning = response.extensions().get::<Beginning>().cloned();
        let (lease, kind) = match beginning.filter(|beginning| beginning.bytes > 0) {
            Some(Beginning { bytes, sent }) => (self.room(holder, bytes)?, Kind::Beginning(sent)),
            None => (self.0.small.budget.lease(holder), Kind::Stream),
        };
        Ok(self.wrap(response, lease, kind))
    }

    fn wrap(&self, response: Response<Body>, lease: Lease, kind: Kind) -> Response<Body> {
        if response.body().is_end_stream() {
            return response;
        }
        response.map(|body| {
            let since = Instant::now();
            let held = Held { body, left: Bytes::new(), lease, since, sent: 0, due: None };
            let flow = Arc::new(Flow(Mutex::new(Some(held))));
            if let Some(held) = flow.lock().as_mut() {
                self.enter(&flow, held);
            }
            Sending { flow, responses: self.clone(), kind, wait: None }.boxed_unsync()
        })
    }

    /// Adds a response that holds bytes to those that may have to make room.
    fn enter(&self, flow: &Arc<Flow>, held: &mut Held) {
        if held.lease.amount() > 0 {
            let at = held.slow_at(self.0.slow_after);
            held.due = Some(self.room_of(&held.lease).lock().enter(at, held.lease.holder(), flow));
        }
    }

    /// Removes a response from these, before its bytes are given back.
    fn leave(&self, held: &mut Held) {
        if let Some(due) = held.due.take() {
            self.room_of(&held.lease).lock().leave(due, held.lease.holder());
        }
    }

    fn room_of(&self, lease: &Lease) -> &Room {
        let rooms = [&self.0.large, &self.0.written];
        rooms.into_iter().find(|room| lease.budget().is(&room.budget)).unwrap_or(&self.0.small)
    }

    fn room_for(&self, bytes: usize) -> &Room {
        if bytes > PIECE_BYTES { &self.0.large } else { &self.0.small }
    }

    fn take(&self, holder: &Arc<str>, bytes: usize) -> Option<Lease> {
        let room = self.room_for(bytes);
        let mut lease = room.budget.lease(holder);
        while let Err(full) = lease.grow_or_alone(bytes) {
            let of = (full == Full::Holder).then_some(holder);
            let slowest = room.lock().take_slowest(of, self.0.slow_after, Instant::now())?;
            tracing::debug!(user = %slowest.lease.holder(), "a slow response is broken off");
        }
        Some(lease)
    }
}

/// The result of polling a body.
type Polled = Option<Result<Frame<Bytes>, BoxError>>;

/// Bytes that a response keeps in memory.
fn bytes_of(response: &Response<Body>) -> usize {
    let weight = response.extensions().get::<Weight>().map(|weight| weight.0);
    let exact = response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    weight.or(exact).unwrap_or(PIECE_BYTES)
}

/// The part of a response that is kept in memory; `None` once it was broken off.
struct Flow(Mutex<Option<Held>>);

struct Held {
    body: Body,
    /// The rest of the last frame.
    left: Bytes,
    lease: Lease,
    /// The time at which the client could begin to take what is counted, and the bytes since.
    since: Instant,
    sent: usize,
    /// Its place among the responses that hold bytes; `None` while it holds none.
    due: Option<Due>,
}

impl Flow {
    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reason why a response ended early.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error("the client took the response too slowly, and others needed the memory")]
    Slow,
    #[error("there was no memory for the next part of the response")]
    NoRoom,
}

impl Held {
    /// The time from which the client is slow, unless it takes more until then.
    fn slow_at(&self, slow_after: Duration) -> Instant {
        let seconds = u32::try_from(self.sent / SLOW_BYTES_PER_SECOND).unwrap_or(u32::MAX);
        self.since + slow_after + Duration::from_secs(u64::from(seconds))
    }

    /// Waits for the next frame of the body; returns its end, an error or trailers as they come.
    fn fill(&mut self, context: &mut Context<'_>) -> Poll<Option<Polled>> {
        while self.left.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(Some(end)),
            };
            match frame.into_data() {
                Ok(data) => self.left = data,
                Err(trailers) => return Poll::Ready(Some(Some(Ok(trailers)))),
            }
        }
        Poll::Ready(None)
    }

    fn next_piece(&mut self) -> Bytes {
        let left = self.left.len();
        let size = if left <= TAIL_BYTES { left } else { PIECE_BYTES.min(left - TAIL_BYTES) };
        self.sent += size;
        self.left.split_to(size)
    }
}

/// A body that is handed out in pieces and holds its lease until it is taken.
struct Sending {
    flow: Arc<Flow>,
    responses: Responses,
    kind: Kind,
    wait: Option<Wait>,
}

impl Kind {
    /// Returns whether the lease is for the next frame, as it is once the beginning is sent.
    fn is_stream(&mut self) -> bool {
        if let Self::Beginning(sent) = self
            && sent.load(Ordering::Acquire)
        {
            *self = Self::Stream;
        }
        matches!(self, Self::Stream)
    }
}

/// A wait for room.
struct Wait {
    until: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Wait {
    fn new(wait: Duration) -> Self {
        Self { until: Instant::now() + wait, sleep: Box::pin(tokio::time::sleep(ROOM_POLL)) }
    }

    /// Waits until it is time to try again; returns whether it is worth it.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        ready!(self.sleep.as_mut().poll(context));
        let now = Instant::now();
        self.sleep.as_mut().reset(now + ROOM_POLL);
        Poll::Ready(now < self.until)
    }
}

impl Sending {
    /// Waits until the frame that has come has room. A watch or log does not fail because many
    /// clients get the same large object at the same time.
    fn admit(
        responses: &Responses,
        wait: &mut Option<Wait>,
        held: &mut Held,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), BrokenOff>> {
        let (bytes, holder) = (held.left.len(), held.lease.holder().clone());
        let lease = loop {
            if let Some(lease) = responses.take(&holder, bytes) {
                break lease;
            }
            let wait = wait.get_or_insert_with(|| Wait::new(responses.0.room_wait));
            if !ready!(wait.poll(context)) {
                return Poll::Ready(Err(BrokenOff::NoRoom));
            }
        };
        held.lease = lease;
        *wait = None;
        (held.since, held.sent) = (Instant::now(), 0);
        Poll::Ready(Ok(()))
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut state = this.flow.lock();
        let Some(held) = state.as_mut() else {
            return Poll::Ready(Some(Err(BrokenOff::Slow.into())));
        };
        if held.left.is_empty() && this.kind.is_stream() {
            this.responses.leave(held);
            held.lease.set(0);
        }
        if let Some(other) = ready!(held.fill(context)) {
            return Poll::Ready(other);
        }
        if matches!(this.kind, Kind::Stream) && held.lease.amount() == 0 {
            let admitted = Self::admit(&this.responses, &mut this.wait, held, context);
            if let Err(error) = ready!(admitted) {
                *state = None;
                return Poll::Ready(Some(Err(error.into())));
            }
            this.responses.enter(&this.flow, held);
        }
        Poll::Ready(Some(Ok(Frame::data(held.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.flow.lock();
        state.as_ref().is_some_and(|held| held.left.is_empty() && held.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.flow.lock();
        let Some(held) = state.as_ref() else { return SizeHint::default() };
        let (rest, left) = (held.body.size_hint(), held.left.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + left);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + left);
        }
        hint
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let held = self.flow.lock().take();
        if let Some(mut held) = held {
            self.responses.leave(&mut held);
        }
    }
}

#[cfg(test)]
mod tests;
