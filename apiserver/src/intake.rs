//! The bounds on what requests from outside the process hold at the same time: places, bytes of
//! bodies, and turns for work whose cost the client chooses. No user takes it all from the others.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::body::{self, Body};
use crate::budget::{Budget, Lease};
use crate::error::ApiError;
use crate::heavy::{self, HEAVY_BYTES};
use crate::locks::Locks;
use crate::security::{User, service_account};
use crate::sending::Responses;
use crate::spending::Spending;

/// One user gets at most one part in so many of the places of requests and streams.
const USER_PART: usize = 2;
/// Watches, logs and other streams that are open at the same time.
const STREAMS_MAX: usize = 4096;
/// Upgraded connections (exec, attach, port-forward and those of applications) at the same time: each
/// may hold half a MiB for a client that does not read.
const SESSIONS_MAX: usize = 256;
/// Descriptors of one of these besides that of its connection: the pipes of its process.
const SESSION_DESCRIPTORS: usize = 4;
/// Of the process' descriptors, one in so many is for these.
const SESSION_DESCRIPTORS_PART: usize = 4;
/// Logs, proxied requests and other streams to nodes and pods that are open at the same time. Each
/// holds some 300 KiB on its way when its client does not read.
const TUNNELS_MAX: usize = 512;
/// Streams to nodes and pods that are open at the same time for one user.
const USER_TUNNELS_MAX: usize = 128;
/// Of the process' descriptors, one in so many is for streams to nodes and pods. A log has two besides
/// its connection.
const TUNNELS_PART: usize = 16;
/// Bytes of request bodies that are held at the same time.
const BODIES_BYTES_MAX: usize = 64 << 20;
/// Bytes of request bodies that are held at the same time for one user.
const USER_BODIES_BYTES_MAX: usize = 16 << 20;
/// Requests whose cost the client chooses that are worked on at the same time, each on a thread
/// that serves nothing else. Of one user, it is one at a time.
const HEAVY_MAX: usize = 4;

/// Returns the holder that a request counts for: a user, or all ServiceAccounts of a namespace
/// together, since a tenant can make as many of them as it likes. No user name reads like the
/// accounts of a namespace.
pub(crate) fn holder(user: &User) -> Arc<str> {
    match service_account(&user.name) {
        Some((namespace, _)) => ["namespace:", namespace].concat().into(),
        None => ["user:", &user.name].concat().into(),
    }
}

/// The bounds on what requests hold.
pub(crate) struct Intake {
    requests: Budget,
    streams: Budget,
    sessions: Budget,
    tunnels: Budget,
    bodies: Budget,
    /// The responses that are being sent.
    pub(crate) responses: Responses,
    heavy: Turns,
    /// The time that light requests have taken.
    pub(crate) spending: Arc<Spending>,
    /// The time that looks of watches have taken.
    pub(crate) watching: Spending,
}

impl Intake {
    /// Room for so many requests at the same time.
    pub(crate) fn new(max_requests_in_flight: usize, open_files: u64) -> Self {
        let part = |total: usize| total.div_ceil(USER_PART);
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let sessions =
            SESSIONS_MAX.min(open_files / SESSION_DESCRIPTORS_PART / SESSION_DESCRIPTORS);
        let tunnels = TUNNELS_MAX.min(open_files / TUNNELS_PART);
        Self {
            requests: Budget::new(max_requests_in_flight, part(max_requests_in_flight)),
            streams: Budget::new(STREAMS_MAX, part(STREAMS_MAX)),
            sessions: Budget::new(sessions, part(sessions)),
            tunnels: Budget::new(tunnels, part(tunnels).min(USER_TUNNELS_MAX)),
            bodies: Budget::new(BODIES_BYTES_MAX, USER_BODIES_BYTES_MAX),
            responses: Responses::new(),
            heavy: Turns::new(),
            spending: Arc::default(),
            watching: Spending::default(),
        }
    }

    /// Requests that have a place now.
    pub(crate) fn requests_in_flight(&self) -> usize {
        self.requests.held()
    }

    /// A place for a request that is answered at once.
    pub(crate) fn place(&self, holder: &Arc<str>) -> Result<Lease, ApiError> {
        self.requests.take(holder, 1).ok_or_else(ApiError::too_many)
    }

    /// A place for a request that lasts.
    pub(crate) fn stream(&self, holder: &Arc<str>) -> Result<Lease, ApiError> {
        self.streams.take(holder, 1).ok_or_else(ApiError::too_many)
    }

    /// A place for a connection that is upgraded, for as long as it is carried on.
    pub(crate) fn session(&self, holder: &Arc<str>) -> Result<Lease, ApiError> {
        self.sessions.take(holder, 1).ok_or_else(ApiError::too_many)
    }

    /// A place for a stream to a node or a pod.
    pub(crate) fn tunnel(&self, holder: &Arc<str>) -> Result<Lease, ApiError> {
        self.tunnels.take(holder, 1).ok_or_else(ApiError::too_many)
    }

