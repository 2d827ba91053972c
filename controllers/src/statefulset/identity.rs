//! Who the pods of a StatefulSet are: names, labels, claims.

use std::collections::HashSet;
use std::ops::Range;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use kube::ResourceExt;

use crate::history::POD_LABEL;
use crate::ownership::controller_reference;
use crate::pod;

/// The label with the name of the pod, so that a Service can select a single one.
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// The label with the ordinal.
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// Returns the name before the last dash and the number after it. A start and a number of
/// replicas, each of 31 bits, make ordinals of 32 bits.
pub fn parent_and_ordinal(name: &str) -> Option<(&str, i64)> {
    let (parent, number) = name.rsplit_once('-')?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let ordinal: u32 = number.parse().ok().filter(|_| digits)?;
    Some((parent, i64::from(ordinal)))
}

/// The ordinal of a pod that belongs to the set by its name.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i64> {
    let (parent, ordinal) = parent_and_ordinal(pod.metadata.name.as_deref()?)?;
    (Some(parent) == set.metadata.name.as_deref()).then_some(ordinal)
}

/// The lowest ordinal.
pub fn start(spec: &StatefulSetSpec) -> i64 {
    spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).map_or(0, i64::from)
}

/// The ordinals that are wanted. There may be far more of them than pods: no caller walks them
/// beyond what a round does.
pub fn range(spec: &StatefulSetSpec) -> Range<i64> {
    let start = start(spec);
    start..start + i64::from(spec.replicas.unwrap_or(1).max(0))
}

/// The name of the pod of an ordinal.
pub fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// The revision that a pod was made from.
pub fn revision(pod: &Pod) -> &str {
    pod.labels().get(POD_LABEL).map_or("", String::as_str)
}

/// The name of the claim of an ordinal.
pub fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", template.name_any(), set.name_any())
}

/// The claims of the pod of an ordinal, each with the name of its volume.
pub fn claims(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    ordinal: i64,
) -> Vec<(String, PersistentVolumeClaim)> {
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let volume = template.name_any();
            let mut claim = template.clone();
            claim.metadata.name = Some(claim_name(set, template, ordinal));
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
            claim.status = None;
            (volume, claim)
        })
        .collect()
}

/// The pod of an ordinal.
pub fn pod_for(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: i64,
) -> Pod {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = pod::from_template(template, namespace, String::new(), controller_reference(set));
    let name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    identify(&mut pod, ordinal);
    pod.labels_mut().insert(POD_LABEL.to_owned(), revision.to_owned());
    let spec_of_pod = pod.spec.get_or_insert_default();
    spec_of_pod.hostname = Some(name);
    spec_of_pod.subdomain = spec.service_name.clone().filter(|name| !name.is_empty());
    let claims = claims(set, spec, ordinal);
    let mut volumes: Vec<Volume> =
        claims.iter().map(|(volume, claim)| volume_of(volume, &claim.name_any())).collect();
    // A claim overrides a volume of the template that has its name.
    let others = spec_of_pod.volumes.take().unwrap_or_default().into_iter();
    let claimed: HashSet<&str> = claims.iter().map(|(volume, _)| volume.as_str()).collect();
    volumes.extend(others.filter(|other| !claimed.contains(other.name.as_str())));
    spec_of_pod.volumes = (!volumes.is_empty()).then_some(volumes);
    pod
}

fn volume_of(name: &str, claim: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

/// Gives a pod the labels of its identity.
pub fn identify(pod: &mut Pod, ordinal: i64) {
    let name = pod.name_any();
    let labels = pod.labels_mut();
    labels.insert(NAME_LABEL.to_owned(), name);
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
}

/// Whether a pod carries the labels of its identity.
pub fn is_identified(pod: &Pod, ordinal: i64) -> bool {
    pod.labels().get(NAME_LABEL) == Some(&pod.name_any())
        && pod.labels().get(INDEX_LABEL) == Some(&ordinal.to_string())
}
