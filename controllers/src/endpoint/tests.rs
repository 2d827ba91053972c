//! From Services, pods and hand-written Endpoints to what is written.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::slices::{Frame, Group, Plan, SLICE_ENDPOINTS};
use super::{address, legacy, mirror, slice, slices};
use crate::fixture::{self, merge, ready};

fn service(more: &Value) -> Service {
    let mut value = json!({
        "metadata": {"namespace": "default", "name": "web", "labels": {"tier": "front"},
            "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"clusterIP": "10.47.240.9", "selector": {"app": "web"}, "ipFamilies": ["IPv4"],
            "ports": [{"port": 80, "protocol": "TCP"}]}
    });
    merge(&mut value, more.clone());
    serde_json::from_value(value).unwrap()
}

/// A ready pod that listens on 8080 as `http`.
fn pod(number: u32, more: &Value) -> Arc<Pod> {
    let (high, low) = (number / 256, number % 256);
    let ip = format!("10.44.{high}.{low}");
    let mut value = json!({
        "metadata": {"uid": format!("uid-{number:05}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "node", "containers": [{"name": "web",
            "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [ready(true, "2024-01-02T00:00:00Z")]}
    });
    merge(&mut value, more.clone());
    fixture::pod(&format!("web-{number}"), value)
}

fn unready() -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
}

fn terminating() -> Value {
    json!({"metadata": {"deletionTimestamp": "2024-01-03T00:00:00Z"}})
}

fn legacy(service: &Service, pods: &[Arc<Pod>]) -> Value {
    serde_json::to_value(legacy::plan(service, pods, None)).unwrap()
}

fn groups(service: &Service, pods: &[Arc<Pod>]) -> Vec<Group> {
    slice::groups(service, pods, &HashMap::new())
}

/// Address, ready, serving, terminating.
fn conditions(group: &Group) -> Vec<(&str, bool, bool, bool)> {
    let of = |endpoint: &'_ Endpoint| {
        let known = endpoint.conditions.clone().unwrap();
        (known.ready.unwrap(), known.serving.unwrap(), known.terminating.unwrap())
    };
    let endpoints = group.endpoints.iter();
    endpoints
        .map(|endpoint| {
            let (ready, serving, terminating) = of(endpoint);
            (endpoint.addresses[0].as_str(), ready, serving, terminating)
        })
        .collect()
}