    /// Reads a body before the request gets a place, so that a slow client holds up nothing. The
    /// lease stands for the bytes and for what is made of them. Heavy bodies are parsed one at a time
    /// for each user, so only their bytes count.
    pub(crate) async fn body(
        &self,
        holder: &Arc<str>,
        headers: &HeaderMap,
        body: Body,
        timeout: Duration,
    ) -> Result<(Bytes, Lease), ApiError> {
        let mut lease = self.bodies.lease(holder);
        let read = body::read_each(body::MAX_REQUEST_BYTES, headers, body, |bytes| {
            if lease.grow(bytes) { Ok(()) } else { Err(ApiError::too_many()) }
        });
        let bytes = tokio::time::timeout(timeout, read)
            .await
            .unwrap_or_else(|_| Err(ApiError::timed_out()))?;
        if bytes.len() <= HEAVY_BYTES && !lease.grow(heavy::tree_bytes(&bytes)) {
            return Err(ApiError::too_many());
        }
        Ok((bytes, lease))
    }

    /// Does work whose cost the client chooses, away from the threads that serve the API.
    pub(crate) async fn heavy<T: Send + 'static>(
        &self,
        holder: &Arc<str>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.heavy.run(holder, work).await
    }
}

/// The turns for work: [`HEAVY_MAX`] at a time, one of each holder.
struct Turns {
    all: Arc<Semaphore>,
    of_holders: Locks<Semaphore>,
}

impl Turns {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(HEAVY_MAX)), of_holders: Locks::default() }
    }

    async fn run<T: Send + 'static>(
        &self,
        holder: &Arc<str>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let closed = |_| ApiError::unavailable("the server is shutting down");
        // First among the holder's own requests, then among all: however many one holder sends,
        // only one of them stands before those of others.
        let own = self
            .of_holders
            .of(holder, || Semaphore::new(1))
            .acquire_owned()
            .await
            .map_err(closed)?;
        let turn = self.all.clone().acquire_owned().await.map_err(closed)?;
        let runtime = Handle::current();
        let worked = tokio::task::spawn_blocking(move || {
            // A client that stops waiting does not end the work, so the work keeps its turn.
            let _held = (own, turn, InTurn::begin());
            runtime.block_on(work)
        });
        worked.await.map_err(|_| ApiError::internal("the request handler panicked"))
    }
}

