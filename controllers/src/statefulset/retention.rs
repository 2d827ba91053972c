//! What becomes of the claims: who owns them decides with whom they are deleted.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use crate::ownership::{controller_of, controller_reference};

/// Whether the claims go with the set, and with a pod that is scaled away.
fn policy(spec: &StatefulSetSpec) -> (bool, bool) {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |text: Option<&String>| text.is_some_and(|text| text == "Delete");
    (
        deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
        deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
    )
}

/// The owners that a claim shall have; `None` if it has them. `condemned` is whether the pod is
/// scaled away.
pub fn owners(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
    condemned: bool,
) -> Option<Vec<OwnerReference>> {
    let (when_deleted, when_scaled) = policy(spec);
    let by_pod = when_scaled && condemned;
    let by_set = when_deleted && !by_pod;
    let known = claim.metadata.owner_references.clone().unwrap_or_default();
    let is_ours = |owner: &OwnerReference| is_set(owner, set) || is_pod(owner, pod);
    // Somebody else decides about it.
    if controller_of(&claim.metadata).is_some_and(|owner| !is_ours(owner)) {
        return None;
    }
    let uid = |meta: &Option<String>| meta.clone().unwrap_or_default();
    let mut wanted: Vec<OwnerReference> = known
        .iter()
        .filter(|owner| {
            !is_ours(owner)
                || (by_set && owner.uid == uid(&set.metadata.uid))
                || (by_pod && owner.uid == uid(&pod.metadata.uid))
        })
        .cloned()
        .collect();
    let mut add = |needed: bool, reference: OwnerReference| {
        if needed && wanted.iter().all(|owner| owner.uid != reference.uid) {
            wanted.push(reference);
        }
    };
    add(by_set, controller_reference(set));
    add(by_pod, controller_reference(pod));
    (wanted != known).then_some(wanted)
}

/// Returns whether a claim is left from an earlier pod of that name, which is missing now, and goes
/// with it.
pub fn is_stale(claim: &PersistentVolumeClaim, pod: &str) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.kind == Pod::kind(&()) && owner.name == pod)
}

fn is_set(owner: &OwnerReference, set: &StatefulSet) -> bool {
    owner.kind == StatefulSet::kind(&()) && Some(&owner.name) == set.metadata.name.as_ref()
}

fn is_pod(owner: &OwnerReference, pod: &Pod) -> bool {
    owner.kind == Pod::kind(&()) && Some(&owner.name) == pod.metadata.name.as_ref()
}
