//! The time for which requests keep the threads that serve the API, by holder. Whether a request is
//! heavy is known from its size; a holder whose light requests take long nevertheless gets a share.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Time of a request, or of a look of a watch, that is not counted: however many of these a client
/// sends, those of others come between them. Builds for tests take many times as long.
const ORDINARY: Duration = Duration::from_millis(if cfg!(debug_assertions) { 20 } else { 1 });
/// Time of longer ones after which the holder's work is done elsewhere, or later.
const ALLOWANCE: Duration = Duration::from_millis(20);
/// While so much time passes, one part of the time spent is forgotten: the share of one thread.
const REPAID_PART: u32 = 10;
/// Time spent that is remembered at the most.
const DEBT_MAX: Duration = Duration::from_secs(10);
/// Holders from which on those that owe nothing are looked for.
const HOLDERS: usize = 256;

/// The time that holders have spent lately.
#[derive(Default)]
pub(crate) struct Spending {
    holders: Mutex<HashMap<Arc<str>, Debt>>,
    /// The number of holders, known without the lock.
    count: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Debt {
    amount: Duration,
    at: Instant,
}

impl Debt {
    /// Returns what is left of it.
    fn left(self, now: Instant) -> Duration {
        self.amount.saturating_sub(now.saturating_duration_since(self.at) / REPAID_PART)
    }
}

impl Spending {
    /// Counts time for a holder.
    pub(crate) fn add(&self, holder: &Arc<str>, time: Duration) {
        self.add_at(holder, time, Instant::now());
    }

    fn add_at(&self, holder: &Arc<str>, time: Duration, now: Instant) {
        if time <= ORDINARY {
            return;
        }
        let mut holders = self.lock();
        let before = holders.get(holder).map_or(Duration::ZERO, |debt| debt.left(now));
        let amount = (before + time).min(DEBT_MAX);
        holders.insert(holder.clone(), Debt { amount, at: now });
        if holders.len() > HOLDERS {
            holders.retain(|_, debt| debt.left(now) > Duration::ZERO);
        }
        self.count.store(holders.len(), Ordering::Relaxed);
    }

    /// Returns whether a holder has spent more than its share.
    pub(crate) fn is_over(&self, holder: &Arc<str>) -> bool {
        self.is_over_at(holder, Instant::now())
    }

    fn is_over_at(&self, holder: &Arc<str>, now: Instant) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.lock().get(holder).is_some_and(|debt| debt.left(now) > ALLOWANCE)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Debt>> {
        // Nothing that holds the lock panics.
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processor time of the calling thread from here on: what others made it wait for is not counted.
pub(crate) struct Look(Duration);

impl Look {
    pub(crate) fn begin() -> Self {
        Self(processor_time())
    }

    pub(crate) fn time(&self) -> Duration {
        processor_time().saturating_sub(self.0)
    }
}

fn processor_time() -> Duration {
    // Every kernel has this clock.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Work whose time is counted for a holder, also when it is given up.
pub(crate) struct Counted<F> {
    work: F,
    spending: Arc<Spending>,
    holder: Arc<str>,
    time: Duration,
}

impl<F> Counted<F> {
    pub(crate) fn new(work: F, spending: &Arc<Spending>, holder: &Arc<str>) -> Self {
        let (spending, holder) = (spending.clone(), holder.clone());
        Self { work, spending, holder, time: Duration::ZERO }
    }
}

impl<F: Future + Unpin> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let look = Look::begin();
        let polled = Pin::new(&mut self.work).poll(context);
        self.time += look.time();
        polled
    }
}

impl<F> Drop for Counted<F> {
    fn drop(&mut self) {
        self.spending.add(&self.holder, self.time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_is_counted_and_forgotten() {
        let spending = Spending::default();
        let (jane, joe): (Arc<str>, Arc<str>) = ("jane".into(), "joe".into());
        let begin = Instant::now();
        let after = |milliseconds| begin + Duration::from_millis(milliseconds);
        for _ in 0..1000 {
            spending.add_at(&jane, ORDINARY, begin);
        }
        assert!(!spending.is_over_at(&jane, begin));
        spending.add_at(&jane, ALLOWANCE + Duration::from_millis(100), begin);
        assert!(spending.is_over_at(&jane, after(999)));
        assert!(!spending.is_over_at(&joe, begin));
        assert!(!spending.is_over_at(&jane, after(1000)), "a tenth of a second is forgotten");
        spending.add_at(&jane, Duration::from_secs(3600), after(1000));
        assert!(spending.is_over_at(&jane, after(90_000)));
        assert!(!spending.is_over_at(&jane, after(102_000)));
        // Holders that owe nothing are not kept.
        for other in 0..=HOLDERS {
            let at = after(200_000 + 1000 * other as u64);
            spending.add_at(&other.to_string().into(), 2 * ORDINARY, at);
        }
        assert!(spending.lock().len() < HOLDERS);
    }

    #[tokio::test]
    async fn work_that_is_given_up_is_counted() {
        let spending = Arc::new(Spending::default());
        let jane: Arc<str> = "jane".into();
        let work = async {
            let look = Look::begin();
            while look.time() < 2 * (ORDINARY + ALLOWANCE) {
                std::hint::spin_loop();
            }
            std::future::pending::<()>().await;
        };
        let counted = Counted::new(Box::pin(work), &spending, &jane);
        assert!(tokio::time::timeout(Duration::from_millis(50), counted).await.is_err());
        assert!(spending.is_over(&jane));
    }
}
