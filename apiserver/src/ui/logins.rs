//! Places for login tokens that are arriving: a slow client gives its place to the next one, and one
//! address does not take those of others.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Login tokens that are read at the same time.
pub(super) const LOGINS_MAX: usize = 64;
/// Of these, the tokens from one address.
pub(super) const ADDRESS_LOGINS_MAX: usize = 16;

/// The places. A login always gets one.
#[derive(Clone, Default)]
pub(super) struct Logins(Arc<Mutex<Arriving>>);

#[derive(Default)]
struct Arriving {
    /// The oldest first.
    by_number: BTreeMap<u64, (Option<IpAddr>, CancellationToken)>,
    next_number: u64,
}

/// A place, given back on drop.
pub(super) struct Place {
    logins: Logins,
    number: u64,
    /// Cancelled when the login has to make room.
    pub(super) evicted: CancellationToken,
}

impl Logins {
    /// A place for a login from `address` (`None` for this process). Where the address or all
    /// together have too many, the oldest login of the address, or of that with the most, makes room.
    pub(super) fn enter(&self, address: Option<IpAddr>) -> Place {
        let mut arriving = self.lock();
        if let Some(number) = arriving.surplus(address)
            && let Some((_, evicted)) = arriving.by_number.remove(&number)
        {
            evicted.cancel();
        }
        let number = arriving.next_number;
        arriving.next_number += 1;
        let evicted = CancellationToken::new();
        arriving.by_number.insert(number, (address, evicted.clone()));
        Place { logins: self.clone(), number, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Arriving> {
        // Nothing that holds the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arriving {
    /// The login that has to make room for another one from `address`.
    fn surplus(&self, address: Option<IpAddr>) -> Option<u64> {
        let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for (from, _) in self.by_number.values() {
            *counts.entry(*from).or_default() += 1;
        }
        let count = |from: &Option<IpAddr>| counts.get(from).copied().unwrap_or(0);
        let most = counts.values().max().copied().unwrap_or(0);
        let mut oldest_first = self.by_number.iter();
        let found = if count(&address) >= ADDRESS_LOGINS_MAX {
            oldest_first.find(|(_, (from, _))| *from == address)
        } else if self.by_number.len() >= LOGINS_MAX {
            oldest_first.find(|(_, (from, _))| count(from) == most)
        } else {
            None
        };
        found.map(|(number, _)| *number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.logins.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> Option<IpAddr> {
        Some([192, 0, 2, n].into())
    }

    fn evicted(places: &[Place]) -> Vec<usize> {
        let evicted = places.iter().enumerate().filter(|(_, place)| place.evicted.is_cancelled());
        evicted.map(|(at, _)| at).collect()
    }

    #[test]
    fn one_address_keeps_within_its_part() {
        let logins = Logins::default();
        let other = logins.enter(address(2));
        let places: Vec<Place> =
            (0..ADDRESS_LOGINS_MAX + 2).map(|_| logins.enter(address(1))).collect();
        assert_eq!(evicted(&places), [0, 1], "its oldest");
        assert!(!other.evicted.is_cancelled());
        drop(places);
        let places: Vec<Place> =
            (0..ADDRESS_LOGINS_MAX).map(|_| logins.enter(address(1))).collect();
        assert!(evicted(&places).is_empty(), "places are given back");
    }

    #[test]
    fn address_with_most_logins_makes_room() {
        let logins = Logins::default();
        let single = logins.enter(address(0));
        let mut places: Vec<Place> = Vec::new();
        for n in 1..=3 {
            places.extend((0..ADDRESS_LOGINS_MAX).map(|_| logins.enter(address(n))));
        }
        places.extend((1..ADDRESS_LOGINS_MAX).map(|_| logins.enter(address(4))));
        assert!(evicted(&places).is_empty());
        let fresh = logins.enter(address(5));
        assert_eq!(evicted(&places), [0]);
        assert!(!single.evicted.is_cancelled() && !fresh.evicted.is_cancelled());
        assert_eq!(logins.lock().by_number.len(), LOGINS_MAX);
    }
}
