//! Roles of one namespace, and who has which role (upstream `bootstrappolicy/namespace_policy.go`).

use super::{NamedRow, READ};

/// Roles in `kube-system`: name, verbs, resource of the core group, names of objects.
pub(super) const SYSTEM_ROLES: &[(&str, &[NamedRow])] = &[
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
pub(super) const CLUSTER_BINDINGS: &[(&str, &str, &str)] = &[
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
pub(super) const SYSTEM_BINDINGS: &[(&str, &str, &str, &str)] = &[
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
