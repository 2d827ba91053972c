//! The fields that are accepted and not acted on. A field that the code begins to act on moves
//! from here to `acted_on.txt`.

use serde_json::{Map, Value};

use super::{FieldRule, When};

const NO_PLUGIN: &str = "coracle has no such volume plugin: the pod does not start";
const NO_PLUGIN_PV: &str =
    "coracle has no such volume plugin: pods that use the volume do not start";
const NO_BLOCK: &str = "raw block volumes are not attached: the pod does not start";
const NO_DRA: &str = "devices are not allocated";
const NO_SELINUX: &str = "no SELinux label is applied";
const NO_PROFILE: &str = "no AppArmor profile is applied";
const NO_DEVICES: &str = "no node offers it: the pod stays pending";
const NO_CLASS: &str = "volumes have no attributes that could be changed";
const NO_METRIC: &str = "only resource metrics are served: this metric is never known";
const NO_WINDOWS: &str = "it has no effect on Linux";

/// Every such field, in the order of the messages' names.
pub const FIELD_RULES: &[FieldRule] = &[
    set("autoscaling.v2.MetricSpec", "external", NO_METRIC),
    set("autoscaling.v2.MetricSpec", "object", NO_METRIC),
    set("autoscaling.v2.MetricSpec", "pods", NO_METRIC),
    text("core.v1.AppArmorProfile", "type", "RuntimeDefault", NO_PROFILE),
    set("core.v1.Container", "volumeDevices", NO_BLOCK),
    FieldRule {
        message: "core.v1.ContainerPort",
        field: "hostIP",
        when: When::Within(is_any_ipv6),
        effect: "host ports are served on IPv4 only",
    },
    text("core.v1.EmptyDirVolumeSource", "medium", "HugePages", "it becomes a directory on disk"),
    FieldRule {
        message: "core.v1.EmptyDirVolumeSource",
        field: "sizeLimit",
        when: When::Within(is_on_disk),
        effect: "the limit is not enforced on disk, only with medium Memory",
    },
    set("core.v1.EphemeralContainerCommon", "volumeDevices", NO_BLOCK),
    set(
        "core.v1.EphemeralContainerCommon",
        "restartPolicyRules",
        "ephemeral containers do not restart",
    ),
    set("core.v1.Lifecycle", "stopSignal", "the image's stop signal is sent"),
    set("core.v1.LocalVolumeSource", "fsType", "the directory is used as it is"),
    set("core.v1.NodeSpec", "configSource", "the node is configured by flags"),
    set("core.v1.PersistentVolumeClaimSpec", "dataSource", "no provisioner fills the volume"),
    set("core.v1.PersistentVolumeClaimSpec", "dataSourceRef", "no provisioner fills the volume"),
    set("core.v1.PersistentVolumeClaimSpec", "volumeAttributesClassName", NO_CLASS),
    text("core.v1.PersistentVolumeClaimSpec", "volumeMode", "Block", NO_BLOCK),
    set("core.v1.PersistentVolumeSource", "awsElasticBlockStore", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "azureDisk", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "azureFile", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "cephfs", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "cinder", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "csi", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "fc", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "flexVolume", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "flocker", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "gcePersistentDisk", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "glusterfs", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "iscsi", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "nfs", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "photonPersistentDisk", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "portworxVolume", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "quobyte", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "rbd", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "scaleIO", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "storageos", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSource", "vsphereVolume", NO_PLUGIN_PV),
    set("core.v1.PersistentVolumeSpec", "mountOptions", "the directory is mounted without them"),
    text(
        "core.v1.PersistentVolumeSpec",
        "persistentVolumeReclaimPolicy",
        "Recycle",
        "volumes are not recycled: the released volume fails",
    ),
    set("core.v1.PersistentVolumeSpec", "volumeAttributesClassName", NO_CLASS),
    text("core.v1.PersistentVolumeSpec", "volumeMode", "Block", NO_BLOCK),
    text(
        "core.v1.PodSecurityContext",
        "fsGroupChangePolicy",
        "OnRootMismatch",
        "every mount sets owner and mode of the whole volume",
    ),
    set("core.v1.PodSecurityContext", "seLinuxChangePolicy", NO_SELINUX),
    set("core.v1.PodSecurityContext", "seLinuxOptions", NO_SELINUX),
    set("core.v1.PodSecurityContext", "windowsOptions", NO_WINDOWS),
    set("core.v1.PodSpec", "resourceClaims", NO_DRA),
    set("core.v1.PodSpec", "resources", "only the resources of containers are enforced"),
    set("core.v1.ResourceRequirements", "claims", NO_DRA),
    key(
        "core.v1.ResourceRequirements",
        "limits",
        |name| name == "ephemeral-storage",
        "the limit is not enforced",
    ),
    key("core.v1.ResourceRequirements", "limits", is_device, NO_DEVICES),
    key("core.v1.ResourceRequirements", "requests", is_device, NO_DEVICES),
    text(
        "core.v1.Secret",
        "type",
        "bootstrap.kubernetes.io/token",
        "no client can authenticate with it",
    ),
    set("core.v1.SecurityContext", "seLinuxOptions", NO_SELINUX),
    set("core.v1.SecurityContext", "windowsOptions", NO_WINDOWS),
    set("core.v1.ServiceSpec", "loadBalancerIP", "the address is the node's"),
    set(
        "core.v1.VolumeProjection",
        "clusterTrustBundle",
        "no certificate is written into the volume",
    ),
    key(
        "core.v1.VolumeResourceRequirements",
        "limits",
        |name| name == "storage",
        "the size of a volume is not enforced",
    ),
    key(
        "core.v1.VolumeResourceRequirements",
        "requests",
        |name| name == "storage",
        "the size of a volume is not enforced",
    ),
    set("core.v1.VolumeSource", "awsElasticBlockStore", NO_PLUGIN),
    set("core.v1.VolumeSource", "azureDisk", NO_PLUGIN),
    set("core.v1.VolumeSource", "azureFile", NO_PLUGIN),
    set("core.v1.VolumeSource", "cephfs", NO_PLUGIN),
    set("core.v1.VolumeSource", "cinder", NO_PLUGIN),
    set("core.v1.VolumeSource", "csi", NO_PLUGIN),
    set("core.v1.VolumeSource", "fc", NO_PLUGIN),
    set("core.v1.VolumeSource", "flexVolume", NO_PLUGIN),
    set("core.v1.VolumeSource", "flocker", NO_PLUGIN),
    set("core.v1.VolumeSource", "gcePersistentDisk", NO_PLUGIN),
    set("core.v1.VolumeSource", "gitRepo", NO_PLUGIN),
    set("core.v1.VolumeSource", "glusterfs", NO_PLUGIN),
    set("core.v1.VolumeSource", "image", NO_PLUGIN),
    set("core.v1.VolumeSource", "iscsi", NO_PLUGIN),
    set("core.v1.VolumeSource", "nfs", NO_PLUGIN),
    set("core.v1.VolumeSource", "photonPersistentDisk", NO_PLUGIN),
    set("core.v1.VolumeSource", "portworxVolume", NO_PLUGIN),
    set("core.v1.VolumeSource", "quobyte", NO_PLUGIN),
    set("core.v1.VolumeSource", "rbd", NO_PLUGIN),
    set("core.v1.VolumeSource", "scaleIO", NO_PLUGIN),
    set("core.v1.VolumeSource", "storageos", NO_PLUGIN),
    set("core.v1.VolumeSource", "vsphereVolume", NO_PLUGIN),
    key("meta.v1.ObjectMeta", "annotations", is_bandwidth, "traffic is not limited"),
    key(
        "meta.v1.ObjectMeta",
        "annotations",
        is_load_balancer_setting,
        "the address of a load balancer is the node's",
    ),
    key(
        "meta.v1.ObjectMeta",
        "annotations",
        |key| key == "kubernetes.io/enforce-mountable-secrets",
        "pods may mount every Secret of the namespace",
    ),
    key("meta.v1.ObjectMeta", "annotations", is_superseded, "use the field that replaced it"),
    set("storage.v1.StorageClass", "allowVolumeExpansion", "only the recorded size changes"),
    set("storage.v1.StorageClass", "allowedTopologies", "volumes are made on the one node"),
    set("storage.v1.StorageClass", "mountOptions", "the directory is mounted without them"),
    FieldRule {
        message: "storage.v1.StorageClass",
        field: "parameters",
        when: When::Within(|class| class.get("provisioner").is_some_and(|name| name == OWN)),
        effect: "the provisioner coracle/local-path has no parameters",
    },
    FieldRule {
        message: "storage.v1.StorageClass",
        field: "provisioner",
        when: When::Within(is_foreign),
        effect: "coracle has no such provisioner: claims wait until one runs in this cluster",
    },
];

/// The provisioner that coracle has.
const OWN: &str = "coracle/local-path";

const fn set(message: &'static str, field: &'static str, effect: &'static str) -> FieldRule {
    FieldRule { message, field, when: When::Set, effect }
}

const fn text(
    message: &'static str,
    field: &'static str,
    start: &'static str,
    effect: &'static str,
) -> FieldRule {
    FieldRule { message, field, when: When::Text(start), effect }
}

const fn key(
    message: &'static str,
    field: &'static str,
    is_meant: fn(&str) -> bool,
    effect: &'static str,
) -> FieldRule {
    FieldRule { message, field, when: When::Key(is_meant), effect }
}

fn is_any_ipv6(port: &Map<String, Value>) -> bool {
    port.contains_key("hostPort") && port.get("hostIP").and_then(Value::as_str) == Some("::")
}

fn is_on_disk(volume: &Map<String, Value>) -> bool {
    volume.get("medium").and_then(Value::as_str).is_none_or(|medium| medium != "Memory")
}

/// Huge pages and extended resources (`vendor/device`), of which the node has none.
fn is_device(name: &str) -> bool {
    name.starts_with("hugepages-") || (name.contains('/') && !name.starts_with("kubernetes.io/"))
}

fn is_bandwidth(key: &str) -> bool {
    matches!(key, "kubernetes.io/ingress-bandwidth" | "kubernetes.io/egress-bandwidth")
}

/// Annotations by which cloud providers and MetalLB configure load balancers. The one for source
/// ranges is acted on.
fn is_load_balancer_setting(key: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "service.beta.kubernetes.io/",
        "cloud.google.com/load-balancer",
        "networking.gke.io/load-balancer",
        "metallb.io/",
        "metallb.universe.tf/",
    ];
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        && key != "service.beta.kubernetes.io/load-balancer-source-ranges"
}

/// Annotations of old manifests that became fields, and that nothing reads any more.
fn is_superseded(key: &str) -> bool {
    key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        || matches!(
            key,
            "seccomp.security.alpha.kubernetes.io/pod"
                | "security.alpha.kubernetes.io/sysctls"
                | "security.alpha.kubernetes.io/unsafe-sysctls"
                | "scheduler.alpha.kubernetes.io/affinity"
                | "scheduler.alpha.kubernetes.io/tolerations"
                | "scheduler.alpha.kubernetes.io/critical-pod"
                | "pod.alpha.kubernetes.io/init-containers"
                | "pod.beta.kubernetes.io/init-containers"
                | "volume.alpha.kubernetes.io/storage-class"
                | "volume.beta.kubernetes.io/storage-class"
                | "volume.beta.kubernetes.io/mount-options"
        )
}

fn is_foreign(class: &Map<String, Value>) -> bool {
    let provisioner = class.get("provisioner").and_then(Value::as_str).unwrap_or_default();
    !matches!(provisioner, OWN | "kubernetes.io/no-provisioner")
}
