//! A pod, or the template of one, as the checks look at it.

use std::collections::BTreeSet;

use serde_json::Value;

/// A pod's annotations and spec.
pub(super) struct Pod<'a> {
    pub(super) annotations: &'a Value,
    pub(super) spec: &'a Value,
}

/// Where containers are in a spec, in the order in which they are named.
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

impl<'a> Pod<'a> {
    pub(super) fn new(metadata: &'a Value, spec: &'a Value) -> Self {
        Self { annotations: &metadata["annotations"], spec }
    }

    /// Every container of every list.
    pub(super) fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        LISTS.iter().flat_map(move |list| spec[*list].as_array().into_iter().flatten())
    }

    /// The pod's own `securityContext`.
    pub(super) fn security_context(&self) -> &'a Value {
        &self.spec["securityContext"]
    }

    /// Whether the pod says that it is for Windows, to which much does not apply.
    pub(super) fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// `container "a"`, `containers "a", "b"`: those that are as `bad` says.
    pub(super) fn containers_that(&self, bad: impl Fn(&Value) -> bool) -> Option<Named> {
        let names: Vec<&str> = self.containers().filter(|c| bad(c)).map(name).collect();
        (!names.is_empty()).then(|| Named {
            count: names.len(),
            text: format!("{} {}", plural("container", names.len()), quoted(&names)),
        })
    }

    /// `pod and container "a"`: whose `securityContext` is as `bad` says.
    pub(super) fn contexts_that(&self, bad: impl Fn(&Value) -> bool) -> Option<String> {
        let pod = bad(self.security_context()).then(|| "pod".to_owned());
        let containers = self.containers_that(|c| bad(&c["securityContext"])).map(|c| c.text);
        let all: Vec<String> = pod.into_iter().chain(containers).collect();
        (!all.is_empty()).then(|| all.join(" and "))
    }

    /// The texts at `at` of every `securityContext` that are as `bad` says.
    pub(super) fn values(&self, at: &str, bad: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
        let contexts = self.containers().map(|c| &c["securityContext"]);
        std::iter::once(self.security_context())
            .chain(contexts)
            .filter_map(|context| context.pointer(at)?.as_str())
            .filter(|text| bad(text))
            .collect()
    }
}

/// Some containers in words.
pub(super) struct Named {
    pub(super) count: usize,
    pub(super) text: String,
}

/// A container's name.
pub(super) fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

/// `word`, or `words` when there is more than one.
pub(super) fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// `"a", "b"`.
pub(super) fn quoted<'t>(texts: impl IntoIterator<Item = &'t (impl AsRef<str> + 't)>) -> String {
    let texts: Vec<String> =
        texts.into_iter().map(|text| format!("\"{}\"", text.as_ref())).collect();
    texts.join(", ")
}
