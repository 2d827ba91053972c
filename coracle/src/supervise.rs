//! The parts of the node: each runs again after it ended, and while it is down the node says so.

use std::error::Error;
use std::fmt::Write;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::watch::restart::{Backoff, panic_text};
use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A part that was restarted and has run this long counts as up.
const PROVEN_AFTER: Duration = Duration::from_millis(500);
/// The node is not ready once a part has ended this often in a row: one that runs again at once is
/// no reason to keep pods away.
const NOT_READY_ENDS: u32 = 2;

/// The state of one part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// It runs; a start that has not ended yet counts. Down once it ends.
    #[default]
    Up,
    /// It ended that often in a row, the last time for this reason. Up once a start is proven.
    Down { ends: u32, reason: String },
}

/// A change of a part.
enum Event {
    /// It ended or panicked.
    Ended(String),
    /// A restart has run for [`PROVEN_AFTER`].
    Proven,
}

impl State {
    fn step(&self, event: Event) -> Self {
        match (self, event) {
            (_, Event::Proven) => Self::Up,
            (Self::Up, Event::Ended(reason)) => Self::Down { ends: 1, reason },
            (Self::Down { ends, .. }, Event::Ended(reason)) => {
                Self::Down { ends: ends.saturating_add(1), reason }
            }
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Up => None,
            Self::Down { reason, .. } => Some(reason),
        }
    }
}

/// Every part of the node with its state. Cheap to clone.
#[derive(Clone)]
pub struct Parts {
    states: Arc<Mutex<Vec<(String, State)>>>,
    not_ready: watch::Sender<String>,
}

impl Parts {
    /// No parts yet.
    pub fn new() -> Self {
        Self { states: Arc::default(), not_ready: watch::Sender::new(String::new()) }
    }

    /// Returns why the node is not ready, as its condition says it; empty while it is ready.
    pub fn not_ready(&self) -> watch::Receiver<String> {
        self.not_ready.subscribe()
    }

    /// Runs the part `name` until `token` is cancelled: whenever the future that `make` returns ends
    /// or panics, the next one runs after a delay.
    pub fn run<F, E, M>(
        &self,
        name: &str,
        token: &CancellationToken,
        make: M,
    ) -> impl Future<Output = ()> + Send + use<F, E, M>
    where
        M: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send,
        E: Error + Send,
    {
        self.run_with(name.to_owned(), token.clone(), make, sleep)
    }

    /// The same with a clock of its own, for tests.
    fn run_with<F, E, M, W, S>(
        &self,
        name: String,
        token: CancellationToken,
        mut make: M,
        wait: W,
    ) -> impl Future<Output = ()> + Send + use<F, E, M, W, S>
    where
        M: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send,
        E: Error + Send,
        W: Fn(Duration) -> S + Send + 'static,
        S: Future<Output = ()> + Send,
    {
        let parts = self.clone();
        // Listed before it runs, so that its state can be asked for from now on.
        let part = parts.add(name.clone());
        async move {
            let mut backoff = Backoff::default();
            loop {
                let started = Instant::now();
                let attempt = AssertUnwindSafe(async { make().await }).catch_unwind();
                let mut attempt = pin!(attempt);
                let ended = tokio::select! {
                    biased;
                    ended = &mut attempt => Some(ended),
                    () = wait(PROVEN_AFTER) => None,
                };
                let ended = match ended {
                    Some(ended) => ended,
                    None => {
                        parts.note(part, Event::Proven);
                        attempt.await
                    }
                };
                if token.is_cancelled() {
                    return;
                }
                let reason = match ended {
                    Ok(Ok(())) => "it ended".to_owned(),
                    Ok(Err(error)) => chain(&error),
                    Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
                };
                let delay = backoff.delay(started.elapsed());
                if parts.note(part, Event::Ended(reason.clone())) {
                    tracing::error!(part = name, reason, ?delay, "a part ended; restarting it");
                } else {
                    tracing::debug!(part = name, reason, ?delay, "a part ended again");
                }
                tokio::select! {
                    () = token.cancelled() => return,
                    () = wait(delay) => {}
                }
            }
        }
    }

    fn add(&self, name: String) -> usize {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.push((name, State::default()));
        states.len() - 1
    }

    /// Applies an event to a part; returns whether that changed the reason for which it is down.
    fn note(&self, part: usize, event: Event) -> bool {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let next = states[part].1.step(event);
        let previous = std::mem::replace(&mut states[part].1, next);
        let changed = previous.reason() != states[part].1.reason();
        if changed && previous.reason().is_some() && states[part].1 == State::Up {
            tracing::info!(part = states[part].0, "a part runs again");
        }
        let message = not_ready(&states);
        self.not_ready.send_if_modified(|known| {
            let modified = *known != message;
            *known = message;
            modified
        });
        changed
    }
}

