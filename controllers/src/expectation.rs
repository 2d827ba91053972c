//! What a controller has asked for and has not seen yet, so that a cache that lags behind never
//! makes it ask twice.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::ObjectKey;

/// After this long an expectation is taken as lost and the cache is believed again.
const LIFETIME: Duration = Duration::from_secs(300);

/// The outstanding wishes of every owner of one kind.
#[derive(Default)]
pub struct Expectations {
    owners: Mutex<HashMap<ObjectKey, Outstanding>>,
}

struct Outstanding {
    creations: usize,
    /// The uids of objects whose deletion was asked for.
    deletions: HashSet<String>,
    since: Instant,
}

impl Expectations {
    /// `owner` is about to create that many objects.
    pub fn expect_creations(&self, owner: &ObjectKey, count: usize) {
        self.with(owner, |outstanding| {
            outstanding.creations += count;
            outstanding.since = Instant::now();
        });
    }

    /// `owner` is about to delete the objects with these uids.
    pub fn expect_deletions(&self, owner: &ObjectKey, uids: impl IntoIterator<Item = String>) {
        self.with(owner, |outstanding| {
            outstanding.deletions.extend(uids);
            outstanding.since = Instant::now();
        });
    }

    /// An object of `owner` has appeared, or `count` of them never will.
    pub fn created(&self, owner: &ObjectKey, count: usize) {
        if let Some(outstanding) = self.lock().get_mut(owner) {
            outstanding.creations = outstanding.creations.saturating_sub(count);
        }
    }

    /// An object of `owner` is going, or its deletion failed.
    pub fn deleted(&self, owner: &ObjectKey, uid: &str) {
        if let Some(outstanding) = self.lock().get_mut(owner) {
            outstanding.deletions.remove(uid);
        }
    }

    /// Whether all that was asked for has been seen.
    pub fn satisfied(&self, owner: &ObjectKey) -> bool {
        self.lock().get(owner).is_none_or(|outstanding| {
            (outstanding.creations == 0 && outstanding.deletions.is_empty())
                || outstanding.since.elapsed() > LIFETIME
        })
    }

    /// `owner` is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.lock().remove(owner);
    }

    fn with(&self, owner: &ObjectKey, change: impl FnOnce(&mut Outstanding)) {
        let mut owners = self.lock();
        let outstanding = owners.entry(owner.clone()).or_insert_with(|| Outstanding {
            creations: 0,
            deletions: HashSet::new(),
            since: Instant::now(),
        });
        if outstanding.since.elapsed() > LIFETIME {
            outstanding.creations = 0;
            outstanding.deletions.clear();
        }
        change(outstanding);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Outstanding>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_waits_until_it_has_seen_what_it_asked_for() {
        let expectations = Expectations::default();
        let owner = ObjectKey::new("default", "web");
        assert!(expectations.satisfied(&owner));
        expectations.expect_creations(&owner, 2);
        expectations.created(&owner, 1);
        assert!(!expectations.satisfied(&owner));
        expectations.created(&owner, 1);
        assert!(expectations.satisfied(&owner));
        expectations.expect_deletions(&owner, ["a".to_owned()]);
        expectations.deleted(&owner, "b");
        assert!(!expectations.satisfied(&owner));
        expectations.deleted(&owner, "a");
        assert!(expectations.satisfied(&owner));
    }
}
