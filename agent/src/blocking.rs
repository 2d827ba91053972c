//! Runs calls that may block, and work whose cost a tenant chooses, on threads of their own.
//!
//! The two threads that serve the API never wait for a file system: one that does not answer (a
//! dead NFS server, a FUSE process that stopped) would take the whole node with it. Each call has
//! an owner, a deadline and a place among few. A call that does not end cannot be ended from
//! outside: it gives its place to others, but not its owner's, so that a pod on a dead file system
//! holds a few threads and nothing else.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// Short calls that run at the same time, besides those that are overdue.
const MAX_SHORT_CALLS: usize = 32;
/// Long calls that run at the same time.
const MAX_LONG_CALLS: usize = 8;
/// Calls of one owner that have not ended, overdue or not.
const MAX_CALLS_OF_OWNER: usize = 4;
/// Overdue calls of all owners. From there on a call keeps its place among the others until it
/// ends, so that the number of threads stays bounded.
const MAX_OVERDUE_CALLS: usize = 256;
/// Milliseconds after which a short call is overdue and gives its place to another.
const OVERDUE_MS: u64 = 2_000;
/// Seconds until a thread without work ends.
const IDLE_SECONDS: u64 = 10;
/// Stack of a thread, in bytes: walks are iterative.
const STACK_BYTES: usize = 1 << 20;

/// Deadline of a few system calls, in seconds.
const SHORT_SECONDS: u64 = 30;
/// Deadline of work that grows with what a tenant has stored, in seconds: removal of a tree, change
/// of its group.
const LONG_SECONDS: u64 = 900;

/// The class of a call, by the time that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// A few system calls, or work on one object.
    Short,
    /// Work that grows with the number of files.
    Long,
}

impl Deadline {
    /// Returns the time that a call has.
    pub fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Short => SHORT_SECONDS,
            Self::Long => LONG_SECONDS,
        })
    }
}

/// The reason why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockingError {
    /// It is still running.
    #[error("{what} did not end within {seconds} s; its file system may not answer")]
    Deadline {
        /// The work, as the beginning of a sentence.
        what: &'static str,
        /// Seconds that it had.
        seconds: u64,
    },
    /// It was not begun: earlier calls have not ended.
    #[error(
        "{what} was not begun within {seconds} s: earlier calls have not ended; their file system \
         may not answer"
    )]
    NotBegun {
        /// The work, as the beginning of a sentence.
        what: &'static str,
        /// Seconds that it had.
        seconds: u64,
    },
    /// It ended without a result.
    #[error("{what} ended by a panic")]
    Panic {
        /// The work, as the beginning of a sentence.
        what: &'static str,
    },
}

