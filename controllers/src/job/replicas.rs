//! How many pods of a Job run: which to delete, which to create.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::burst::{self, BURST_PODS};
use crate::job::backoff::Backoff;
use crate::job::indexes::Indexes;
use crate::job::round::Round;
use crate::job::tracked::{self, NewPod};
use crate::pod;

/// Compares the active pods of a Job that is not ending with what it wants.
pub(super) fn plan(round: &mut Round<'_>) {
    let active = count(round.active.len());
    if round.is_suspended() {
        round.delete = surplus(round, round.active.len());
        return;
    }
    let wanted = wanted(round, active);
    round.delete = surplus(round, usize::try_from(active.saturating_sub(wanted)).unwrap_or(0));
    if !round.delete.is_empty() {
        // Creating has to wait for the next round, when the surplus is gone.
        return;
    }
    let leaving = if tracked::replaces_failed_only(round.spec) {
        count(round.pods.iter().filter(|pod| tracked::is_terminating(pod)).count())
    } else {
        0
    };
    let missing = wanted.saturating_sub(leaving).saturating_sub(active);
    if missing <= 0 {
        return;
    }
    let missing = usize::try_from(missing).unwrap_or(0).min(burst::pods(&round.spec.template));
    let per_index = round.spec.backoff_limit_per_index.is_some();
    if !per_index && let Some(delay) = round.backoff.remaining(round.now) {
        round.wake_after(delay);
        return;
    }
    round.create = match &round.progress {
        None => vec![NewPod::default(); missing],
        Some(_) => indexed(round, missing, per_index),
    };
}

/// How many pods are to be active.
fn wanted(round: &Round<'_>, active: i32) -> i32 {
    let parallelism = round.spec.parallelism.unwrap_or(1);
    match round.spec.completions {
        // Once one pod has succeeded, the others are left to end by themselves.
        None if round.succeeded > 0 => active,
        None => parallelism,
        Some(completions) => {
            completions.saturating_sub(round.succeeded).clamp(0, parallelism.max(0))
        }
    }
}

/// The next indexes without a pod, those aside that have to wait after a failure.
fn indexed(round: &mut Round<'_>, missing: usize, per_index: bool) -> Vec<NewPod> {
    let Some(progress) = &round.progress else { return Vec::new() };
    let occupied = |pod: &&Arc<Pod>| {
        pod::is_active(pod)
            || (tracked::replaces_failed_only(round.spec) && tracked::is_terminating(pod))
    };
    let busy: Indexes =
        round.pods.iter().filter(occupied).filter_map(|pod| tracked::index(pod)).collect();
    let mut taken = vec![&progress.succeeded, &busy];
    taken.extend(&progress.failed);
    let indexes = Indexes::first_free(progress.completions, missing, &taken);
    if !per_index {
        let new = |index| NewPod { index: Some(index), failures: None };
        return indexes.into_iter().map(new).collect();
    }
    let mut create = Vec::new();
    let mut delay = None;
    for index in indexes {
        let predecessor =
            round.awaiting_successor.iter().find(|pod| tracked::index(pod) == Some(index));
        let (counted, ignored) = round.failures_with(predecessor.map(|pod| pod.as_ref()));
        let remaining = predecessor.and_then(|pod| {
            Backoff::new(counted.saturating_add(ignored), tracked::ended(pod)).remaining(round.now)
        });
        match remaining {
            None => create.push(NewPod { index: Some(index), failures: Some((counted, ignored)) }),
            Some(left) => delay = Some(delay.map_or(left, |known| left.min(known))),
        }
    }
    if let Some(delay) = delay {
        round.wake_after(delay);
    }
    create
}

/// The pods to delete so that `at_least` go: those whose index is taken or does not exist first.
fn surplus(round: &Round<'_>, at_least: usize) -> Vec<Arc<Pod>> {
    let mut left = round.active.clone();
    pod::sort_for_deletion(&mut left, round.now);
    let mut delete = Vec::new();
    if let Some(progress) = &round.progress {
        // The last of several pods of one index is the one worth keeping.
        let mut kept = Indexes::default();
        let mut keep = Vec::new();
        for pod in left.into_iter().rev() {
            match tracked::index(&pod).filter(|index| *index < progress.completions) {
                Some(index) if !kept.has(index) => {
                    kept.insert(index);
                    keep.push(pod);
                }
                _ => delete.push(pod),
            }
        }
        keep.reverse();
        left = keep;
    }
    let more = at_least.saturating_sub(delete.len());
    delete.extend(left.into_iter().take(more));
    delete.truncate(BURST_PODS);
    delete
}

fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}
