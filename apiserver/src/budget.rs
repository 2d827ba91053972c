//! An amount of something that several holders share, none of which gets more than its part.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An amount to share, in units of the owner's choice.
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

/// The bound that a larger lease would exceed.
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

    /// Returns whether a holder has more than its part.
    pub(crate) fn is_over(&self, holder: &Arc<str>) -> bool {
        let (_, per_holder) = self.bounds();
        self.lock().by_holder.get(holder).is_some_and(|own| *own > per_holder)
    }

    /// The bounds on what all holders and on what one of them has.
    fn bounds(&self) -> (usize, usize) {
        (self.0.total, self.0.per_holder)
    }

    /// Returns whether it is the same as `other`.
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
        let (total, per_holder) = self.budget.bounds();
        let admitted = self.change(self.amount + more, |own, sum| {
            if own + more > per_holder || sum + more > total { Err(()) } else { Ok(()) }
        });
        admitted.is_ok()
    }

    /// Takes `more`, which may exceed a bound as long as no other lease counts against it: one
    /// lease is always possible, however large.
    pub(crate) fn grow_or_alone(&mut self, more: usize) -> Result<(), Full> {
        let ((total, per_holder), amount) = (self.budget.bounds(), self.amount);
        self.change(amount + more, |own, sum| {
            if own > amount && own + more > per_holder {
                return Err(Full::Holder);
            }
            if sum > amount && sum + more > total { Err(Full::Total) } else { Ok(()) }
        })
    }

    /// Changes the amount, whatever the bounds.
    pub(crate) fn set(&mut self, amount: usize) {
        let Ok(()) = self.change::<Infallible>(amount, |_, _| Ok(()));
    }

    /// Changes the amount, unless `admit` refuses: it gets what the holder and what all together
    /// have now.
    fn change<E>(
        &mut self,
        amount: usize,
        admit: impl FnOnce(usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut held = self.budget.lock();
        let Held { sum, by_holder } = &mut *held;
        let own = by_holder.get_mut(&self.holder);
        let before = own.as_ref().map_or(0, |own| **own);
        admit(before, *sum)?;
        *sum = *sum - self.amount + amount;
        match (own, before - self.amount + amount) {
            (Some(_), 0) => {
                by_holder.remove(&self.holder);
            }
            (Some(own), after) => *own = after,
            (None, 0) => {}
            (None, after) => {
                by_holder.insert(self.holder.clone(), after);
            }
        }
        self.amount = amount;
        Ok(())
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

impl Drop for Lease {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.set(0);
        }
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
