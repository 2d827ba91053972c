//! Volumes on directories of a node.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::event::reference;
use crate::volume::annotation::{DIRECTORY_FINALIZER, LOCAL_PATH, PROVISIONED_BY};

/// The label by which a volume is tied to its node.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The name of the volume that is made for a claim.
pub fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

/// Why no directory can serve a claim.
pub fn refusal(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("volumeMode Block is not supported: a directory is no block device");
    }
    if spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported");
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("a data source is not supported");
    }
    None
}

/// A reference to the claim, as its volume carries it.
pub fn claim_reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    reference(claim)
}

/// The volume for a claim on the node whose hostname label is `hostname`. The directory is made
/// when the volume is mounted first.
pub fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    directory: &Path,
    hostname: &str,
) -> PersistentVolume {
    let name = volume_name(claim);
    let (namespace, claim_name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let path = directory.join(format!("{name}_{namespace}_{claim_name}"));
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let capacity = requests.into_iter().filter(|(resource, _)| resource == "storage").collect();
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name),
            annotations: Some([(PROVISIONED_BY.to_owned(), LOCAL_PATH.to_owned())].into()),
            finalizers: Some(vec![DIRECTORY_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(capacity),
            claim_ref: Some(claim_reference(claim)),
            host_path: Some(HostPathVolumeSource {
                path: path.display().to_string(),
                type_: Some("DirectoryOrCreate".to_owned()),
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: Some(vec![NodeSelectorRequirement {
                            key: HOSTNAME.to_owned(),
                            operator: "In".to_owned(),
                            values: Some(vec![hostname.to_owned()]),
                        }]),
                        match_fields: None,
                    }],
                }),
            }),
            persistent_volume_reclaim_policy: Some(
                class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned()),
            ),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// Whether this provisioner made the volume.
pub fn is_ours(volume: &PersistentVolume) -> bool {
    volume.annotations().get(PROVISIONED_BY).is_some_and(|by| by == LOCAL_PATH)
}
