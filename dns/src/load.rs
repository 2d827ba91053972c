//! Whether so many queries come that it pays to let some gather: a system call for each of them costs
//! more than its answer.

use std::time::{Duration, Instant};

use nix::time::ClockId;

use crate::datagrams::BATCH;

/// How long queries gather under heavy load (the kernel's timer adds some 50 µs). Interfaces do the
/// same with interrupts.
pub(crate) const GATHERING: Duration = Duration::from_micros(20);
/// Batches that are looked at together.
const ROUND: usize = 64;
/// Queries of a round that show that several come at a time: a client that waits for every answer is
/// never made to wait.
const SEVERAL: usize = ROUND + ROUND / 8;
/// The part of its time that a thread under heavy load is busy. Unlike the time between queries it
/// does not depend on how fast the machine is.
const BUSY: f64 = 0.6;
/// Queries that have gathered in a batch, on average, below which it does not pay.
const WORTH_IT: usize = 4;
/// Rounds that are sat out after it did not pay: a few clients are many for moments only.
const COOL_DOWN: u32 = 256;

/// A point in the life of the thread that answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    time: Instant,
    /// What the thread has worked until then.
    work: Duration,
}

impl Moment {
    /// This moment of the calling thread.
    pub(crate) fn now() -> Self {
        let work = ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).unwrap_or_default();
        Self { time: Instant::now(), work }
    }

    /// The part of the time since `earlier` that the thread worked, 0 to 1.
    fn busy_since(self, earlier: Self) -> f64 {
        let time = self.time.duration_since(earlier.time);
        self.work.saturating_sub(earlier.work).as_secs_f64() / time.as_secs_f64().max(1e-9)
    }
}

/// What came in the last batches.
#[derive(Debug)]
pub(crate) struct Load {
    heavy: bool,
    /// Whether the last batch left others behind.
    more: bool,
    began: Moment,
    batches: usize,
    queries: usize,
    /// Rounds to sit out.
    rest: u32,
}

impl Load {
    /// Nothing has come until now.
    pub(crate) fn new(now: Moment) -> Self {
        Self { heavy: false, more: false, began: now, batches: 0, queries: 0, rest: 0 }
    }

    /// Whether the next batch should gather first.
    pub(crate) fn is_heavy(&self) -> bool {
        self.heavy && !self.more
    }

    /// A batch has come; the clocks are read once a round.
    pub(crate) fn note(&mut self, queries: usize, now: impl FnOnce() -> Moment) {
        self.more = queries == BATCH;
        self.batches += 1;
        self.queries += queries;
        if self.batches < ROUND {
            return;
        }
        let now = now();
        if self.heavy {
            // The thread has waited of its own accord: what counts is what that brought.
            self.heavy = self.queries >= ROUND * WORTH_IT;
            self.rest = if self.heavy { 0 } else { COOL_DOWN };
        } else if self.rest > 0 {
            self.rest -= 1;
        } else {
            self.heavy = self.queries > SEVERAL && now.busy_since(self.began) > BUSY;
        }
        (self.began, self.batches, self.queries) = (now, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread's life as it is told.
    struct Life(Moment);

    impl Life {
        /// A round of batches of that many queries, so many microseconds apart, of which the thread
        /// works some.
        fn round(&mut self, load: &mut Load, queries: usize, apart: u64, work: u64) -> bool {
            for _ in 0..ROUND {
                self.0.time += Duration::from_micros(apart);
                self.0.work += Duration::from_micros(work);
                load.note(queries, || self.0);
            }
            load.is_heavy()
        }
    }

    fn start() -> (Life, Load) {
        let now = Moment { time: Instant::now(), work: Duration::from_secs(7) };
        (Life(now), Load::new(now))
    }

    #[test]
    fn queries_gather_only_while_very_many_come() {
        let (mut life, mut load) = start();
        assert!(!life.round(&mut load, 1, 2, 2), "one client after each answer");
        assert!(!life.round(&mut load, 2, 15, 5), "clients that ask for two records at once");
        // The same on a machine that is five times slower.
        assert!(!life.round(&mut load, 2, 75, 25));
        assert!(life.round(&mut load, 2, 15, 14));
        // A thread that waits is not busy; what counts is whether it is worth it.
        assert!(life.round(&mut load, 20, 100, 20));
        assert!(life.round(&mut load, WORTH_IT, 100, 10));
        assert!(!life.round(&mut load, WORTH_IT - 1, 100, 10));
        // It was not: nobody has to wait again soon.
        let rounds = (0..COOL_DOWN + 1).take_while(|_| !life.round(&mut load, 2, 3, 3));
        assert_eq!(rounds.count(), COOL_DOWN as usize);
    }

    #[test]
    fn what_waits_already_is_taken_at_once() {
        let (mut life, mut load) = start();
        assert!(life.round(&mut load, 2, 1, 1));
        load.note(BATCH, || life.0);
        assert!(!load.is_heavy());
        load.note(BATCH - 1, || life.0);
        assert!(load.is_heavy());
    }

    #[test]
    fn work_is_that_of_the_thread() {
        let before = Moment::now();
        let mut sum = 0_u64;
        while Moment::now().work - before.work < Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        let worked = Moment::now();
        std::thread::sleep(worked.time.duration_since(before.time) * 4);
        let share = Moment::now().busy_since(before);
        assert!(share > 0.0 && share < 0.3, "{share}");
    }
}
