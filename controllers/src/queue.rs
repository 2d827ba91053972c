//! The work queue of a controller: each key once, each key served by one worker at a time, failed
//! keys again after a growing delay, and keys with a deadline at that deadline. A panic is a failure of
//! its key like any other.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::watch::restart::panic_text;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// The longest delay of a key: deadlines of any length are looked at once a day.
const DELAY_MAX: Duration = Duration::from_secs(24 * 3600);

/// The delay before the first retry of a failed key; it doubles with every further failure.
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// The longest delay before a retry.
const LAST_RETRY: Duration = Duration::from_secs(1000);

/// What a reconciliation asks for afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Nothing: the next change of an object brings the key back.
    Never,
    /// The key again, after this long.
    After(Duration),
}

impl From<Option<Duration>> for Requeue {
    fn from(after: Option<Duration>) -> Self {
        after.map_or(Self::Never, Self::After)
    }
}

/// Keys for which an empty queue keeps room.
const SPARE_KEYS: usize = 64;

type Reconcile<'a, K> = dyn Fn(K) -> BoxFuture<'static, Result<Requeue, Error>> + Send + Sync + 'a;

/// A queue of keys.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`.
    queued: HashSet<K>,
    /// Keys with a worker.
    running: HashSet<K>,
    /// Running keys that were added meanwhile.
    again: HashSet<K>,
    later: BTreeMap<(Instant, u64), K>,
    deadlines: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    sequence: u64,
}

