//! The memory that the records take, and what is kept because of them, and the bounds on it.

use std::collections::HashMap;

use super::Durability;
use crate::record::Weigh;

/// Bytes of memory that keys, values and what is derived from them may take, unless
/// [`super::Options`] says otherwise.
pub(super) const STORE_MAX_BYTES: u64 = 512 << 20;
/// The part of that for the keys of one share (all with the same second segment), in percent.
const SHARE_MAX_PERCENT: u64 = 50;
/// Room beyond the bounds for statuses, Events, Leases and small changes, in percent, so that a
/// full store can still be observed and cleaned up.
const HEADROOM_PERCENT: u64 = 12;
/// An update that adds no more than this is small: marks of deletion, finalizers.
const SMALL_GROWTH_BYTES: u64 = 4 << 10;
/// The alarm begins at this part of the bound, and ends at the other.
const ALARM_PERCENT: (u64, u64) = (80, 75);
/// Bytes that a record takes besides key and value: its place in the index, its metadata.
const RECORD_BYTES: u64 = 256;

/// The bound that a write would exceed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// The one on the whole store, as etcd says it.
    #[error("etcdserver: mvcc: database space exceeded")]
    Store,
    /// The one on a single share.
    #[error("etcdserver: mvcc: database space exceeded: {share} has reached its share")]
    Share {
        /// The second segment of the keys.
        share: Box<str>,
    },
}

/// The change of what a key takes by a write, in bytes; 0 for no record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    pub(super) before: u64,
    pub(super) after: u64,
}

/// Bytes that a record takes, and the objects that are derived from it.
pub(super) fn record_bytes<M: Weigh>(key: &str, value: &[u8], meta: &M) -> u64 {
    let record = RECORD_BYTES + 2 * key.len() as u64 + value.len() as u64;
    record.saturating_add(meta.kept_bytes())
}

/// The bytes that the accepted records take.
pub(super) struct Usage {
    max: u64,
    total: u64,
    shares: HashMap<Box<str>, u64>,
    alarm: bool,
}

impl Usage {
    pub(super) fn new(max: u64) -> Self {
        Self { max, total: 0, shares: HashMap::new(), alarm: false }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns whether the store is nearly full.
    pub(super) fn alarm(&self) -> bool {
        self.alarm
    }

    /// Counts a write, or refuses one that grows beyond a bound.
    pub(super) fn admit(
        &mut self,
        key: &str,
        growth: Growth,
        durability: Durability,
    ) -> Result<(), Exceeded> {
        let Growth { before, after } = growth;
        let more = after.saturating_sub(before);
        if more > 0 {
            let small = before > 0 && more <= SMALL_GROWTH_BYTES;
            let percent = match durability {
                Durability::Durable if !small => 100,
                _ => 100 + HEADROOM_PERCENT,
            };
            let bound = |max: u64| max.saturating_mul(percent) / 100;
            let share = share_of(key);
            let taken = self.shares.get(share).copied().unwrap_or(0);
            let share_max = self.max.saturating_mul(SHARE_MAX_PERCENT) / 100;
            if !share.is_empty() && taken.saturating_add(more) > bound(share_max) {
                return Err(Exceeded::Share { share: share.into() });
            }
            if self.total.saturating_add(more) > bound(self.max) {
                return Err(Exceeded::Store);
            }
        }
        self.count(key, growth);
        Ok(())
    }

    /// Counts a change.
    pub(super) fn count(&mut self, key: &str, Growth { before, after }: Growth) {
        self.total = (self.total + after).saturating_sub(before);
        let share = share_of(key);
        match self.shares.get_mut(share) {
            Some(taken) => {
                *taken = (*taken + after).saturating_sub(before);
                if *taken == 0 {
                    self.shares.remove(share);
                }
            }
            None if after > 0 => drop(self.shares.insert(share.into(), after)),
            None => {}
        }
        let part = if self.alarm { ALARM_PERCENT.1 } else { ALARM_PERCENT.0 };
        self.alarm = self.total >= self.max.saturating_mul(part) / 100;
    }

    /// Takes back what was counted for a write that did not happen.
    pub(super) fn take_back(&mut self, key: &str, Growth { before, after }: Growth) {
        self.count(key, Growth { before: after, after: before });
    }
}

/// The second segment of a key, if there is a third one.
fn share_of(key: &str) -> &str {
    let mut segments = key.splitn(3, '/').skip(1);
    match (segments.next(), segments.next()) {
        (Some(share), Some(_)) => share,
        _ => "",
    }
}
