//! Whether so many queries come that it pays to let some gather: a system call for each of them costs
//! more than its answer.

use std::time::Duration;

use crate::datagrams::BATCH;

/// How long queries gather under heavy load (the kernel's timer adds some 50 µs). Interfaces do the
/// same with interrupts.
pub(crate) const GATHERING: Duration = Duration::from_micros(20);
/// Batches that are looked at together.
const ROUND: usize = 64;
/// Queries of a round that show that several come at a time, which is when gathering is tried: how
/// fast they come says less, as it depends on the machine. A client that waits for every answer is
/// never made to wait.
const SEVERAL: usize = ROUND + ROUND / 8;
/// Queries that have gathered in a batch, on average, below which it does not pay.
const WORTH_IT: usize = 4;
/// Rounds that are sat out after it did not pay: a few clients are many for moments only.
const COOL_DOWN: u32 = 256;

/// What came in the last batches.
#[derive(Default)]
pub(crate) struct Load {
    heavy: bool,
    /// Whether the last batch left others behind.
    more: bool,
    batches: usize,
    queries: usize,
    /// Rounds to sit out.
    rest: u32,
}

impl Load {
    /// Whether the next batch should gather first.
    pub(crate) fn is_heavy(&self) -> bool {
        self.heavy && !self.more
    }

    /// A batch has come.
    pub(crate) fn note(&mut self, queries: usize) {
        self.more = queries == BATCH;
        self.batches += 1;
        self.queries += queries;
        if self.batches < ROUND {
            return;
        }
        if self.heavy {
            self.heavy = self.queries >= ROUND * WORTH_IT;
            self.rest = if self.heavy { 0 } else { COOL_DOWN };
        } else if self.rest > 0 {
            self.rest -= 1;
        } else {
            self.heavy = self.queries > SEVERAL;
        }
        (self.batches, self.queries) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round of batches of that many queries.
    fn round(load: &mut Load, queries: usize) -> bool {
        for _ in 0..ROUND {
            load.note(queries);
        }
        load.is_heavy()
    }

    #[test]
    fn queries_gather_only_while_very_many_come() {
        let mut load = Load::default();
        assert!(!round(&mut load, 1), "one client after each answer");
        assert!(round(&mut load, 2));
        assert!(round(&mut load, WORTH_IT));
        assert!(!round(&mut load, WORTH_IT - 1));
        // It did not pay: nobody has to wait again soon.
        let rounds = (0..COOL_DOWN + 1).take_while(|_| !round(&mut load, 2));
        assert_eq!(rounds.count(), COOL_DOWN as usize);
    }

    #[test]
    fn what_waits_already_is_taken_at_once() {
        let mut load = Load::default();
        assert!(round(&mut load, 2));
        load.note(BATCH);
        assert!(!load.is_heavy());
        load.note(BATCH - 1);
        assert!(load.is_heavy());
    }
}
