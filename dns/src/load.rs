//! Whether so many queries come that it pays to let some gather: a system call for each of them costs
//! more than its answer.

use std::time::{Duration, Instant};

use crate::datagrams::BATCH;

/// How long queries gather under heavy load (the kernel's timer adds some 50 µs). Interfaces do the
/// same with interrupts.
pub(crate) const GATHERING: Duration = Duration::from_micros(20);
/// Batches that are looked at together.
const ROUND: u32 = 64;
/// Batches that follow each other faster than this mean heavy load, if some of them bring several
/// queries: a client that waits for every answer may be as fast, and is never made to wait.
const HEAVY: Duration = Duration::from_micros(8);
/// Queries that have gathered in a batch, on average, below which it does not pay.
const WORTH_IT: usize = 4;
/// Rounds that are sat out after it did not pay: a few clients are many for moments only.
const COOL_DOWN: u32 = 256;

/// What came in the last batches.
pub(crate) struct Load {
    heavy: bool,
    /// Whether the last batch left others behind.
    more: bool,
    began: Instant,
    batches: u32,
    queries: usize,
    /// Rounds to sit out.
    rest: u32,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self { heavy: false, more: false, began: now, batches: 0, queries: 0, rest: 0 }
    }

    /// Whether the next batch should gather first.
    pub(crate) fn is_heavy(&self) -> bool {
        self.heavy && !self.more
    }

    /// A batch has come; the clock is asked once a round.
    pub(crate) fn note(&mut self, queries: usize, now: impl FnOnce() -> Instant) {
        self.more = queries == BATCH;
        self.batches += 1;
        self.queries += queries;
        if self.batches < ROUND {
            return;
        }
        let now = now();
        if self.heavy {
            self.heavy = self.queries >= ROUND as usize * WORTH_IT;
            self.rest = if self.heavy { 0 } else { COOL_DOWN };
        } else if self.rest > 0 {
            self.rest -= 1;
        } else {
            let several = self.queries > (ROUND + ROUND / 8) as usize;
            self.heavy = several && now.duration_since(self.began) < HEAVY * ROUND;
        }
        (self.began, self.batches, self.queries) = (now, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round of batches of that many queries, so far apart.
    fn round(load: &mut Load, now: &mut Instant, queries: usize, apart: Duration) -> bool {
        for _ in 0..ROUND {
            *now += apart;
            load.note(queries, || *now);
        }
        load.is_heavy()
    }

    #[test]
    fn queries_gather_only_while_very_many_come() {
        let mut now = Instant::now();
        let mut load = Load::new(now);
        let micros = Duration::from_micros;
        assert!(!round(&mut load, &mut now, 1, micros(2)), "one client after each answer");
        assert!(!round(&mut load, &mut now, 2, micros(15)));
        assert!(round(&mut load, &mut now, 2, micros(3)));
        // Batches that gathered are far apart; what counts is that they are worth it.
        assert!(round(&mut load, &mut now, 20, micros(100)));
        assert!(!round(&mut load, &mut now, 3, micros(100)));
        // It was not: nobody has to wait again soon.
        let rounds = (0..COOL_DOWN + 1).take_while(|_| !round(&mut load, &mut now, 2, micros(3)));
        assert_eq!(rounds.count(), COOL_DOWN as usize);
    }

    #[test]
    fn what_waits_already_is_taken_at_once() {
        let mut now = Instant::now();
        let mut load = Load::new(now);
        assert!(round(&mut load, &mut now, 2, Duration::from_micros(1)));
        load.note(BATCH, || now);
        assert!(!load.is_heavy());
        load.note(BATCH - 1, || now);
        assert!(load.is_heavy());
    }
}
