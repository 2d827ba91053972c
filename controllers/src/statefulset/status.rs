//! What a StatefulSet reports.

use k8s_openapi::api::apps::v1::StatefulSetStatus;

use crate::pod::{self, Availability};
use crate::statefulset::identity::revision;
use crate::statefulset::plan::Observed;

/// Counts pods; once every pod is of the newest revision and ready, that is the current one.
pub fn status(observed: &Observed<'_>) -> StatefulSetStatus {
    let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    for pod in observed.pods {
        replicas += i32::from(!pod::phase(pod).is_empty());
        if observed.is_running_and_ready(pod) {
            ready += 1;
            available += i32::from(observed.availability(pod) == Availability::Available);
        }
        if !pod::phase(pod).is_empty() && pod.metadata.deletion_timestamp.is_none() {
            current += i32::from(revision(pod) == observed.current.name);
            updated += i32::from(revision(pod) == observed.update.name);
        }
    }
    let mut current_revision = observed.current.name.to_owned();
    let wanted = observed.spec.replicas.unwrap_or(1);
    let complete = [updated, ready, replicas].iter().all(|count| *count == wanted);
    if observed.is_rolling() && complete {
        current = updated;
        observed.update.name.clone_into(&mut current_revision);
    }
    let known = observed.set.status.as_ref();
    // Counts of zero are left out, as the server stores them.
    let some = |count: i32| (count != 0).then_some(count);
    StatefulSetStatus {
        available_replicas: Some(available),
        collision_count: Some(known.and_then(|known| known.collision_count).unwrap_or(0)),
        conditions: known.and_then(|known| known.conditions.clone()),
        current_replicas: some(current),
        current_revision: Some(current_revision),
        observed_generation: observed.set.metadata.generation,
        ready_replicas: some(ready),
        replicas,
        update_revision: Some(observed.update.name.to_owned()),
        updated_replicas: some(updated),
    }
}
