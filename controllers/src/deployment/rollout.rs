//! The arithmetic of a rollout: how far each ReplicaSet may be scaled at this moment.
//!
//! Invariant: as long as statuses are not ahead of the truth, no step takes the available pods
//! below `replicas - maxUnavailable` or the pods above `replicas + maxSurge`.

use std::sync::Arc;

use api::int_or_string::IntOrString;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr;

use crate::deployment::revision::{self, DESIRED_REPLICAS, MAX_REPLICAS};
use crate::deployment::status::{spec, wanted};

/// The default of maxSurge and maxUnavailable.
const DEFAULT_PERCENT: &str = "25%";

/// One ReplicaSet as observed and as it shall be.
#[derive(Clone, Debug)]
pub struct Set {
    /// As observed; `None` for one that is to be created.
    pub observed: Option<Arc<ReplicaSet>>,
    /// As it shall be.
    pub target: ReplicaSet,
}

impl Set {
    /// A set that is to stay as it is so far.
    pub fn observed(set: Arc<ReplicaSet>) -> Self {
        Self { target: (*set).clone(), observed: Some(set) }
    }

    /// Whether it shall be other than it is.
    pub fn is_changed(&self) -> bool {
        self.observed.as_deref() != Some(&self.target)
    }

    /// The replicas it shall have.
    pub fn size(&self) -> i32 {
        size(&self.target)
    }

    /// Its available pods.
    pub fn available(&self) -> i32 {
        self.target.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    /// Its available pods that stay: a status that has not caught up with a smaller size counts
    /// pods that are about to go. Upstream believes the status and, when a rollout is turned round
    /// at that moment, takes down as many pods too many.
    pub fn staying(&self) -> i32 {
        self.available().min(self.size())
    }

    /// The pods that it may have at this moment: a status that has not caught up with a smaller
    /// size counts pods that are not yet marked as going. Upstream counts sizes, and has one pod
    /// too many for as long as that takes.
    pub fn held(&self) -> i32 {
        self.actual().max(self.size())
    }

    /// Its active pods.
    pub fn actual(&self) -> i32 {
        self.target.status.as_ref().map_or(0, |status| status.replicas)
    }

    /// Its ready pods.
    pub fn ready(&self) -> i32 {
        self.target.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
    }
}

/// The replicas that a ReplicaSet shall have.
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// What the strategy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Pods above the wanted number.
    pub surge: i32,
    /// Unavailable pods below the wanted number.
    pub unavailable: i32,
}

/// Whether the strategy is `RollingUpdate`.
pub fn is_rolling(deployment: &Deployment) -> bool {
    let kind = spec(deployment).strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    kind.unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// Resolves percentages: surge rounds up, unavailable rounds down, and both zero becomes one
/// unavailable pod so that a rollout can go on at all.
pub fn bounds(deployment: &Deployment) -> Bounds {
    if !is_rolling(deployment) {
        return Bounds { surge: 0, unavailable: 0 };
    }
    let replicas = wanted(deployment);
    let rolling =
        spec(deployment).strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = resolve(rolling.and_then(|rolling| rolling.max_surge.as_ref()), replicas, true);
    let mut unavailable =
        resolve(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), replicas, false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    Bounds { surge, unavailable: unavailable.min(replicas) }
}

/// A bound as a number of pods, the default percentage if it is absent; what is no percentage
/// allows none.
pub fn resolve(bound: Option<&intstr::IntOrString>, replicas: i32, up: bool) -> i32 {
    let usual = || IntOrString::String(DEFAULT_PERCENT.to_owned());
    let bound = bound.map_or_else(usual, IntOrString::from);
    let pods = bound.scaled(i64::from(replicas), up).unwrap_or(0);
    i32::try_from(pods.max(0)).unwrap_or(i32::MAX)
}

/// The most pods that the Deployment allows.
fn most(deployment: &Deployment) -> i32 {
    wanted(deployment).saturating_add(bounds(deployment).surge)
}

/// Narrows a computed size; sums of sizes do not fit 32 bits.
fn narrow(size: i64) -> i32 {
    i32::try_from(size.max(0)).unwrap_or(i32::MAX)
}

/// Adds up counts of ReplicaSets.
pub fn sum<'a>(sets: impl IntoIterator<Item = &'a Set>, count: impl Fn(&Set) -> i32) -> i64 {
    sets.into_iter().map(|set| i64::from(count(set))).sum()
}