fn addresses(subset: &Value, list: &str) -> Vec<String> {
    let entries = subset[list].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| entry["ip"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_pod_that_ends_is_not_ready_from_that_moment_on_though_it_still_serves() {
    let ended = json!({"status": {"phase": "Succeeded"}});
    let no_address = json!({"status": {"podIP": null, "podIPs": null}});
    let pods = [
        pod(1, &json!({})),
        pod(2, &unready()),
        pod(3, &terminating()),
        pod(4, &ended),
        pod(5, &no_address),
    ];
    let service = service(&json!({}));
    let groups = groups(&service, &pods);
    assert_eq!(groups.len(), 1);
    assert_eq!(
        conditions(&groups[0]),
        [
            ("10.44.0.1", true, true, false),
            ("10.44.0.2", false, false, false),
            ("10.44.0.3", false, true, true),
        ]
    );
    let target = groups[0].endpoints[0].target_ref.as_ref().unwrap();
    assert_eq!(target.uid.as_deref(), Some("uid-00001"));
    assert_eq!(groups[0].endpoints[0].node_name.as_deref(), Some("node"));

    let endpoints = legacy(&service, &pods);
    let subset = &endpoints["subsets"][0];
    assert_eq!(addresses(subset, "addresses"), ["10.44.0.1"]);
    assert_eq!(addresses(subset, "notReadyAddresses"), ["10.44.0.2"]);
    let metadata = &endpoints["metadata"];
    assert_eq!(metadata["labels"]["tier"], "front");
    assert_eq!(metadata["labels"]["endpoints.kubernetes.io/managed-by"], "endpoint-controller");
    let time = &metadata["annotations"]["endpoints.kubernetes.io/last-change-trigger-time"];
    assert_eq!(time, "2024-01-02T00:00:00Z");
}

#[test]
fn a_service_may_publish_pods_that_are_not_ready() {
    let service = service(&json!({"spec": {"publishNotReadyAddresses": true}}));
    let pods = [pod(1, &unready()), pod(2, &terminating())];
    let groups = groups(&service, &pods);
    assert_eq!(
        conditions(&groups[0]),
        [("10.44.0.1", true, false, false), ("10.44.0.2", true, true, true)]
    );
    let endpoints = legacy(&service, &pods);
    assert_eq!(addresses(&endpoints["subsets"][0], "addresses"), ["10.44.0.1", "10.44.0.2"]);
}

#[test]
fn headless_services_are_marked_and_name_their_pods() {
    let service = service(&json!({"spec": {"clusterIP": "None", "ports": []}}));
    let named = json!({"spec": {"hostname": "db-0", "subdomain": "web"}});
    let elsewhere = json!({"spec": {"hostname": "db-1", "subdomain": "other"}});
    let pods = [pod(1, &named), pod(2, &elsewhere)];
    let groups = groups(&service, &pods);
    assert!(groups[0].ports.is_empty());
    assert_eq!(groups[0].endpoints[0].hostname.as_deref(), Some("db-0"));
    assert_eq!(groups[0].endpoints[1].hostname, None);
    assert_eq!(address::service_labels(&service)[address::HEADLESS], "");
    let endpoints = legacy(&service, &pods);
    assert_eq!(endpoints["metadata"]["labels"][address::HEADLESS], "");
    assert_eq!(addresses(&endpoints["subsets"][0], "addresses").len(), 2);
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["hostname"], "db-0");

    // With an address the label goes, and without ports there is nothing to tell.
    let addressed = self::service(&json!({"metadata": {"labels": {address::HEADLESS: ""}},
        "spec": {"ports": []}}));
    assert!(!address::service_labels(&addressed).contains_key(address::HEADLESS));
    assert!(legacy(&addressed, &pods)["subsets"].is_null());
}

#[test]
fn a_named_port_is_each_pods_own() {
    let service = service(&json!({"spec": {"ports": [
        {"name": "web", "port": 80, "targetPort": "http", "appProtocol": "h2c"},
        {"name": "admin", "port": 81, "targetPort": "admin"}]}}));
    let moved = json!({"spec": {"containers": [{"name": "web",
        "ports": [{"name": "http", "containerPort": 9090}]}]}});
    let sidecar = json!({"spec": {"initContainers": [{"name": "s", "restartPolicy": "Always",
        "ports": [{"name": "admin", "containerPort": 7000}]}]}});
    let udp = json!({"spec": {"containers": [{"name": "web",
        "ports": [{"name": "http", "containerPort": 53, "protocol": "UDP"}]}]}});
    let pods =
        [pod(1, &json!({})), pod(2, &moved), pod(3, &sidecar), pod(4, &json!({})), pod(5, &udp)];
    let found: Vec<(Vec<i32>, usize)> = groups(&service, &pods)
        .iter()
        .map(|group| (group.ports.iter().map(|port| port.2).collect(), group.endpoints.len()))
        .collect();
    assert_eq!(found, [(vec![], 1), (vec![7000, 8080], 1), (vec![8080], 2), (vec![9090], 1)]);
    let endpoints = legacy(&service, &pods);
    let subsets = endpoints["subsets"].as_array().unwrap();
    // A pod that serves none of the ports is in a slice without ports, but in no subset.
    assert_eq!(subsets.len(), 3);
    assert!(subsets.iter().any(|subset| {
        subset["ports"][0]["port"] == 9090
            && subset["ports"][0]["appProtocol"] == "h2c"
            && addresses(subset, "addresses") == ["10.44.0.2"]
    }));
}

#[test]
fn each_family_has_its_slices_and_endpoints_follow_the_first() {
    let both = json!({"status": {"podIPs": [{"ip": "10.44.0.1"}, {"ip": "fd00::1"}]}});
    let pods = [pod(1, &both), pod(2, &json!({}))];
    let service = service(&json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}}));
    let groups = groups(&service, &pods);
    let found: Vec<(&str, usize)> =
        groups.iter().map(|group| (group.address_type.as_str(), group.endpoints.len())).collect();
    assert_eq!(found, [("IPv6", 1), ("IPv4", 2)]);
    assert_eq!(groups[0].endpoints[0].addresses, ["fd00::1"]);
    let endpoints = legacy(&service, &pods);
    assert_eq!(addresses(&endpoints["subsets"][0], "addresses"), ["fd00::1"]);
}

