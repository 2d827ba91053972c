//! What objects take from a ResourceQuota (upstream `pkg/quota/v1`): shared by the admission that
//! refuses and the controller that counts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

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

/// The parts of an object that quotas measure; small, so that it can be kept beside the object.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Amounts that the object takes besides its place among all objects of its type, by name.
    amounts: Box<[(Box<str>, Quantity)]>,
    /// `None` for what is not a pod.
    scopes: Option<PodScopes>,
}

/// The properties of a pod that the scopes of quotas ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PodScopes {
    terminating: bool,
    best_effort: bool,
    crosses_namespaces: bool,
    priority_class: Option<Box<str>>,
}

impl Measured {
    /// Measures an object; `None` for one of which quotas measure nothing but that it is there.
    pub fn of(group: &str, plural: &str, object: &Value) -> Option<Self> {
        let (amounts, scopes) = match (group, plural) {
            ("", "pods") => (pod_amounts(object), Some(PodScopes::of(&object["spec"]))),
            ("", "services") => (service_amounts(object), None),
            ("", "persistentvolumeclaims") => (claim_amounts(object), None),
            _ => return None,
        };
        let amounts: Box<[_]> = amounts
            .into_iter()
            .filter(|(_, amount)| !amount.is_zero())
            .map(|(name, amount)| (name.into(), amount))
            .collect();
        (scopes.is_some() || !amounts.is_empty()).then_some(Self { amounts, scopes })
    }

    /// Bytes of memory that it takes.
    pub fn kept_bytes(&self) -> usize {
        let names: usize = self.amounts.iter().map(|(name, _)| name.len()).sum();
        let class = self.scopes.as_ref().and_then(|scopes| scopes.priority_class.as_deref());
        size_of::<Self>() + size_of_val(&*self.amounts) + names + class.map_or(0, str::len)
    }

    fn amount(&self, name: &str) -> Option<Quantity> {
        let at = self.amounts.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(self.amounts[at].1)
    }
}

impl PodScopes {
    fn of(spec: &Value) -> Self {
        let seconds = spec["activeDeadlineSeconds"].as_i64();
        let class = spec["priorityClassName"].as_str().filter(|class| !class.is_empty());
        Self {
            terminating: seconds.is_some_and(|seconds| seconds >= 0),
            best_effort: qos_class(spec) == "BestEffort",
            crosses_namespaces: crosses_namespaces(&spec["affinity"]),
            priority_class: class.map(Into::into),
        }
    }

    fn is_in(&self, (scope, operator, values): Scope<'_>) -> bool {
        match scope {
            "Terminating" => self.terminating,
            "NotTerminating" => !self.terminating,
            "BestEffort" => self.best_effort,
            "NotBestEffort" => !self.best_effort,
            "PriorityClass" => {
                let class = self.priority_class.as_deref();
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
            "CrossNamespacePodAffinity" => self.crosses_namespaces,
            _ => false,
        }
    }
}

/// What an object of that type takes.
pub fn usage(group: &str, plural: &str, measured: Option<&Measured>) -> Amounts {
    let mut used = Amounts::new();
    used.extend(numbers(group, plural).map(|name| (name, Quantity::from_units(1))));
    let amounts = measured.into_iter().flat_map(|measured| measured.amounts.iter());
    used.extend(amounts.map(|(name, amount)| (String::from(&**name), *amount)));
    used
}

/// Sums what those objects of a type that the quota is about take of each of these resources.
pub fn total<'n, 'm>(
    quota: &Value,
    counted: &Counted,
    resources: impl Iterator<Item = &'n str>,
    objects: impl Iterator<Item = Option<&'m Measured>>,
) -> Amounts {
    let scopes: Vec<Scope<'_>> = scopes(quota).collect();
    let mut sums: Vec<(&str, Quantity)> = resources.map(|name| (name, Quantity::ZERO)).collect();
    let mut number = 0;
    for measured in objects.filter(|measured| are_met(scopes.iter().copied(), *measured)) {
        number += 1;
        let Some(measured) = measured else { continue };
        for (name, sum) in &mut sums {
            if let Some(amount) = measured.amount(name) {
                *sum = *sum + amount;
            }
        }
    }
    let mut total: Amounts = sums.into_iter().map(|(name, sum)| (name.to_owned(), sum)).collect();
    for name in numbers(&counted.group, &counted.plural) {
        if let Some(sum) = total.get_mut(&name) {
            *sum = units(number);
        }
    }
    total
}

/// The resources of which every object of a type takes one, whatever it is.
fn numbers(group: &str, plural: &str) -> impl Iterator<Item = String> {
    let counted = match group {
        "" => format!("count/{plural}"),
        _ => format!("count/{plural}.{group}"),
    };
    // Of pods, it is those that have not ended.
    let legacy = group.is_empty() && plural != "pods" && LEGACY.contains(&plural);
    std::iter::once(counted).chain(legacy.then(|| plural.to_owned()))
}

fn units(count: usize) -> Quantity {
    Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX))
}

