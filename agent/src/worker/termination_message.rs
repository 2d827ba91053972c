//! Reads what containers leave when they end, on threads that may wait for a file system.

use super::Worker;
use super::start::{LOG_MESSAGE, MESSAGE_BYTES, log_file, message_file};
use super::state::{Finished, Run, container};
use crate::blocking::{self, Deadline};
use crate::container::own_file;

impl Worker {
    /// Reads the termination messages of the containers that have ended since the last call.
    pub(super) async fn read_termination_messages(&mut self) {
        for id in std::mem::take(&mut self.unread) {
            let Some(read) = self.reading(&id) else { continue };
            let what = "Reading a termination message";
            let text = blocking::run(&self.uid, what, Deadline::Short, read).await;
            let text = text.unwrap_or_else(|error| {
                tracing::warn!(pod = %self.uid, %error, "a termination message is not read");
                None
            });
            let mut finished =
                self.state.containers.iter_mut().filter_map(|record| match &mut record.run {
                    Run::Exited(finished) => Some(finished),
                    _ => None,
                });
            if let Some(finished) = finished.find(|finished| finished.id == id) {
                finished.message = text;
            }
        }
    }

    /// Returns the call that reads the message of a container that has ended.
    fn reading(&self, id: &str) -> Option<impl FnOnce() -> Option<String> + Send + use<>> {
        let ended = |run: &Run| matches!(run, Run::Exited(Finished { id: own, .. }) if own == id);
        let record = self.state.containers.iter().find(|record| ended(&record.run))?;
        let Run::Exited(Finished { exit_code, .. }) = record.run else { return None };
        let policy = container(&self.pod, &record.name)?.termination_message_policy;
        let falls_back = policy.as_deref() == Some("FallbackToLogsOnError") && exit_code != 0;
        let file = message_file(&self.node.config.pod_dir(&self.uid), &record.name);
        let log = log_file(&self.log_directory(), &record.name, record.attempt);
        Some(move || {
            let text = own_file::read_start(&file, MESSAGE_BYTES).unwrap_or_default();
            let mut text = String::from_utf8_lossy(&text).into_owned();
            if text.is_empty() && falls_back {
                text = crate::logs::tail_text(&log, LOG_MESSAGE.1, LOG_MESSAGE.0);
            }
            (!text.is_empty()).then_some(text)
        })
    }
}
