//! Kinds that are answered, not stored: reviews, and the binding of a pod to a node.

use serde_json::Value;

use crate::registry::{Behaviour, Persistence, Resource, Served};

const CREATE: &[&str] = &["create"];

const fn review(served: &'static [Served], behaviour: &'static Review) -> Resource {
    Resource::new(served, behaviour).persistence(Persistence::None).verbs(CREATE)
}

/// Binding (old clients bind pods through it; `pods/binding` is the usual way).
pub const BINDING: Resource =
    review(&[Served::new("", "v1", "Binding", "bindings", "binding")], &Review);

/// Whose token is this?
pub const TOKEN_REVIEW: Resource = review(
    &[Served::new("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "tokenreview")],
    &Review,
)
.cluster_scoped();

/// Who am I?
pub const SELF_SUBJECT_REVIEW: Resource = review(
    &[Served::new(
        "authentication.k8s.io",
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
    )],
    &Review,
)
.cluster_scoped();

/// May they?
pub const SUBJECT_ACCESS_REVIEW: Resource = review(
    &[Served::new(
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
    )],
    &Review,
)
.cluster_scoped();

/// May they, in this namespace?
pub const LOCAL_SUBJECT_ACCESS_REVIEW: Resource = review(
    &[Served::new(
        "authorization.k8s.io",
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
    )],
    &Review,
);

/// May I?
pub const SELF_SUBJECT_ACCESS_REVIEW: Resource = review(
    &[Served::new(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
    )],
    &Review,
)
.cluster_scoped();

/// What may I?
pub const SELF_SUBJECT_RULES_REVIEW: Resource = review(
    &[Served::new(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
    )],
    &Review,
)
.cluster_scoped();

/// Reviews have nothing of their own: who answers them reads them as they come.
struct Review;

impl Behaviour for Review {
    fn prepare_for_create(&self, _object: &mut Value) {}
}