fn pod_amounts(object: &Value) -> Amounts {
    let mut used = Amounts::new();
    let Ok(pod) = crate::typed::<Pod>(&resources_of(object)) else { return used };
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

/// The parts of a pod that say what it takes; reading all of it costs many times as much.
fn resources_of(pod: &Value) -> Value {
    let spec = &pod["spec"];
    let containers = |key: &str| -> Value {
        let containers = spec[key].as_array().into_iter().flatten();
        let parts = |container: &Value| {
            json!({"name": "", "resources": container["resources"],
                "restartPolicy": container["restartPolicy"]})
        };
        containers.map(parts).collect()
    };
    json!({
        "spec": {
            "containers": containers("containers"),
            "initContainers": containers("initContainers"),
            "resources": spec["resources"],
            "overhead": spec["overhead"],
        },
        "status": {"phase": pod["status"]["phase"]},
    })
}

fn service_amounts(service: &Value) -> Amounts {
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
    Amounts::from([
        ("services.nodeports".to_owned(), units(node_ports)),
        ("services.loadbalancers".to_owned(), units(usize::from(balanced))),
    ])
}

fn claim_amounts(claim: &Value) -> Amounts {
    let mut used = Amounts::new();
    let class = claim["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty());
    if let Some(class) = class {
        let name = format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims");
        used.insert(name, units(1));
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
pub fn applies(quota: &Value, measured: Option<&Measured>) -> bool {
    are_met(scopes(quota), measured)
}

/// A scope of a quota: its name, an operator and the values for it.
type Scope<'a> = (&'a str, &'a str, &'a Value);

fn scopes(quota: &Value) -> impl Iterator<Item = Scope<'_>> {
    let spec = &quota["spec"];
    let scopes = spec["scopes"].as_array().into_iter().flatten();
    let requirements = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let scopes = scopes.map(|scope| (scope.as_str().unwrap_or_default(), "Exists", &Value::Null));
    scopes.chain(requirements.map(|requirement| {
        (
            requirement["scopeName"].as_str().unwrap_or_default(),
            requirement["operator"].as_str().unwrap_or("Exists"),
            &requirement["values"],
        )
    }))
}

fn are_met<'a>(mut scopes: impl Iterator<Item = Scope<'a>>, measured: Option<&Measured>) -> bool {
    let pod = measured.and_then(|measured| measured.scopes.as_ref());
    scopes.all(|scope| pod.is_some_and(|pod| pod.is_in(scope)))
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

/// Adds amounts to others.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let known = total.get(name).copied().unwrap_or(Quantity::ZERO);
        total.insert(name.clone(), known + *amount);
    }
}

/// `a=1,b=2`, as messages list amounts.
pub fn format(amounts: &Amounts) -> String {
    let texts: Vec<String> =
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(plural: &str, object: &Value) -> String {
        format(&usage("", plural, Measured::of("", plural, object).as_ref()))
    }

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
        assert_eq!(taken("pods", &object), expected);
        object["status"] = json!({"phase": "Succeeded"});
        assert_eq!(taken("pods", &object), "count/pods=1");
    }

    #[test]
    fn services_and_claims_have_their_own_amounts() {
        let service = json!({"spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(taken("services", &service), "count/services=1,services=1,services.nodeports=2");
        let claim = json!({"spec": {"storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            taken("persistentvolumeclaims", &claim),
            "count/persistentvolumeclaims=1,\
             fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             fast.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,\
             requests.storage=1Gi"
        );
        assert_eq!(taken("configmaps", &json!({})), "configmaps=1,count/configmaps=1");
        assert_eq!(Measured::of("apps", "deployments", &json!({})), None);
        assert_eq!(format(&usage("apps", "deployments", None)), "count/deployments.apps=1");
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
            let pod = Measured::of("", "pods", &json!({"spec": pod_spec}));
            applies(&json!({"spec": spec}), pod.as_ref())
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
        let service = Measured::of("", "services", &json!({}));
        assert!(!applies(&scoped, service.as_ref()) && !applies(&scoped, None));
        assert!(applies(&json!({"spec": {}}), service.as_ref()));
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
