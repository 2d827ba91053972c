//! Where the pods of a DaemonSet belong, and the pod for one node.

use api::placement::node_selector;
use api::placement::taint::{DRIVES_OUT, KEEPS_AWAY, untolerated};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec,
    Toleration,
};
use kube::ResourceExt;

use crate::history::POD_LABEL;
use crate::ownership::controller_reference;
use crate::pod;

/// The annotation that counts the changes of the template.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
/// The label of the pods that carries that count.
const TEMPLATE_GENERATION_LABEL: &str = "pod-template-generation";
/// The field by which a pod is tied to its node.
const NODE_NAME_FIELD: &str = "metadata.name";
/// The taints that every pod of a DaemonSet tolerates, so that it runs where others may not.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// The taint that pods in the network of the machine tolerate besides.
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a DaemonSet has to do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// A pod shall run there.
    pub wanted: bool,
    /// A pod that runs there may stay.
    pub may_stay: bool,
}

/// Whether a pod of the template belongs on the node.
pub fn place(template: &PodTemplateSpec, node: &Node) -> Place {
    const NOWHERE: Place = Place { wanted: false, may_stay: false };
    let mut spec = template.spec.clone().unwrap_or_default();
    if spec.node_name.as_ref().is_some_and(|name| !name.is_empty() && *name != node.name_any()) {
        return NOWHERE;
    }
    tolerate(&mut spec);
    let pod = Pod { spec: Some(spec), ..Pod::default() };
    if !node_selector::matches(&pod, node) {
        return NOWHERE;
    }
    if untolerated(&pod, node, &KEEPS_AWAY).is_some() {
        return Place { wanted: false, may_stay: untolerated(&pod, node, &DRIVES_OUT).is_none() };
    }
    Place { wanted: true, may_stay: true }
}

/// The pod for one node.
pub fn pod_for(owner: &DaemonSet, template: &PodTemplateSpec, hash: &str, node: &str) -> Pod {
    let namespace = owner.metadata.namespace.as_deref().unwrap_or_default();
    let prefix = format!("{}-", owner.name_any());
    let mut pod = pod::from_template(template, namespace, prefix, controller_reference(owner));
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(generation) = owner.annotations().get(TEMPLATE_GENERATION) {
        labels.insert(TEMPLATE_GENERATION_LABEL.to_owned(), generation.clone());
    }
    labels.insert(POD_LABEL.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    tolerate(spec);
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: NODE_NAME_FIELD.to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
        }],
    });
    pod
}

/// The node that a pod is on, or was made for.
pub fn target(pod: &Pod) -> Option<&str> {
    if let Some(name) = pod::node_name(pod) {
        return Some(name);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter());
    fields
        .flatten()
        .find(|field| field.key == NODE_NAME_FIELD && field.operator == "In")
        .and_then(|field| field.values.as_ref()?.first())
        .map(String::as_str)
}

fn tolerate(spec: &mut PodSpec) {
    let network = spec.host_network.unwrap_or(false).then_some(NETWORK_UNAVAILABLE);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let known = tolerations.iter_mut().find(|known| {
            known.key.as_deref() == Some(key)
                && known.effect.as_deref() == Some(effect)
                && known.operator.as_deref() == Some("Exists")
        });
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        match known {
            Some(known) => *known = toleration,
            None => tolerations.push(toleration),
        }
    }
}
