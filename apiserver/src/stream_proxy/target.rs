//! Where a streamed request goes (upstream `pkg/registry/core/pod/strategy.go`).

use std::net::IpAddr;

use api::{ErrorList, FieldError};
use serde_json::Value;

use super::address;
use crate::call::Call;
use crate::error::ApiError;
use crate::meta::{self, Meta};
use crate::request::{Query, RequestInfo};

/// Where a request goes, and under which path and query there.
pub(super) enum Target {
    /// To the kubelet of a node.
    Node { node: String, path: String },
    /// To `host:port`.
    Address { address: String, path: String },
}

/// Finds the target; `None` for the log of a pod without a node.
pub(super) async fn resolve(call: &Call<'_>, query: &str) -> Result<Option<Target>, ApiError> {
    let (name, namespace) = (call.info.name.as_str(), call.namespace());
    match (call.stored_as().plural, call.info.subresource.as_str()) {
        ("nodes", _) => {
            if call.server.store.get(&call.key(name)).is_none() {
                return Err(call.not_found(name));
            }
            Ok(Some(Target::Node { node: name.to_owned(), path: rest(call, query) }))
        }
        ("services", _) => service(call, query).await.map(Some),
        (_, "proxy") => pod_address(call, query).await.map(Some),
        (_, subresource) => {
            let pod = object(call, "pods", name).await?;
            let parameters = Query::parse(query);
            let wanted = parameters.get("container").unwrap_or_default();
            let path = match subresource {
                "log" => {
                    check_log_options(name, &parameters)?;
                    let container = container(&pod, name, wanted)?;
                    format!("/containerLogs/{namespace}/{name}/{container}{}", tail(query))
                }
                "portforward" => format!("/portForward/{namespace}/{name}{}", tail(query)),
                verb => {
                    let container = container(&pod, name, wanted)?;
                    let query = kubelet_query(query);
                    format!("/{verb}/{namespace}/{name}/{container}{}", tail(&query))
                }
            };
            match pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                Some(node) => Ok(Some(Target::Node { node: node.to_owned(), path })),
                None if subresource == "log" => Ok(None),
                None => {
                    Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")))
                }
            }
        }
    }
}

/// What may be asked of a log (upstream `ValidatePodLogOptions`).
fn check_log_options(pod: &str, parameters: &Query) -> Result<(), ApiError> {
    let number = |name: &str| parameters.get(name).and_then(|text| text.parse::<i64>().ok());
    let mut errors = ErrorList::new();
    if let Some(lines) = number("tailLines").filter(|lines| *lines < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("tailLines", lines, detail));
    }
    if let Some(bytes) = number("limitBytes").filter(|bytes| *bytes < 1) {
        errors.push(FieldError::invalid("limitBytes", bytes, "must be greater than zero"));
    }
    if parameters.get("sinceSeconds").is_some() && parameters.get("sinceTime").is_some() {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden("[]", detail));
    } else if let Some(seconds) = number("sinceSeconds").filter(|seconds| *seconds < 1) {
        errors.push(FieldError::invalid("sinceSeconds", seconds, "must be greater than zero"));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid_kind("", "PodLogOptions", pod, errors))
}

fn tail(query: &str) -> String {
    if query.is_empty() { String::new() } else { format!("?{query}") }
}

/// The path below `/proxy`.
fn rest(call: &Call<'_>, query: &str) -> String {
    format!("/{}{}", call.info.rest.trim_start_matches('/'), tail(query))
}

/// An object of the request's namespace.
async fn object(call: &Call<'_>, plural: &str, name: &str) -> Result<Value, ApiError> {
    let key = meta::key(call.server.builtin("", plural)?, call.namespace(), name);
    let record = call.server.store.get(&key).ok_or_else(|| call.not_found(name))?;
    Ok(call.parse(vec![record]).await?.pop().unwrap_or_default())
}

