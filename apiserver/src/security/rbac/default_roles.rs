//! The roles and bindings that every Kubernetes cluster has (upstream `bootstrappolicy`), as a
//! table: verbs, API groups (`core` for the empty one), resources, all separated by blanks.

use serde_json::{Value, json};

use super::super::Objects;
use super::{GROUP, Rule};

/// Verbs, groups, resources.
type Row = (&'static str, &'static str, &'static str);

/// Verbs, group, resource, name of the one object meant (empty: all).
type NamedRow = (&'static str, &'static str, &'static str, &'static str);

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const EVENTS: Row = ("create update patch", "core events.k8s.io", "events");

/// ClusterRoles about resources.
const CLUSTER_ROLES: &[(&str, &[Row])] = &[
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
const PATH_ROLES: &[(&str, &str)] = &[
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
const AGGREGATED: &[(&str, &str)] = &[
    ("admin", "rbac.authorization.k8s.io/aggregate-to-admin"),
    ("edit", "rbac.authorization.k8s.io/aggregate-to-edit"),
    ("view", "rbac.authorization.k8s.io/aggregate-to-view"),
];

/// Labels on ClusterRoles that make them parts of aggregated ones.
const AGGREGATION_LABELS: &[(&str, &str)] = &[
    ("system:aggregate-to-admin", "rbac.authorization.k8s.io/aggregate-to-admin"),
    ("system:aggregate-to-edit", "rbac.authorization.k8s.io/aggregate-to-edit"),
    ("system:aggregate-to-view", "rbac.authorization.k8s.io/aggregate-to-view"),
    ("edit", "rbac.authorization.k8s.io/aggregate-to-admin"),
    ("view", "rbac.authorization.k8s.io/aggregate-to-edit"),
];

/// `system:controller:<name>` for the ServiceAccount `<name>` in `kube-system`. Our controllers
/// run as one user, `system:kube-controller-manager`, which therefore is a subject of each.
const CONTROLLERS: &[(&str, &[Row])] = &[
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

/// Roles in `kube-system`: name, verbs, resource of the core group, names of objects.
const SYSTEM_ROLES: &[(&str, &[NamedRow])] = &[
    (
        "extension-apiserver-authentication-reader",
        &[(READ, "core", "configmaps", "extension-apiserver-authentication")],
    ),
    (
        "system::leader-locking-kube-controller-manager",
        &[
            ("watch", "core", "configmaps", ""),
            ("get update", "core", "configmaps", "kube-controller-manager"),
        ],
    ),
    (
        "system::leader-locking-kube-scheduler",
        &[
            ("watch", "core", "configmaps", ""),
            ("get update", "core", "configmaps", "kube-scheduler"),
        ],
    ),
    ("system:controller:bootstrap-signer", &[(READ, "core", "secrets", "")]),
    ("system:controller:cloud-provider", &[("create get list watch", "core", "configmaps", "")]),
    (
        "system:controller:token-cleaner",
        &[
            ("delete get list watch", "core", "secrets", ""),
            ("create update patch", "core events.k8s.io", "events", ""),
        ],
    ),
];

/// ClusterRoleBindings: the role, kind and names of its subjects. A binding is named after its
/// role.
const CLUSTER_BINDINGS: &[(&str, &str, &str)] = &[
    ("cluster-admin", "Group", "system:masters"),
    ("system:monitoring", "Group", "system:monitoring"),
    ("system:discovery", "Group", "system:authenticated"),
    ("system:basic-user", "Group", "system:authenticated"),
    ("system:public-info-viewer", "Group", "system:authenticated system:unauthenticated"),
    ("system:node-proxier", "User", "system:kube-proxy"),
    ("system:kube-controller-manager", "User", "system:kube-controller-manager"),
    ("system:kube-scheduler", "User", "system:kube-scheduler"),
    ("system:volume-scheduler", "User", "system:kube-scheduler"),
    ("system:service-account-issuer-discovery", "Group", "system:serviceaccounts"),
    // Upstream has an authorizer of its own for nodes; one node may as well use the role.
    ("system:node", "Group", "system:nodes"),
];

/// RoleBindings in `kube-system`: name, role, kind and names of its subjects.
const SYSTEM_BINDINGS: &[(&str, &str, &str, &str)] = &[
    (
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        "User",
        "system:kube-controller-manager system:kube-scheduler",
    ),
    (
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        "User",
        "system:kube-controller-manager",
    ),
    (
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        "User",
        "system:kube-scheduler",
    ),
];

fn words(text: &str) -> Vec<String> {
    text.split_whitespace()
        .map(|word| if word == "core" { String::new() } else { word.to_owned() })
        .collect()
}

fn rules(rows: &[Row]) -> Vec<Rule> {
    let rule = |(verbs, groups, resources): &Row| Rule {
        verbs: words(verbs),
        api_groups: words(groups),
        resources: words(resources),
        ..Rule::default()
    };
    rows.iter().map(rule).collect()
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    for (role, label) in AGGREGATION_LABELS {
        if *role == name && namespace.is_empty() {
            metadata["labels"][label] = json!("true");
        }
    }
    metadata
}

fn cluster_role(name: &str, rules: &[Rule]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRole",
        "metadata": metadata(name, ""),
        "rules": rules,
    })
}

fn subjects(kind: &str, names: &str) -> Value {
    names
        .split_whitespace()
        .map(|name| json!({ "apiGroup": GROUP, "kind": kind, "name": name }))
        .collect()
}

fn cluster_binding(role: &str, subjects: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": metadata(role, ""),
        "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": role },
        "subjects": subjects,
    })
}

