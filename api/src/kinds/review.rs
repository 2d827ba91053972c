//! Kinds that are answered, not stored: reviews, and the binding of a pod to a node.

use serde_json::Value;

use crate::registry::{Behaviour, Persistence, Resource, Served};

const CREATE: &[&str] = &["create"];

const fn review(served: &'static [Served], behaviour: &'static Review) -> Resource {
    Resource::new(served, behaviour).persistence(Persistence::None).verbs(CREATE)
}

/// Binding (old clients bind pods through it; `pods/binding` is the usual way).
pub const BINDING: Resource =
    review(&[Served::new("", "v1", "Binding", "bindings", "binding")], &Review("v1", "Binding"));

/// Whose token is this?
pub const TOKEN_REVIEW: Resource = review(
    &[Served::new("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "tokenreview")],
    &Review("authentication.k8s.io/v1", "TokenReview"),
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
    &Review("authentication.k8s.io/v1", "SelfSubjectReview"),
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
    &Review("authorization.k8s.io/v1", "SubjectAccessReview"),
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
    &Review("authorization.k8s.io/v1", "LocalSubjectAccessReview"),
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
    &Review("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
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
    &Review("authorization.k8s.io/v1", "SelfSubjectRulesReview"),
)
.cluster_scoped();

/// `apiVersion` and `kind`; reviews have nothing else of their own here.
struct Review(&'static str, &'static str);

impl Behaviour for Review {
    fn stored(&self) -> (&'static str, &'static str) {
        (self.0, self.1)
    }

    fn prepare_for_create(&self, _object: &mut Value) {}
}
