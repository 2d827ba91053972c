//! The kinds of which nothing, or not all, is acted on.

use super::KindRule;

/// Kinds whose objects are answered with a warning as a whole.
pub const KIND_RULES: &[KindRule] = &[
    KindRule {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        only_create: false,
        effect: "not enforced by coracle: traffic flows as if this policy did not exist",
    },
    KindRule {
        group: "networking.k8s.io",
        kind: "Ingress",
        only_create: false,
        effect: "coracle has no Ingress controller: nothing is routed unless a controller for its \
                 class runs in this cluster",
    },
    KindRule {
        group: "coordination.k8s.io",
        kind: "Lease",
        only_create: true,
        effect: "kept in memory only by coracle: it is lost when coracle restarts",
    },
];
