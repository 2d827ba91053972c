//! Ports, addresses and firewalls: the host comes first.

use std::time::Duration;

use coracle_integration::node::{NODE_IP, OUTSIDE_IP};
use coracle_integration::{privileged, within};
use serde_json::{Value, json};

use crate::tenant::Ground;

/// A web server in the pod.
const SERVER: &str = "mkdir /w; echo from-the-pod > /w/index.html; trap 'exit 0' TERM; \
                      httpd -f -p 8080 -h /w & wait";

#[test]
fn network_of_a_tenant_leaves_the_host_alone() {
    if !privileged() {
        return;
    }
    let ground = Ground::new();
    port_of_the_api_cannot_be_taken(&ground);
    foreign_addresses_cannot_be_taken(&ground);
    services_leave_ports_of_the_host_alone(&ground);
    rules_come_back(&ground);
    rules_of_one_namespace_leave_room(&ground);
}

fn with_port(port: Value) -> Value {
    json!({"containers": [{
        "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", SERVER], "ports": [port],
    }]})
}

fn port_of_the_api_cannot_be_taken(ground: &Ground) {
    let port = json!({"containerPort": 6443, "hostPort": 6443});
    ground.pod("lockout", SERVER, with_port(port));
    within(30, "the pod is rejected", || {
        ground.tenant.jsonpath(&["pod", "lockout"], "{.status.phase}") == "Failed"
    });
    ground.is_sound("hostPort 6443");
    ground.delete("lockout");
}

fn foreign_addresses_cannot_be_taken(ground: &Ground) {
    for (name, address) in [("outside", OUTSIDE_IP), ("nobody", "203.0.113.7")] {
        let port = json!({"containerPort": 8080, "hostPort": 80, "hostIP": address});
        ground.pod(name, SERVER, with_port(port));
        within(30, "the pod is rejected", || {
            ground.tenant.jsonpath(&["pod", name], "{.status.phase}") == "Failed"
        });
        let url = format!("http://{address}/");
        let fetch = ["--silent", "--max-time", "2", &url];
        let answer = ground.node.ns.command("curl").args(fetch).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "", "{address}");
        ground.is_sound("a hostIP that is not the node's");
        ground.delete(name);
    }
}

fn services_leave_ports_of_the_host_alone(ground: &Ground) {
    let listener = ground.node.ns.listen(&format!("{NODE_IP}:8022"));
    ground.pod("web", SERVER, json!({}));
    ground.tenant.ready("web");
    let service = |name: &str, port: u16| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {
                "type": "LoadBalancer", "selector": {"app": "web"},
                "ports": [{"port": port, "targetPort": 8080}],
            },
        })
    };
    ground.create(&service("taken", 8022));
    ground.create(&service("free", 8023));
    let address = |name: &str| {
        ground.tenant.jsonpath(&["service", name], "{.status.loadBalancer.ingress[0].ip}")
    };
    within(20, "the free port gets the address", || address("free") == NODE_IP);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(address("taken"), "", "the port of a process of the host");

    // A process of the host that comes later wins as well.
    let later = ground.node.ns.listen(&format!("{NODE_IP}:8023"));
    within(10, "the address is withdrawn", || address("free").is_empty());
    drop((listener, later));
    within(20, "the ports are free again", || {
        address("free") == NODE_IP && address("taken") == NODE_IP
    });
    ground.is_sound("LoadBalancers on ports of the host");
    ground.tenant.ok(&["delete", "service", "taken", "free"]);
    ground.delete("web");
}

fn rules_come_back(ground: &Ground) {
    ground.pod("web", SERVER, json!({}));
    ground.tenant.ready("web");
    ground.tenant.ok(&["expose", "pod", "web", "--port=80", "--target-port=8080"]);
    let address = ground.tenant.jsonpath(&["service", "web"], "{.spec.clusterIP}");
    let url = format!("http://{address}/");
    let answers = || {
        let fetch = ["--silent", "--max-time", "1", &url];
        let answer = ground.node.ns.command("curl").args(fetch).output().unwrap();
        answer.stdout == b"from-the-pod\n"
    };
    within(20, "the Service answers", answers);
    ground.node.ns.run("nft", &["flush", "ruleset"]);
    within(10, "the Service answers again", answers);
    ground.pod("after", SERVER, json!({}));
    ground.tenant.ready("after");
    let lookup = ["exec", "after", "--", "nslookup", "web.tenant.svc.cluster.local"];
    within(20, "names resolve", || ground.tenant.run(&lookup).code == 0);
    ground.is_sound("nft flush ruleset");
    ground.delete("web");
    ground.delete("after");
}

/// A Service and its slice: 15 kB of objects, and as many elements of maps as ports, addresses and
/// endpoints multiplied.
fn create_wide(ground: &Ground, name: &str, (ports, endpoints): (usize, usize), more: &Value) {
    let ports: Vec<Value> =
        (0..ports).map(|n| json!({"name": format!("p{n}"), "port": 1000 + n})).collect();
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": ports},
    });
    for (member, value) in more.as_object().unwrap() {
        service["spec"][member] = value.clone();
    }
    ground.create(&service);
    let endpoint = |n: usize| json!({"addresses": [format!("198.18.{}.{}", n / 250, n % 250 + 1)]});
    ground.create(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(), "ports": ports,
    }));
}

fn rules_of_one_namespace_leave_room(ground: &Ground) {
    ground.pod("web", SERVER, json!({}));
    ground.tenant.ready("web");
    let pod = ground.tenant.jsonpath(&["pod", "web"], "{.status.podIP}");
    let addresses: Vec<String> = (1..=100).map(|n| format!("203.0.113.{n}")).collect();
    for n in 0..3 {
        let external = json!({"externalIPs": addresses});
        create_wide(ground, &format!("wide-{n}"), (10, 150), &external);
    }
    create_wide(ground, "ports", (100, 1000), &json!({}));
    let ranges: Vec<String> =
        (0..4000).map(|n| format!("11.{}.{}.0/25", n / 250, n % 250)).collect();
    let balancer = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
    create_wide(ground, "ranges", (40, 1), &balancer);

    // A Service of another namespace.
    let labels = json!({"kubernetes.io/service-name": "other"});
    for object in [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "other"},
            "spec": {"ports": [{"port": 80}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "other", "labels": labels},
            "endpoints": [{"addresses": [pod]}], "ports": [{"name": "", "port": 8080}]}),
    ] {
        ground.admin.apply(&object.to_string());
    }
    let address = ground.admin.jsonpath(&["service", "other"], "{.spec.clusterIP}");
    let url = format!("http://{address}/");
    within(20, "another namespace's Service answers", || {
        let fetch = ["--silent", "--max-time", "1", &url];
        let answer = ground.node.ns.command("curl").args(fetch).output().unwrap();
        answer.stdout == b"from-the-pod\n"
    });
    let event = "a Service without room is reported";
    within(30, event, || !ground.tenant.events("wide-2", "TooManyEndpoints").is_empty());
    ground.is_sound("Services with many endpoints");
    ground.admin.ok(&["delete", "service", "other"]);
    ground.tenant.ok(&["delete", "services,endpointslices", "--all"]);
    ground.delete("web");
    ground.is_sound("the end of Services with many endpoints");
}
