//! The thread that puts batches of writes on disk and tells their writers.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::{Durability, Queued, Shared, lock};
use crate::disk::{Disk, DiskError, Everything, RESERVE_REVISIONS, Visit, Write};
use crate::history::ChangeKind;
use crate::record::{Record, Revision};

/// Runs the writer; should it panic outside a commit, the store refuses every later write.
pub(super) fn run_writer<M>(shared: &Shared<M>, disk: Disk) {
    let ended = catch_unwind(AssertUnwindSafe(|| write_loop(shared, disk)));
    if ended.is_err() {
        tracing::error!("the store's writer thread panicked; no write is accepted any more");
        poison(shared);
    }
}

/// Commits batches until the store is closed and everything accepted is on disk.
fn write_loop<M>(shared: &Shared<M>, mut disk: Disk) {
    let everything = |visit: &mut Visit<'_>| {
        let records: Vec<Arc<Record<M>>> = {
            let back = shared.back.read().unwrap_or_else(PoisonError::into_inner);
            back.index.values().filter(|record| record.stored).cloned().collect()
        };
        records.iter().try_for_each(|record| visit(record.as_write()))
    };
    loop {
        let Some(batch) = next_batch(shared) else { break };
        match commit(&mut disk, &batch, &everything) {
            Ok(()) => complete(shared, batch),
            Err(error) => {
                let unknown = error.is_unknown();
                tracing::error!(%error, unknown, "the state file cannot be written");
                fail(shared, batch, Arc::new(error));
                if lock(&shared.front).closed {
                    break;
                }
            }
        }
    }
    if let Err(error) = disk.close(&everything) {
        tracing::warn!(%error, "the journal keeps what the state file has no room for");
    }
}

/// Makes a batch durable. After a panic the files are in an unknown state and are replaced.
fn commit<M>(
    disk: &mut Disk,
    batch: &Batch<M>,
    everything: &Everything<'_>,
) -> Result<(), DiskError> {
    let ceiling = batch.new_ceiling();
    let writes: Vec<Write<'_>> = batch.writes().collect();
    let committed = catch_unwind(AssertUnwindSafe(|| {
        if batch.settle {
            // Also when the question is whether there is room, which only the database can tell.
            disk.settle(&writes, ceiling, everything)
        } else if ceiling.is_none() && writes.is_empty() {
            Ok(())
        } else {
            disk.reserve(&writes, ceiling, everything)
        }
    }));
    committed.unwrap_or_else(|_| {
        disk.taint();
        Err(DiskError::Panicked)
    })
}

/// What one commit takes to disk.
struct Batch<M> {
    queue: Vec<Queued<M>>,
    unsaved: HashMap<Box<str>, Option<Arc<Record<M>>>>,
    reserved: Revision,
    ceiling: Revision,
    settle: bool,
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
        settle: std::mem::take(&mut front.settle),
    })
}

fn complete<M>(shared: &Shared<M>, batch: Batch<M>) {
    if lock(&shared.trouble).take().is_some() {
        tracing::info!("the state file can be written again");
        shared.tell_disk(false);
    }
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
    shared.tell_disk(true);
    let mut front = lock(&shared.front);
    front.committing = false;
    front.pending.clear();
    for (key, record) in batch.unsaved {
        front.unsaved.entry(key).or_insert(record);
    }
    if !front.unsaved.is_empty() {
        front.unsaved_since = Some(Instant::now());
    }
    // Nothing of what was queued behind the batch has reached a file.
    let behind = std::mem::take(&mut front.queue);
    for queued in batch.queue.iter().chain(&behind) {
        if let Some(change) = &queued.change {
            front.usage.take_back(&change.record.key, queued.growth);
        }
    }
    shared.tell_space(&front.usage);
    drop(front);
    for queued in batch.queue.into_iter().chain(behind) {
        let _ = queued.done.send(Err(error.clone()));
    }
}

/// Refuses everything from now on: the thread that answers is gone.
fn poison<M>(shared: &Shared<M>) {
    let error = Arc::new(DiskError::Panicked);
    lock(&shared.trouble).replace(error.clone());
    shared.tell_disk(true);
    let mut front = lock(&shared.front);
    front.closed = true;
    front.committing = false;
    front.pending.clear();
    let queue = std::mem::take(&mut front.queue);
    drop(front);
    for queued in queue {
        let _ = queued.done.send(Err(error.clone()));
    }
}
