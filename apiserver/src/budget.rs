//! An amount of something that several holders share, none of which gets more than its part.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is there to share, in units of the owner's choice.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Shared>);

struct Shared {
    total: usize,
    per_holder: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    sum: usize,
    by_holder: HashMap<Arc<str>, usize>,
}

/// What stands in the way of a larger lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The holder's own part.
    Holder,
    /// The sum of all.
    Total,
}

/// An amount that a holder has; given back on drop.
pub(crate) struct Lease {
    budget: Budget,
    holder: Arc<str>,
    amount: usize,
}

impl Budget {
    /// A budget of `total`, of which one holder gets at most `per_holder`.
    pub(crate) fn new(total: usize, per_holder: usize) -> Self {
        Self(Arc::new(Shared { total, per_holder, held: Mutex::default() }))
    }

    /// A lease of nothing, which can grow.
    pub(crate) fn lease(&self, holder: &Arc<str>) -> Lease {
        Lease { budget: self.clone(), holder: holder.clone(), amount: 0 }
    }

    /// A lease of `amount`; `None` when the holder or all together would have too much.
    pub(crate) fn take(&self, holder: &Arc<str>, amount: usize) -> Option<Lease> {
        let mut lease = self.lease(holder);
        lease.grow(amount).then_some(lease)
    }

    /// The sum of all leases.
    pub(crate) fn held(&self) -> usize {
        self.lock().sum
    }

    /// Whether it is the same as `other`.
    pub(crate) fn is(&self, other: &Budget) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing that holds the lock panics.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Takes `more`, or nothing and returns false when that would be too much.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let budget = self.budget.clone();
        let mut held = budget.lock();
        let own = held.of(&self.holder);
        if held.sum + more > budget.0.total || own + more > budget.0.per_holder {
            return false;
        }
        held.change(self, self.amount + more);
        true
    }

    /// Takes `more`, which may exceed a bound as long as no other lease counts against it: one
    /// lease is always possible, however large.
    pub(crate) fn grow_or_alone(&mut self, more: usize) -> Result<(), Full> {
        let budget = self.budget.clone();
        let mut held = budget.lock();
        let own = held.of(&self.holder);
        if own > self.amount && own + more > budget.0.per_holder {
            return Err(Full::Holder);
        }
        if held.sum > self.amount && held.sum + more > budget.0.total {
            return Err(Full::Total);
        }
        held.change(self, self.amount + more);
        Ok(())
    }

    /// Changes the amount, whatever the bounds.
    pub(crate) fn set(&mut self, amount: usize) {
        let budget = self.budget.clone();
        budget.lock().change(self, amount);
    }

    pub(crate) fn amount(&self) -> usize {
        self.amount
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn holder(&self) -> &Arc<str> {
        &self.holder
    }
}

impl Held {
    fn of(&self, holder: &Arc<str>) -> usize {
        self.by_holder.get(holder).copied().unwrap_or(0)
    }

    fn change(&mut self, lease: &mut Lease, amount: usize) {
        self.sum = self.sum - lease.amount + amount;
        let own = self.of(&lease.holder) - lease.amount + amount;
        match own {
            0 => self.by_holder.remove(&lease.holder),
            _ => self.by_holder.insert(lease.holder.clone(), own),
        };
        lease.amount = amount;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_holder_takes_more_than_its_part() {
        let budget = Budget::new(10, 6);
        let (jane, joe): (Arc<str>, Arc<str>) = ("jane".into(), "joe".into());
        let mut first = budget.take(&jane, 4).expect("it is hers");
        assert!(!first.grow(3), "seven are more than her part");
        assert!(first.grow(2));
        assert!(budget.take(&jane, 1).is_none());
        let second = budget.take(&joe, 4).expect("the rest is there for others");
        assert!(budget.take(&joe, 1).is_none(), "nothing is left");
        assert_eq!(budget.held(), 10);
        drop(first);
        drop(second);
        assert_eq!(budget.held(), 0);
        assert!(budget.lock().by_holder.is_empty(), "holders of nothing are not kept");
    }

    #[test]
    fn one_lease_is_possible_however_large() {
        let budget = Budget::new(10, 6);
        let (jane, joe): (Arc<str>, Arc<str>) = ("jane".into(), "joe".into());
        let mut large = budget.lease(&jane);
        assert_eq!(large.grow_or_alone(40), Ok(()));
        assert_eq!(budget.lease(&jane).grow_or_alone(1), Err(Full::Holder));
        assert_eq!(budget.lease(&joe).grow_or_alone(1), Err(Full::Total));
        large.set(5);
        assert_eq!(budget.lease(&joe).grow_or_alone(6), Err(Full::Total));
        assert_eq!(budget.lease(&joe).grow_or_alone(5), Ok(()));
        drop(large);
        assert_eq!(budget.held(), 0);
    }
}
