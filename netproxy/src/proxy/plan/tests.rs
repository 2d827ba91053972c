//! From Services to maps.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::super::room::Cost;
use super::*;

fn service(spec: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.0.0.1", "type": "ClusterIP",
                 "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        match key.as_str() {
            "status" => object["status"] = value.clone(),
            "labels" => object["metadata"]["labels"] = value.clone(),
            _ => object["spec"][key] = value.clone(),
        }
    }
    serde_json::from_value(object).unwrap()
}

/// Endpoints as `(last octet, ready, serving, terminating, node)`.
fn slice(endpoints: &[(u8, bool, bool, bool, &str)]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(octet, ready, serving, terminating, node)| {
            json!({"addresses": [format!("10.1.0.{octet}")], "nodeName": node,
                   "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default"}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"name": "other", "port": 9}],
        "endpoints": endpoints,
    }))
    .unwrap()
}

fn plan(spec: Value, slices: &[EndpointSlice]) -> BTreeMap<Frontend, Target> {
    plan_service(&service(spec), slices.iter(), "here", &["10.0.0.0/8".parse().unwrap()]).targets
}

fn at(address: &str, port: u16) -> Frontend {
    Frontend::Address { address: address.parse().unwrap(), protocol: Protocol::Tcp, port }
}

const NODE_PORT: Frontend =
    Frontend::NodePort { ipv6: false, protocol: Protocol::Tcp, port: 30_080 };

fn octets(pool: &Pool) -> Vec<u8> {
    pool.endpoints
        .iter()
        .map(|(address, _)| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        })
        .collect()
}

const READY: (bool, bool, bool) = (true, true, false);

fn endpoint(octet: u8, state: (bool, bool, bool), node: &str) -> (u8, bool, bool, bool, &str) {
    (octet, state.0, state.1, state.2, node)
}

#[test]
fn cluster_ip_and_node_port_lead_to_ready_endpoints() {
    let slice = slice(&[
        endpoint(3, READY, "here"),
        endpoint(2, READY, "there"),
        endpoint(4, (false, false, false), "here"),
    ]);
    let plan = plan(json!({}), &[slice]);
    assert_eq!(plan.keys().copied().collect::<Vec<_>>(), [at("10.0.0.1", 80), NODE_PORT]);
    let target = &plan[&at("10.0.0.1", 80)];
    assert_eq!(octets(&target.inside), [2, 3]);
    assert_eq!(target.inside.endpoints[0].1, 8080, "the port of the slice, by name");
    assert!(target.masquerade && target.outside.is_none());
}

#[test]
fn services_that_are_not_ours_have_no_frontends() {
    for spec in [
        json!({"clusterIP": "None"}),
        json!({"clusterIP": ""}),
        json!({"type": "ExternalName", "externalName": "a.b"}),
        json!({"labels": {"service.kubernetes.io/service-proxy-name": "x"}}),
    ] {
        assert!(plan(spec.clone(), &[]).is_empty(), "{spec}");
    }
}

#[test]
fn terminating_endpoints_serve_only_when_no_other_is_left() {
    let terminating = endpoint(9, (false, true, true), "here");
    let both = slice(&[terminating, endpoint(2, READY, "here")]);
    let alone = slice(&[terminating, endpoint(8, (false, false, true), "here")]);
    assert_eq!(octets(&plan(json!({}), &[both])[&NODE_PORT].inside), [2]);
    assert_eq!(octets(&plan(json!({}), &[alone])[&NODE_PORT].inside), [9]);
}

#[test]
fn local_policies_keep_to_this_node_and_drop_when_it_has_none() {
    let here = || slice(&[endpoint(2, READY, "here"), endpoint(3, READY, "there")]);
    let there = || slice(&[endpoint(3, READY, "there")]);
    let external = json!({"externalTrafficPolicy": "Local"});
    let target = plan(external.clone(), &[here()])[&NODE_PORT].clone();
    assert_eq!(octets(&target.inside), [2, 3]);
    assert_eq!(octets(target.outside.as_ref().unwrap()), [2]);
    assert!(!target.masquerade, "the client's address is kept");
    let target = plan(external.clone(), &[there()])[&NODE_PORT].clone();
    assert_eq!(target.outside.unwrap(), Pool { endpoints: vec![], empty: When::Drop });
    let target = plan(external, &[])[&NODE_PORT].clone();
    assert_eq!((target.outside, target.inside.empty), (None, When::Reject));

    let internal = json!({"internalTrafficPolicy": "Local"});
    let target = plan(internal.clone(), &[here()])[&at("10.0.0.1", 80)].clone();
    assert_eq!(octets(&target.inside), [2]);
    let target = plan(internal, &[there()])[&at("10.0.0.1", 80)].clone();
    assert_eq!(target.inside, Pool { endpoints: vec![], empty: When::Drop });
}