/// The stream parameters under the kubelet's names.
fn kubelet_query(query: &str) -> String {
    let set = |value: &str| value == "1" || value.eq_ignore_ascii_case("true");
    let translated = query.split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "stdin" => set(value).then(|| "input=1".to_owned()),
            "stdout" => set(value).then(|| "output=1".to_owned()),
            "stderr" => set(value).then(|| "error=1".to_owned()),
            "tty" => set(value).then(|| "tty=1".to_owned()),
            "command" => Some(pair.to_owned()),
            _ => None,
        }
    });
    translated.collect::<Vec<_>>().join("&")
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod["spec"][list].as_array().into_iter().flatten();
    containers.filter_map(|c| Some(c["name"].as_str()?.to_owned())).collect()
}

/// The wanted container, or the only one.
fn container(pod: &Value, name: &str, wanted: &str) -> Result<String, ApiError> {
    let main = names(pod, "containers");
    let init = names(pod, "initContainers");
    if wanted.is_empty() {
        if let [only] = main.as_slice() {
            return Ok(only.clone());
        }
        let mut text = format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            main.join(" ")
        );
        if !init.is_empty() {
            text = format!("{text} or one of the init containers: [{}]", init.join(" "));
        }
        return Err(ApiError::bad_request(text));
    }
    let known = main.iter().chain(&init).any(|own| own == wanted)
        || names(pod, "ephemeralContainers").iter().any(|own| own == wanted);
    if known {
        return Ok(wanted.to_owned());
    }
    Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")))
}

fn proxy_name<'a>(call: &'a Call<'_>) -> Result<address::ProxyName<'a>, ApiError> {
    let name = call.info.name.as_str();
    let parsed = address::parse(name)
        .ok_or_else(|| ApiError::bad_request(format!("invalid {} request {name:?}", "proxy")))?;
    if parsed.scheme == "https" {
        return Err(ApiError::bad_request("proxying to https is not supported"));
    }
    Ok(parsed)
}

async fn pod_address(call: &Call<'_>, query: &str) -> Result<Target, ApiError> {
    let wanted = proxy_name(call)?;
    let pod = object(call, "pods", wanted.name).await?;
    let ports = || {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        containers.flat_map(|c| c["ports"].as_array().into_iter().flatten())
    };
    let port = match (wanted.port, wanted.port.parse::<u64>()) {
        ("", _) => ports().find_map(|p| p["containerPort"].as_u64()).unwrap_or(80),
        (_, Ok(number)) => number,
        (name, _) => ports()
            .find(|p| p["name"] == name)
            .and_then(|p| p["containerPort"].as_u64())
            .ok_or_else(|| {
                ApiError::unavailable(format!("no port {name:?} in pod {:?}", wanted.name))
            })?,
    };
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    if !ip.parse().is_ok_and(is_proxyable) {
        return Err(ApiError::bad_request("address not allowed"));
    }
    Ok(Target::Address { address: address::join(ip, port), path: rest(call, query) })
}

/// A ready endpoint of the Service, from its EndpointSlices.
async fn service(call: &Call<'_>, query: &str) -> Result<Target, ApiError> {
    let wanted = proxy_name(call)?;
    let service = object(call, "services", wanted.name).await?;
    let none =
        || ApiError::unavailable(format!("no endpoints available for service {:?}", wanted.name));
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let port = match wanted.port {
        "" if ports.len() == 1 => &ports[0],
        "" => return Err(none()),
        text => {
            let number = text.parse::<u64>().ok();
            let meant = |port: &&Value| {
                port["name"] == text || (number.is_some() && port["port"].as_u64() == number)
            };
            ports.iter().find(meant).ok_or_else(|| {
                ApiError::unavailable(format!(
                    "no service port {text:?} found for service {:?}",
                    wanted.name
                ))
            })?
        }
    };
    let port_name = port["name"].as_str().unwrap_or_default();
    let slices = call.server.catalog.stored("discovery.k8s.io", "endpointslices");
    let prefix = slices.map(|slices| meta::prefix(slices, call.namespace())).unwrap_or_default();
    let of_service = |record: &store::Record<Meta>| {
        record.meta.label("kubernetes.io/service-name") == Some(&*wanted.name)
    };
    let slices = call.server.store.select(&prefix, None, 0, of_service).records;
    for slice in call.parse(slices).await? {
        let mut slice_ports = slice["ports"].as_array().into_iter().flatten();
        let number = slice_ports
            .find(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|p| p["port"].as_u64());
        let Some(number) = number else { continue };
        let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let ready = endpoints.find(|e| e["conditions"]["ready"].as_bool().unwrap_or(true));
        if let Some(endpoint) = ready
            && let Some(ip) = endpoint["addresses"][0].as_str()
        {
            check_endpoint(call, endpoint, ip).await?;
            let address = address::join(ip, number);
            return Ok(Target::Address { address, path: rest(call, query) });
        }
    }
    Err(none())
}

