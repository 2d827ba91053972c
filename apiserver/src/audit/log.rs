//! The queue of events, and the thread that writes them.

use std::sync::Arc;
use std::sync::mpsc as thread_mpsc;
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::sync::mpsc::{self, OwnedPermit, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::event::Record;
use super::file::File;

/// Events that wait to be written; a request waits while there are as many.
const QUEUE_EVENTS: usize = 10_000;
/// Kibibytes of bodies that wait to be written; further bodies are left out of their events.
const QUEUE_KIBIBYTES: usize = 64 << 10;
/// Shortest time between two log lines about failures to write.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// Longest time that a flush waits for the disk.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The sending end of the queue.
#[derive(Debug)]
pub(super) struct Log {
    sender: Sender<Entry>,
    kibibytes: Arc<Semaphore>,
}

/// A place in the queue.
pub(super) type Place = OwnedPermit<Entry>;

#[derive(Debug)]
pub(super) enum Entry {
    /// An event, with its share of the queue's bytes.
    Event(Box<Record>, Option<OwnedSemaphorePermit>),
    /// Everything before is to be written.
    Flush(thread_mpsc::SyncSender<()>),
}

impl Log {
    /// Starts the thread.
    pub(super) fn start(file: File) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_EVENTS);
        thread::Builder::new().name("audit".into()).spawn(move || write_all(file, receiver))?;
        Ok(Self { sender, kibibytes: Arc::new(Semaphore::new(QUEUE_KIBIBYTES)) })
    }

    /// Waits for a place in the queue; `None` where nothing is written any more.
    pub(super) async fn place(&self) -> Option<Place> {
        self.sender.clone().reserve_owned().await.ok()
    }

    /// Queues an event; without a place of its own it is queued as soon as there is one.
    pub(super) fn send(&self, mut record: Box<Record>, place: Option<Place>) {
        let kibibytes = u32::try_from(record.body_bytes().div_ceil(1024)).unwrap_or(u32::MAX);
        let share = self.kibibytes.clone().try_acquire_many_owned(kibibytes).ok();
        if share.is_none() {
            record.drop_bodies();
        }
        let entry = Entry::Event(record, share);
        match place {
            Some(place) => drop(place.send(entry)),
            None => self.send_later(entry),
        }
    }

    fn send_later(&self, entry: Entry) {
        let Err(mpsc::error::TrySendError::Full(entry)) = self.sender.try_send(entry) else {
            return;
        };
        let sender = self.sender.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn(async move { sender.send(entry).await })),
            Err(_) => tracing::error!("an audit event is lost: the queue is full"),
        }
    }

    /// Waits until everything that was queued before is written.
    pub(super) fn flush(&self) {
        let (done, wait) = thread_mpsc::sync_channel(1);
        self.send_later(Entry::Flush(done));
        if wait.recv_timeout(FLUSH_TIMEOUT).is_err() {
            tracing::warn!("the audit log was not written in time");
        }
    }
}

/// Writes until every sender is gone. What cannot be written is lost and logged: the API goes on.
fn write_all(mut file: File, mut queue: Receiver<Entry>) {
    let mut trouble = Failures::default();
    while let Some(entry) = queue.blocking_recv() {
        let mut next = Some(entry);
        while let Some(entry) = next.take() {
            match entry {
                Entry::Event(record, share) => {
                    match record.into_line() {
                        Ok(line) => trouble.note(file.write(&line)),
                        Err(error) => trouble.note(Err(error)),
                    }
                    drop(share);
                }
                Entry::Flush(done) => {
                    trouble.note(file.flush());
                    let _ = done.try_send(());
                }
            }
            next = queue.try_recv().ok();
        }
        trouble.note(file.flush());
    }
}

/// Failures since the last one that was logged.
#[derive(Default)]
struct Failures {
    count: u64,
    logged: Option<Instant>,
}

impl Failures {
    fn note<E: std::error::Error>(&mut self, result: Result<(), E>) {
        let Err(error) = result else { return };
        self.count += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            let failures = self.count;
            tracing::error!(%error, failures, "audit events are lost");
            *self = Self { count: 0, logged: Some(Instant::now()) };
        }
    }
}