#[test]
fn balancer_addresses_with_source_ranges_and_proxy_mode() {
    let spec = |ranges: Value| {
        json!({
            "type": "LoadBalancer", "loadBalancerSourceRanges": ranges,
            "externalIPs": ["198.51.100.1"],
            "status": {"loadBalancer": {"ingress": [
                {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "x"}]}},
        })
    };
    let plan_it = |ranges| plan(spec(ranges), &[slice(&[endpoint(2, READY, "here")])]);
    let limited = plan_it(json!(["203.0.113.0/25", "203.0.113.128/25"]));
    let frontends = [at("10.0.0.1", 80), at("192.0.2.1", 80), at("198.51.100.1", 80), NODE_PORT];
    assert_eq!(limited.keys().copied().collect::<Vec<_>>(), frontends);
    let ranges = limited[&at("192.0.2.1", 80)].source_ranges.clone().unwrap();
    assert_eq!(ranges, ["203.0.113.0/24".parse().unwrap()], "neighbours are joined");
    assert!(limited[&at("198.51.100.1", 80)].source_ranges.is_none());
    assert!(plan_it(json!(["0.0.0.0/0"]))[&at("192.0.2.1", 80)].source_ranges.is_none());
    assert!(plan_it(json!(null))[&at("192.0.2.1", 80)].source_ranges.is_none());
}

#[test]
fn external_addresses_inside_the_cluster_are_ignored() {
    let spec = json!({
        "type": "LoadBalancer", "externalIPs": ["10.1.0.2", "127.0.0.1", "198.51.100.1"],
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.7"}, {"ip": "169.254.169.254"}]}},
    });
    let frontends = [at("10.0.0.1", 80), at("198.51.100.1", 80), NODE_PORT];
    assert_eq!(plan(spec, &[]).into_keys().collect::<Vec<_>>(), frontends);
}

#[test]
fn thousands_of_ports_are_planned_at_once() {
    const PORTS: usize = 20_000;
    let ports: Vec<Value> =
        (1..=PORTS).map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
    let mut slice = slice(&[]);
    let endpoint = |n: u8| json!({"addresses": [format!("10.1.0.{n}")], "nodeName": "here"});
    slice.endpoints = serde_json::from_value((1..=200).map(endpoint).collect()).unwrap();
    slice.ports = serde_json::from_value(ports.clone().into()).unwrap();
    let start = std::time::Instant::now();
    let frontends = plan(json!({"ports": ports}), &[slice]);
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(frontends.len(), PORTS);
    let endpoints: usize = frontends.values().map(|target| target.inside.endpoints.len()).sum();
    assert!((PORTS..=SERVICE_ELEMENTS_MAX).contains(&endpoints), "{endpoints}");
}