/// Returns whether anything may be proxied to this address (upstream `proxyutil.IsProxyableIP`).
fn is_proxyable(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

/// Refuses an endpoint that is no pod, unless the user may reach what the node reaches: the writer of
/// an EndpointSlice could name any address in it.
async fn check_endpoint(call: &Call<'_>, endpoint: &Value, ip: &str) -> Result<(), ApiError> {
    let refused = |why: &str| {
        ApiError::forbidden(call.served, &call.info.name, &format!("endpoint {ip} {why}"))
    };
    let address: IpAddr = ip.parse().map_err(|_| refused("is not an IP address"))?;
    if !is_proxyable(address) {
        return Err(refused("is an address of this machine"));
    }
    let in_pod_network =
        matches!(address, IpAddr::V4(v4) if call.server.config.pod_cidr.contains(&v4));
    if in_pod_network || is_address_of_pod(call, endpoint, ip).await {
        return Ok(());
    }
    let node_proxy = RequestInfo {
        is_resource: true,
        verb: call.info.verb,
        version: "v1".into(),
        resource: "nodes".into(),
        subresource: "proxy".into(),
        ..RequestInfo::default()
    };
    call.server.authorize(call.user, &node_proxy).map_err(|_| {
        refused("is not a pod, which only users with access to \"nodes/proxy\" may reach")
    })
}

/// Returns whether the endpoint names a pod of the namespace that has this address (a pod in the
/// network of its host has the node's).
async fn is_address_of_pod(call: &Call<'_>, endpoint: &Value, ip: &str) -> bool {
    let target = &endpoint["targetRef"];
    if target["kind"] != "Pod" {
        return false;
    }
    let name = target["name"].as_str().unwrap_or_default();
    object(call, "pods", name).await.is_ok_and(|pod| pod["status"]["podIP"] == ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_chosen_as_upstream_does() {
        let pod = json!({ "spec": {
            "containers": [{ "name": "a" }, { "name": "b" }],
            "initContainers": [{ "name": "i" }],
        }});
        let error = container(&pod, "p", "").expect_err("two containers");
        assert_eq!(
            error.to_string(),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init \
             containers: [i]"
        );
        let error = container(&pod, "p", "c").expect_err("no such container");
        assert_eq!(error.to_string(), "container c is not valid for pod p");
        assert_eq!(container(&pod, "p", "i").ok().as_deref(), Some("i"));
        let single = json!({ "spec": { "containers": [{ "name": "a" }] } });
        assert_eq!(container(&single, "p", "").ok().as_deref(), Some("a"));
    }

    #[test]
    fn what_is_asked_of_a_log_makes_sense() {
        let check = |query: &str| {
            check_log_options("p", &Query::parse(query)).err().map(|error| error.to_string())
        };
        assert_eq!(check("tailLines=0&limitBytes=1&sinceSeconds=1&follow=true"), None);
        assert_eq!(
            check("tailLines=-1&limitBytes=0").as_deref(),
            Some(
                "PodLogOptions \"p\" is invalid: [tailLines: Invalid value: -1: must be greater \
                 than or equal to 0, limitBytes: Invalid value: 0: must be greater than zero]"
            )
        );
        assert_eq!(
            check("sinceSeconds=5&sinceTime=2020-01-01T00:00:00Z").as_deref(),
            Some(
                "PodLogOptions \"p\" is invalid: []: Forbidden: at most one of `sinceTime` or \
                 `sinceSeconds` may be specified"
            )
        );
    }

    #[test]
    fn stream_parameters_are_translated() {
        assert_eq!(
            kubelet_query("command=sh&command=-c&container=x&stdin=true&stdout=1&tty=false"),
            "command=sh&command=-c&input=1&output=1"
        );
    }
}