/// Scales `set` and notes on it what the Deployment wants.
pub fn scale(deployment: &Deployment, set: &mut Set, to: i32) {
    let replicas = wanted(deployment);
    set.target.spec.get_or_insert_default().replicas = Some(to);
    revision::annotate_size(&mut set.target, replicas, most(deployment));
}

/// The size with which a new ReplicaSet starts or to which it may grow now.
pub fn new_size(deployment: &Deployment, current: i32, others: i64) -> i32 {
    let replicas = wanted(deployment);
    if !is_rolling(deployment) {
        return replicas;
    }
    let most = i64::from(replicas) + i64::from(bounds(deployment).surge);
    let current = i64::from(current);
    let room = (most - current - others).min(i64::from(replicas) - current);
    narrow(current + room.max(0))
}

/// Brings the new ReplicaSet closer to its size; true if it changed.
pub fn grow_new(deployment: &Deployment, new: &mut Set, old: &[Set]) -> bool {
    let replicas = wanted(deployment);
    let current = new.size();
    let target = if current >= replicas {
        replicas
    } else {
        let going = i64::from(new.held()) - i64::from(current);
        new_size(deployment, current, going + sum(old, Set::held))
    };
    if target == current {
        return false;
    }
    scale(deployment, new, target);
    true
}

/// Takes pods from the old ReplicaSets as far as availability allows, those that do not work
/// first; true if something changed.
pub fn shrink_old(deployment: &Deployment, new: Option<&Set>, old: &mut [Set]) -> bool {
    let old_total = sum(&*old, Set::size);
    if old_total == 0 {
        return false;
    }
    let minimum = i64::from(wanted(deployment)) - i64::from(bounds(deployment).unavailable);
    let new_available = new.map_or(0, |new| i64::from(new.staying()));
    // What the new ReplicaSet still lacks is no reason to spare an old pod.
    let spare = old_total + new_available - minimum;
    if spare <= 0 {
        return false;
    }
    old.sort_by_key(|set| set.target.metadata.creation_timestamp.clone().map(|time| time.0));
    let broken = shrink_broken(deployment, old, spare);
    let available = sum(&*old, Set::staying) + new_available;
    let healthy = shrink_healthy(deployment, old, available - minimum);
    broken + healthy > 0
}

fn shrink_broken(deployment: &Deployment, old: &mut [Set], spare: i64) -> i64 {
    let mut taken = 0;
    for set in old {
        // A status that has not caught up yet may show more available pods than there shall be.
        let broken = i64::from(set.size()) - i64::from(set.available());
        let step = broken.min(spare - taken);
        if step > 0 {
            let to = narrow(i64::from(set.size()) - step);
            scale(deployment, set, to);
            taken += step;
        }
    }
    taken
}

fn shrink_healthy(deployment: &Deployment, old: &mut [Set], spare: i64) -> i64 {
    let mut taken = 0;
    for set in old {
        let step = i64::from(set.size()).min(spare - taken);
        if step > 0 {
            let to = narrow(i64::from(set.size()) - step);
            scale(deployment, set, to);
            taken += step;
        }
    }
    taken
}

/// Takes every pod from the old ReplicaSets; true if something changed.
pub fn empty_old(deployment: &Deployment, old: &mut [Set]) -> bool {
    let mut changed = false;
    for set in old.iter_mut().filter(|set| set.size() > 0) {
        scale(deployment, set, 0);
        changed = true;
    }
    changed
}