impl<K: Clone + Eq + Hash + Debug + Send + 'static> Queue<K> {
    /// An empty queue.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                queued: HashSet::new(),
                running: HashSet::new(),
                again: HashSet::new(),
                later: BTreeMap::new(),
                deadlines: HashMap::new(),
                failures: HashMap::new(),
                sequence: 0,
            }),
            wake: Notify::new(),
        })
    }

    /// Asks for `key` to be served as soon as possible.
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.wake.notify_one();
    }

    /// Asks for `key` to be served after `delay`, unless it is due sooner anyway.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.lock().add_at(key, due_in(delay));
        self.wake.notify_one();
    }

    /// Lets up to `workers` at a time serve the keys, each with `reconcile` on `state`, until
    /// `token` is cancelled. Log lines about failures name `controller`.
    pub fn serve<S, Fut>(
        self: &Arc<Self>,
        controller: &'static str,
        workers: usize,
        token: &CancellationToken,
        state: &Arc<S>,
        reconcile: fn(Arc<S>, K) -> Fut,
    ) -> impl Future<Output = ()> + Send + use<K, S, Fut>
    where
        S: Send + Sync + 'static,
        Fut: Future<Output = Result<Requeue, Error>> + Send + 'static,
    {
        let (queue, token, state) = (self.clone(), token.clone(), state.clone());
        async move {
            let reconcile = |key| reconcile(state.clone(), key).boxed();
            queue.run(controller, workers, token, &reconcile).await;
        }
    }

    /// The loop, which is there once for all controllers, as their futures come boxed.
    async fn run(
        self: Arc<Self>,
        controller: &'static str,
        workers: usize,
        token: CancellationToken,
        reconcile: &Reconcile<'_, K>,
    ) {
        let mut tasks = JoinSet::new();
        loop {
            let key = tokio::select! {
                biased;
                () = token.cancelled() => return,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                key = self.next(), if tasks.len() < workers => key,
            };
            let work = reconcile(key.clone());
            let queue = self.clone();
            tasks.spawn(async move {
                let outcome = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
                    Err(Error::Panicked { text: panic_text(&*panic).to_owned() })
                });
                queue.finish(controller, key, outcome);
            });
        }
    }

    /// The next key that is due; it stays reserved until [`Queue::finish`].
    async fn next(&self) -> K {
        loop {
            let deadline = {
                let mut state = self.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    return key;
                }
                state.later.keys().next().map(|(at, _)| *at)
            };
            match deadline {
                None => self.wake.notified().await,
                Some(at) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    fn finish(&self, controller: &'static str, key: K, outcome: Result<Requeue, Error>) {
        let mut state = self.lock();
        state.running.remove(&key);
        if state.again.remove(&key) {
            state.add(key.clone());
        }
        match outcome {
            Ok(requeue) => {
                state.failures.remove(&key);
                if let Requeue::After(delay) = requeue {
                    state.add_at(key, due_in(delay));
                }
            }
            Err(error) => {
                let failures = state.failures.entry(key.clone()).or_insert(0);
                let delay = retry_delay(*failures);
                *failures += 1;
                // A conflict only means that somebody else was quicker.
                if error.is_conflict() {
                    tracing::debug!(controller, ?key, %error, "changed meanwhile, trying again");
                } else {
                    tracing::warn!(controller, ?key, %error, ?delay, "trying again");
                }
                state.add_at(key, due_in(delay));
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if let Some(known) = self.deadlines.get(&key) {
            if known.0 <= at {
                return;
            }
            let known = *known;
            self.later.remove(&known);
        }
        self.sequence += 1;
        self.later.insert((at, self.sequence), key.clone());
        self.deadlines.insert(key, (at, self.sequence));
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.deadlines.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        if self.ready.is_empty() {
            // Once in a while each key of a cluster waits here.
            self.ready.shrink_to(SPARE_KEYS);
            self.queued.shrink_to(SPARE_KEYS);
        }
        self.running.insert(key.clone());
        Some(key)
    }
}

/// The time after `delay`, which may be as long as a field of an object says; a key that is served
/// too soon asks again.
fn due_in(delay: Duration) -> Instant {
    Instant::now() + delay.min(DELAY_MAX)
}

fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LAST_RETRY)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn retries_grow_from_milliseconds_to_the_limit() {
        assert_eq!(retry_delay(0), Duration::from_millis(5));
        assert_eq!(retry_delay(1), Duration::from_millis(10));
        assert_eq!(retry_delay(17), Duration::from_millis(655_360));
        assert_eq!(retry_delay(18), LAST_RETRY);
        assert_eq!(retry_delay(400), LAST_RETRY);
    }

    #[tokio::test]
    async fn delay_may_be_any_length() {
        let queue = Queue::<&'static str>::new();
        queue.add_after("a", Duration::from_secs(i64::MAX as u64));
        queue.add_after("b", Duration::MAX);
        queue.add("c");
        assert_eq!(queue.next().await, "c");
        queue.finish("test", "c", Ok(Requeue::After(Duration::MAX)));
    }

    #[tokio::test]
    async fn a_key_waits_once_and_is_served_once_at_a_time() {
        let queue = Queue::<&'static str>::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        queue.finish("test", "a", Ok(Requeue::Never));
        assert_eq!(queue.next().await, "a");
        queue.finish("test", "a", Ok(Requeue::Never));
        queue.finish("test", "b", Ok(Requeue::Never));
        let idle = tokio::time::timeout(Duration::from_millis(20), queue.next()).await;
        assert!(idle.is_err());
    }

    #[tokio::test]
    async fn panic_frees_its_key_and_counts() {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        async fn reconcile(done: Arc<Notify>, key: u32) -> Result<Requeue, Error> {
            let call = CALLS.fetch_add(1, Ordering::Relaxed);
            assert!(call > 1, "key {key}, call {call}");
            done.notify_one();
            Ok(Requeue::Never)
        }
        let (queue, done, token) =
            (Queue::new(), Arc::new(Notify::new()), CancellationToken::new());
        queue.add(7);
        let serving = tokio::spawn(queue.serve("test", 1, &token, &done, reconcile));
        tokio::time::timeout(Duration::from_secs(10), done.notified()).await.unwrap();
        token.cancel();
        serving.await.unwrap();
        assert_eq!(CALLS.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn the_earlier_deadline_wins() {
        let queue = Queue::<u32>::new();
        let start = Instant::now();
        queue.add_after(1, Duration::from_secs(100));
        queue.add_after(1, Duration::from_millis(10));
        queue.add_after(1, Duration::from_secs(50));
        assert_eq!(queue.next().await, 1);
        assert!(start.elapsed() < Duration::from_secs(5));
        queue.finish("test", 1, Ok(Requeue::Never));
        assert!(queue.lock().later.is_empty());
    }
}
