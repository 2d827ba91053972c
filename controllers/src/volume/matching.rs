//! Which volume serves a claim.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::placement::node_selector::term_matches;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use kube::ResourceExt;

use crate::selector;
use crate::volume::annotation::{BETA_DEFAULT_CLASS, BIND_COMPLETED, DEFAULT_CLASS, SELECTED_NODE};

/// The storage in a list of quantities.
pub fn storage(list: Option<&BTreeMap<String, Written>>) -> Quantity {
    let written = list.and_then(|list| list.get("storage"));
    written.and_then(|written| Quantity::parse(&written.0).ok()).unwrap_or_default()
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let spec = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(spec.and_then(|resources| resources.requests.as_ref()))
}

/// The class of a claim; empty for volumes without a class.
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

/// The volume that a claim names.
pub fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    name.filter(|name| !name.is_empty())
}

/// Whether claim and volume have found each other for good.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_of(claim).is_some() && claim.annotations().contains_key(BIND_COMPLETED)
}

/// Whether volumes of the class wait for a pod that needs them.
pub fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

/// The node that the scheduler chose for the pod of a claim.
pub fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.annotations().get(SELECTED_NODE).map(String::as_str).filter(|name| !name.is_empty())
}

/// The newest of the default classes.
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let is_default = |class: &&Arc<StorageClass>| {
        [DEFAULT_CLASS, BETA_DEFAULT_CLASS]
            .iter()
            .any(|key| class.annotations().get(*key).is_some_and(|value| value == "true"))
    };
    let created =
        |class: &Arc<StorageClass>| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
    classes.iter().filter(is_default).max_by(|a, b| {
        created(a).cmp(&created(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name))
    })
}

/// The phase of a volume.
pub fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn spec(volume: &PersistentVolume) -> Option<&PersistentVolumeSpec> {
    volume.spec.as_ref()
}

/// The claim that a volume is bound to or set aside for.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    spec(volume)?.claim_ref.as_ref()
}

/// Whether the volume is bound to this claim or set aside for one of its name.
pub fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && reference
                .uid
                .as_ref()
                .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
    })
}

/// Whether the volume can be used on the node.
pub fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let required = spec(volume)
        .and_then(|spec| spec.node_affinity.as_ref())
        .and_then(|affinity| affinity.required.as_ref());
    required
        .is_none_or(|terms| terms.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// Why a volume does not do for a claim that names it.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = spec(volume)?;
    let wanted = claim.spec.as_ref()?;
    if storage(spec.capacity.as_ref()) < requested(claim) {
        return Some("requested PV is too small");
    }
    if spec.storage_class_name.as_deref().unwrap_or_default() != class_of(claim) {
        return Some("storageClassName does not match");
    }
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    if mode(spec.volume_mode.as_ref()) != mode(wanted.volume_mode.as_ref()) {
        return Some("incompatible volumeMode");
    }
    if !offers_modes(spec, claim) {
        return Some("incompatible accessMode");
    }
    None
}

fn offers_modes(spec: &PersistentVolumeSpec, claim: &PersistentVolumeClaim) -> bool {
    let offered = spec.access_modes.as_deref().unwrap_or_default();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
    wanted.unwrap_or_default().iter().all(|mode| offered.contains(mode))
}

/// Whether a free volume fits, its place aside.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    phase(volume) == "Available"
        && claim_ref(volume).is_none()
        && volume.metadata.deletion_timestamp.is_none()
        && mismatch(volume, claim).is_none()
        && wanted.is_none_or(|wanted| selector::matches(wanted, Some(volume.labels())))
}

/// Every free volume that fits, the smallest first.
pub fn candidates(
    volumes: &[Arc<PersistentVolume>],
    claim: &PersistentVolumeClaim,
) -> Vec<Arc<PersistentVolume>> {
    let mut found: Vec<_> = volumes.iter().filter(|volume| fits(volume, claim)).cloned().collect();
    let size = |volume: &PersistentVolume| {
        storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
    };
    found.sort_by(|a, b| size(a).cmp(&size(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name)));
    found
}

/// The best volume for a claim: one that is set aside for it, or else the smallest free one that
/// the node can use.
pub fn best(
    volumes: &[Arc<PersistentVolume>],
    claim: &PersistentVolumeClaim,
    node: Option<&Node>,
) -> Option<Arc<PersistentVolume>> {
    let own = volumes.iter().find(|volume| {
        is_for(volume, claim)
            && volume.metadata.deletion_timestamp.is_none()
            && mismatch(volume, claim).is_none()
    });
    own.cloned().or_else(|| {
        let mut free = candidates(volumes, claim).into_iter();
        free.find(|volume| node.is_none_or(|node| reaches(volume, node)))
    })
}