/// Every default role and binding with the plural under which it is created. Those in a namespace
/// are in `kube-system` or `kube-public`.
pub fn default_objects() -> Vec<(&'static str, Value)> {
    let mut objects = Vec::new();
    objects.push(("clusterroles", cluster_role("cluster-admin", &Rule::everything())));
    for (name, rows) in CLUSTER_ROLES {
        objects.push(("clusterroles", cluster_role(name, &rules(rows))));
    }
    for (name, paths) in PATH_ROLES {
        let rule = Rule {
            verbs: vec!["get".to_owned()],
            non_resource_urls: words(paths),
            ..Rule::default()
        };
        objects.push(("clusterroles", cluster_role(name, &[rule])));
    }
    for (name, label) in AGGREGATED {
        // The rules are what the aggregation comes to, so that they can be read there.
        let mut role = cluster_role(name, &aggregated(label));
        role["aggregationRule"] =
            json!({ "clusterRoleSelectors": [{ "matchLabels": { *label: "true" } }] });
        objects.push(("clusterroles", role));
    }
    for (role, kind, names) in CLUSTER_BINDINGS {
        objects.push(("clusterrolebindings", cluster_binding(role, subjects(kind, names))));
    }
    objects.push((
        "clusterrolebindings",
        cluster_binding(
            "system:kube-dns",
            json!([
                { "kind": "ServiceAccount", "namespace": "kube-system", "name": "kube-dns" },
                { "apiGroup": GROUP, "kind": "User", "name": "system:kube-dns" },
            ]),
        ),
    ));
    for (controller, rows) in CONTROLLERS {
        let name = format!("system:controller:{controller}");
        objects.push(("clusterroles", cluster_role(&name, &rules(rows))));
        let subjects = json!([
            { "kind": "ServiceAccount", "namespace": "kube-system", "name": controller },
            { "apiGroup": GROUP, "kind": "User", "name": "system:kube-controller-manager" },
        ]);
        objects.push(("clusterrolebindings", cluster_binding(&name, subjects)));
    }
    for (name, rows) in SYSTEM_ROLES {
        let rules: Vec<Rule> = rows
            .iter()
            .map(|(verbs, groups, resources, names)| Rule {
                resource_names: words(names),
                ..rules(&[(verbs, groups, resources)]).remove(0)
            })
            .collect();
        let role = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "Role",
            "metadata": metadata(name, "kube-system"),
            "rules": rules,
        });
        objects.push(("roles", role));
    }
    for (name, role, kind, names) in SYSTEM_BINDINGS {
        let binding = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "RoleBinding",
            "metadata": metadata(name, "kube-system"),
            "roleRef": { "apiGroup": GROUP, "kind": "Role", "name": role },
            "subjects": subjects(kind, names),
        });
        objects.push(("rolebindings", binding));
    }
    objects
}

/// What a label aggregates, parts of parts included.
fn aggregated(label: &str) -> Vec<Rule> {
    let mut all = Vec::new();
    for (part, own) in AGGREGATION_LABELS {
        if *own != label {
            continue;
        }
        if let Some((_, rows)) = CLUSTER_ROLES.iter().find(|(name, _)| name == part) {
            all.extend(rules(rows));
        }
        if let Some((_, nested)) = AGGREGATED.iter().find(|(name, _)| name == part) {
            all.extend(aggregated(nested));
        }
    }
    all
}

/// The default roles and bindings that the store lacks.
pub fn missing_objects(objects: &dyn Objects) -> Vec<(&'static str, Value)> {
    let mut defaults = default_objects();
    defaults.retain(|(plural, object)| {
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        let name = metadata["name"].as_str().unwrap_or_default();
        objects.get(GROUP, plural, namespace, name).is_none()
    });
    defaults
}
