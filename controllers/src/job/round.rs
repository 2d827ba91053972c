//! One round over a Job, free of requests: which pods to create and delete ([`Round::begin`]),
//! what the status says once that is done ([`Round::acted`], [`Round::count`]), and whether the
//! Job has ended ([`Round::released`], [`Round::finish`]).
//!
//! Invariant: a pod loses its tracking finalizer only after the status that counts it (or names
//! its uid among the uncounted) has been written, so that a crash at any point neither loses a
//! pod nor counts it twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::event::Notice;
use crate::job::backoff::Backoff;
use crate::job::condition::{self, COMPLETE, FAILURE_TARGET, SUCCESS_CRITERIA_MET, SUSPENDED};
use crate::job::indexes::Indexes;
use crate::job::policy::{self, Verdict};
use crate::job::replicas;
use crate::job::tracked::{self, NewPod};
use crate::pod;

/// At most this many pods wait to be counted in a status at once.
const UNCOUNTED_PODS: usize = 500;

/// What is known of one Job.
pub struct Observed<'a> {
    /// The Job.
    pub job: &'a Job,
    /// Every pod that it controls.
    pub pods: Vec<Arc<Pod>>,
    /// Everything asked for earlier has been seen.
    pub settled: bool,
    /// What is remembered of its failures.
    pub backoff: Backoff,
    /// The time.
    pub now: Timestamp,
}

/// The indexes of an indexed Job by what has become of them.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// How many indexes there are.
    pub completions: i32,
    /// Succeeded according to the status.
    pub counted: Indexes,
    /// Succeeded, those not counted yet included.
    pub succeeded: Indexes,
    /// Failed for good; `None` where failures are not limited per index.
    pub failed: Option<Indexes>,
}

/// A round.
pub struct Round<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) progress: Option<Progress>,
    /// Failed pods that keep their finalizer until their index has a successor that carries on
    /// the count of its failures.
    pub(super) awaiting_successor: Vec<Arc<Pod>>,
    pub(super) succeeded: i32,
    pub(super) now: Timestamp,
    settled: bool,
    /// The pods were compared with what is wanted.
    managed: bool,
    /// Why the Job is ending or has ended, as an interim or final condition.
    finished: Option<JobCondition>,
    reached_limit: bool,
    /// The status as it is to be written.
    pub status: JobStatus,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Pods to create.
    pub create: Vec<NewPod>,
    /// What to tell people.
    pub notices: Vec<Notice>,
    /// When something becomes due just by the passing of time.
    pub requeue_after: Option<Duration>,
    /// What to remember of the failures once the status is written.
    pub backoff: Backoff,
}

impl<'a> Round<'a> {
    /// Compares what is wanted with what is there.
    pub fn begin(observed: Observed<'a>, spec: &'a JobSpec) -> Self {
        let Observed { job, mut pods, settled, backoff, now } = observed;
        pods.sort_by_key(|pod| tracked::index(pod));
        let active = pods.iter().filter(|pod| pod::is_active(pod)).cloned().collect();
        let mut status = job.status.clone().unwrap_or_default();
        status.uncounted_terminated_pods.get_or_insert_default();
        let mut round = Self {
            job,
            spec,
            pods,
            active,
            progress: None,
            awaiting_successor: Vec::new(),
            succeeded: 0,
            now,
            settled,
            managed: false,
            finished: None,
            reached_limit: false,
            status,
            delete: Vec::new(),
            create: Vec::new(),
            notices: Vec::new(),
            requeue_after: None,
            backoff,
        };
        if round.status.start_time.is_none() && !round.is_suspended() {
            round.status.start_time = Some(Time(now));
        }
        round.judge();
        if round.finished.is_some() {
            round.delete = round.active.clone();
        } else if settled && job.metadata.deletion_timestamp.is_none() {
            round.managed = true;
            replicas::plan(&mut round);
        }
        round
    }

