//! The store itself: an index in memory in front of the file, one writer thread with group commit.

mod commit;
mod counts;
mod types;
mod usage;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{oneshot, watch as signal};

use crate::disk::{Disk, DiskError, RESERVE_REVISIONS, Write};
use crate::files::{Files, SystemFiles};
use crate::history::{Change, ChangeKind, HISTORY_MAX_BYTES, Ring};
use crate::journal::JOURNAL_BYTES;
use crate::record::{Record, Revision, Weigh, bucket_of};

use counts::Counts;
pub use types::{
    Action, Alarms, Durability, Options, Page, WatchBatch, WatchError, WriteError, Written,
};
pub use usage::Exceeded;
use usage::{Growth, Usage, record_bytes};
pub use watch::Watch;

/// A versioned map from keys to bytes. Cheap to clone.
pub struct Store<M> {
    shared: Arc<Shared<M>>,
}

impl<M> Clone for Store<M> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<M> {
    front: Mutex<Front<M>>,
    work: Condvar,
    back: RwLock<Back<M>>,
    /// One wake-up channel per bucket; the value is the bucket's last revision.
    wakers: RwLock<HashMap<Box<str>, signal::Sender<Revision>>>,
    options: Options,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Why the last commit failed, until one succeeds.
    trouble: Mutex<Option<Arc<DiskError>>>,
    alarms: signal::Sender<Alarms>,
}

/// What writers see: accepted writes that are not visible yet.
struct Front<M> {
    next_revision: Revision,
    /// Revisions up to here are reserved on disk.
    ceiling: Revision,
    queue: Vec<Queued<M>>,
    /// The newest accepted state of keys in the queue or in the batch being committed.
    pending: HashMap<Box<str>, Option<Arc<Record<M>>>>,
    committing: bool,
    /// Whether the writer sleeps until there is work; while it works, it looks by itself.
    writer_sleeps: bool,
    /// Lazy records that are visible but not on disk yet; `None` for a removed key.
    unsaved: HashMap<Box<str>, Option<Arc<Record<M>>>>,
    unsaved_since: Option<Instant>,
    usage: Usage,
    /// The next commit has the state file take over what the journal holds, also if it changes nothing.
    settle: bool,
    closed: bool,
}

struct Queued<M> {
    /// `None` for a write that changes nothing but must not be answered before what it saw is
    /// durable.
    change: Option<Change<M>>,
    growth: Growth,
    durability: Durability,
    done: oneshot::Sender<Result<(), Arc<DiskError>>>,
}

/// What readers see.
struct Back<M> {
    index: BTreeMap<Box<str>, Arc<Record<M>>>,
    counts: Counts,
    rings: HashMap<Box<str>, Ring<M>>,
    /// Bytes of the values in all rings.
    history_bytes: usize,
    revision: Revision,
    /// The revision at which this run began; older history is unknown.
    opened_at: Revision,
}

