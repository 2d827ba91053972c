//! Reviews: questions about identity and access, answered and not stored.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};

use super::rbac::HeldRules;
use super::{Attributes, Decision, Refusal, Security, User};

/// The kinds of review by plural name.
pub const PLURALS: [&str; 6] = [
    "tokenreviews",
    "selfsubjectreviews",
    "subjectaccessreviews",
    "localsubjectaccessreviews",
    "selfsubjectaccessreviews",
    "selfsubjectrulesreviews",
];

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct AccessSpec {
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<PathAttributes>,
    user: String,
    groups: Option<Vec<String>>,
    /// The name that v1beta1 has for `groups`.
    group: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
    uid: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResourceAttributes {
    namespace: String,
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PathAttributes {
    path: String,
    verb: String,
}

impl Security {
    /// Answers a review posted to `plural` (in `namespace`, for a local one) by `user`: the same
    /// object with its status.
    pub fn review(
        &self,
        user: &User,
        plural: &str,
        namespace: &str,
        mut review: Value,
    ) -> Result<Value, Refusal> {
        let status = match plural {
            "tokenreviews" if review["spec"]["token"].as_str().unwrap_or_default().is_empty() => {
                let why = "token is required for TokenReview in authentication";
                return Err(Refusal::BadRequest(why.to_owned()));
            }
            "tokenreviews" => self.token_review(&review["spec"]),
            "selfsubjectreviews" => json!({ "userInfo": user.to_json() }),
            "selfsubjectrulesreviews" => self.rules_review(user, &review["spec"])?,
            "selfsubjectaccessreviews" => {
                let spec = access_spec(&review, "SelfSubjectAccessReview")?;
                self.access_review(user, &spec)
            }
            "subjectaccessreviews" | "localsubjectaccessreviews" => {
                let local = plural == "localsubjectaccessreviews";
                let kind = if local { "LocalSubjectAccessReview" } else { "SubjectAccessReview" };
                let spec = access_spec(&review, kind)?;
                let asked = spec.resource_attributes.as_ref().map(|r| r.namespace.as_str());
                if local && asked != Some(namespace) {
                    return Err(Refusal::BadRequest(format!(
                        "spec.resourceAttributes.namespace must match namespace: {namespace}"
                    )));
                }
                let mut groups = spec.groups.clone().unwrap_or_default();
                groups.extend(spec.group.clone().unwrap_or_default());
                if spec.user.is_empty() && groups.is_empty() {
                    return Err(invalid(
                        kind,
                        "spec.user: Invalid value: \"\": at least one of user or group must be \
                         specified",
                    ));
                }
                let subject = User {
                    name: spec.user.clone(),
                    uid: spec.uid.clone(),
                    groups,
                    extra: spec.extra.clone().unwrap_or_default(),
                };
                self.access_review(&subject, &spec)
            }
            other => return Err(Refusal::NotFound(format!("{other} are no reviews"))),
        };
        if !review["metadata"].is_object() {
            review["metadata"] = json!({});
        }
        review["status"] = status;
        Ok(review)
    }

    fn token_review(&self, spec: &Value) -> Value {
        let audiences: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|a| Some(a.as_str()?.to_owned()))
            .collect();
        let token = spec["token"].as_str().unwrap_or_default();
        match self.tokens.verify(token, &audiences, SystemTime::now()) {
            Some(verified) => json!({
                "authenticated": true,
                "user": verified.user.to_json(),
                "audiences": verified.audiences,
            }),
            None => json!({ "user": {}, "error": "[invalid bearer token, token lookup failed]" }),
        }
    }

    fn access_review(&self, user: &User, spec: &AccessSpec) -> Value {
        let blank = ResourceAttributes::default();
        let resource = spec.resource_attributes.as_ref().unwrap_or(&blank);
        let path = spec.non_resource_attributes.as_ref();
        let Decision { allowed, reason } = self.authorize(&Attributes {
            user,
            verb: path.map_or(&resource.verb, |p| &p.verb),
            group: &resource.group,
            version: &resource.version,
            resource: &resource.resource,
            subresource: &resource.subresource,
            namespace: &resource.namespace,
            name: &resource.name,
            path: path.map_or("", |p| &p.path),
            is_resource: path.is_none(),
        });
        let mut status = json!({ "allowed": allowed });
        if !reason.is_empty() {
            status["reason"] = json!(reason);
        }
        status
    }

    fn rules_review(&self, user: &User, spec: &Value) -> Result<Value, Refusal> {
        let namespace = spec["namespace"].as_str().unwrap_or_default();
        if namespace.is_empty() {
            return Err(Refusal::BadRequest("no namespace on request".to_owned()));
        }
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        let HeldRules { rules, incomplete } = self.rbac.rules_for(user, namespace);
        for rule in rules {
            if rule.non_resource_urls.is_empty() {
                let mut entry = json!({
                    "verbs": rule.verbs,
                    "apiGroups": rule.api_groups,
                    "resources": rule.resources,
                });
                if !rule.resource_names.is_empty() {
                    entry["resourceNames"] = json!(rule.resource_names);
                }
                resources.push(entry);
            } else {
                paths.push(json!({
                    "verbs": rule.verbs,
                    "nonResourceURLs": rule.non_resource_urls,
                }));
            }
        }
        let mut status = json!({
            "resourceRules": resources,
            "nonResourceRules": paths,
            "incomplete": incomplete.is_some(),
        });
        if let Some(too_much) = incomplete {
            status["evaluationError"] = too_much.to_string().into();
        }
        Ok(status)
    }
}

fn access_spec(review: &Value, kind: &str) -> Result<AccessSpec, Refusal> {
    let spec: AccessSpec = serde_json::from_value(review["spec"].clone())
        .map_err(|error| Refusal::BadRequest(error.to_string()))?;
    match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(_), None) | (None, Some(_)) => Ok(spec),
        _ => Err(invalid(
            kind,
            "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes \
             or resourceAttributes must be specified",
        )),
    }
}

fn invalid(kind: &str, why: &str) -> Refusal {
    Refusal::Invalid(format!("{kind}.authorization.k8s.io \"\" is invalid: {why}"))
}