    /// Whether nothing is to run for now.
    pub(super) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Asks for another round after `delay` at the latest.
    pub(super) fn wake_after(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |known| known.min(delay)));
    }

    /// The uids of pods that the status names but does not count yet: succeeded and failed.
    fn uncounted(&self) -> (HashSet<String>, HashSet<String>) {
        let pods = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let set = |list: Option<Vec<String>>| list.into_iter().flatten().collect();
        (set(pods.succeeded), set(pods.failed))
    }

    /// Whether the index of the pod counts at all; without indexes every pod does.
    fn has_valid_index(&self, pod: &Pod) -> bool {
        self.progress.as_ref().is_none_or(|progress| {
            tracked::index(pod).is_some_and(|index| index < progress.completions)
        })
    }

    /// The tracked pods that fit `filter` and are not among `uncounted`.
    fn fresh(&self, uncounted: &HashSet<String>, filter: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
        let known = |pod: &Pod| pod.metadata.uid.as_ref().is_some_and(|u| uncounted.contains(u));
        let pods = self.pods.iter().filter(|pod| {
            tracked::is_tracked(pod) && !known(pod) && self.has_valid_index(pod) && filter(pod)
        });
        pods.cloned().collect()
    }

    fn verdict(&self, pod: &Pod) -> Verdict {
        policy::judge(self.spec.pod_failure_policy.as_ref(), pod)
    }

    /// Counts what has ended and decides whether the Job has to end.
    fn judge(&mut self) {
        if self.spec.completion_mode.as_deref() == Some("Indexed") {
            let completions = self.spec.completions.unwrap_or(0);
            let text = self.status.completed_indexes.as_deref().unwrap_or_default();
            let counted = Indexes::parse(text, completions);
            let succeeded = counted.clone();
            self.progress = Some(Progress { completions, counted, succeeded, failed: None });
        }
        let (uncounted_succeeded, uncounted_failed) = self.uncounted();
        let succeeded = self.fresh(&uncounted_succeeded, tracked::is_succeeded);
        let failed = self.fresh(&uncounted_failed, |pod| tracked::is_failed(pod, self.spec));
        let counted = failed.iter().filter(|pod| self.verdict(pod).counts()).count();
        let sum = |status: Option<i32>, fresh: usize, uncounted: usize| {
            status.unwrap_or(0).saturating_add(i32::try_from(fresh + uncounted).unwrap_or(i32::MAX))
        };
        self.succeeded = sum(self.status.succeeded, succeeded.len(), uncounted_succeeded.len());
        let failures = sum(self.status.failed, counted, uncounted_failed.len());
        self.backoff = self.backoff.after(&succeeded, &failed);
        if let Some(progress) = &mut self.progress {
            succeeded.iter().filter_map(|pod| tracked::index(pod)).for_each(|index| {
                progress.succeeded.insert(index);
            });
            self.succeeded = progress.succeeded.total();
        }
        self.finished = self.known_end().or_else(|| self.limit_reached(failures));
        self.judge_indexes();
    }

    /// The end that an earlier round decided, or that a pod demands.
    fn known_end(&self) -> Option<JobCondition> {
        let conditions = self.status.conditions.as_ref();
        if let Some(met) = condition::find(conditions, SUCCESS_CRITERIA_MET) {
            return Some(met.clone());
        }
        if let Some(target) = condition::find(conditions, FAILURE_TARGET) {
            return Some(condition::outcome(target, self.now));
        }
        self.spec.pod_failure_policy.as_ref()?;
        let failed = self.pods.iter().filter(|pod| tracked::is_failed(pod, self.spec));
        let message = failed.map(|pod| self.verdict(pod)).find_map(|verdict| match verdict {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        })?;
        Some(condition::holds(FAILURE_TARGET, "PodFailurePolicy", &message, self.now))
    }

    fn limit_reached(&mut self, failures: i32) -> Option<JobCondition> {
        let fail =
            |reason, message| Some(condition::holds(FAILURE_TARGET, reason, message, self.now));
        if failures > self.spec.backoff_limit.unwrap_or(6) {
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        let limit = self.spec.active_deadline_seconds.filter(|_| !self.is_suspended())?;
        let started = self.status.start_time.as_ref()?.0;
        let passed = Duration::try_from(self.now.duration_since(started)).unwrap_or_default();
        let limit = Duration::from_secs(u64::try_from(limit).unwrap_or(0));
        match limit.checked_sub(passed).filter(|left| !left.is_zero()) {
            None => fail("DeadlineExceeded", "Job was active longer than specified deadline"),
            Some(left) => {
                self.wake_after(left);
                None
            }
        }
    }

    /// What the failures and successes of single indexes mean.
    fn judge_indexes(&mut self) {
        let Some(mut progress) = self.progress.take() else { return };
        let now = self.now;
        if let Some(limit) = self.spec.backoff_limit_per_index {
            let text = self.status.failed_indexes.as_deref().unwrap_or_default();
            let mut failed = Indexes::parse(text, progress.completions);
            for pod in &self.pods {
                let Some(index) = tracked::index(pod).filter(|i| *i < progress.completions) else {
                    continue;
                };
                if !tracked::is_tracked(pod) || !tracked::is_failed(pod, self.spec) {
                    continue;
                }
                let over = match self.verdict(pod) {
                    Verdict::FailIndex => true,
                    Verdict::Ignore => false,
                    _ => tracked::earlier_failures(pod).0 >= limit,
                };
                if over {
                    failed.insert(index);
                }
            }
            let total = failed.total();
            let fail = |reason, message| condition::holds(FAILURE_TARGET, reason, message, now);
            if self.finished.is_none() {
                if self.spec.max_failed_indexes.is_some_and(|most| total > most) {
                    let message = "Job has exceeded the specified maximal number of failed indexes";
                    self.finished = Some(fail("MaxFailedIndexesExceeded", message));
                } else if total > 0
                    && total.saturating_add(progress.succeeded.total()) >= progress.completions
                {
                    self.finished = Some(fail("FailedIndexes", "Job has failed indexes"));
                }
            }
            progress.failed = Some(failed);
            self.awaiting_successor = self.find_awaiting(&progress);
        }
        if self.finished.is_none() {
            let policy = self.spec.success_policy.as_ref();
            self.finished = policy::success(policy, progress.completions, &progress.succeeded)
                .map(|met| condition::holds(SUCCESS_CRITERIA_MET, "SuccessPolicy", &met, now));
        }
        self.progress = Some(progress);
    }

    /// For each index without an active pod the failed pod whose count its successor inherits.
    fn find_awaiting(&self, progress: &Progress) -> Vec<Arc<Pod>> {
        let active: Indexes = self.active.iter().filter_map(|pod| tracked::index(pod)).collect();
        let mut awaiting: Vec<Arc<Pod>> = Vec::new();
        for pod in self.pods.iter().filter(|pod| tracked::is_tracked(pod)) {
            let Some(index) = tracked::index(pod).filter(|index| *index < progress.completions)
            else {
                continue;
            };
            let settled = progress.succeeded.has(index)
                || progress.failed.as_ref().is_some_and(|failed| failed.has(index))
                || active.has(index);
            if settled || !tracked::is_failed(pod, self.spec) {
                continue;
            }
            let rank = |pod: &Pod| {
                let (counted, ignored) = tracked::earlier_failures(pod);
                (counted.saturating_add(ignored), tracked::ended(pod))
            };
            match awaiting.iter_mut().find(|known| tracked::index(known) == Some(index)) {
                Some(known) if rank(known) <= rank(pod) => *known = pod.clone(),
                Some(_) => {}
                None => awaiting.push(pod.clone()),
            }
        }
        awaiting
    }

    /// How a successor of `failed` counts.
    pub(super) fn failures_with(&self, failed: Option<&Pod>) -> (i32, i32) {
        let Some(failed) = failed else { return (0, 0) };
        let (counted, ignored) = tracked::earlier_failures(failed);
        if self.verdict(failed).counts() {
            (counted.saturating_add(1), ignored)
        } else {
            (counted, ignored.saturating_add(1))
        }
    }

    /// Takes in what became of the pods that were to be created and deleted.
    pub fn acted(&mut self, created: usize, deleted: &HashSet<String>) {
        let is_deleted =
            |pod: &Pod| pod.metadata.uid.as_ref().is_some_and(|uid| deleted.contains(uid));
        let left = self.active.iter().filter(|pod| !is_deleted(pod));
        let ready = left.clone().filter(|pod| pod::is_ready(pod)).count();
        let active = left.count() + created;
        let terminating = self.pods.iter().filter(|pod| tracked::is_terminating(pod)).count();
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        if self.finished.is_some() {
            // Pods that still run, or that are not seen yet, keep the Job from ending.
            if deleted.len() != self.active.len() || !self.settled {
                self.finished = None;
            }
        } else if active == 0 && self.is_complete() {
            let message = "Reached expected number of succeeded pods";
            self.finished = Some(condition::holds(
                SUCCESS_CRITERIA_MET,
                "CompletionsReached",
                message,
                self.now,
            ));
        } else if self.managed {
            self.suspend_or_resume();
        }
        self.status.active = some(count(active));
        self.status.ready = Some(count(ready));
        self.status.terminating = Some(count(terminating + deleted.len()));
    }

    fn is_complete(&self) -> bool {
        match self.spec.completions {
            None => self.succeeded > 0,
            Some(wanted) => self.succeeded >= wanted,
        }
    }

    fn suspend_or_resume(&mut self) {
        let mut wanted = condition::holds(SUSPENDED, "JobSuspended", "Job suspended", self.now);
        if self.is_suspended() {
            if condition::set(&mut self.status.conditions, wanted) {
                self.notices.push(Notice::normal("Suspended", "Job suspended"));
            }
            return;
        }
        wanted.status = "False".to_owned();
        wanted.reason = Some("JobResumed".to_owned());
        wanted.message = Some("Job resumed".to_owned());
        let known = self.status.conditions.iter().flatten().any(|c| c.type_ == SUSPENDED);
        if known && condition::set(&mut self.status.conditions, wanted) {
            self.notices.push(Notice::normal("Resumed", "Job resumed"));
            self.status.start_time = Some(Time(self.now));
        }
    }

    /// Counts the pods that have ended, and says which may be released once the status is
    /// written.
    pub fn count(&mut self) -> Vec<Arc<Pod>> {
        let tracked: HashSet<String> = self
            .pods
            .iter()
            .filter(|pod| tracked::is_tracked(pod))
            .filter_map(|pod| pod.metadata.uid.clone())
            .collect();
        let (known_succeeded, known_failed) = self.uncounted();
        self.settle_uncounted(&tracked);
        let ending = self.finished.as_ref();
        let failing = ending.is_some_and(|end| end.type_ != SUCCESS_CRITERIA_MET);
        let ended = self.job.metadata.deletion_timestamp.is_some() || ending.is_some();
        let (mut succeeded, mut failed, mut release) = (Vec::new(), Vec::new(), Vec::new());
        let mut indexes = 0;
        for pod in self.pods.iter().filter(|pod| tracked::is_tracked(pod)) {
            let is_failed = tracked::is_failed(pod, self.spec);
            let awaited =
                self.awaiting_successor.iter().any(|p| p.metadata.uid == pod.metadata.uid);
            if !ended && !tracked::is_succeeded(pod) && (!is_failed || awaited) {
                continue;
            }
            release.push(pod.clone());
            let Some(uid) = &pod.metadata.uid else { continue };
            let valid = self.has_valid_index(pod);
            if tracked::is_succeeded(pod) && !known_failed.contains(uid) {
                match &mut self.progress {
                    // The index alone keeps it from being counted again.
                    Some(progress) => {
                        if let Some(index) = tracked::index(pod).filter(|_| valid)
                            && !progress.counted.has(index)
                        {
                            progress.counted.insert(index);
                            indexes += 1;
                        }
                    }
                    None if !known_succeeded.contains(uid) => succeeded.push(uid.clone()),
                    None => {}
                }
            } else if (is_failed || failing)
                && valid
                && !known_failed.contains(uid)
                && self.verdict(pod).counts()
            {
                failed.push(uid.clone());
            }
            let waiting = known_succeeded.len() + known_failed.len();
            if indexes + succeeded.len() + failed.len() + waiting >= UNCOUNTED_PODS {
                self.reached_limit = true;
                break;
            }
        }
        let uncounted = self.status.uncounted_terminated_pods.get_or_insert_default();
        extend(&mut uncounted.succeeded, succeeded);
        extend(&mut uncounted.failed, failed);
        if let Some(progress) = &self.progress {
            self.status.succeeded = some(progress.counted.total());
            let completed = progress.counted.to_string();
            self.status.completed_indexes = Some(completed).filter(|text| !text.is_empty());
            self.status.failed_indexes = progress.failed.as_ref().map(Indexes::to_string);
        }
        self.announce_end();
        release
    }

    /// Writes the interim condition down before any pod is released.
    fn announce_end(&mut self) {
        let Some(end) = self.finished.take() else { return };
        if matches!(end.type_.as_str(), FAILURE_TARGET | SUCCESS_CRITERIA_MET) {
            if condition::find(self.status.conditions.as_ref(), &end.type_).is_none() {
                self.status.conditions.get_or_insert_default().push(end.clone());
            }
            self.finished = Some(condition::outcome(&end, self.now));
        } else {
            self.finished = Some(end);
        }
    }

    /// Takes in that the pods with these uids carry the finalizer no longer.
    pub fn released(&mut self, released: &HashSet<String>) {
        let tracked: HashSet<String> = self
            .pods
            .iter()
            .filter(|pod| tracked::is_tracked(pod))
            .filter_map(|pod| pod.metadata.uid.clone())
            .filter(|uid| !released.contains(uid))
            .collect();
        self.settle_uncounted(&tracked);
    }

    /// Pods without the finalizer can be counted by number instead of by uid.
    fn settle_uncounted(&mut self, tracked: &HashSet<String>) {
        let Some(uncounted) = &mut self.status.uncounted_terminated_pods else { return };
        for (list, total) in [
            (&mut uncounted.succeeded, &mut self.status.succeeded),
            (&mut uncounted.failed, &mut self.status.failed),
        ] {
            let before = list.iter().flatten().count();
            if let Some(uids) = list {
                uids.retain(|uid| tracked.contains(uid));
            }
            let after = list.iter().flatten().count();
            let counted = i32::try_from(before - after).unwrap_or(i32::MAX);
            *total = some(total.unwrap_or(0).saturating_add(counted));
            if after == 0 {
                *list = None;
            }
        }
    }

    /// Ends the Job when its time has come and every pod is counted and gone.
    pub fn finish(&mut self) {
        let Some(end) = &self.finished else { return };
        let (succeeded, failed) = self.uncounted();
        let waiting = !succeeded.is_empty()
            || !failed.is_empty()
            || self.reached_limit
            || self.status.terminating.unwrap_or(0) > 0;
        if waiting || !condition::set(&mut self.status.conditions, end.clone()) {
            return;
        }
        if end.type_ != COMPLETE {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let reason = reason(end.reason.as_deref().unwrap_or_default());
            self.notices.push(Notice::warning(reason, text(&end.message)));
            return;
        }
        self.status.completion_time.clone_from(&end.last_transition_time);
        let surplus = self.spec.completions.is_some_and(|c| self.status.succeeded.unwrap_or(0) > c);
        if surplus {
            self.notices.push(Notice::warning("TooManySucceededPods", "Too many succeeded pods"));
        }
        self.notices.push(Notice::normal("Completed", "Job completed"));
    }
}

/// Counts of zero are left out, as the server stores them.
fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn extend(list: &mut Option<Vec<String>>, more: Vec<String>) {
    if !more.is_empty() {
        list.get_or_insert_default().extend(more);
    }
}

/// The reasons for which a Job fails, as words of the program.
fn reason(text: &str) -> &'static str {
    const KNOWN: [&str; 5] = [
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "FailedIndexes",
        "MaxFailedIndexesExceeded",
        "PodFailurePolicy",
    ];
    KNOWN.into_iter().find(|known| *known == text).unwrap_or("Failed")
}
