//! What objects take from a ResourceQuota (upstream `pkg/quota/v1`): shared by the admission that
//! refuses and the controller that counts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::pod::{is_terminal, pod_limits, pod_requests, qos_class};
use crate::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Kinds that are counted under their bare plural as well.
const LEGACY: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

/// Resources that pods ask for under their bare name.
const BARE: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// Which type of object the amounts of a quota are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// The API group, empty for core.
    pub group: String,
    /// The plural.
    pub plural: String,
}

/// The type whose objects take from `resource`.
pub fn counted(resource: &str) -> Counted {
    let core = |plural: &str| Counted { group: String::new(), plural: plural.to_owned() };
    if let Some(name) = resource.strip_prefix("count/") {
        let (plural, group) = name.split_once('.').unwrap_or((name, ""));
        return Counted { group: group.to_owned(), plural: plural.to_owned() };
    }
    if resource.starts_with("services") {
        return core("services");
    }
    if resource == "requests.storage" || resource.contains(".storageclass.storage.k8s.io/") {
        return core("persistentvolumeclaims");
    }
    core(LEGACY.into_iter().find(|plural| *plural == resource).unwrap_or("pods"))
}

/// What an object of that type takes.
pub fn usage(group: &str, plural: &str, object: &Value) -> Amounts {
    let one = Quantity::from_units(1);
    let mut used = Amounts::new();
    let counted = if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    };
    used.insert(counted, one);
    if !group.is_empty() {
        return used;
    }
    match plural {
        "pods" => used.extend(pod_usage(object)),
        "services" => used.extend(service_usage(object)),
        "persistentvolumeclaims" => used.extend(claim_usage(object)),
        _ if LEGACY.contains(&plural) => drop(used.insert(plural.to_owned(), one)),
        _ => {}
    }
    used
}

fn pod_usage(object: &Value) -> Amounts {
    let mut used = Amounts::new();
    let Ok(pod) = crate::typed::<Pod>(object) else { return used };
    // A pod that has ended takes nothing but its place among all objects.
    if is_terminal(&pod) {
        return used;
    }
    used.insert("pods".to_owned(), Quantity::from_units(1));
    for (name, amount) in pod_requests(&pod) {
        if BARE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_limits(&pod) {
        used.insert(format!("limits.{name}"), amount);
    }
    used
}

fn service_usage(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map_or(0, Vec::len);
    let balanced = spec["type"] == "LoadBalancer";
    let allocated = spec["allocateLoadBalancerNodePorts"] != false;
    let node_ports = if spec["type"] == "NodePort" || (balanced && allocated) {
        ports
    } else {
        let assigned = spec["ports"].as_array().into_iter().flatten();
        assigned.filter(|port| port["nodePort"].as_i64().unwrap_or(0) > 0).count()
    };
    let units = |count: usize| Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX));
    Amounts::from([
        ("services".to_owned(), units(1)),
        ("services.nodeports".to_owned(), units(node_ports)),
        ("services.loadbalancers".to_owned(), units(usize::from(balanced))),
    ])
}