#[test]
fn only_selectors_that_select_make_endpoints() {
    assert!(address::selects_pods(&service(&json!({}))));
    assert!(!address::selects_pods(&service(&json!({"spec": {"selector": null}}))));
    assert!(!address::selects_pods(&service(&json!({"spec": {"type": "ExternalName"}}))));
    let by_hand = service(&json!({"spec": {"selector": null}}));
    assert!(mirror::is_by_hand(&by_hand));
    assert!(!mirror::is_by_hand(&service(&json!({}))));
}

#[test]
fn endpoints_hold_a_thousand_addresses_the_ready_ones_first() {
    let ports = json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}]}});
    let service = service(&ports);
    let moved = json!({"spec": {"containers": [{"name": "web",
        "ports": [{"name": "http", "containerPort": 9090}]}]}});
    let ready = |numbers: std::ops::Range<u32>| numbers.map(|n| pod(n, &json!({})));
    let others = |numbers: std::ops::Range<u32>| numbers.map(|n| pod(n, &moved));
    let count = |endpoints: &Value, list: &str| -> Vec<usize> {
        let subsets = endpoints["subsets"].as_array().unwrap();
        subsets.iter().map(|subset| addresses(subset, list).len()).collect()
    };
    let over =
        |endpoints: &Value| endpoints["metadata"]["annotations"][legacy::OVER_CAPACITY].clone();

    let fits: Vec<_> = ready(1..1001).collect();
    let endpoints = legacy(&service, &fits);
    assert_eq!(count(&endpoints, "addresses"), [1000]);
    assert!(over(&endpoints).is_null());

    let pods: Vec<_> = ready(1..901).chain(others(901..1201)).collect();
    let endpoints = legacy(&service, &pods);
    assert_eq!(count(&endpoints, "addresses"), [750, 250]);
    assert_eq!(over(&endpoints), "truncated");

    let waiting = (2001..2401).map(|n| pod(n, &unready()));
    let pods: Vec<_> = ready(1..801).chain(waiting).collect();
    let endpoints = legacy(&service, &pods);
    assert_eq!(count(&endpoints, "addresses"), [800]);
    assert_eq!(count(&endpoints, "notReadyAddresses"), [200]);

    // The note goes with the reason for it.
    let known = legacy::plan(&service, &pods, None);
    let fewer = legacy::plan(&service, &fits, Some(&known));
    assert!(!fewer.metadata.annotations.unwrap().contains_key(legacy::OVER_CAPACITY));
}

#[test]
fn nothing_is_written_where_nothing_changed() {
    let service = service(&json!({}));
    let pods = [pod(1, &json!({})), pod(2, &unready())];
    let known = legacy::plan(&service, &pods, None);
    // Only the time of a change that the endpoints do not show.
    let later = json!({"status": {"conditions": [{"type": "Ready", "status": "True",
        "lastTransitionTime": "2025-01-01T00:00:00Z"}]}});
    let pods = [pod(1, &later), pod(2, &unready())];
    assert_eq!(legacy::plan(&service, &pods, Some(&known)), known);
}

fn frame() -> Frame {
    Frame {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        labels: [(slices::SERVICE_NAME.to_owned(), "web".to_owned())].into(),
        owner: OwnerReference { name: "web".to_owned(), ..OwnerReference::default() },
        trigger_time: Some("2024-01-01T00:00:00Z".to_owned()),
        annotations: None,
        capacity: SLICE_ENDPOINTS,
    }
}

/// The slices after a plan was carried out, new ones named by their number.
fn carry_out(existing: &[Arc<EndpointSlice>], plan: Plan) -> Vec<Arc<EndpointSlice>> {
    let mut slices: Vec<Arc<EndpointSlice>> = existing.to_vec();
    slices.retain(|slice| !plan.delete.contains(slice));
    for written in plan.update {
        let known = slices.iter_mut().find(|slice| slice.metadata.name == written.metadata.name);
        *known.unwrap() = Arc::new(written);
    }
    for mut created in plan.create {
        assert_eq!(created.metadata.generate_name.as_deref(), Some("web-"));
        created.metadata.name = Some(format!("web-{}", slices.len()));
        slices.push(Arc::new(created));
    }
    slices
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    slices.iter().map(|slice| slice.endpoints.len()).collect()
}

