//! The environment of a container.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::downward::{self, Surroundings};
use super::expand::expand;
use super::variables::{self, ExcessError, MAX_PROGRAM_BYTES, MAX_STRING_BYTES, Variables};
use crate::objects::{Kind, Payload};
use crate::services::ServiceFacts;

/// Why an environment cannot be made; the text is the message of `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    /// A referenced object does not exist.
    #[error("{kind} \"{name}\" not found", kind = .0.word(), name = .1)]
    NoObject(Kind, String),
    /// A referenced object lacks the key.
    #[error("couldn't find key {key} in {} {namespace}/{name}", .kind.title())]
    NoKey {
        /// Secret or ConfigMap.
        kind: Kind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The missing key.
        key: String,
    },
    /// A `fieldRef` names a path that is not offered.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// A `resourceFieldRef` makes no sense.
    #[error("unsupported container resource: {0}")]
    Resource(String),
    /// No program can be given so much.
    #[error(transparent)]
    Excess(#[from] ExcessError),
}

/// What an environment is made from.
pub struct Sources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Addresses and allocatable resources.
    pub around: &'a Surroundings,
    /// Services that the pod may know of.
    pub services: &'a [ServiceFacts],
    /// Secrets and config maps that were fetched before.
    pub object: &'a (dyn Fn(Kind, &str) -> Option<Arc<Payload>> + Sync),
}

/// The variables of a container in the order they were defined, each name once.
pub fn variables(sources: &Sources<'_>, container: &Container) -> Result<Variables, EnvError> {
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    let services = services_variables(sources.services)?;
    let mut result = Variables::default();

    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = if let Some(map) = &source.config_map_ref {
            (Kind::ConfigMap, &map.name, map.optional)
        } else if let Some(secret) = &source.secret_ref {
            (Kind::Secret, &secret.name, secret.optional)
        } else {
            continue;
        };
        match (sources.object)(kind, name) {
            Some(payload) => {
                for (key, value) in &payload.data {
                    // Names with `=` or without any character cannot be put in an environment.
                    if key.is_empty() || key.contains('=') {
                        continue;
                    }
                    let name = format!("{prefix}{key}");
                    let value = text(&name, value)?;
                    result.set(name, value)?;
                }
            }
            None if optional == Some(true) => {}
            None => return Err(EnvError::NoObject(kind, name.clone())),
        }
    }

    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                let lookup = |name: &str| {
                    result.get(name).or_else(|| services.get(name).map(String::as_str))
                };
                expand(value, MAX_STRING_BYTES, lookup)
                    .map_err(|_| variables::too_long(&variable.name))?
            }
            (_, Some(from)) => {
                if let Some(field) = &from.field_ref {
                    downward::field(sources.pod, sources.around, &field.field_path)
                        .ok_or_else(|| EnvError::Field(field.field_path.clone()))?
                } else if let Some(selector) = &from.resource_field_ref {
                    let other = selector
                        .container_name
                        .as_deref()
                        .and_then(|name| crate::worker::state::container(sources.pod, name));
                    downward::resource(
                        other.as_ref().unwrap_or(container),
                        sources.around,
                        selector,
                    )
                    .ok_or_else(|| EnvError::Resource(selector.resource.clone()))?
                } else {
                    let (kind, name, key, optional) = if let Some(map) = &from.config_map_key_ref {
                        (Kind::ConfigMap, &map.name, &map.key, map.optional)
                    } else if let Some(secret) = &from.secret_key_ref {
                        (Kind::Secret, &secret.name, &secret.key, secret.optional)
                    } else {
                        continue;
                    };
                    let optional = optional == Some(true);
                    let Some(payload) = (sources.object)(kind, name) else {
                        if optional {
                            continue;
                        }
                        return Err(EnvError::NoObject(kind, name.clone()));
                    };
                    match payload.data.get(key) {
                        Some(value) => text(&variable.name, value)?,
                        None if optional => continue,
                        None => {
                            return Err(EnvError::NoKey {
                                kind,
                                namespace: namespace.to_owned(),
                                name: name.clone(),
                                key: key.clone(),
                            });
                        }
                    }
                }
            }
            _ => String::new(),
        };
        result.set(variable.name.clone(), value)?;
    }

    // Variables of services never override what the pod defines.
    for (name, value) in services {
        if result.get(&name).is_none() {
            result.set(name, value).map_err(|excess| by_services(excess, sources.services))?;
        }
    }
    Ok(result)
}

