//! Deciding what a Deployment needs next.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::deployment::revision::{self, REVISION};
use crate::deployment::rollout::{self, Set};
use crate::deployment::status::{self, PROGRESSING, spec};
use crate::event::Notice;
use crate::ownership::controller_reference;
use crate::selector;
use crate::template::{self, HASH_LABEL};

/// What is known of a Deployment.
pub struct Observed<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// Every ReplicaSet it controls.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// The uids of those ReplicaSets that still have a pod which has not ended, one that is being
    /// deleted included. Only looked at for the strategy `Recreate`.
    pub busy: HashSet<String>,
    /// A pod that no node takes while no other pod of the Deployment is leaving.
    pub stuck: Option<Stuck>,
    /// The time.
    pub now: Timestamp,
}

/// A pod that waits for a node, and nothing that the rollout does will give it one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The pod.
    pub pod: String,
    /// The uid of its ReplicaSet.
    pub set: String,
    /// What the scheduler says.
    pub reason: String,
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// The writes.
    pub writes: Vec<Write>,
    /// When to look again though nothing changed.
    pub requeue_after: Option<Duration>,
}

/// One intended write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Create the ReplicaSet of a new template.
    Create(Box<ReplicaSet>),
    /// Write a changed ReplicaSet; `event` tells of a changed size.
    Update {
        /// As it shall be.
        set: Box<ReplicaSet>,
        /// What to say once it is done.
        event: Option<Notice>,
    },
    /// Delete a ReplicaSet that the history limit leaves no room for.
    Delete(Arc<ReplicaSet>),
    /// Write the status and, in the same request, the number of the current revision. Apart, the
    /// second would be refused because of the first, and a condition that it carries be lost.
    Status {
        /// The status.
        status: Box<DeploymentStatus>,
        /// The revision, where the Deployment says another one.
        revision: Option<String>,
    },
    /// Say something about the Deployment.
    Event(Notice),
}

/// Compares what is wanted with what is there.
pub fn plan(observed: Observed<'_>) -> Plan {
    let deployment = observed.deployment;
    if selector::is_empty(&spec(deployment).selector) {
        return selects_all(deployment);
    }
    let mut rollout = Rollout::new(observed);
    if deployment.metadata.deletion_timestamp.is_some() {
        let (new, old) = (rollout.new.as_ref(), &rollout.old);
        rollout.status = status::calculate(deployment, &rollout.status, new, old, rollout.now);
        return rollout.into_plan();
    }
    rollout.note_pause();
    let paused = spec(deployment).paused == Some(true);
    if paused || rollout::was_rescaled(deployment, rollout.old.iter().chain(&rollout.new)) {
        rollout.update_new();
        rollout::rescale(deployment, rollout.new.as_mut(), &mut rollout.old);
        if paused {
            rollout.forget_history();
        }
        let (new, old) = (rollout.new.as_ref(), &rollout.old);
        rollout.status = status::calculate(deployment, &rollout.status, new, old, rollout.now);
        return rollout.into_plan();
    }
    if rollout::is_rolling(deployment) {
        rollout.roll()
    } else {
        rollout.recreate()
    }
    rollout.judge();
    rollout.explain();
    rollout.into_plan()
}

fn selects_all(deployment: &Deployment) -> Plan {
    let notice = Notice::warning(
        "SelectingAll",
        "This deployment is selecting all pods. A non-empty selector is required.",
    );
    let mut plan = Plan { writes: vec![Write::Event(notice)], requeue_after: None };
    let mut status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation < deployment.metadata.generation {
        status.observed_generation = deployment.metadata.generation;
        plan.writes.push(Write::Status { status: Box::new(status), revision: None });
    }
    plan
}

/// The state of planning: everything starts as observed and is changed towards what shall be.
struct Rollout<'a> {
    deployment: &'a Deployment,
    /// The ReplicaSet of the current template.
    new: Option<Set>,
    /// Every other one.
    old: Vec<Set>,
    forgotten: Vec<Arc<ReplicaSet>>,
    revision: Option<String>,
    status: DeploymentStatus,
    busy: HashSet<String>,
    stuck: Option<Stuck>,
    event: Option<Notice>,
    now: Timestamp,
}

