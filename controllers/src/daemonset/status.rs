//! What a DaemonSet reports.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSetStatus;

use crate::daemonset::place::Place;
use crate::daemonset::plan::{Observed, PodsByNode};
use crate::pod;

/// Counts nodes; of several pods on one node the oldest counts.
pub fn status(
    observed: &Observed<'_>,
    places: &BTreeMap<String, Place>,
    by_node: &PodsByNode,
) -> DaemonSetStatus {
    let known = observed.owner.status.clone().unwrap_or_default();
    let (mut updated, mut available) = (0, 0);
    let mut status = DaemonSetStatus {
        collision_count: known.collision_count,
        conditions: known.conditions,
        observed_generation: observed.owner.metadata.generation,
        ..DaemonSetStatus::default()
    };
    for (node, place) in places {
        let oldest = by_node.get(node).and_then(|pods| pods.first());
        match oldest {
            None if place.wanted => status.desired_number_scheduled += 1,
            None => {}
            Some(_) if !place.wanted => status.number_misscheduled += 1,
            Some(pod) => {
                status.desired_number_scheduled += 1;
                status.current_number_scheduled += 1;
                status.number_ready += i32::from(pod::is_ready(pod));
                available += i32::from(observed.is_available(pod));
                updated += i32::from(observed.is_updated(pod));
            }
        }
    }
    // Counts of zero are left out, as the server stores them.
    let some = |count: i32| (count != 0).then_some(count);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status.updated_number_scheduled = some(updated);
    status
}