thread_local! {
    /// True while the thread does work that has a turn.
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this is work that has a turn, which must not wait for another.
pub(crate) fn in_turn() -> bool {
    IN_TURN.get()
}

/// The time of a turn on its thread.
struct InTurn;

impl InTurn {
    fn begin() -> Self {
        IN_TURN.set(true);
        Self
    }
}

impl Drop for InTurn {
    fn drop(&mut self) {
        IN_TURN.set(false);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn accounts_of_a_namespace_count_together() {
        let account = |name: &str| holder(&User::authenticated(name, &[]));
        assert_eq!(account("system:serviceaccount:dev:a"), account("system:serviceaccount:dev:b"),);
        assert_ne!(account("system:serviceaccount:dev:a"), account("system:serviceaccount:prod:a"),);
        assert_eq!(&*account("jane"), "user:jane");
    }

    #[test]
    fn only_service_accounts_count_for_their_namespace() {
        let of = |name: &str| holder(&User::authenticated(name, &[]));
        let dev = of("system:serviceaccount:dev:a");
        for other in [
            "system:serviceaccount:dev:a:b",
            "system:serviceaccount:dev:",
            "system:serviceaccount:dev:A_b",
            "system:serviceaccount:dev",
            "system:serviceaccounts:dev",
            "namespace:dev",
        ] {
            assert_ne!(of(other), dev, "{other}");
        }
    }

    #[test]
    fn one_user_does_not_take_every_place() {
        let intake = Intake::new(4, 1024);
        let (jane, joe): (Arc<str>, Arc<str>) = ("jane".into(), "joe".into());
        let held: Vec<Lease> = (0..2).map(|_| intake.place(&jane).ok().unwrap()).collect();
        let refused = intake.place(&jane).err().unwrap();
        assert_eq!(refused.code(), http::StatusCode::TOO_MANY_REQUESTS);
        assert!(intake.place(&joe).is_ok());
        drop(held);
        assert_eq!(intake.requests_in_flight(), 0);
    }

    #[test]
    fn sessions_fit_the_descriptors() {
        for (open_files, total) in [(1024, 64), (1 << 20, SESSIONS_MAX)] {
            let intake = Intake::new(400, open_files);
            let mut held = Vec::new();
            for user in ["jane", "joe"] {
                held.extend((0..total / 2).map(|_| intake.session(&user.into()).ok().unwrap()));
                assert!(intake.session(&user.into()).is_err(), "{user}");
            }
            assert!(intake.session(&"jack".into()).is_err());
        }
    }

    #[test]
    fn streams_to_nodes_are_bounded() {
        let intake = Intake::new(4, 1 << 20);
        let (jane, joe): (Arc<str>, Arc<str>) = ("jane".into(), "joe".into());
        let held: Vec<Lease> =
            (0..USER_TUNNELS_MAX).map(|_| intake.tunnel(&jane).ok().unwrap()).collect();
        let refused = intake.tunnel(&jane).err().unwrap();
        assert_eq!(refused.code(), http::StatusCode::TOO_MANY_REQUESTS);
        assert!(intake.tunnel(&joe).is_ok());
        drop(held);
        assert!(intake.tunnel(&jane).is_ok());
    }

    #[tokio::test]
    async fn slow_body_is_given_up() {
        let intake = Intake::new(4, 1024);
        let (jane, headers): (Arc<str>, _) = ("jane".into(), HeaderMap::new());
        let never = body::stream(futures::stream::pending());
        let read = intake.body(&jane, &headers, never, Duration::from_millis(20));
        assert_eq!(read.await.err().unwrap().code(), http::StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(intake.bodies.held(), 0);
    }

    #[tokio::test]
    async fn dense_bodies_count_for_their_trees() {
        let intake = Intake::new(400, 1024);
        let (jane, joe): (Arc<str>, Arc<str>) = ("jane".into(), "joe".into());
        let read = async |user: &Arc<str>| {
            let dense = format!("[{}0]", "{\"a\":1},".repeat(8000));
            let headers = HeaderMap::new();
            intake.body(user, &headers, body::full(dense), Duration::from_secs(60)).await
        };
        let held = [read(&jane).await.ok().unwrap(), read(&jane).await.ok().unwrap()];
        assert!(read(&jane).await.is_err());
        assert!(read(&joe).await.is_ok());
        drop(held);
        assert!(read(&jane).await.is_ok());
    }

    #[tokio::test]
    async fn bodies_of_one_user_are_bounded_together() {
        let intake = Intake::new(400, 1024);
        let (jane, joe): (Arc<str>, Arc<str>) = ("jane".into(), "joe".into());
        let size = body::MAX_REQUEST_BYTES;
        let headers = HeaderMap::new();
        let minute = Duration::from_secs(60);
        let mut held = Vec::new();
        for _ in 0..USER_BODIES_BYTES_MAX / size {
            let body = body::full(vec![b'x'; size]);
            held.push(intake.body(&jane, &headers, body, minute).await.ok().unwrap());
        }
        let body = body::full(vec![b'x'; size]);
        let refused = intake.body(&jane, &headers, body, minute).await;
        assert_eq!(refused.err().unwrap().code(), http::StatusCode::TOO_MANY_REQUESTS);
        let body = body::full(vec![b'x'; size]);
        assert!(intake.body(&joe, &headers, body, minute).await.is_ok());
        drop(held);
        assert_eq!(intake.bodies.held(), 0);
    }

    #[tokio::test]
    async fn heavy_work_of_one_user_waits_for_itself() {
        let intake = Arc::new(Intake::new(400, 1024));
        let jane: Arc<str> = "jane".into();
        let running = Arc::new(AtomicUsize::new(0));
        let (release, released) = tokio::sync::watch::channel(false);
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let (intake, jane, running) = (intake.clone(), jane.clone(), running.clone());
            let mut released = released.clone();
            tasks.push(tokio::spawn(async move {
                let work = async move {
                    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                    let _ = released.wait_for(|released| *released).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                intake.heavy(&jane, work).await.is_ok()
            }));
        }
        tokio::task::yield_now().await;
        // Others have their turn meanwhile.
        assert!(intake.heavy(&"joe".into(), async { 1 }).await.is_ok());
        release.send(true).unwrap();
        for task in tasks {
            assert!(task.await.unwrap());
        }
    }

    #[tokio::test]
    async fn panic_of_heavy_work_gives_its_turn_back() {
        let intake = Intake::new(400, 1024);
        let jane: Arc<str> = "jane".into();
        for _ in 0..HEAVY_MAX + 1 {
            let failed = intake.heavy(&jane, async { panic!("a test") }).await;
            let failed: Result<(), ApiError> = failed;
            assert!(failed.is_err());
        }
        assert!(intake.heavy(&jane, async { 1 }).await.is_ok());
    }

    #[tokio::test]
    async fn work_knows_whether_it_has_a_turn() {
        let intake = Intake::new(400, 1024);
        let jane: Arc<str> = "jane".into();
        assert_eq!(intake.heavy(&jane, async { in_turn() }).await.ok(), Some(true));
        let failed: Result<(), ApiError> = intake.heavy(&jane, async { panic!("a test") }).await;
        assert!(failed.is_err() && !in_turn());
        // The same thread, for work without a turn.
        assert!(!tokio::task::spawn_blocking(in_turn).await.unwrap());
    }
}
