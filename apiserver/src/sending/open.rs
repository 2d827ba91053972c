//! The responses that hold bytes, in the order in which their clients become slow. However many wait
//! for room, a look at the first tells that none is slow yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::{Flow, Held};

/// The time before which a response is not slow, and its number. The client may have taken more since
/// the time was found, which is then too early.
pub(super) type Due = (Instant, u64);

/// The responses of one size, of all holders and by holder.
#[derive(Default)]
pub(super) struct Open {
    next_number: u64,
    flows: BTreeMap<Due, Weak<Flow>>,
    /// Holders without responses are not kept.
    holders: HashMap<Arc<str>, BTreeSet<Due>>,
    /// The number of responses that were looked at.
    #[cfg(test)]
    pub(super) looks: usize,
}

impl Open {
    /// Adds a response that is slow at this time at the earliest.
    pub(super) fn enter(&mut self, at: Instant, holder: &Arc<str>, flow: &Arc<Flow>) -> Due {
        let due = (at, self.next_number);
        self.next_number += 1;
        self.insert(due, holder, Arc::downgrade(flow));
        due
    }

    /// Removes a response.
    pub(super) fn leave(&mut self, due: Due, holder: &Arc<str>) {
        self.flows.remove(&due);
        if let Some(of_holder) = self.holders.get_mut(holder) {
            of_holder.remove(&due);
            if of_holder.is_empty() {
                self.holders.remove(holder);
            }
        }
    }

    /// Takes the content of the response, of one holder or of all, that has been slow for the longest
    /// time; `None` if none is slow. The caller drops it.
    ///
    /// A response that is looked at in vain gets a later time, so each is looked at once in the time
    /// that its client may take. Only one that is being worked on stays where it is: it is not slow.
    pub(super) fn take_slowest(
        &mut self,
        holder: Option<&Arc<str>>,
        slow_after: Duration,
        now: Instant,
    ) -> Option<Held> {
        let mut start = Bound::Unbounded;
        while let Some(due) = self.first(holder, start).filter(|(at, _)| *at <= now) {
            #[cfg(test)]
            {
                self.looks += 1;
            }
            start = Bound::Excluded(due);
            let Some(flow) = self.flows.get(&due).and_then(Weak::upgrade) else { continue };
            let Ok(mut state) = flow.0.try_lock() else { continue };
            // Without content, the response is about to leave.
            let Some(held) = state.as_mut() else { continue };
            let at = held.slow_at(slow_after);
            self.leave(due, held.lease.holder());
            if at == due.0 {
                held.due = None;
                return state.take();
            }
            let later = (at, due.1);
            self.insert(later, held.lease.holder(), Arc::downgrade(&flow));
            held.due = Some(later);
        }
        None
    }

    /// The response that may be slow first.
    #[cfg(test)]
    pub(super) fn first_flow(&self) -> Option<Arc<Flow>> {
        self.flows.values().next()?.upgrade()
    }

    /// Returns whether no response is kept.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.holders.is_empty()
    }

    fn insert(&mut self, due: Due, holder: &Arc<str>, flow: Weak<Flow>) {
        self.flows.insert(due, flow);
        match self.holders.get_mut(holder) {
            Some(of_holder) => drop(of_holder.insert(due)),
            None => drop(self.holders.insert(holder.clone(), BTreeSet::from([due]))),
        }
    }

    fn first(&self, holder: Option<&Arc<str>>, start: Bound<Due>) -> Option<Due> {
        let range = (start, Bound::Unbounded);
        match holder {
            Some(holder) => self.holders.get(holder)?.range(range).next().copied(),
            None => self.flows.range(range).next().map(|(due, _)| *due),
        }
    }
}
