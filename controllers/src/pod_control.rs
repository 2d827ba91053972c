//! Creating and deleting the pods of an owner: in batches, with events, and remembered until the
//! watch has shown them.

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::expectation::Expectations;
use crate::request::{self, Kind};

/// Writes pods for the owners of one controller.
pub struct PodControl {
    context: Arc<Context>,
    recorder: Recorder,
    expectations: Expectations,
}

impl PodControl {
    /// Events will come from `component`.
    pub fn new(context: &Arc<Context>, component: &'static str) -> Self {
        Self {
            context: context.clone(),
            recorder: context.recorder.speaking_for(component),
            expectations: Expectations::default(),
        }
    }

    /// Whether everything asked for on behalf of `owner` has been seen.
    pub fn is_settled(&self, owner: &ObjectKey) -> bool {
        self.expectations.satisfied(owner)
    }

    /// `owner` is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.expectations.forget(owner);
    }

    /// Notes that a change of a pod of `owner` was seen.
    pub fn seen(&self, owner: &ObjectKey, change: &Change<'_, Pod>) {
        match change {
            Change::Applied { old, new } => {
                if old.is_none() {
                    self.expectations.created(owner, 1);
                }
                if new.metadata.deletion_timestamp.is_some() {
                    self.expectations.deleted(owner, new.uid().as_deref().unwrap_or_default());
                }
            }
            Change::Deleted(gone) => {
                self.expectations.deleted(owner, gone.uid().as_deref().unwrap_or_default());
            }
        }
    }

    /// Creates `count` pods in batches of 1, 2, 4, …, so that an owner whose pods are refused costs
    /// few requests; `pod` makes one of them, given its number.
    pub async fn create<O: Kind>(
        &self,
        key: &ObjectKey,
        owner: &O,
        count: usize,
        pod: impl Fn(usize) -> Pod,
    ) -> Result<(), Error> {
        self.expectations.expect_creations(key, count);
        let mut done = 0;
        let mut batch = 1;
        while done < count {
            let now = done..count.min(done + batch);
            let total = now.len();
            done = now.end;
            let outcomes = join_all(now.map(|number| {
                let pod = pod(number);
                async move { request::create(&self.context.client, &pod).await }
            }))
            .await;
            let mut failures = Vec::new();
            for outcome in outcomes {
                match outcome {
                    Ok(created) => {
                        let message = format!("Created pod: {}", created.name_any());
                        self.recorder.record(owner, Notice::normal("SuccessfulCreate", message));
                        self.context.caches.pods.observe(created);
                    }
                    Err(error) => failures.push(error),
                }
            }
            batch *= 2;
            let failed = failures.len();
            let Some(first) = failures.into_iter().next() else { continue };
            self.expectations.created(key, failed + (count - done));
            if first.is_namespace_terminating() {
                return Ok(());
            }
            let message = format!("Error creating: {}", first.message());
            self.recorder.record(owner, Notice::warning("FailedCreate", message));
            return Err(Error::Batch { failed, total, first: Box::new(first) });
        }
        Ok(())
    }

    /// Deletes pods, all at once.
    pub async fn delete<O: Kind>(
        &self,
        key: &ObjectKey,
        owner: &O,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let uid = |pod: &Pod| pod.uid().unwrap_or_default();
        self.expectations.expect_deletions(key, pods.iter().map(|pod| uid(pod)));
        let outcomes = join_all(pods.iter().map(|pod| async move {
            let outcome = request::delete::<Pod>(
                &self.context.client,
                &ObjectKey::of(pod.as_ref()),
                pod.metadata.uid.as_deref(),
            )
            .await;
            (pod, outcome)
        }))
        .await;
        let mut failures = Vec::new();
        for (pod, outcome) in outcomes {
            match outcome {
                Ok(()) => {
                    let message = format!("Deleted pod: {}", pod.name_any());
                    self.recorder.record(owner, Notice::normal("SuccessfulDelete", message));
                    if self.context.caches.pods.get(&ObjectKey::of(pod.as_ref())).is_none() {
                        self.expectations.deleted(key, &uid(pod));
                    }
                }
                Err(error) => {
                    self.expectations.deleted(key, &uid(pod));
                    let message = format!("Error deleting: {}", error.message());
                    self.recorder.record(owner, Notice::warning("FailedDelete", message));
                    failures.push(error);
                }
            }
        }
        let failed = failures.len();
        match failures.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(Error::Batch { failed, total: pods.len(), first: Box::new(first) }),
        }
    }
}