fn pods(numbers: impl Iterator<Item = u32>) -> Vec<Arc<Pod>> {
    numbers.map(|number| pod(number, &json!({}))).collect()
}

#[test]
fn slices_hold_a_hundred_endpoints_and_change_as_little_as_possible() {
    let service = service(&json!({}));
    let plan = |pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]| {
        slices::plan(&frame(), groups(&service, pods), existing.to_vec())
    };
    let slices = carry_out(&[], plan(&pods(1..251), &[]));
    assert_eq!(sizes(&slices), [100, 100, 50]);
    assert_eq!(plan(&pods(1..251), &slices), Plan::default());

    // One pod goes, one comes: only the slices of the two are written.
    let changed = plan(&pods((2..251).chain([300])), &slices);
    assert_eq!((changed.create.len(), changed.delete.len()), (0, 0));
    assert_eq!(changed.update.len(), 1);
    let slices = carry_out(&slices, changed);
    assert_eq!(sizes(&slices).iter().sum::<usize>(), 250);

    // A pod that stays but is not ready any more is changed in its place.
    let mut half = pods(2..251);
    half[0] = pod(2, &unready());
    half.extend(pods([300].into_iter()));
    let changed = plan(&half, &slices);
    assert_eq!((changed.create.len(), changed.update.len(), changed.delete.len()), (0, 1, 0));

    // Slices that become empty go, but the last one stays.
    let fewer = plan(&pods(2..12), &slices);
    assert_eq!((fewer.create.len(), fewer.update.len(), fewer.delete.len()), (0, 1, 2));
    let slices = carry_out(&slices, fewer);
    let none = carry_out(&slices, plan(&[], &slices));
    assert_eq!(sizes(&none), [0]);
    assert_eq!(plan(&[], &none), Plan::default());
}

#[test]
fn more_than_a_thousand_endpoints_fill_further_slices() {
    let service = service(&json!({}));
    let all = pods(1..1206);
    let slices = carry_out(&[], slices::plan(&frame(), groups(&service, &all), Vec::new()));
    assert_eq!(sizes(&slices).len(), 13);
    assert_eq!(sizes(&slices).iter().sum::<usize>(), 1205);
    let mut seen: Vec<&String> = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().map(|endpoint| &endpoint.addresses[0]))
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1205);
}

#[test]
fn other_ports_use_the_slices_that_became_free() {
    let all = pods(1..3);
    let before = groups(&service(&json!({})), &all);
    let slices = carry_out(&[], slices::plan(&frame(), before, Vec::new()));
    let moved = service(&json!({"spec": {"ports": [{"port": 80, "targetPort": 9000}]}}));
    let plan = slices::plan(&frame(), groups(&moved, &all), slices.clone());
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    assert_eq!(plan.update[0].metadata.name, slices[0].metadata.name);
    assert_eq!(plan.update[0].ports.as_ref().unwrap()[0].port, Some(9000));
    let time = &plan.update[0].metadata.annotations.as_ref().unwrap()[address::TRIGGER_TIME];
    assert_eq!(time, "2024-01-01T00:00:00Z");
    // A slice of the other family cannot be turned into one of this.
    let six = service(&json!({"spec": {"ipFamilies": ["IPv6"]}}));
    let plan = slices::plan(&frame(), groups(&six, &all), slices);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (1, 0, 1));
    // Labels of the Service reach slices whose endpoints stay.
    let mut relabelled = frame();
    relabelled.labels.insert("tier".to_owned(), "back".to_owned());
    let slices =
        carry_out(&[], slices::plan(&frame(), groups(&service(&json!({})), &all), Vec::new()));
    let plan = slices::plan(&relabelled, groups(&service(&json!({})), &all), slices);
    assert_eq!(plan.update[0].metadata.labels.as_ref().unwrap()["tier"], "back");
}

fn by_hand(subsets: &Value) -> Endpoints {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web", "labels": {"tier": "db"},
            "annotations": {"note": "mine", "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "endpoints.kubernetes.io/last-change-trigger-time": "2024-01-01T00:00:00Z"}},
        "subsets": subsets
    }))
    .unwrap()
}

