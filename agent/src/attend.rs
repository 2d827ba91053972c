//! The worker of a pod, kept running, and the sandbox that it begins with.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use ::watch::restart::{Backoff, panic_text};
use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::events::Level;
use crate::machine::{Cause, PodSandbox};
use crate::node::Node;
use crate::worker::state::Failure;
use crate::worker::{News, Worker};
use runtime::printable::chain;

/// Attempts to take over the sandbox of a pod, and the time between two of them. A failure may
/// pass: no descriptor is free, or the machine is busy.
const ADOPT_ATTEMPTS: u32 = 15;
const ADOPT_RETRY: Duration = Duration::from_secs(2);
/// The time between two attempts to end a sandbox. Until then no new one is made for the pod.
const END_RETRY: Duration = Duration::from_secs(10);

/// The remains of a pod that an earlier process left.
pub enum Former {
    /// Nothing.
    Nothing,
    /// A sandbox that was taken over.
    Sandbox(Arc<dyn PodSandbox>),
    /// A sandbox that was ended, for this reason.
    Ended(Cause),
    /// Perhaps a sandbox, which could not be taken over yet.
    Unknown,
}

/// Runs the worker of a pod. One that panics is replaced after a delay; the next one takes over the
/// sandbox, as after a restart of the agent.
pub async fn attend(
    node: Arc<Node>,
    news: watch::Receiver<News>,
    mut former: Former,
    refusal: Option<Failure>,
) {
    let uid = news.borrow().pod.metadata.uid.clone().unwrap_or_default();
    let mut backoff = Backoff::default();
    loop {
        let sandbox = match former {
            Former::Nothing => None,
            Former::Sandbox(sandbox) => Some(sandbox),
            Former::Ended(cause) => {
                report(&node, &news, &*cause);
                None
            }
            Former::Unknown => take_over(&node, &news, &uid, ADOPT_RETRY).await,
        };
        let started = Instant::now();
        let worker = Worker::new(node.clone(), news.clone(), sandbox, refusal.clone());
        let Err(panic) = AssertUnwindSafe(worker.run()).catch_unwind().await else { return };
        let delay = backoff.delay(started.elapsed());
        let reason = panic_text(&*panic);
        tracing::error!(uid, reason, ?delay, "the worker of a pod panicked; starting another");
        sleep(delay).await;
        former = Former::Unknown;
    }
}

/// Takes over the sandbox of a pod, if it has one. One that cannot be taken over is ended: the pod
/// would run twice. `retry` is the time between two attempts.
async fn take_over(
    node: &Node,
    news: &watch::Receiver<News>,
    uid: &str,
    retry: Duration,
) -> Option<Arc<dyn PodSandbox>> {
    let runtime = &node.machine.runtime;
    for attempt in 1.. {
        match runtime.adopt_one(uid).await {
            Ok(found) => return found,
            Err(error) if attempt == ADOPT_ATTEMPTS => {
                tracing::error!(uid, error = chain(&*error), "cannot adopt a pod; ending it");
                report(node, news, &*error);
                break;
            }
            Err(error) => {
                tracing::warn!(uid, error = chain(&*error), "cannot adopt a pod; trying again");
            }
        }
        sleep(retry).await;
    }
    while let Err(error) = runtime.end(uid).await {
        tracing::error!(uid, error = chain(&*error), "cannot end a pod; trying again");
        report(node, news, &*error);
        sleep(END_RETRY).await;
    }
    None
}

/// Records that the sandbox of a pod is lost, as upstream does, with the reason.
fn report(node: &Node, news: &watch::Receiver<News>, cause: &(dyn std::error::Error + 'static)) {
    let pod = news.borrow().pod.clone();
    let message = format!("Failed to get pod sandbox status: {}", chain(cause));
    node.recorder.pod(&pod, Level::Warning, "FailedPodSandBoxStatus", message);
}

#[cfg(test)]
#[path = "attend_tests.rs"]
mod tests;