#[test]
fn addresses_times_ports_times_endpoints_are_bounded() {
    let ports = |count: usize| -> Value {
        (1..=count).map(|n| json!({"name": format!("p{n}"), "port": n, "nodePort": n})).collect()
    };
    let mut slice = slice(&[]);
    let endpoint = |n: usize| json!({"addresses": [format!("10.1.{}.{}", n / 250, n % 250)], "nodeName": "here"});
    slice.endpoints = serde_json::from_value((0..1000).map(endpoint).collect()).unwrap();
    slice.ports = serde_json::from_value(ports(100)).unwrap();
    let addresses = |count: usize| -> Vec<String> {
        (0..count).map(|n| format!("198.51.{}.{}", n / 250, n % 250)).collect()
    };
    let ingress = |count| addresses(count).iter().map(|ip| json!({"ip": ip})).collect::<Value>();
    let networks = |count: usize| -> Vec<String> {
        (0..count).map(|n| format!("11.{}.{}.0/25", n / 250, n % 250)).collect()
    };
    for (spec, is_cut, ranges) in [
        (json!({"ports": ports(1)}), false, false),
        (json!({"ports": ports(100)}), true, false),
        (json!({"ports": ports(10), "externalIPs": addresses(100)}), true, false),
        (json!({"ports": ports(100), "externalIPs": addresses(60_000)}), true, false),
        (
            json!({"ports": ports(40), "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": networks(4000),
            "status": {"loadBalancer": {"ingress": ingress(2)}}}),
            true,
            true,
        ),
    ] {
        let most = most_frontends(&service(spec.clone()));
        let plan = plan_service(&service(spec), std::iter::once(&slice), "here", &[]);
        assert_eq!(plan.is_cut, is_cut);
        let targets: Vec<_> = plan.targets.into_iter().collect();
        assert!(targets.len() <= most);
        let cost = Cost::of(&targets);
        assert!(cost.elements <= SERVICE_ELEMENTS_MAX + 2 * targets.len(), "{cost:?}");
        assert!(targets.len() <= SERVICE_FRONTENDS_MAX && cost.ranges <= SERVICE_RANGES_MAX);
        assert_eq!(cost.ranges > 0, ranges);
        // Each has an endpoint.
        assert!(targets.iter().all(|(_, target)| !target.inside.endpoints.is_empty()));
    }
}

#[test]
fn affinity_has_upstreams_default() {
    let seconds = |spec: Value| plan(spec, &[])[&NODE_PORT].affinity;
    assert_eq!(seconds(json!({})), None);
    assert_eq!(seconds(json!({"sessionAffinity": "ClientIP"})), Some(10_800));
    let config = json!({"sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}});
    assert_eq!(seconds(config), Some(5));
}

#[test]
fn families_do_not_mix() {
    let mut six = slice(&[]);
    six.address_type = "IPv6".into();
    six.endpoints = serde_json::from_value(json!([{"addresses": ["fd00::5"]}])).unwrap();
    let four = slice(&[endpoint(2, READY, "here")]);
    let dual = json!({"clusterIPs": ["10.0.0.1", "fd00::1"]});
    let plan = plan(dual, &[four, six]);
    assert_eq!(plan.len(), 4, "both families have an address and a node port");
    assert_eq!(octets(&plan[&at("10.0.0.1", 80)].inside), [2]);
    assert_eq!(plan[&at("fd00::1", 80)].inside.endpoints, [("fd00::5".parse().unwrap(), 8080)]);
}

#[test]
fn load_balancers_may_ask_for_endpoints_of_this_node() {
    let slices = [
        slice(&[endpoint(2, READY, "here"), endpoint(3, READY, "there")]),
        slice(&[
            endpoint(2, READY, "here"),
            endpoint(4, READY, "here"),
            endpoint(5, (false, true, true), "here"),
        ]),
    ];
    let check = |type_: &str, policy: &str, port: Value| {
        let spec =
            json!({"type": type_, "externalTrafficPolicy": policy, "healthCheckNodePort": port});
        plan_health_check(&service(spec), slices.iter(), "here")
    };
    let known = Some(HealthCheck { port: 30_500, local: 2 });
    assert_eq!(check("LoadBalancer", "Local", json!(30_500)), known);
    assert_eq!(check("LoadBalancer", "Cluster", json!(30_500)), None);
    assert_eq!(check("NodePort", "Local", json!(30_500)), None);
    assert_eq!(check("LoadBalancer", "Local", json!(null)), None);
    assert_eq!(check("LoadBalancer", "Local", json!(0)), None);
}

#[test]
fn trimmed_service_is_planned_alike() {
    let mut whole = service(json!({
        "type": "LoadBalancer", "selector": {"app": "web"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    }));
    let ranges = (RANGES_ANNOTATION.to_owned(), "192.0.2.0/24".to_owned());
    let applied = ("applied".to_owned(), "{}".repeat(1000));
    whole.metadata.annotations = Some([ranges, applied].into());
    let mut foreign = whole.clone();
    foreign.metadata.labels = Some([(FOREIGN_PROXY_LABEL.to_owned(), "other".to_owned())].into());
    for service in [whole, foreign] {
        let mut trimmed = service.clone();
        trim(&mut trimmed);
        let plan = |service: &Service| plan_service(service, std::iter::empty(), "node", &[]);
        assert_eq!(plan(&trimmed), plan(&service));
        assert!(serde_json::to_string(&trimmed).unwrap().len() < 700);
    }
}