/// Whether the number of wanted replicas changed since the ReplicaSets were last scaled.
pub fn was_rescaled<'a>(deployment: &Deployment, sets: impl Iterator<Item = &'a Set>) -> bool {
    sets.filter(|set| set.size() > 0).any(|set| {
        revision::number(&set.target, DESIRED_REPLICAS)
            .is_some_and(|desired| desired != wanted(deployment))
    })
}

/// Follows a changed number of wanted replicas, in proportion if a rollout is under way.
pub fn rescale(deployment: &Deployment, new: Option<&mut Set>, old: &mut [Set]) {
    let replicas = wanted(deployment);
    let saturated = new.as_ref().is_some_and(|new| is_saturated(deployment, new));
    // Sorted by age, the youngest first, as `FindActiveOrLatest` does.
    old.sort_by_key(|set| {
        std::cmp::Reverse(set.target.metadata.creation_timestamp.clone().map(|time| time.0))
    });
    let has_new = new.is_some();
    let new_count = usize::from(new.as_ref().is_some_and(|new| new.size() > 0));
    let mut sets: Vec<&mut Set> = new.into_iter().chain(old.iter_mut()).collect();
    let active = sets.iter().filter(|set| set.size() > 0).count();
    if active <= 1 {
        let index = sets.iter().position(|set| set.size() > 0).unwrap_or(0);
        if let Some(set) = sets.get_mut(index)
            && set.size() != replicas
        {
            scale(deployment, set, replicas);
        }
        return;
    }
    if saturated {
        for set in sets.iter_mut().skip(usize::from(has_new)).filter(|set| set.size() > 0) {
            scale(deployment, set, 0);
        }
        return;
    }
    if !is_rolling(deployment) {
        return;
    }
    debug_assert!(new_count <= active, "the new set is one of the active ones");
    sets.retain(|set| set.size() > 0);
    proportionally(deployment, &mut sets);
}

fn proportionally(deployment: &Deployment, sets: &mut [&mut Set]) {
    let replicas = wanted(deployment);
    let total: i64 = sets.iter().map(|set| i64::from(set.size())).sum();
    let allowed = if replicas > 0 { i64::from(most(deployment)) } else { 0 };
    let to_add = allowed - total;
    let created = |set: &Set| set.target.metadata.creation_timestamp.clone().map(|time| time.0);
    if to_add > 0 {
        sets.sort_by(|a, b| b.size().cmp(&a.size()).then(created(b).cmp(&created(a))));
    } else {
        sets.sort_by(|a, b| b.size().cmp(&a.size()).then(created(a).cmp(&created(b))));
    }
    let mut added = 0;
    let mut sizes: Vec<i64> = Vec::with_capacity(sets.len());
    for set in sets.iter() {
        let share = share(deployment, set, to_add, added);
        added += share;
        sizes.push(i64::from(set.size()) + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = *first + to_add - added;
    }
    for (set, size) in sets.iter_mut().zip(sizes) {
        scale(deployment, set, narrow(size));
    }
}

fn share(deployment: &Deployment, set: &Set, to_add: i64, added: i64) -> i64 {
    if set.size() == 0 || to_add == 0 || added == to_add {
        return 0;
    }
    let fraction = fraction(deployment, set);
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction(deployment: &Deployment, set: &Set) -> i64 {
    let replicas = wanted(deployment);
    let size = set.size();
    if replicas == 0 {
        return -i64::from(size);
    }
    let before = revision::number(&set.target, MAX_REPLICAS)
        .filter(|max| *max > 0)
        .or_else(|| deployment.status.as_ref().and_then(|status| status.replicas))
        .filter(|count| *count > 0)
        .unwrap_or(size);
    let max = f64::from(most(deployment));
    let scaled = f64::from(size) * max / f64::from(before);
    // A product of two sizes fits 64 bits.
    scaled.round() as i64 - i64::from(size)
}

fn is_saturated(deployment: &Deployment, new: &Set) -> bool {
    let replicas = wanted(deployment);
    new.size() == replicas
        && revision::number(&new.target, DESIRED_REPLICAS) == Some(replicas)
        && new.available() == replicas
}