/// The value of a key of a Secret or a ConfigMap as text; invalid UTF-8 is replaced, which may make
/// it longer.
fn text(name: &str, value: &[u8]) -> Result<String, ExcessError> {
    if value.len() >= MAX_STRING_BYTES {
        return Err(variables::too_long(name));
    }
    Ok(String::from_utf8_lossy(value).into_owned())
}

/// The variables of all Services, sorted by name.
fn services_variables(services: &[ServiceFacts]) -> Result<BTreeMap<String, String>, ExcessError> {
    let mut all = BTreeMap::new();
    // Counted before they are sorted: a Service has up to thousands of ports.
    let mut bytes = 0;
    for service in services {
        for (name, value) in service_variables(service) {
            bytes += name.len() + value.len();
            if bytes > MAX_PROGRAM_BYTES {
                return Err(ExcessError::Services(services.len()));
            }
            all.insert(name, value);
        }
    }
    Ok(all)
}

fn by_services(excess: ExcessError, services: &[ServiceFacts]) -> ExcessError {
    match excess {
        ExcessError::Total | ExcessError::Count => ExcessError::Services(services.len()),
        other => other,
    }
}

/// Both families of variables for one Service: `_SERVICE_HOST` and the older `_PORT_…` links.
fn service_variables(service: &ServiceFacts) -> Vec<(String, String)> {
    let base = service.name.to_uppercase().replace('-', "_");
    let host = &service.cluster_ip;
    let mut variables = vec![(format!("{base}_SERVICE_HOST"), host.clone())];
    if let Some(first) = service.ports.first() {
        variables.push((format!("{base}_SERVICE_PORT"), first.port.to_string()));
    }
    for port in &service.ports {
        if let Some(name) = &port.name {
            let name = name.to_uppercase().replace('-', "_");
            variables.push((format!("{base}_SERVICE_PORT_{name}"), port.port.to_string()));
        }
    }
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    for (index, port) in service.ports.iter().enumerate() {
        let number = port.port;
        let protocol = port.protocol.to_lowercase();
        let url = format!("{protocol}://{bracketed}:{number}");
        if index == 0 {
            variables.push((format!("{base}_PORT"), url.clone()));
        }
        let prefix = format!("{base}_PORT_{number}_{}", port.protocol.to_uppercase());
        variables.push((prefix.clone(), url));
        variables.push((format!("{prefix}_PROTO"), protocol));
        variables.push((format!("{prefix}_PORT"), number.to_string()));
        variables.push((format!("{prefix}_ADDR"), host.clone()));
    }
    variables
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::services::PortFacts;
    use serde_json::json;

    fn nginx() -> ServiceFacts {
        ServiceFacts {
            name: "nginx-service".into(),
            cluster_ip: "10.47.245.73".into(),
            ports: [PortFacts { name: None, protocol: "TCP".into(), port: 80 }].into(),
        }
    }

    fn vars(container: serde_json::Value) -> Result<Variables, EnvError> {
        vars_beside(&[nginx()], container)
    }

    fn vars_beside(
        services: &[ServiceFacts],
        container: serde_json::Value,
    ) -> Result<Variables, EnvError> {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [container]}}),
        )
        .unwrap();
        let around = Surroundings::default();
        let object = |_: Kind, name: &str| {
            let data = match name {
                "there" => vec![("k".to_owned(), b"v".to_vec()), ("bad=".to_owned(), vec![])],
                "huge" => (0..20).map(|n| (format!("k{n}"), vec![0xff; 50_000])).collect(),
                "one" => vec![("k".to_owned(), vec![b'x'; 1 << 20])],
                _ => return None,
            };
            Some(Arc::new(Payload { data: data.into_iter().collect() }))
        };
        let sources = Sources { pod: &pod, around: &around, services, object: &object };
        variables(&sources, &pod.spec.as_ref().unwrap().containers[0])
    }

    #[test]
    fn both_families_of_service_variables() {
        let text: Vec<String> =
            service_variables(&nginx()).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text,
            [
                "NGINX_SERVICE_SERVICE_HOST=10.47.245.73",
                "NGINX_SERVICE_SERVICE_PORT=80",
                "NGINX_SERVICE_PORT=tcp://10.47.245.73:80",
                "NGINX_SERVICE_PORT_80_TCP=tcp://10.47.245.73:80",
                "NGINX_SERVICE_PORT_80_TCP_PROTO=tcp",
                "NGINX_SERVICE_PORT_80_TCP_PORT=80",
                "NGINX_SERVICE_PORT_80_TCP_ADDR=10.47.245.73",
            ]
        );
    }

    #[test]
    fn references_and_expansion() {
        let list = vars(json!({"name": "c",
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "there"}},
                    {"secretRef": {"name": "gone", "optional": true}}],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(P_k)-$(NGINX_SERVICE_SERVICE_PORT)-$(NONE)"},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "there", "key": "k"}}},
            {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NGINX_SERVICE_PORT", "value": "mine"},
        ]}))
        .unwrap();
        let get = |name: &str| list.get(name);
        assert_eq!(get("P_k"), Some("v"));
        assert_eq!(get("B"), Some("1-v-80-$(NONE)"));
        assert_eq!((get("C"), get("D")), (Some("v"), Some("p")));
        assert_eq!(get("NGINX_SERVICE_PORT"), Some("mine"));
        assert_eq!(get("NGINX_SERVICE_SERVICE_PORT"), Some("80"));
    }

    #[test]
    fn missing_references_are_named() {
        let reference = |name: &str, key: &str| {
            json!({"name": "c", "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}},
            ]})
        };
        let error = vars(reference("gone", "k")).unwrap_err();
        assert_eq!(error.to_string(), "secret \"gone\" not found");
        let error = vars(reference("there", "x")).unwrap_err();
        assert_eq!(error.to_string(), "couldn't find key x in Secret ns/there");
    }

    #[test]
    fn doubling_references_end_with_an_error() {
        let doubled = (1..30).map(|n| {
            let before = format!("$(A{})", n - 1);
            json!({"name": format!("A{n}"), "value": format!("{before}{before}")})
        });
        let env: Vec<_> =
            std::iter::once(json!({"name": "A0", "value": "aaaaaaaaaa"})).chain(doubled).collect();
        let error = vars(json!({"name": "c", "env": env})).unwrap_err();
        assert_eq!(error.to_string(), "environment variable \"A14\" is longer than 131072 bytes");
    }

    #[test]
    fn repeated_definitions_of_long_values_end() {
        let long = "x".repeat(100_000);
        let mut env = vec![json!({"name": "L", "value": long})];
        env.extend((0..10_000).map(|_| json!({"name": "A", "value": "$(L)"})));
        let error = vars(json!({"name": "c", "env": env})).unwrap_err();
        assert_eq!(error, EnvError::Excess(ExcessError::Total));
    }

    #[test]
    fn huge_objects_are_refused() {
        let all = |name: &str| json!({"name": "c", "envFrom": [{"configMapRef": {"name": name}}]});
        assert_eq!(
            vars(all("one")).unwrap_err().to_string(),
            "environment variable \"k\" is longer than 131072 bytes"
        );
        // Each invalid byte takes three as text.
        assert_eq!(vars(all("huge")).unwrap_err(), EnvError::Excess(variables::too_long("k0")));
        let key = json!({"name": "c", "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "one", "key": "k"}}}]});
        assert_eq!(vars(key).unwrap_err(), EnvError::Excess(variables::too_long("A")));
    }

    #[test]
    fn thousands_of_services_are_named_as_the_cause() {
        let services: Vec<_> =
            (0..10_000).map(|n| ServiceFacts { name: format!("s{n}"), ..nginx() }).collect();
        let error = vars_beside(&services, json!({"name": "c"})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment and arguments are longer than 2097152 bytes; the variables of 10000 \
             Services are among them, enableServiceLinks: false leaves them out"
        );
        assert!(vars_beside(&services[..1_000], json!({"name": "c"})).is_ok());
    }
}
