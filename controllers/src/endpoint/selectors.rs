//! The selectors of Services, at hand while the Services are held packed: pods change often, and each
//! change is compared with all Services beside the pod.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Service;

use crate::cache::{Cache, Change, ObjectKey};
use crate::endpoint::address::selects_pods;
use crate::selector::Labels;

/// No map: its nodes have room for eleven, and a selector has one label or two.
type Selector = Box<[(Box<str>, Box<str>)]>;

/// The selectors of all Services that have their endpoints computed, by namespace and name.
#[derive(Default)]
pub struct Selectors(Mutex<HashMap<String, BTreeMap<Box<str>, Selector>>>);

impl Selectors {
    /// Returns those of the Services of a cache that is not filled yet.
    pub fn of(services: &Cache<Service>) -> Arc<Self> {
        let selectors = Arc::new(Self::default());
        let noted = selectors.clone();
        services.on_change(move |change| noted.note(change));
        selectors
    }

    /// The Services in a namespace that select one of these sets of labels.
    pub fn matching(&self, namespace: &str, labels: &[Option<&Labels>]) -> Vec<ObjectKey> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let selectors = known.get(namespace).into_iter().flatten();
        selectors
            .filter(|(_, selector)| labels.iter().any(|labels| matches(selector, *labels)))
            .map(|(name, _)| ObjectKey::new(namespace, &**name))
            .collect()
    }

    fn note(&self, change: &Change<'_, Service>) {
        let service = change.object();
        let key = ObjectKey::of(service.as_ref());
        let gone = matches!(change, Change::Deleted(_)) || !selects_pods(service);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !gone {
            known.entry(key.namespace).or_default().insert(key.name.into(), selector(service));
        } else if let Some(beside) = known.get_mut(&key.namespace) {
            beside.remove(&*key.name);
            if beside.is_empty() {
                known.remove(&key.namespace);
            }
        }
    }
}

fn selector(service: &Service) -> Selector {
    let labels = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = labels.into_iter().flatten();
    labels.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
}

fn matches(selector: &Selector, labels: Option<&Labels>) -> bool {
    let value = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
    selector.iter().all(|(name, wanted)| value(name) == Some(wanted))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, version: u64, spec: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": name, "uid": name,
                "resourceVersion": version.to_string()},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn services_are_found_by_labels_of_pods() {
        let services = Cache::new();
        let selectors = Selectors::of(&services);
        for (version, (name, spec)) in [
            ("web", json!({"selector": {"app": "web"}})),
            ("blue", json!({"selector": {"app": "web", "colour": "blue"}})),
            ("away", json!({"selector": {"app": "web"}, "type": "ExternalName"})),
            ("manual", json!({})),
            ("gone", json!({"selector": {"app": "web"}})),
            ("gone", json!({})),
        ]
        .into_iter()
        .enumerate()
        {
            services.observe(service(name, version as u64 + 1, spec));
        }
        let labels = |all: &[(&str, &str)]| -> Labels {
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let names = |namespace: &str, sets: &[Option<&Labels>]| -> Vec<String> {
            selectors.matching(namespace, sets).into_iter().map(|key| key.name).collect()
        };
        let (web, blue) =
            (labels(&[("app", "web")]), labels(&[("app", "web"), ("colour", "blue")]));
        assert_eq!(names("d", &[Some(&web)]), ["web"]);
        assert_eq!(names("d", &[Some(&blue)]), ["blue", "web"]);
        assert_eq!(names("d", &[None, Some(&web)]), ["web"]);
        assert!(names("d", &[None]).is_empty());
        assert!(names("e", &[Some(&web)]).is_empty());
    }
}
