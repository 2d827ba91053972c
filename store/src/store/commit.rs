//! The thread that puts batches of writes on disk and tells their writers.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::{Durability, Queued, Shared, lock};
use crate::disk::{Disk, DiskError, RESERVE_REVISIONS, Write};
use crate::history::ChangeKind;
use crate::record::{Record, Revision};

/// Commits batches until the store is closed and everything accepted is on disk.
pub(super) fn write_loop<M>(shared: &Shared<M>, mut disk: Disk) {
    loop {
        let Some(batch) = next_batch(shared) else { break };
        let ceiling = batch.new_ceiling();
        let writes: Vec<Write<'_>> = batch.writes().collect();
        let result = if batch.probe {
            // The question is whether there is room, which only the database can tell.
            disk.settle(&writes, ceiling)
        } else if ceiling.is_none() && writes.is_empty() {
            Ok(())
        } else {
            disk.reserve(&writes, ceiling)
        };
        drop(writes);
        match result {
            Ok(()) => complete(shared, batch),
            Err(error) => {
                tracing::error!(%error, "the state file cannot be written");
                fail(shared, batch, Arc::new(error));
                if lock(&shared.front).closed {
                    break;
                }
            }
        }
    }
    if let Err(error) = disk.close() {
        tracing::warn!(%error, "the journal keeps what the state file has no room for");
    }
}

/// What one commit takes to disk.
struct Batch<M> {
    queue: Vec<Queued<M>>,
    unsaved: HashMap<Box<str>, Option<Arc<Record<M>>>>,
    reserved: Revision,
    ceiling: Revision,
    probe: bool,
}

impl<M> Batch<M> {
    fn writes(&self) -> impl Iterator<Item = Write<'_>> {
        let lazy = self.unsaved.iter().map(|(key, record)| Write {
            key,
            record: record.as_ref().map(|r| (r.revision, &r.value)),
        });
        let lasting = self.queue.iter().filter(|q| q.durability != Durability::Volatile);
        let queued = lasting.filter_map(|q| q.change.as_ref()).map(|change| {
            let record = &change.record;
            let stored = change.kind != ChangeKind::Deleted;
            Write { key: &record.key, record: stored.then_some((record.revision, &record.value)) }
        });
        lazy.chain(queued)
    }

    /// The new promise about revisions, if there is one.
    fn new_ceiling(&self) -> Option<Revision> {
        Some(self.ceiling).filter(|ceiling| *ceiling != self.reserved)
    }
}

/// Waits for work: a queued write, or lazy writes that have waited long enough.
fn next_batch<M>(shared: &Shared<M>) -> Option<Batch<M>> {
    let mut front = lock(&shared.front);
    loop {
        let lazy_due = front.unsaved_since.map(|since| since + shared.options.lazy_flush_delay);
        let due = lazy_due.is_some_and(|due| front.closed || due <= Instant::now());
        if !front.queue.is_empty() || due {
            break;
        }
        if front.closed {
            return None;
        }
        front.writer_sleeps = true;
        front = match lazy_due {
            Some(due) => {
                let wait = due.saturating_duration_since(Instant::now());
                shared.work.wait_timeout(front, wait).unwrap_or_else(PoisonError::into_inner).0
            }
            None => shared.work.wait(front).unwrap_or_else(PoisonError::into_inner),
        };
    }
    front.writer_sleeps = false;
    front.committing = true;
    front.unsaved_since = None;
    let reserved = front.ceiling;
    let low = front.next_revision + RESERVE_REVISIONS / 2 > reserved;
    let ceiling = if low { front.next_revision + RESERVE_REVISIONS } else { reserved };
    Some(Batch {
        queue: std::mem::take(&mut front.queue),
        unsaved: std::mem::take(&mut front.unsaved),
        reserved,
        ceiling,
        probe: std::mem::take(&mut front.probe),
    })
}

fn complete<M>(shared: &Shared<M>, batch: Batch<M>) {
    lock(&shared.trouble).take();
    let (changes, waiters): (Vec<_>, Vec<_>) =
        batch.queue.into_iter().map(|q| (q.change, q.done)).unzip();
    // While this commit counts as running, nobody else publishes; writers may go on queueing.
    shared.publish(changes.iter().flatten().cloned());
    let mut front = lock(&shared.front);
    front.committing = false;
    front.ceiling = batch.ceiling;
    for change in changes.iter().flatten() {
        let record = &change.record;
        let newest = front.pending.get(&record.key).map(|newest| {
            newest
                .as_ref()
                .map_or(change.kind == ChangeKind::Deleted, |n| n.revision == record.revision)
        });
        if newest == Some(true) {
            front.pending.remove(&record.key);
        }
    }
    drop(front);
    for done in waiters {
        // A caller that went away does not need the answer.
        let _ = done.send(Ok(()));
    }
}

/// Refuses the batch and everything queued behind it, which was decided upon states that never
/// came to be.
fn fail<M>(shared: &Shared<M>, batch: Batch<M>, error: Arc<DiskError>) {
    lock(&shared.trouble).replace(error.clone());
    let mut front = lock(&shared.front);
    front.committing = false;
    front.pending.clear();
    for (key, record) in batch.unsaved {
        front.unsaved.entry(key).or_insert(record);
    }
    if !front.unsaved.is_empty() {
        front.unsaved_since = Some(Instant::now());
    }
    let queued = std::mem::take(&mut front.queue);
    drop(front);
    for queued in batch.queue.into_iter().chain(queued) {
        let _ = queued.done.send(Err(error.clone()));
    }
}