fn claim_usage(claim: &Value) -> Amounts {
    let one = Quantity::from_units(1);
    let mut used = Amounts::from([("persistentvolumeclaims".to_owned(), one)]);
    let class = claim["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty());
    if let Some(class) = class {
        used.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one);
    }
    let storage = &claim["spec"]["resources"]["requests"]["storage"];
    if let Ok(storage) = Quantity::from_json(storage) {
        used.insert("requests.storage".to_owned(), storage);
        if let Some(class) = class {
            used.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
    used
}

/// Whether a quota is about the object: quotas with scopes are about some pods only.
pub fn applies(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let scopes = spec["scopes"].as_array().into_iter().flatten();
    let requirements = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let mut scopes =
        scopes.map(|scope| (scope.as_str().unwrap_or_default(), "Exists", &Value::Null));
    let mut requirements = requirements.map(|requirement| {
        (
            requirement["scopeName"].as_str().unwrap_or_default(),
            requirement["operator"].as_str().unwrap_or("Exists"),
            &requirement["values"],
        )
    });
    let is_pod = group.is_empty() && plural == "pods";
    scopes.by_ref().chain(requirements.by_ref()).all(|(scope, operator, values)| {
        is_pod && in_scope(scope, operator, values, &object["spec"])
    })
}

fn in_scope(scope: &str, operator: &str, values: &Value, spec: &Value) -> bool {
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let best_effort = || qos_class(spec) == "BestEffort";
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().filter(|class| !class.is_empty());
            let listed = || {
                let mut values = values.as_array().into_iter().flatten();
                values.any(|value| value.as_str() == class)
            };
            match operator {
                "Exists" => class.is_some(),
                "DoesNotExist" => class.is_none(),
                "In" => class.is_some() && listed(),
                "NotIn" => !listed(),
                _ => false,
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(&spec["affinity"]),
        _ => false,
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let kind = &affinity[kind];
        let hard = kind["requiredDuringSchedulingIgnoredDuringExecution"].as_array();
        let soft = kind["preferredDuringSchedulingIgnoredDuringExecution"].as_array();
        let soft = soft.into_iter().flatten().map(|weighted| &weighted["podAffinityTerm"]);
        hard.into_iter().flatten().chain(soft).any(|term| {
            let named = term["namespaces"].as_array().is_some_and(|names| !names.is_empty());
            named || !term["namespaceSelector"].is_null()
        })
    })
}

/// Which containers of a pod leave out what a quota on `hard` wants every container to say:
/// `limits.cpu for: a,b; requests.cpu for: a`.
pub fn unsaid(hard: &Value, pod: &Value) -> Option<String> {
    let mut texts = Vec::new();
    for resource in hard.as_object().into_iter().flatten().map(|(name, _)| name.as_str()) {
        let (list, name) = match resource.split_once('.') {
            Some(("limits", name)) => ("limits", name),
            Some(("requests", name)) if name != "storage" => ("requests", name),
            _ if resource == "cpu" || resource == "memory" => ("requests", resource),
            _ => continue,
        };
        // What is not of the machine itself counts as nothing where it is not mentioned.
        if !["cpu", "memory"].contains(&name) {
            continue;
        }
        let containers = ["initContainers", "containers"].into_iter();
        let containers =
            containers.flat_map(|key| pod["spec"][key].as_array().into_iter().flatten());
        let silent: Vec<&str> = containers
            .filter(|container| container["resources"][list][name].is_null())
            .filter_map(|container| container["name"].as_str())
            .collect();
        if !silent.is_empty() {
            texts.push(format!("{resource} for: {}", silent.join(",")));
        }
    }
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// `a=1,b=2`, as messages list amounts.
pub fn format(amounts: &Amounts) -> String {
    let texts: Vec<String> =
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resources: &Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "a", "resources": resources}, {"name": "b"}]}})
    }

    #[test]
    fn pods_take_what_they_ask_for_until_they_end() {
        let resources =
            json!({"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "1"}});
        let mut object = pod(&resources);
        let expected = "count/pods=1,cpu=100m,limits.cpu=1,memory=1Mi,pods=1,requests.cpu=100m,\
                        requests.memory=1Mi";
        assert_eq!(format(&usage("", "pods", &object)), expected);
        object["status"] = json!({"phase": "Succeeded"});
        assert_eq!(format(&usage("", "pods", &object)), "count/pods=1");
    }

    #[test]
    fn services_and_claims_have_their_own_amounts() {
        let service = json!({"spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(
            format(&usage("", "services", &service)),
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2"
        );
        let claim = json!({"spec": {"storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            format(&usage("", "persistentvolumeclaims", &claim)),
            "count/persistentvolumeclaims=1,\
             fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             fast.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,\
             requests.storage=1Gi"
        );
        assert_eq!(format(&usage("apps", "deployments", &json!({}))), "count/deployments.apps=1");
        for (resource, group, plural) in [
            ("count/deployments.apps", "apps", "deployments"),
            ("limits.cpu", "", "pods"),
            ("services.nodeports", "", "services"),
            ("requests.storage", "", "persistentvolumeclaims"),
            ("secrets", "", "secrets"),
        ] {
            let expected = Counted { group: group.to_owned(), plural: plural.to_owned() };
            assert_eq!(counted(resource), expected);
        }
    }

    #[test]
    fn scopes_pick_pods() {
        let applies_to = |spec: Value, pod_spec: Value| {
            applies(&json!({"spec": spec}), "", "pods", &json!({"spec": pod_spec}))
        };
        assert!(applies_to(json!({}), json!({})));
        assert!(applies_to(json!({"scopes": ["BestEffort"]}), json!({"containers": [{}]})));
        assert!(!applies_to(json!({"scopes": ["NotBestEffort"]}), json!({"containers": [{}]})));
        assert!(applies_to(
            json!({"scopes": ["Terminating"]}),
            json!({"activeDeadlineSeconds": 5})
        ));
        let high = json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
        assert!(applies_to(high.clone(), json!({"priorityClassName": "high"})));
        assert!(!applies_to(high.clone(), json!({"priorityClassName": "low"})));
        assert!(!applies_to(high, json!({})));
        let scoped = json!({"spec": {"scopes": ["BestEffort"]}});
        assert!(!applies(&scoped, "", "services", &json!({})));
    }

    #[test]
    fn silent_containers_are_named() {
        let hard = json!({"limits.cpu": "1", "requests.memory": "1Gi", "pods": "3"});
        let object = pod(&json!({"requests": {"memory": "1Mi"}}));
        assert_eq!(
            unsaid(&hard, &object).as_deref(),
            Some("limits.cpu for: a,b; requests.memory for: b")
        );
        assert_eq!(unsaid(&json!({"pods": "3"}), &object), None);
    }
}
