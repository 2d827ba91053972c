//! The audit policy (`audit.k8s.io/v1` `Policy`): which requests are recorded, and how much of
//! them (upstream `pkg/audit/policy`).

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::security::Attributes;

/// The parts of a request that are recorded.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Nothing.
    None,
    /// Everything but bodies.
    Metadata,
    /// The request's body, too.
    Request,
    /// The response's body, too.
    RequestResponse,
}

/// The moment of a request at which an event is recorded.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before the request is authorized.
    RequestReceived,
    /// The head of the response of a long-running request is sent.
    ResponseStarted,
    /// The response is sent.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

/// A policy, read from a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code)]
    metadata: Option<IgnoredAny>,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// The decision of the policy about one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict<'a> {
    pub(super) level: Level,
    pub(super) omit_managed_fields: bool,
    omitted: [&'a [Stage]; 2],
}

impl Verdict<'_> {
    /// Returns whether events of this stage are left out.
    pub(super) fn omits(&self, stage: Stage) -> bool {
        self.omitted.iter().any(|stages| stages.contains(&stage))
    }
}

/// The reason why a policy is not valid.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is not YAML or JSON of that shape.
    #[error("{0}")]
    Parse(String),
    /// It is of another kind or version.
    #[error("expected a Policy of audit.k8s.io/v1, found a {kind} of {api_version}")]
    Kind {
        /// The apiVersion.
        api_version: String,
        /// The kind.
        kind: String,
    },
    /// It has no rules.
    #[error("loaded illegal policy with 0 rules")]
    NoRules,
    /// A rule is not valid.
    #[error("rules[{index}].{field}: {detail}")]
    Rule {
        /// The position of the rule.
        index: usize,
        /// The field in the rule.
        field: &'static str,
        /// The fault.
        detail: &'static str,
    },
}

impl Policy {
    /// Parses and checks a policy in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self =
            serde_saphyr::from_str(text).map_err(|error| PolicyError::Parse(error.to_string()))?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            let (api_version, kind) = (policy.api_version, policy.kind);
            return Err(PolicyError::Kind { api_version, kind });
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::NoRules);
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Some((field, detail)) = rule.fault() {
                return Err(PolicyError::Rule { index, field, detail });
            }
        }
        Ok(policy)
    }

    /// Returns what the first rule that matches says; nothing is recorded where none does.
    pub(super) fn verdict(&self, attributes: &Attributes<'_>) -> Verdict<'_> {
        match self.rules.iter().find(|rule| rule.matches(attributes)) {
            Some(rule) => Verdict {
                level: rule.level,
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
                omitted: [&self.omit_stages, &rule.omit_stages],
            },
            None => Verdict { level: Level::None, omit_managed_fields: true, omitted: [&[], &[]] },
        }
    }
}

impl Rule {
    /// The field that is wrong, and how.
    fn fault(&self) -> Option<(&'static str, &'static str)> {
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if about_resources && !self.non_resource_urls.is_empty() {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            return Some(("nonResourceURLs", detail));
        }
        for url in &self.non_resource_urls {
            if url != "*" && !url.starts_with('/') {
                let detail = "non-resource URL rules must begin with a '/' character";
                return Some(("nonResourceURLs", detail));
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                let detail =
                    "non-resource URL wildcards '*' must be the final character of the rule";
                return Some(("nonResourceURLs", detail));
            }
        }
        let named =
            |group: &GroupResources| !group.resource_names.is_empty() && group.resources.is_empty();
        if self.resources.iter().any(named) {
            let detail = "using resourceNames requires at least one resource";
            return Some(("resources.resourceNames", detail));
        }
        None
    }

    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let is_in = |list: &[String], text: &str| list.is_empty() || list.iter().any(|t| t == text);
        let user = attributes.user;
        let in_groups =
            self.user_groups.is_empty() || self.user_groups.iter().any(|g| user.in_group(g));
        if !is_in(&self.users, &user.name) || !in_groups || !is_in(&self.verbs, attributes.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            let groups = &self.resources;
            return attributes.is_resource
                && is_in(&self.namespaces, attributes.namespace)
                && (groups.is_empty() || groups.iter().any(|group| group.matches(attributes)));
        }
        if !self.non_resource_urls.is_empty() {
            let urls = &mut self.non_resource_urls.iter();
            return !attributes.is_resource && urls.any(|url| covers(url, attributes.path));
        }
        true
    }
}

/// Returns whether a URL of a rule stands for this path.
fn covers(url: &str, path: &str) -> bool {
    url == path || url.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

impl GroupResources {
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        if self.group != attributes.group {
            return false;
        }
        let names = &self.resource_names;
        let is_named = names.is_empty() || names.iter().any(|name| name == attributes.name);
        let (resource, subresource) = (attributes.resource, attributes.subresource);
        let is_meant = |pattern: &String| match pattern.split_once('/') {
            _ if pattern == "*" => true,
            None => subresource.is_empty() && pattern == resource,
            Some(("*", sub)) => sub == subresource,
            Some((own, "*")) => own == resource,
            Some((own, sub)) => own == resource && sub == subresource,
        };
        self.resources.is_empty() || (is_named && self.resources.iter().any(is_meant))
    }
}