impl<M: Weigh + Send + Sync + 'static> Store<M> {
    /// Opens or creates the file at `path` and reads it whole; `derive` computes a record's
    /// metadata from its key and bytes, or says why those are not what was stored.
    pub fn open(
        path: &Path,
        options: Options,
        derive: impl Fn(&str, &[u8]) -> Result<M, String>,
    ) -> Result<Self, DiskError> {
        Self::open_on(Arc::new(SystemFiles), path, JOURNAL_BYTES, options, derive)
    }

    /// The same on any file system, with a journal of any size.
    pub(crate) fn open_on(
        files: Arc<dyn Files>,
        path: &Path,
        journal_bytes: usize,
        options: Options,
        derive: impl Fn(&str, &[u8]) -> Result<M, String>,
    ) -> Result<Self, DiskError> {
        let mut disk = Disk::open(files, path, journal_bytes)?;
        let (loaded, ceiling) = disk.load()?;
        let newest = loaded.iter().map(|l| l.revision).max().unwrap_or(0);
        let revision = ceiling.max(newest) + 1;
        let mut usage = Usage::new(options.max_bytes);
        let index: BTreeMap<Box<str>, Arc<Record<M>>> = loaded
            .into_iter()
            .map(|l| {
                let meta = derive(&l.key, &l.value).map_err(|message| DiskError::Damaged {
                    path: path.to_owned(),
                    message: format!("{}: {message}", l.key),
                })?;
                let after = record_bytes(&l.key, &l.value, &meta);
                usage.count(&l.key, Growth { before: 0, after });
                let key: Box<str> = l.key.into();
                let (revision, value) = (l.revision, l.value);
                let record = Record { key: key.clone(), revision, value, meta, stored: true };
                Ok((key, Arc::new(record)))
            })
            .collect::<Result<_, DiskError>>()?;
        disk.begin(revision + RESERVE_REVISIONS, &|visit| {
            index.values().try_for_each(|record| visit(record.as_write()))
        })?;
        let alarms = Alarms { space: usage.alarm(), disk: false };
        let mut counts = Counts::default();
        index.keys().for_each(|key| counts.add(key));
        let shared = Arc::new(Shared {
            front: Mutex::new(Front {
                next_revision: revision + 1,
                ceiling: revision + RESERVE_REVISIONS,
                queue: Vec::new(),
                pending: HashMap::new(),
                committing: false,
                writer_sleeps: false,
                unsaved: HashMap::new(),
                unsaved_since: None,
                usage,
                settle: false,
                closed: false,
            }),
            work: Condvar::new(),
            back: RwLock::new(Back {
                index,
                counts,
                rings: HashMap::new(),
                history_bytes: 0,
                revision,
                opened_at: revision,
            }),
            wakers: RwLock::new(HashMap::new()),
            options,
            writer: Mutex::new(None),
            trouble: Mutex::new(None),
            alarms: signal::Sender::new(alarms),
        });
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let shared = shared.clone();
                move || commit::run_writer(&shared, disk)
            })
            .expect("the process can start one thread at start-up");
        *lock(&shared.writer) = Some(writer);
        Ok(Self { shared })
    }

    /// The revision of the last visible write.
    pub fn revision(&self) -> Revision {
        self.back(|back| back.revision)
    }

    /// Forgets how the store came to be as it was at `revision`. A watch that has not got so far yet
    /// ends as too old, to be begun again from a list.
    pub fn forget_history_until(&self, revision: Revision) {
        let mut back = self.shared.back.write().unwrap_or_else(PoisonError::into_inner);
        let back = &mut *back;
        for ring in back.rings.values_mut() {
            back.history_bytes -= ring.bytes();
            ring.forget_until(revision);
            back.history_bytes += ring.bytes();
        }
    }

    /// The visible record under `key`.
    pub fn get(&self, key: &str) -> Option<Arc<Record<M>>> {
        self.back(|back| back.index.get(key).cloned())
    }

    /// The number of visible records of a bucket, for the prefix `bucket/`, or of a share of it, for
    /// `bucket/share/`.
    pub fn count(&self, prefix: &str) -> usize {
        self.back(|back| back.counts.of(prefix))
    }

    /// Up to `limit` (0 = all) records whose key starts with `prefix` and lies after `after`, in key
    /// order. Looks at no record after the first that is beyond the limit.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Page<M> {
        let start = start(prefix, after);
        self.back(|back| {
            let range = back.index.range::<str, _>((start, Bound::Unbounded));
            let mut within = range.take_while(|(key, _)| key.starts_with(prefix));
            let most = if limit == 0 { usize::MAX } else { limit };
            let records = within.by_ref().take(most).map(|(_, record)| record.clone()).collect();
            let more = within.next().is_some();
            Page { revision: back.revision, records, more, count: back.counts.of(prefix) }
        })
    }

    /// Those of the records for which `keep` holds, up to `limit`.
    pub fn select(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        mut keep: impl FnMut(&Record<M>) -> bool,
    ) -> Page<M> {
        // Others wait for the lock, so nothing is selected under it. A page is made from parts, which
        // are as new as its revision or newer.
        let part = if limit == 0 { 0 } else { PART_RECORDS.max(limit) };
        let mut page = self.list(prefix, after, part);
        let mut records: Vec<_> = std::mem::take(&mut page.records);
        let mut kept = Vec::new();
        loop {
            let last = records.last().cloned();
            for record in records.into_iter().filter(|record| keep(record)) {
                if limit != 0 && kept.len() == limit {
                    return Page { records: kept, more: true, ..page };
                }
                kept.push(record);
            }
            let Some(last) = last.filter(|_| page.more) else {
                return Page { records: kept, ..page };
            };
            let next = self.list(prefix, Some(&last.key), part);
            (records, page.more) = (next.records, next.more);
        }
    }

    /// Reads, decides and writes one key as one step. `decide` gets the newest accepted record and
    /// the revision that the write will have; it runs under the store's lock, so it must be short.
    ///
    /// Returns when the write is as durable as asked and visible.
    pub async fn write<E>(
        &self,
        key: &str,
        durability: Durability,
        decide: impl FnOnce(Option<&Arc<Record<M>>>, Revision) -> Result<Action<M>, E>,
    ) -> Result<Written<M>, WriteError<E>> {
        let (written, done) = self.enqueue(key, durability, decide)?;
        if let Some(done) = done {
            done.await.map_err(|_| WriteError::Closed)?.map_err(WriteError::Disk)?;
        }
        Ok(written)
    }

    #[allow(clippy::type_complexity)]
    fn enqueue<E>(
        &self,
        key: &str,
        durability: Durability,
        decide: impl FnOnce(Option<&Arc<Record<M>>>, Revision) -> Result<Action<M>, E>,
    ) -> Result<(Written<M>, Option<oneshot::Receiver<Result<(), Arc<DiskError>>>>), WriteError<E>>
    {
        let mut front = lock(&self.shared.front);
        if front.closed {
            // A writer that has panicked left its error.
            let trouble = lock(&self.shared.trouble).clone();
            return Err(trouble.map_or(WriteError::Closed, WriteError::Disk));
        }
        let current = match front.pending.get(key) {
            Some(pending) => pending.clone(),
            None => self.get(key),
        };
        let revision = front.next_revision;
        let action = decide(current.as_ref(), revision).map_err(WriteError::Rejected)?;
        let (kind, value, meta) = match action {
            Action::Keep if front.pending.contains_key(key) => {
                let (done, wait) = oneshot::channel();
                let (durability, growth) = (Durability::Volatile, Growth::default());
                front.queue.push(Queued { change: None, growth, durability, done });
                front.wake(&self.shared.work);
                return Ok((Written::Kept, Some(wait)));
            }
            Action::Keep => return Ok((Written::Kept, None)),
            Action::Put { value, meta } if current.is_some() => (ChangeKind::Updated, value, meta),
            Action::Put { value, meta } => (ChangeKind::Created, value, meta),
            Action::Delete { value, meta } => (ChangeKind::Deleted, value, meta),
        };
        let before = current.as_ref().map_or(0, |old| record_bytes(key, &old.value, &old.meta));
        let gone = kind == ChangeKind::Deleted;
        let after = if gone { 0 } else { record_bytes(key, &value, &meta) };
        let growth = Growth { before, after };
        front.usage.admit(key, growth, durability)?;
        self.shared.tell_space(&front.usage);
        front.next_revision += 1;
        let stored =
            durability != Durability::Volatile || current.as_ref().is_some_and(|c| c.stored);
        let record = Arc::new(Record { key: key.into(), revision, value, meta, stored });
        let change = Change { kind, record: record.clone(), previous: current };
        let written = match kind {
            ChangeKind::Deleted => Written::Deleted(record),
            _ => Written::Put(record),
        };
        let must_wait = durability == Durability::Durable
            || front.committing
            || !front.queue.is_empty()
            || revision >= front.ceiling;
        if !must_wait {
            if durability == Durability::Lazy && front.mark_unsaved(&change) {
                front.wake(&self.shared.work);
            }
            self.shared.publish(std::iter::once(change));
            return Ok((written, None));
        }
        let (done, wait) = oneshot::channel();
        front.pending.insert(key.into(), change.after());
        front.queue.push(Queued { change: Some(change), growth, durability, done });
        front.wake(&self.shared.work);
        Ok((written, Some(wait)))
    }

    /// Follows the changes of keys that start with `prefix` (which must contain the whole bucket
    /// name and its slash) after `revision`; 0 means from now on.
    pub fn watch(&self, prefix: &str, revision: Revision) -> Result<Watch<M>, WatchError> {
        let bucket = bucket_of(prefix);
        let wake = {
            let mut wakers = self.shared.wakers.write().unwrap_or_else(PoisonError::into_inner);
            match wakers.get(bucket) {
                Some(waker) => waker.subscribe(),
                None => {
                    let (sender, receiver) = signal::channel(0);
                    wakers.insert(bucket.into(), sender);
                    receiver
                }
            }
        };
        let cursor = self.back(|back| {
            if revision == 0 {
                return Ok(back.revision);
            }
            if revision > back.revision {
                return Err(WatchError::Future { wanted: revision, current: back.revision });
            }
            match back.rings.get(bucket) {
                Some(ring) if !ring.reaches(revision) => Err(WatchError::TooOld(revision)),
                None if revision < back.opened_at => Err(WatchError::TooOld(revision)),
                _ => Ok(revision),
            }
        })?;
        Ok(Watch { store: self.clone(), prefix: prefix.into(), cursor, wake })
    }

    /// Bytes that the records take, and how many they may take.
    pub fn usage(&self) -> (u64, u64) {
        (lock(&self.shared.front).usage.total(), self.shared.options.max_bytes)
    }

    /// The alarms, as they change.
    pub fn alarms(&self) -> signal::Receiver<Alarms> {
        self.shared.alarms.subscribe()
    }

    /// All records that belong on the disk, as of one revision.
    pub fn snapshot(&self) -> (Revision, Vec<Arc<Record<M>>>) {
        let records = |back: &Back<M>| back.index.values().filter(|r| r.stored).cloned().collect();
        self.back(|back| (back.revision, records(back)))
    }

    /// Whether writes reach the disk. After a failed commit it tries again before it answers.
    pub async fn check(&self) -> Result<(), Arc<DiskError>> {
        if lock(&self.shared.trouble).is_none() {
            return Ok(());
        }
        self.settle().await
    }

    /// Has the state file take over what the journal holds, which takes memory until then.
    pub async fn settle(&self) -> Result<(), Arc<DiskError>> {
        let (done, wait) = oneshot::channel();
        {
            let mut front = lock(&self.shared.front);
            if front.closed {
                return lock(&self.shared.trouble).clone().map_or(Ok(()), Err);
            }
            front.settle = true;
            let (durability, growth) = (Durability::Durable, Growth::default());
            front.queue.push(Queued { change: None, growth, durability, done });
            front.wake(&self.shared.work);
        }
        // A writer that is gone takes its last trouble along.
        match wait.await {
            Ok(result) => result,
            Err(_) => lock(&self.shared.trouble).clone().map_or(Ok(()), Err),
        }
    }

    /// Writes what is not on disk yet and stops the writer thread. Later writes fail.
    pub fn close(&self) {
        {
            let mut front = lock(&self.shared.front);
            front.closed = true;
            front.wake(&self.shared.work);
        }
        if let Some(writer) = lock(&self.shared.writer).take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }

    fn back<T>(&self, read: impl FnOnce(&Back<M>) -> T) -> T {
        read(&self.shared.back.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<M> Change<M> {
    /// The state that the key has after this change.
    fn after(&self) -> Option<Arc<Record<M>>> {
        (self.kind != ChangeKind::Deleted).then(|| self.record.clone())
    }
}

impl<M> Record<M> {
    fn as_write(&self) -> Write<'_> {
        Write { key: &self.key, record: Some((self.revision, &self.value)) }
    }
}

impl<M> Back<M> {
    /// Adds a change to the history of its bucket; the largest ones forget for it, their newest
    /// changes last, and never this one.
    fn remember(&mut self, change: Change<M>) {
        let record = change.record.clone();
        let bucket = bucket_of(&record.key);
        if !self.rings.contains_key(bucket) {
            self.rings.insert(bucket.into(), Ring::new(self.opened_at));
        }
        if let Some(ring) = self.rings.get_mut(bucket) {
            self.history_bytes -= ring.bytes();
            ring.push(change);
            self.history_bytes += ring.bytes();
        }
        while self.history_bytes > HISTORY_MAX_BYTES {
            let others = self.rings.iter_mut().filter(|(of, ring)| {
                ring.bytes() > 0 && (ring.has_older() || of.as_ref() != bucket)
            });
            let largest = others.max_by_key(|(_, ring)| (ring.has_older(), ring.bytes()));
            let Some((_, ring)) = largest else { break };
            self.history_bytes -= ring.bytes();
            ring.forget_oldest();
            self.history_bytes += ring.bytes();
        }
    }
}

impl<M> Front<M> {
    /// Remembers a visible change that is not on disk; whether it is the first of its kind.
    fn mark_unsaved(&mut self, change: &Change<M>) -> bool {
        self.unsaved.insert(change.record.key.clone(), change.after());
        let first = self.unsaved_since.is_none();
        self.unsaved_since.get_or_insert_with(Instant::now);
        first
    }

    /// Wakes the writer, once, if it sleeps.
    fn wake(&mut self, work: &Condvar) {
        if std::mem::take(&mut self.writer_sleeps) {
            work.notify_one();
        }
    }
}

impl<M> Shared<M> {
    fn tell_space(&self, usage: &Usage) {
        let space = usage.alarm();
        self.alarms.send_if_modified(|alarms| std::mem::replace(&mut alarms.space, space) != space);
    }

    fn tell_disk(&self, disk: bool) {
        self.alarms.send_if_modified(|alarms| std::mem::replace(&mut alarms.disk, disk) != disk);
    }

    /// Makes changes visible, in order, and wakes whoever watches their buckets.
    fn publish(&self, changes: impl Iterator<Item = Change<M>>) {
        let mut woken: Vec<Box<str>> = Vec::new();
        let revision = {
            let mut back = self.back.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                let key = &change.record.key;
                back.revision = change.record.revision;
                let (old, is_there) = match change.after() {
                    Some(record) => (back.index.insert(key.clone(), record), true),
                    None => (back.index.remove(key), false),
                };
                match (old.is_some(), is_there) {
                    (false, true) => back.counts.add(key),
                    (true, false) => back.counts.remove(key),
                    _ => {}
                }
                let bucket = bucket_of(key);
                if !woken.iter().any(|b| **b == *bucket) {
                    woken.push(bucket.into());
                }
                back.remember(change);
            }
            back.revision
        };
        let wakers = self.wakers.read().unwrap_or_else(PoisonError::into_inner);
        for bucket in woken {
            if let Some(waker) = wakers.get(&bucket) {
                waker.send_replace(revision);
            }
        }
    }
}

/// Records of a part of a bucket that a page is selected from.
const PART_RECORDS: usize = 1024;

/// The place in the index at which a list begins.
fn start<'a>(prefix: &'a str, after: Option<&'a str>) -> Bound<&'a str> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
