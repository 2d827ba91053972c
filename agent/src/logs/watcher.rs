//! Watches the directories of logs that clients follow, all of them over one inotify instance: a user
//! of the machine has few instances, 128 as a rule, and other programs need theirs.
//!
//! The instance and the thread that reads it exist only while a log is followed.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::sync::Notify;

/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 256 << 10;

static WATCHER: Mutex<Option<Watcher>> = Mutex::new(None);

/// The watched directories of this process.
struct Watcher {
    inotify: Arc<Inotify>,
    directories: HashMap<WatchDescriptor, Vec<Arc<Notify>>>,
}

fn lock() -> MutexGuard<'static, Option<Watcher>> {
    WATCHER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One watch of a directory; it ends when it is dropped.
pub(super) struct Watch {
    descriptor: WatchDescriptor,
    changed: Arc<Notify>,
}

impl Watch {
    /// Watches a directory for changes of what is in it; `None` if the kernel does not watch it.
    pub(super) fn new(directory: &Path) -> Option<Self> {
        let watch = Self::begin(directory);
        watch
            .inspect_err(|error| {
                tracing::debug!(%error, path = %directory.display(), "a log cannot be watched");
            })
            .ok()
    }

    fn begin(directory: &Path) -> io::Result<Self> {
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF;
        let mut watcher = lock();
        let (inotify, is_new) = match &*watcher {
            Some(watcher) => (watcher.inotify.clone(), false),
            None => (Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?), true),
        };
        let descriptor = inotify.add_watch(directory, flags)?;
        if is_new {
            // It waits for the lock with what it reads first.
            *watcher = Some(Watcher::start(inotify)?);
        }
        let watcher = watcher.as_mut().expect("it was just made");
        let changed = Arc::new(Notify::new());
        watcher.directories.entry(descriptor).or_default().push(changed.clone());
        Ok(Self { descriptor, changed })
    }

    /// Waits for a change since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watcher = lock();
        let Some(watcher) = watcher.as_mut() else { return };
        let Some(listeners) = watcher.directories.get_mut(&self.descriptor) else { return };
        listeners.retain(|listener| !Arc::ptr_eq(listener, &self.changed));
        if listeners.is_empty() {
            // The event of the removal takes it out of the table. The directory may have gone first;
            // then that event is under way.
            let _ = watcher.inotify.rm_watch(self.descriptor);
        }
    }
}

impl Watcher {
    fn start(inotify: Arc<Inotify>) -> io::Result<Self> {
        let reading = inotify.clone();
        let thread = std::thread::Builder::new().name("log-watch".into()).stack_size(STACK_BYTES);
        thread.spawn(move || read(&reading))?;
        Ok(Self { inotify, directories: HashMap::new() })
    }

    fn take(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.directories.values().flatten().for_each(|listener| listener.notify_one());
        }
        let listeners = self.directories.get(&event.wd);
        listeners.into_iter().flatten().for_each(|listener| listener.notify_one());
        // It is watched no more: its last follower has left, or it is gone.
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.directories.remove(&event.wd);
        }
    }
}

/// Reads the instance until no directory is watched any more.
fn read(inotify: &Inotify) {
    loop {
        let events = match inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EINTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "logs are watched no more; followers look from time to time");
                Vec::new()
            }
        };
        let failed = events.is_empty();
        let mut watcher = lock();
        let Some(own) = watcher.as_mut() else { return };
        events.iter().for_each(|event| own.take(event));
        if failed || own.directories.is_empty() {
            *watcher = None;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn instances() -> usize {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets.filter(|target| target.to_string_lossy().contains("inotify")).count()
    }

    #[tokio::test]
    async fn many_watches_share_one_instance() {
        let id: u64 = rand::random();
        let top = std::env::temp_dir().join(format!("coracle-watch-{id}"));
        let mut watches = Vec::new();
        for number in 0..200 {
            let directory = top.join((number / 2).to_string());
            std::fs::create_dir_all(&directory).unwrap();
            watches.push(Watch::new(&directory).unwrap());
        }
        // Other tests follow logs too, over the same one.
        assert_eq!(instances(), 1);
        for number in [0, 57, 99] {
            std::fs::write(top.join(number.to_string()).join("0.log"), "x").unwrap();
            for watch in &watches[2 * number..2 * number + 2] {
                tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap();
            }
        }
        let quiet = watches[2].changed();
        assert!(tokio::time::timeout(Duration::from_millis(50), quiet).await.is_err());
        // One of two is left, and learns of the end of the directory.
        watches.remove(0);
        std::fs::remove_dir_all(&top).unwrap();
        tokio::time::timeout(PATIENCE, watches[0].changed()).await.unwrap();
        drop(watches);
        let gone = async {
            while instances() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    }
}
