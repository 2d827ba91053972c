//! The bounded memory of recent changes that feeds watches, one ring per bucket.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::record::{Record, Revision};

/// Changes that one bucket remembers.
pub(crate) const RING_MAX_CHANGES: usize = 4096;
/// Bytes of values that one bucket remembers.
pub(crate) const RING_MAX_BYTES: usize = 4 << 20;
/// Bytes of values that all buckets remember together.
pub(crate) const HISTORY_MAX_BYTES: usize = 32 << 20;

/// Rings of up to so many changes are not shrunk.
const SMALL_RING: usize = 64;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The key did not exist before.
    Created,
    /// The key had another value.
    Updated,
    /// The key is gone; the record is its last state.
    Deleted,
}

/// One change of one key.
#[derive(Debug)]
pub struct Change<M> {
    /// What happened.
    pub kind: ChangeKind,
    /// The state after the change; for a deletion the final state at the deletion's revision.
    pub record: Arc<Record<M>>,
    /// The state before the change.
    pub previous: Option<Arc<Record<M>>>,
}

impl<M> Change<M> {
    /// Bytes of the values that it keeps in memory.
    fn bytes(&self) -> usize {
        self.record.value.len() + self.previous.as_ref().map_or(0, |record| record.value.len())
    }
}

impl<M> Clone for Change<M> {
    fn clone(&self) -> Self {
        Self { kind: self.kind, record: self.record.clone(), previous: self.previous.clone() }
    }
}

/// The recent changes of one bucket, oldest first.
pub(crate) struct Ring<M> {
    changes: VecDeque<Change<M>>,
    bytes: usize,
    /// Every change after this revision is in `changes`.
    complete_after: Revision,
}

impl<M> Ring<M> {
    pub(crate) fn new(complete_after: Revision) -> Self {
        Self { changes: VecDeque::new(), bytes: 0, complete_after }
    }

    /// Bytes of the values that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a change, for which older ones are forgotten. However large it is, it stays itself: watches
    /// have yet to see it.
    pub(crate) fn push(&mut self, change: Change<M>) {
        self.bytes += change.bytes();
        self.changes.push_back(change);
        while self.has_older()
            && (self.changes.len() > RING_MAX_CHANGES || self.bytes > RING_MAX_BYTES)
        {
            self.forget_oldest();
        }
    }

    /// Returns whether there are changes besides the newest.
    pub(crate) fn has_older(&self) -> bool {
        self.changes.len() > 1
    }

    /// Removes the oldest change.
    pub(crate) fn forget_oldest(&mut self) {
        let Some(oldest) = self.changes.pop_front() else { return };
        self.bytes -= oldest.bytes();
        self.complete_after = oldest.record.revision;
        // A burst of changes should not keep its room for good.
        if self.changes.capacity() > 4 * self.changes.len().max(SMALL_RING) {
            self.changes.shrink_to(2 * self.changes.len());
        }
    }

    /// Removes the changes up to `revision`.
    pub(crate) fn forget_until(&mut self, revision: Revision) {
        while self.changes.front().is_some_and(|oldest| oldest.record.revision <= revision) {
            self.forget_oldest();
        }
    }

    /// The changes after `revision` whose key starts with `prefix`, or `None` when some of them
    /// are forgotten already. It stops at the change that makes `max_bytes` full, and then returns
    /// that change's revision.
    pub(crate) fn after(
        &self,
        revision: Revision,
        prefix: &str,
        max_bytes: usize,
    ) -> Option<(Vec<Change<M>>, Option<Revision>)> {
        if revision < self.complete_after {
            return None;
        }
        let start = self.changes.partition_point(|c| c.record.revision <= revision);
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for change in self.changes.range(start..) {
            if !change.record.key.starts_with(prefix) {
                continue;
            }
            bytes += change.record.value.len();
            changes.push(change.clone());
            if bytes >= max_bytes {
                return Some((changes, Some(change.record.revision)));
            }
        }
        Some((changes, None))
    }

    /// Returns whether every change after `revision` is remembered.
    pub(crate) fn reaches(&self, revision: Revision) -> bool {
        revision >= self.complete_after
    }
}
