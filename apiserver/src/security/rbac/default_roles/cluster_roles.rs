//! What the default ClusterRoles for people and components allow (upstream
//! `plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go`).

use super::{EVENTS, READ, Row, WRITE};

/// ClusterRoles about resources.
pub(super) const CLUSTER_ROLES: &[(&str, &[Row])] = &[
    (
        "system:basic-user",
        &[
            ("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            ("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    (
        "system:aggregate-to-admin",
        &[
            ("create", "authorization.k8s.io", "localsubjectaccessreviews"),
            (
                "create delete deletecollection get list patch update watch",
                "rbac.authorization.k8s.io",
                "roles rolebindings",
            ),
        ],
    ),
    (
        "system:aggregate-to-edit",
        &[
            (
                READ,
                "core",
                "pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy",
            ),
            ("impersonate", "core", "serviceaccounts"),
            (WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
            ("create", "core", "pods/eviction"),
            (
                WRITE,
                "core",
                "configmaps events persistentvolumeclaims replicationcontrollers \
                 replicationcontrollers/scale secrets serviceaccounts services services/proxy",
            ),
            ("create", "core", "serviceaccounts/token"),
            (
                WRITE,
                "apps",
                "daemonsets deployments deployments/rollback deployments/scale replicasets \
                 replicasets/scale statefulsets statefulsets/scale",
            ),
            (WRITE, "autoscaling", "horizontalpodautoscalers"),
            (WRITE, "batch", "cronjobs jobs"),
            (
                WRITE,
                "extensions",
                "daemonsets deployments deployments/rollback deployments/scale ingresses \
                 networkpolicies replicasets replicasets/scale replicationcontrollers/scale",
            ),
            (WRITE, "policy", "poddisruptionbudgets"),
            (WRITE, "networking.k8s.io", "ingresses networkpolicies"),
            (
                "create delete deletecollection get list patch update watch",
                "coordination.k8s.io",
                "leases",
            ),
        ],
    ),
    (
        "system:aggregate-to-view",
        &[
            (
                READ,
                "core",
                "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods \
                 replicationcontrollers replicationcontrollers/scale serviceaccounts services \
                 services/status",
            ),
            (
                READ,
                "core",
                "bindings events limitranges namespaces/status pods/log pods/status \
                 replicationcontrollers/status resourcequotas resourcequotas/status",
            ),
            (READ, "core", "namespaces"),
            (READ, "discovery.k8s.io", "endpointslices"),
            (
                READ,
                "apps",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale \
                 deployments/status replicasets replicasets/scale replicasets/status statefulsets \
                 statefulsets/scale statefulsets/status",
            ),
            (READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
            (READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
            (
                READ,
                "extensions",
                "daemonsets daemonsets/status deployments deployments/scale deployments/status \
                 ingresses ingresses/status networkpolicies replicasets replicasets/scale \
                 replicasets/status replicationcontrollers/scale",
            ),
            (READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
            (READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
        ],
    ),
    (
        "system:heapster",
        &[(READ, "core", "events pods nodes namespaces"), (READ, "extensions", "deployments")],
    ),
    (
        "system:node",
        &[
            ("create", "authentication.k8s.io", "tokenreviews"),
            ("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
            (READ, "core", "services"),
            ("create get list watch", "core", "nodes"),
            ("patch update", "core", "nodes/status"),
            ("patch update", "core", "nodes"),
            EVENTS,
            (READ, "core", "pods"),
            ("create delete", "core", "pods"),
            ("patch update", "core", "pods/status"),
            ("create", "core", "pods/eviction"),
            (READ, "core", "configmaps secrets"),
            ("get list watch", "core", "persistentvolumeclaims persistentvolumes"),
            // Volumes on directories of the node are let go when the node has settled those.
            ("patch", "core", "persistentvolumes"),
            ("get patch update", "core", "persistentvolumeclaims/status"),
            ("get", "core", "endpoints"),
            ("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            ("create delete get patch update list watch", "coordination.k8s.io", "leases"),
            (READ, "storage.k8s.io", "volumeattachments csidrivers"),
            ("create delete get patch update list watch", "storage.k8s.io", "csinodes"),
            ("create", "core", "serviceaccounts/token"),
            (READ, "core", "serviceaccounts namespaces limitranges"),
            (READ, "node.k8s.io", "runtimeclasses"),
            (READ, "scheduling.k8s.io", "priorityclasses"),
        ],
    ),
    (
        "system:node-problem-detector",
        &[("get", "core", "nodes"), ("patch", "core", "nodes/status"), EVENTS],
    ),
    (
        "system:node-proxier",
        &[
            ("list watch", "core", "endpoints services"),
            ("get list watch", "core", "nodes"),
            EVENTS,
            ("list watch", "discovery.k8s.io", "endpointslices"),
            ("list watch", "networking.k8s.io", "servicecidrs"),
            // LoadBalancer addresses are this machine's own and are published by the proxy.
            ("patch update", "core", "services/status"),
        ],
    ),
    (
        "system:kubelet-api-admin",
        &[
            (READ, "core", "nodes"),
            ("proxy", "core", "nodes"),
            ("*", "core", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
        ],
    ),
    (
        "system:node-bootstrapper",
        &[("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
    ),
    (
        "system:auth-delegator",
        &[
            ("create", "authentication.k8s.io", "tokenreviews"),
            ("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
    ("system:kube-aggregator", &[(READ, "core", "endpoints services")]),
    (
        "system:kube-controller-manager",
        &[
            EVENTS,
            ("create", "coordination.k8s.io", "leases"),
            ("get update", "coordination.k8s.io", "leases"),
            ("create", "core", "secrets serviceaccounts"),
            ("delete", "core", "secrets"),
            ("get", "core", "configmaps namespaces secrets serviceaccounts"),
            ("update", "core", "secrets serviceaccounts"),
            ("create", "authentication.k8s.io", "tokenreviews"),
            ("create", "authorization.k8s.io", "subjectaccessreviews"),
            ("create", "core", "serviceaccounts/token"),
            // The informers that every controller shares.
            ("list watch get", "*", "*"),
        ],
    ),
    (
        "system:kube-dns",
        &[
            ("list watch", "core", "endpoints services namespaces pods"),
            ("list watch", "discovery.k8s.io", "endpointslices"),
            ("get", "core", "nodes"),
            EVENTS,
        ],
    ),
    (
        "system:kube-scheduler",
        &[
            EVENTS,
            ("create get list watch update patch", "coordination.k8s.io", "leases"),
            (READ, "core", "nodes namespaces"),
            ("delete get list watch", "core", "pods"),
            ("create", "core", "bindings pods/binding"),
            ("patch update", "core", "pods/status"),
            (READ, "core", "replicationcontrollers services persistentvolumes"),
            (READ, "apps extensions", "replicasets"),
            (READ, "apps", "statefulsets"),
            (READ, "policy", "poddisruptionbudgets"),
            ("get list patch update watch", "core", "persistentvolumeclaims"),
            ("patch update", "core", "persistentvolumes"),
            ("create", "authentication.k8s.io", "tokenreviews"),
            ("create", "authorization.k8s.io", "subjectaccessreviews"),
            (
                READ,
                "storage.k8s.io",
                "csinodes csidrivers csistoragecapacities storageclasses volumeattachments",
            ),
            (READ, "scheduling.k8s.io", "priorityclasses"),
        ],
    ),
    (
        "system:persistent-volume-provisioner",
        &[
            ("create delete get list watch", "core", "persistentvolumes"),
            ("get list update watch", "core", "persistentvolumeclaims"),
            (READ, "storage.k8s.io", "storageclasses"),
            ("watch", "core", "events"),
            EVENTS,
        ],
    ),
    (
        "system:volume-scheduler",
        &[
            ("get list patch update watch", "core", "persistentvolumes"),
            (READ, "storage.k8s.io", "storageclasses"),
            ("get list patch update watch", "core", "persistentvolumeclaims"),
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    ),
];

/// ClusterRoles about paths: `get` on each of them.
pub(super) const PATH_ROLES: &[(&str, &str)] = &[
    (
        "system:discovery",
        "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
    ),
    ("system:public-info-viewer", "/healthz /livez /readyz /version /version/"),
    (
        "system:monitoring",
        "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*",
    ),
    (
        "system:service-account-issuer-discovery",
        "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks \
         /openid/v1/jwks/",
    ),
];

/// Aggregated ClusterRoles: name, label that selects their parts.
pub(super) const AGGREGATED: &[(&str, &str)] = &[
    ("admin", "rbac.authorization.k8s.io/aggregate-to-admin"),
    ("edit", "rbac.authorization.k8s.io/aggregate-to-edit"),
    ("view", "rbac.authorization.k8s.io/aggregate-to-view"),
];

/// Labels on ClusterRoles that make them parts of aggregated ones.
pub(super) const AGGREGATION_LABELS: &[(&str, &str)] = &[
    ("system:aggregate-to-admin", "rbac.authorization.k8s.io/aggregate-to-admin"),
    ("system:aggregate-to-edit", "rbac.authorization.k8s.io/aggregate-to-edit"),
    ("system:aggregate-to-view", "rbac.authorization.k8s.io/aggregate-to-view"),
    ("edit", "rbac.authorization.k8s.io/aggregate-to-admin"),
    ("view", "rbac.authorization.k8s.io/aggregate-to-edit"),
];
