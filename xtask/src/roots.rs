//! Which messages the schema holds: these kinds and all they refer to.

/// A group and version, and where its messages are.
pub struct GroupVersion {
    pub group: &'static str,
    pub version: &'static str,
    /// Directory in k8s-pb.
    pub dir: &'static str,
    /// Kinds besides those that have object metadata.
    pub more: &'static [&'static str],
}

const fn gv(group: &'static str, version: &'static str, dir: &'static str) -> GroupVersion {
    GroupVersion { group, version, dir, more: &[] }
}

/// The served groups. Every message with object metadata in them is a kind.
pub const GROUPS: &[GroupVersion] = &[
    gv("", "v1", "api/core/v1"),
    gv("admissionregistration.k8s.io", "v1", "api/admissionregistration/v1"),
    gv("apiextensions.k8s.io", "v1", "apiextensions_apiserver/pkg/apis/apiextensions/v1"),
    gv("apiregistration.k8s.io", "v1", "kube_aggregator/pkg/apis/apiregistration/v1"),
    gv("apps", "v1", "api/apps/v1"),
    gv("apps", "v1beta1", "api/apps/v1beta1"),
    gv("apps", "v1beta2", "api/apps/v1beta2"),
    gv("authentication.k8s.io", "v1", "api/authentication/v1"),
    gv("authentication.k8s.io", "v1beta1", "api/authentication/v1beta1"),
    gv("authorization.k8s.io", "v1", "api/authorization/v1"),
    gv("authorization.k8s.io", "v1beta1", "api/authorization/v1beta1"),
    gv("autoscaling", "v1", "api/autoscaling/v1"),
    gv("autoscaling", "v2", "api/autoscaling/v2"),
    gv("autoscaling", "v2beta2", "api/autoscaling/v2beta2"),
    gv("batch", "v1", "api/batch/v1"),
    gv("batch", "v1beta1", "api/batch/v1beta1"),
    gv("certificates.k8s.io", "v1", "api/certificates/v1"),
    gv("coordination.k8s.io", "v1", "api/coordination/v1"),
    gv("coordination.k8s.io", "v1beta1", "api/coordination/v1beta1"),
    gv("discovery.k8s.io", "v1", "api/discovery/v1"),
    gv("discovery.k8s.io", "v1beta1", "api/discovery/v1beta1"),
    gv("events.k8s.io", "v1", "api/events/v1"),
    gv("events.k8s.io", "v1beta1", "api/events/v1beta1"),
    gv("extensions", "v1beta1", "api/extensions/v1beta1"),
    gv("flowcontrol.apiserver.k8s.io", "v1", "api/flowcontrol/v1"),
    gv("metrics.k8s.io", "v1beta1", "metrics/pkg/apis/metrics/v1beta1"),
    gv("networking.k8s.io", "v1", "api/networking/v1"),
    gv("networking.k8s.io", "v1beta1", "api/networking/v1beta1"),
    gv("node.k8s.io", "v1", "api/node/v1"),
    gv("policy", "v1", "api/policy/v1"),
    gv("policy", "v1beta1", "api/policy/v1beta1"),
    gv("rbac.authorization.k8s.io", "v1", "api/rbac/v1"),
    gv("rbac.authorization.k8s.io", "v1beta1", "api/rbac/v1beta1"),
    gv("scheduling.k8s.io", "v1", "api/scheduling/v1"),
    gv("scheduling.k8s.io", "v1beta1", "api/scheduling/v1beta1"),
    gv("storage.k8s.io", "v1", "api/storage/v1"),
    gv("storage.k8s.io", "v1beta1", "api/storage/v1beta1"),
    GroupVersion { group: "meta.k8s.io", version: "v1", dir: META, more: META_KINDS },
];

/// Where the common messages are.
pub const META: &str = "apimachinery/pkg/apis/meta/v1";

const META_KINDS: &[&str] = &[
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "APIVersions",
    "CreateOptions",
    "DeleteOptions",
    "PartialObjectMetadata",
    "PatchOptions",
    "Status",
    "UpdateOptions",
];

/// Kinds that only ever existed under another name: group, version, kind, and the message that has
/// their fields.
pub const ALIASES: &[(&str, &str, &str, (&str, &str))] =
    &[("apps", "v1alpha1", "PetSet", ("api/apps/v1beta1", "StatefulSet"))];