impl apiserver::NodeParts for Parts {
    fn states(&self) -> Vec<(String, Option<String>)> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state =
            |(name, state): &(String, State)| (name.clone(), state.reason().map(ToOwned::to_owned));
        states.iter().map(state).collect()
    }
}

/// Returns why the node is not ready, as the kubelet lists errors of its runtime: `a`, or `[a, b]`.
fn not_ready(states: &[(String, State)]) -> String {
    let failed: Vec<String> = states
        .iter()
        .filter_map(|(name, state)| match state {
            State::Down { ends, reason } if *ends >= NOT_READY_ENDS => {
                Some(format!("{name} is down: {reason}"))
            }
            _ => None,
        })
        .collect();
    match failed.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// An error and what caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};
    use std::io;
    use std::sync::atomic::{AtomicU32, Ordering};

    use apiserver::NodeParts as _;

    use super::*;

    /// Waits that the test ends: those for proof never, those between starts at once, `limit` times.
    fn clock(
        limit: u32,
    ) -> (Arc<Mutex<Vec<u64>>>, impl Fn(Duration) -> futures::future::BoxFuture<'static, ()>) {
        let waits = Arc::new(Mutex::new(Vec::new()));
        let noted = waits.clone();
        let wait = move |delay: Duration| {
            if delay == PROVEN_AFTER {
                return pending().boxed();
            }
            let mut noted = noted.lock().unwrap();
            noted.push(delay.as_secs());
            if noted.len() as u32 > limit { pending().boxed() } else { ready(()).boxed() }
        };
        (waits, wait)
    }

    fn taken() -> io::Result<()> {
        Err(io::Error::other("the port is taken"))
    }

    #[test]
    fn failing_part_is_named_with_its_reason() {
        let (parts, token) = (Parts::new(), CancellationToken::new());
        let (waits, wait) = clock(2);
        let dns = parts.run_with("dns".into(), token, || ready(taken()), wait);
        assert_eq!(parts.states(), [("dns".to_owned(), None)]);
        assert!(dns.now_or_never().is_none());
        let reason = Some("the port is taken".to_owned());
        assert_eq!(parts.states(), [("dns".to_owned(), reason)]);
        assert_eq!(*parts.not_ready().borrow(), "dns is down: the port is taken");
        assert_eq!(*waits.lock().unwrap(), [1, 2, 4]);
    }

    #[test]
    fn panic_is_caught_and_told() {
        let (parts, token) = (Parts::new(), CancellationToken::new());
        let (_, wait) = clock(1);
        let starts = AtomicU32::new(0);
        let make = move || {
            let start = starts.fetch_add(1, Ordering::Relaxed);
            async move { if start < 2 { panic!("start {start}") } else { pending().await } }
        };
        let part = parts.run_with::<_, io::Error, _, _, _>("agent".into(), token, make, wait);
        assert!(part.now_or_never().is_none());
        let reason = Some("it panicked: start 1".to_owned());
        assert_eq!(parts.states(), [("agent".to_owned(), reason)]);
    }

    #[test]
    fn proven_restart_is_up_again() {
        let (parts, token) = (Parts::new(), CancellationToken::new());
        let starts = Cell::new(0);
        let make = move || {
            starts.set(starts.get() + 1);
            let start = starts.get();
            async move { if start <= 3 { taken() } else { pending().await } }
        };
        let part = parts.run_with("dns".into(), token, make, |_| ready(()));
        assert!(part.now_or_never().is_none());
        assert_eq!(parts.states(), [("dns".to_owned(), None)]);
        assert_eq!(*parts.not_ready().borrow(), "");
    }

    #[test]
    fn one_end_leaves_the_node_ready() {
        let down = |name: &str, ends| {
            (name.to_owned(), State::Down { ends, reason: "it ended".to_owned() })
        };
        assert_eq!(not_ready(&[down("dns", 1), ("a".to_owned(), State::Up)]), "");
        assert_eq!(not_ready(&[down("dns", 2)]), "dns is down: it ended");
        let both = not_ready(&[down("dns", 2), down("agent", 9)]);
        assert_eq!(both, "[dns is down: it ended, agent is down: it ended]");
    }

    #[test]
    fn cancelled_part_does_not_run_again() {
        let (parts, token) = (Parts::new(), CancellationToken::new());
        token.cancel();
        let (waits, wait) = clock(1);
        let part = parts.run_with("dns".into(), token, || ready(taken()), wait);
        assert!(part.now_or_never().is_some());
        assert!(waits.lock().unwrap().is_empty());
    }
}