impl<'a> Rollout<'a> {
    fn new(observed: Observed<'a>) -> Self {
        let wanted = template::canonical(&spec(observed.deployment).template);
        let mut sets = observed.sets;
        sets.sort_by_key(|set| {
            (set.metadata.creation_timestamp.clone().map(|time| time.0), set.metadata.name.clone())
        });
        // The oldest one, should a race ever have left two.
        let position = sets.iter().position(|set| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.is_some_and(|template| template::canonical(template) == wanted)
        });
        let new = position.map(|position| Set::observed(sets.remove(position)));
        Self {
            deployment: observed.deployment,
            new,
            old: sets.into_iter().map(Set::observed).collect(),
            forgotten: Vec::new(),
            revision: None,
            status: observed.deployment.status.clone().unwrap_or_default(),
            busy: observed.busy,
            stuck: observed.stuck,
            event: None,
            now: observed.now,
        }
    }

    /// Keeps the condition true to whether the Deployment is paused.
    fn note_pause(&mut self) {
        if status::deadline(self.deployment).is_none() {
            return;
        }
        let current = status::condition(&self.status, PROGRESSING);
        let reason = current.and_then(|known| known.reason.clone()).unwrap_or_default();
        if reason == status::TIMED_OUT {
            return;
        }
        let paused = spec(self.deployment).paused == Some(true);
        let (reason, message) = match (paused, reason == status::PAUSED) {
            (true, false) => (status::PAUSED, "Deployment is paused"),
            (false, true) => (status::RESUMED, "Deployment is resumed"),
            _ => return,
        };
        let mut condition =
            status::new_condition(PROGRESSING, true, reason, message.to_owned(), self.now);
        "Unknown".clone_into(&mut condition.status);
        status::set_condition(&mut self.status, condition);
    }

    fn roll(&mut self) {
        self.update_new();
        if self.new.is_none() {
            self.create_new();
            return;
        }
        if let Some(new) = &mut self.new
            && rollout::grow_new(self.deployment, new, &self.old)
        {
            return;
        }
        if rollout::shrink_old(self.deployment, self.new.as_ref(), &mut self.old) {
            return;
        }
        self.forget_history_if_complete();
    }

    fn recreate(&mut self) {
        self.update_new();
        if rollout::empty_old(self.deployment, &mut self.old) {
            return;
        }
        let uid = |set: &Set| set.target.metadata.uid.clone().unwrap_or_default();
        if self.old.iter().any(|set| self.busy.contains(&uid(set))) {
            return;
        }
        match &mut self.new {
            None => self.create_new(),
            Some(new) => {
                let wanted = status::wanted(self.deployment);
                if new.size() != wanted {
                    rollout::scale(self.deployment, new, wanted);
                }
                self.forget_history_if_complete();
            }
        }
    }

    fn next_revision(&self) -> i64 {
        self.old
            .iter()
            .map(|set| revision::revision(&set.target))
            .max()
            .unwrap_or(0)
            .saturating_add(1)
    }

    /// Makes the existing ReplicaSet of the current template the newest revision.
    fn update_new(&mut self) {
        let next = self.next_revision();
        let Some(new) = &mut self.new else { return };
        revision::annotate_new(self.deployment, &mut new.target, next, true);
        let seconds = spec(self.deployment).min_ready_seconds.unwrap_or(0);
        let target = new.target.spec.get_or_insert_default();
        if target.min_ready_seconds.unwrap_or(0) != seconds {
            target.min_ready_seconds = Some(seconds);
        }
        self.revision = revision::annotation(&new.target.metadata, REVISION).map(str::to_owned);
        if status::deadline(self.deployment).is_some()
            && status::condition(&self.status, PROGRESSING).is_none()
        {
            let name = new.target.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Found new replica set \"{name}\"");
            let condition =
                status::new_condition(PROGRESSING, true, "FoundNewReplicaSet", message, self.now);
            status::set_condition(&mut self.status, condition);
        }
    }

    fn create_new(&mut self) {
        let next = self.next_revision();
        let mut set = new_set(self.deployment, self.status.collision_count);
        revision::annotate_new(self.deployment, &mut set, next, false);
        let mut new = Set { observed: None, target: set };
        let size = rollout::new_size(self.deployment, 0, rollout::sum(&self.old, Set::held));
        rollout::scale(self.deployment, &mut new, size);
        self.revision = Some(next.to_string());
        if status::deadline(self.deployment).is_some() {
            let name = new.target.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Created new replica set \"{name}\"");
            let condition =
                status::new_condition(PROGRESSING, true, "NewReplicaSetCreated", message, self.now);
            status::set_condition(&mut self.status, condition);
        }
        self.new = Some(new);
    }

    fn judge(&mut self) {
        let (new, old) = (self.new.as_ref(), &self.old);
        self.status = status::calculate(self.deployment, &self.status, new, old, self.now);
        let begins = self.revision_to_write().is_some();
        status::judge_progress(self.deployment, &mut self.status, begins, new, old, self.now);
    }

    /// Says on the Deployment, too, that a new pod has no room beside old ones that have to stay.
    fn explain(&mut self) {
        let new = self.new.as_ref();
        let uid = new.and_then(|new| new.target.metadata.uid.as_ref());
        let goes_on = self.old.iter().chain(new).any(Set::is_changed);
        let keeps_old = self.old.iter().any(|set| set.size() > 0);
        let blocked = rollout::is_rolling(self.deployment) && keeps_old && !goes_on;
        let stuck = self.stuck.as_ref().filter(|stuck| blocked && Some(&stuck.set) == uid);
        let why = stuck.map(|stuck| status::explanation(self.deployment, stuck));
        let told = status::explain_progress(self.deployment, &mut self.status, new, why.as_deref());
        if told && let Some(why) = why {
            self.event = Some(Notice::warning("RolloutBlocked", why));
        }
    }

    /// The current revision, where the Deployment does not carry it yet.
    fn revision_to_write(&self) -> Option<&String> {
        let known = revision::annotation(&self.deployment.metadata, REVISION);
        self.revision.as_ref().filter(|wanted| known != Some(wanted))
    }

    fn forget_history_if_complete(&mut self) {
        let observed = self.deployment.status.clone().unwrap_or_default();
        if status::is_complete(self.deployment, &observed) {
            self.forget_history();
        }
    }

    /// Deletes the oldest empty ReplicaSets beyond the history limit.
    fn forget_history(&mut self) {
        let Some(limit) = spec(self.deployment).revision_history_limit else { return };
        if limit == i32::MAX {
            return;
        }
        let limit = usize::try_from(limit).unwrap_or(0);
        let mut candidates: Vec<&Set> = self
            .old
            .iter()
            .filter(|set| set.target.metadata.deletion_timestamp.is_none())
            .collect();
        let Some(surplus) = candidates.len().checked_sub(limit) else { return };
        candidates.sort_by_key(|set| revision::revision(&set.target));
        self.forgotten = candidates
            .into_iter()
            .take(surplus)
            .filter(|set| {
                let seen = set.target.status.as_ref().and_then(|status| status.observed_generation);
                set.actual() == 0 && set.size() == 0 && set.target.metadata.generation <= seen
            })
            .filter_map(|set| set.observed.clone())
            .collect();
    }

    fn into_plan(self) -> Plan {
        let revision = self.revision_to_write().cloned();
        let mut writes = Vec::new();
        for set in self.old.into_iter().chain(self.new) {
            match set.observed {
                None => writes.push(Write::Create(Box::new(set.target))),
                Some(observed) if set.target != *observed => {
                    let (from, to) = (rollout::size(&observed), rollout::size(&set.target));
                    let event = scaling(set.target.metadata.name.as_deref(), from, to);
                    writes.push(Write::Update { set: Box::new(set.target), event });
                }
                Some(_) => {}
            }
        }
        writes.extend(self.forgotten.into_iter().map(Write::Delete));
        let requeue_after = status::deadline_left(self.deployment, &self.status, self.now);
        if revision.is_some() || self.deployment.status.as_ref() != Some(&self.status) {
            writes.push(Write::Status { status: Box::new(self.status), revision });
        }
        writes.extend(self.event.map(Write::Event));
        Plan { writes, requeue_after }
    }
}

/// The event that tells of a changed size.
pub fn scaling(name: Option<&str>, from: i32, to: i32) -> Option<Notice> {
    let name = name.unwrap_or_default();
    let direction = match to.cmp(&from) {
        std::cmp::Ordering::Greater => "up",
        std::cmp::Ordering::Less => "down",
        std::cmp::Ordering::Equal => return None,
    };
    let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
    Some(Notice::normal("ScalingReplicaSet", message))
}

fn new_set(deployment: &Deployment, collisions: Option<i32>) -> ReplicaSet {
    let hash = template::hash(&spec(deployment).template, collisions);
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let mut pods = spec(deployment).template.clone();
    pods.metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash.clone());
    let mut wanted = spec(deployment).selector.clone();
    wanted.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: pods.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec(deployment).min_ready_seconds,
            selector: wanted,
            template: Some(pods),
        }),
        status: None,
    }
}