#[test]
fn endpoints_written_by_hand_are_mirrored() {
    let endpoints = by_hand(&json!([
        {"addresses": [{"ip": "192.0.2.1", "hostname": "a"}, {"ip": "fd00::1"}, {"ip": "x"}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}],
            "ports": [{"name": "web", "port": 80}]},
        {"addresses": [{"ip": "192.0.2.3"}], "ports": [{"name": "web", "port": 81}]},
        {"addresses": [{"ip": "192.0.2.4"}], "ports": [{"name": "web", "port": 80}]},
    ]));
    let mirrored = mirror::mirror(&endpoints);
    let found: Vec<(&str, i32, usize)> = mirrored
        .groups
        .iter()
        .map(|group| (group.address_type.as_str(), group.ports[0].2, group.endpoints.len()))
        .collect();
    assert_eq!(found, [("IPv4", 80, 3), ("IPv6", 80, 1), ("IPv4", 81, 1)]);
    let four = &mirrored.groups[0].endpoints;
    let ready: Vec<bool> =
        four.iter().map(|entry| entry.conditions.as_ref().unwrap().ready.unwrap()).collect();
    assert_eq!(ready, [true, false, true]);
    assert_eq!(four[0].hostname.as_deref(), Some("a"));
    assert_eq!(
        mirrored.notices()[0].message,
        "Skipped 1 invalid IP addresses when mirroring to EndpointSlices"
    );

    let frame = mirror::frame(&endpoints);
    assert_eq!(frame.labels["tier"], "db");
    assert_eq!(frame.labels[slices::SERVICE_NAME], "web");
    assert_eq!(frame.labels[slices::MANAGED_BY], "endpointslicemirroring-controller.k8s.io");
    let plan = slices::plan(&frame, mirrored.groups.clone(), Vec::new());
    assert_eq!(plan.create.len(), 3);
    let annotations = plan.create[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["note"], "mine");
    assert_eq!(annotations[address::TRIGGER_TIME], "2024-01-01T00:00:00Z");
    assert_eq!(annotations.len(), 2);
    let slices = carry_out(&[], plan);
    assert_eq!(slices::plan(&frame, mirrored.groups.clone(), slices.clone()), Plan::default());
    // A changed annotation alone is followed too.
    let mut noted = endpoints;
    noted.metadata.annotations.as_mut().unwrap().insert("note".into(), "yours".into());
    let plan = slices::plan(&mirror::frame(&noted), mirrored.groups, slices.clone());
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 3, 0));
    // Without addresses nothing is left.
    let plan = slices::plan(&mirror::frame(&noted), Vec::new(), slices);
    assert_eq!(plan.delete.len(), 3);
}

#[test]
fn a_thousand_addresses_of_a_subset_are_mirrored() {
    let many = |count: u32| -> Vec<Value> {
        (0..count).map(|n| json!({"ip": format!("192.0.{}.{}", n / 256, n % 256)})).collect()
    };
    let endpoints =
        by_hand(&json!([{"addresses": many(1003), "ports": [{"name": "web", "port": 80}]}]));
    let mirrored = mirror::mirror(&endpoints);
    assert_eq!(mirrored.surplus, 3);
    assert_eq!(
        mirrored.notices()[0].message,
        "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 3 \
         addresses were skipped"
    );
    let plan = slices::plan(&mirror::frame(&endpoints), mirrored.groups, Vec::new());
    assert_eq!(plan.create.len(), 1);
    assert_eq!(plan.create[0].endpoints.len(), 1000);
}

#[test]
fn some_endpoints_are_not_mirrored() {
    let plain = by_hand(&json!([]));
    assert!(mirror::wants(&plain));
    let mut skipped = plain.clone();
    skipped.metadata.labels.as_mut().unwrap().insert(mirror::SKIP.into(), "true".into());
    assert!(!mirror::wants(&skipped));
    let mut leader = plain.clone();
    let annotations = leader.metadata.annotations.as_mut().unwrap();
    annotations.insert("control-plane.alpha.kubernetes.io/leader".into(), "{}".into());
    assert!(!mirror::wants(&leader));
}