impl From<BlockingError> for std::io::Error {
    fn from(error: BlockingError) -> Self {
        let kind = match error {
            BlockingError::Panic { .. } => std::io::ErrorKind::Other,
            _ => std::io::ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

/// Runs `work` on another thread. `owner` is the uid of the pod that it is done for, or
/// [`NODE`]. Dropping the future does not end the work.
pub async fn run<T: Send + 'static>(
    owner: &str,
    what: &'static str,
    deadline: Deadline,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingError> {
    let overdue = (deadline == Deadline::Short).then_some(Duration::from_millis(OVERDUE_MS));
    let pool = if deadline == Deadline::Short { &SHORT } else { &LONG };
    pool.run(owner, what, deadline.duration(), overdue, work).await
}

/// Owner of calls that are for the node itself.
pub const NODE: &str = "node";

static SHORT: LazyLock<Arc<Pool>> = LazyLock::new(|| Pool::new(MAX_SHORT_CALLS));
static LONG: LazyLock<Arc<Pool>> = LazyLock::new(|| Pool::new(MAX_LONG_CALLS));

type Job = Box<dyn FnOnce() + Send>;

/// Threads and their work.
struct Pool {
    state: Mutex<State>,
    work: Condvar,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    idle: usize,
    /// The places of each owner that has calls.
    owners: HashMap<String, Weak<Semaphore>>,
    overdue: usize,
}

/// The stage of a call.
enum Stage {
    /// It waits for a thread or runs.
    Running(OwnedSemaphorePermit),
    /// It is overdue; it has its place still where no more calls may be overdue.
    Overdue { _place: Option<OwnedSemaphorePermit> },
    /// It has ended.
    Ended,
}

struct Call {
    pool: Arc<Pool>,
    stage: Mutex<Stage>,
}

impl Call {
    /// Gives its place to others.
    fn give_way(&self) {
        let mut stage = lock(&self.stage);
        let place = match std::mem::replace(&mut *stage, Stage::Ended) {
            Stage::Running(place) => place,
            other => {
                *stage = other;
                return;
            }
        };
        let mut state = lock(&self.pool.state);
        state.overdue += 1;
        let kept = (state.overdue > MAX_OVERDUE_CALLS).then_some(place);
        *stage = Stage::Overdue { _place: kept };
    }

    fn end(&self) {
        let mut stage = lock(&self.stage);
        if let Stage::Overdue { .. } = std::mem::replace(&mut *stage, Stage::Ended) {
            lock(&self.pool.state).overdue -= 1;
        }
    }
}

/// Makes a call give way when its caller goes away, by its deadline or because it is dropped.
struct Caller(Arc<Call>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.give_way();
    }
}

impl Pool {
    fn new(calls: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            places: Arc::new(Semaphore::new(calls)),
        })
    }

    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        owner: &str,
        what: &'static str,
        deadline: Duration,
        overdue: Option<Duration>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        let until = Instant::now() + deadline;
        let owner = self.places_of(owner);
        let places =
            async { (owner.acquire_owned().await, self.places.clone().acquire_owned().await) };
        let not_begun = |_| BlockingError::NotBegun { what, seconds: deadline.as_secs() };
        let (Ok(own), Ok(place)) = timeout_at(until, places).await.map_err(not_begun)? else {
            // The semaphores are never closed.
            return Err(BlockingError::Panic { what });
        };
        let call = Arc::new(Call { pool: self.clone(), stage: Mutex::new(Stage::Running(place)) });
        let _caller = Caller(call.clone());
        let (sender, mut receiver) = oneshot::channel();
        let running = call.clone();
        self.push(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            running.end();
            drop(own);
            if let Ok(result) = result {
                // The caller may have given up.
                let _ = sender.send(result);
            }
        }));
        if let Some(overdue) = overdue
            && let Ok(result) = timeout(overdue, &mut receiver).await
        {
            return result.map_err(|_| BlockingError::Panic { what });
        }
        if overdue.is_some() {
            call.give_way();
        }
        match timeout_at(until, receiver).await {
            Ok(result) => result.map_err(|_| BlockingError::Panic { what }),
            Err(_) => Err(BlockingError::Deadline { what, seconds: deadline.as_secs() }),
        }
    }

    fn places_of(&self, owner: &str) -> Arc<Semaphore> {
        let mut state = lock(&self.state);
        if let Some(places) = state.owners.get(owner).and_then(Weak::upgrade) {
            return places;
        }
        state.owners.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(MAX_CALLS_OF_OWNER));
        state.owners.insert(owner.to_owned(), Arc::downgrade(&places));
        places
    }

    fn push(self: &Arc<Self>, job: Job) {
        let mut state = lock(&self.state);
        state.queue.push_back(job);
        if state.queue.len() <= state.idle {
            self.work.notify_one();
            return;
        }
        drop(state);
        let pool = self.clone();
        let thread = std::thread::Builder::new().name("blocking".into()).stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn(move || pool.serve()) {
            // The job waits for another thread, and its caller for the deadline.
            tracing::error!(%error, "cannot start a thread for blocking calls");
        }
    }

    /// Runs jobs until there are none for a while.
    fn serve(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, Duration::from_secs(IDLE_SECONDS));
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_millis(200);
    const LATE: Duration = Duration::from_secs(60);
    const WHAT: &str = "Looking";

    async fn look<T: Send + 'static>(
        pool: &Arc<Pool>,
        owner: &str,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        pool.run(owner, WHAT, deadline, Some(SOON), work).await
    }

    #[tokio::test]
    async fn results_and_panics_come_back() {
        let pool = Pool::new(2);
        assert_eq!(look(&pool, "a", LATE, || 1 + 1).await, Ok(2));
        let panic = look(&pool, "a", LATE, || panic!("on purpose")).await;
        assert_eq!(panic, Err(BlockingError::Panic { what: WHAT }));
        assert_eq!(look(&pool, "a", LATE, || 1 + 1).await, Ok(2));
    }

    #[tokio::test]
    async fn stuck_owner_leaves_the_others_alone() {
        let pool = Pool::new(2);
        let mut wedges = Vec::new();
        for _ in 0..MAX_CALLS_OF_OWNER {
            let (wedge, stuck) = mpsc::channel::<()>();
            let ended = look(&pool, "nfs", SOON, move || stuck.recv().is_ok()).await;
            assert_eq!(ended, Err(BlockingError::Deadline { what: WHAT, seconds: 0 }));
            wedges.push(wedge);
        }
        let refused = look(&pool, "nfs", SOON, || ()).await;
        assert_eq!(refused, Err(BlockingError::NotBegun { what: WHAT, seconds: 0 }));
        assert_eq!(look(&pool, "other", LATE, || 5).await, Ok(5));
        assert_eq!(lock(&pool.state).overdue, MAX_CALLS_OF_OWNER);

        drop(wedges);
        assert_eq!(look(&pool, "nfs", LATE, || 6).await, Ok(6), "its threads are free again");
        let ended = async {
            while lock(&pool.state).overdue > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(timeout(LATE, ended).await.is_ok());
    }

    #[tokio::test]
    async fn overdue_call_may_still_end() {
        let pool = Pool::new(1);
        let (wedge, stuck) = mpsc::channel::<()>();
        let slow = look(&pool, "a", LATE, move || stuck.recv().is_err());
        let other = async {
            let other = look(&pool, "b", LATE, || 5).await;
            drop(wedge);
            other
        };
        assert_eq!(tokio::join!(slow, other), (Ok(true), Ok(5)));
    }

    #[tokio::test]
    async fn dropped_call_gives_its_place_back() {
        let pool = Pool::new(1);
        let (wedge, stuck) = mpsc::channel::<()>();
        let call = pool.run("a", WHAT, LATE, None, move || stuck.recv().is_ok());
        assert!(tokio::time::timeout(SOON, call).await.is_err());
        assert_eq!(look(&pool, "b", LATE, || 5).await, Ok(5));
        drop(wedge);
    }

    #[tokio::test]
    async fn owner_takes_few_places() {
        let pool = Pool::new(20);
        let (sender, running) = mpsc::channel();
        let calls = (0..20).map(|_| {
            let (pool, sender) = (pool.clone(), sender.clone());
            tokio::spawn(async move {
                let work = move || {
                    let _ = sender.send(1);
                    std::thread::sleep(Duration::from_millis(20));
                    let _ = sender.send(-1);
                };
                look(&pool, "a", LATE, work).await
            })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.ok(), Some(Ok(())));
        }
        drop(sender);
        let mut now = 0;
        let most = running.iter().map(|step: i32| {
            now += step;
            now
        });
        assert_eq!(most.max(), i32::try_from(MAX_CALLS_OF_OWNER).ok());
    }
}
