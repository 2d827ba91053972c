//! What the controllers may do (upstream `bootstrappolicy/controller_policy.go`).

use super::{EVENTS, READ, Row};

/// `system:controller:<name>` for the ServiceAccount `<name>` in `kube-system`. Our controllers
/// run as one user, `system:kube-controller-manager`, which therefore is a subject of each.
pub(super) const CONTROLLERS: &[(&str, &[Row])] = &[
    (
        "certificate-controller",
        &[
            ("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            (
                "update",
                "certificates.k8s.io",
                "certificatesigningrequests/approval certificatesigningrequests/status",
            ),
            ("approve sign", "certificates.k8s.io", "signers"),
            ("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &[("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    ),
    (
        "cronjob-controller",
        &[
            ("get list update patch watch", "batch", "cronjobs"),
            ("create delete get list patch update watch", "batch", "jobs"),
            ("patch update", "batch", "cronjobs/status"),
            ("update", "batch", "cronjobs/finalizers"),
            ("delete list watch", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            (READ, "apps extensions", "daemonsets"),
            ("patch update", "apps extensions", "daemonsets/status"),
            ("update", "apps extensions", "daemonsets/finalizers"),
            ("list watch", "core", "nodes"),
            ("create delete list patch watch", "core", "pods"),
            ("create", "core", "pods/binding"),
            ("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            ("get list patch update watch", "apps extensions", "deployments"),
            ("patch update", "apps extensions", "deployments/status"),
            ("update", "apps extensions", "deployments/finalizers"),
            ("create delete get list patch update watch", "apps extensions", "replicasets"),
            ("get list update watch", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            (READ, "apps extensions", "deployments replicasets"),
            (READ, "core", "replicationcontrollers pods"),
            (READ, "policy", "poddisruptionbudgets"),
            (READ, "apps", "statefulsets"),
            ("patch update", "policy", "poddisruptionbudgets/status"),
            ("patch update", "core", "pods/status"),
            ("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            (READ, "core", "pods services"),
            ("create delete get list patch update watch", "core", "endpoints"),
            ("create", "core", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            (READ, "core", "nodes pods services"),
            ("update", "core", "services/finalizers"),
            ("create delete get list patch update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            (READ, "core", "endpoints services"),
            ("update", "core", "endpoints/finalizers services/finalizers"),
            ("create delete get list patch update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            (READ, "core", "pods"),
            ("update", "core", "pods/finalizers"),
            ("create get list watch", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            ("get list patch update watch", "core", "persistentvolumes"),
            ("patch update", "core", "persistentvolumeclaims/status"),
            (READ, "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &[("delete get list patch update watch", "*", "*"), EVENTS]),
    (
        "horizontal-pod-autoscaler",
        &[
            (READ, "autoscaling", "horizontalpodautoscalers"),
            ("patch update", "autoscaling", "horizontalpodautoscalers/status"),
            ("get patch update", "*", "*/scale"),
            ("list watch", "core", "pods"),
            ("get list", "metrics.k8s.io", "pods"),
            ("get list", "custom.metrics.k8s.io external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            ("get list patch update watch", "batch", "jobs"),
            ("patch update", "batch", "jobs/status"),
            ("update", "batch", "jobs/finalizers"),
            ("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[("get", "core", "configmaps"), ("patch delete", "core", "secrets")],
    ),
    (
        "namespace-controller",
        &[
            ("delete get list watch", "core", "namespaces"),
            ("update", "core", "namespaces/finalize namespaces/status"),
            ("patch", "core", "namespaces/status"),
            ("delete deletecollection get list", "*", "*"),
        ],
    ),
    (
        "node-controller",
        &[
            ("delete get list patch update", "core", "nodes"),
            ("patch update", "core", "nodes/status pods/status"),
            ("delete get list", "core", "pods"),
            (READ, "networking.k8s.io", "clustercidrs"),
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            ("create delete get list patch update watch", "core", "persistentvolumes"),
            ("patch update", "core", "persistentvolumes/status persistentvolumeclaims/status"),
            ("get list patch update watch", "core", "persistentvolumeclaims"),
            ("create delete get list watch", "core", "pods"),
            (READ, "storage.k8s.io", "storageclasses"),
            ("get list watch", "core", "nodes"),
            ("watch", "core", "events"),
            EVENTS,
        ],
    ),
    (
        "pod-garbage-collector",
        &[
            ("delete list watch", "core", "pods"),
            ("get list", "core", "nodes"),
            ("patch update", "core", "pods/status"),
        ],
    ),
    (
        "pv-protection-controller",
        &[("get list patch update watch", "core", "persistentvolumes"), EVENTS],
    ),
    (
        "pvc-protection-controller",
        &[
            ("get list patch update watch", "core", "persistentvolumeclaims"),
            (READ, "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "replicaset-controller",
        &[
            ("get list patch update watch", "apps extensions", "replicasets"),
            ("patch update", "apps extensions", "replicasets/status"),
            ("update", "apps extensions", "replicasets/finalizers"),
            ("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            ("get list patch update watch", "core", "replicationcontrollers"),
            ("patch update", "core", "replicationcontrollers/status"),
            ("update", "core", "replicationcontrollers/finalizers"),
            ("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "resourcequota-controller",
        &[("list watch", "*", "*"), ("patch update", "core", "resourcequotas/status"), EVENTS],
    ),
    ("root-ca-cert-publisher", &[("create get patch update", "core", "configmaps"), EVENTS]),
    ("service-account-controller", &[("create", "core", "serviceaccounts"), EVENTS]),
    (
        "service-controller",
        &[
            (READ, "core", "services"),
            ("patch update", "core", "services/status"),
            ("list watch", "core", "nodes"),
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            ("list watch", "core", "pods"),
            (READ, "apps", "statefulsets"),
            ("patch update", "apps", "statefulsets/status"),
            ("update", "apps", "statefulsets/finalizers"),
            ("create delete get patch update", "core", "pods"),
            ("create delete get list patch update watch", "apps", "controllerrevisions"),
            ("create get", "core", "persistentvolumeclaims"),
            ("delete update", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &[("delete get list watch", "batch", "jobs"), EVENTS]),
    ("ttl-controller", &[("list patch update watch", "core", "nodes"), EVENTS]),
    (
        "validatingadmissionpolicy-status-controller",
        &[(READ, "admissionregistration.k8s.io", "validatingadmissionpolicies"), EVENTS],
    ),
];
