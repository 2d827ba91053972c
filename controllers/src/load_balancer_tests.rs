//! Which Service has the node's ports, and what its status says.

use serde_json::{Value, json};

use super::*;
use crate::fixture::{merge, pod};

const NODE: &str = "192.0.2.10";
const API_PORT: u16 = 6443;

fn service(name: &str, created: &str, port: i32, more: &Value) -> Service {
    let mut value = json!({
        "metadata": {"namespace": "default", "name": name, "creationTimestamp": created},
        "spec": {"type": "LoadBalancer", "ports": [{"port": port}]}
    });
    merge(&mut value, more.clone());
    serde_json::from_value(value).unwrap()
}

fn verdicts(services: &[Service], pods: &[Arc<Pod>]) -> Vec<Verdict> {
    let shared: Vec<Arc<Service>> = services.iter().cloned().map(Arc::new).collect();
    let holders = holders(&shared, pods, API_PORT, &Holders::new(), |_| BTreeSet::new());
    services.iter().map(|service| plan(service, &holders, NODE)).collect()
}

fn address() -> Vec<LoadBalancerIngress> {
    vec![LoadBalancerIngress {
        ip: Some(NODE.to_owned()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    }]
}

fn held_by(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Conflict { holder, .. } => holder,
        Verdict::Addresses(_) => "",
    }
}

const EARLY: &str = "2024-01-01T00:00:00Z";
const LATE: &str = "2024-01-02T00:00:00Z";

#[test]
fn a_port_belongs_to_the_oldest_service_and_protocols_do_not_meet() {
    let services = [
        service("b", LATE, 80, &json!({})),
        service("a", EARLY, 80, &json!({})),
        service("dns", LATE, 80, &json!({"spec": {"ports": [{"port": 80, "protocol": "UDP"}]}})),
    ];
    let verdicts = verdicts(&services, &[]);
    assert_eq!(held_by(&verdicts[0]), "service default/a");
    assert_eq!(verdicts[1], Verdict::Addresses(address()));
    assert_eq!(verdicts[2], Verdict::Addresses(address()));
}

#[test]
fn a_service_that_has_its_address_keeps_it_against_an_older_one() {
    let given = json!({"status": {"loadBalancer": {"ingress": [{"ip": NODE}]}}});
    let services = [service("new", LATE, 80, &given), service("old", EARLY, 80, &json!({}))];
    let verdicts = verdicts(&services, &[]);
    assert_eq!(verdicts[0], Verdict::Addresses(address()));
    assert_eq!(held_by(&verdicts[1]), "service default/new");
}

#[test]
fn the_api_and_host_ports_come_first_until_the_pod_ends() {
    let web = |phase: &str| {
        let container = json!({"name": "c", "ports": [{"containerPort": 8080, "hostPort": 80}]});
        pod("web", json!({"status": {"phase": phase}, "spec": {"containers": [container]}}))
    };
    let services = [service("api", EARLY, 6443, &json!({})), service("web", EARLY, 80, &json!({}))];
    let running = verdicts(&services, &[web("Running")]);
    assert_eq!(held_by(&running[0]), "the Kubernetes API");
    assert_eq!(held_by(&running[1]), "pod default/web");
    assert_eq!(verdicts(&services, &[web("Succeeded")])[1], Verdict::Addresses(address()));
}

#[test]
fn all_ports_of_a_service_or_none() {
    let both = json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 443}]}});
    let services = [
        service("first", EARLY, 443, &json!({})),
        service("both", LATE, 80, &both),
        service("third", "2024-01-03T00:00:00Z", 80, &json!({})),
    ];
    let verdicts = verdicts(&services, &[]);
    assert!(matches!(verdicts[1], Verdict::Conflict { .. }));
    // What the second one could not have it does not keep from the third.
    assert_eq!(verdicts[2], Verdict::Addresses(address()));
}

#[test]
fn the_status_follows_the_type() {
    let given = json!({"status": {"loadBalancer": {"ingress": [{"ip": NODE, "ipMode": "VIP"}]}}});
    let mut service = service("web", EARLY, 80, &given);
    assert_eq!(correction(&service, address()), None);
    assert_eq!(correction(&service, Vec::new()), Some(Vec::new()));
    // Back to ClusterIP: the address goes.
    service.spec.as_mut().unwrap().type_ = Some("ClusterIP".to_owned());
    let Verdict::Addresses(wanted) = plan(&service, &Holders::new(), NODE) else { panic!() };
    assert!(wanted.is_empty());
    assert_eq!(correction(&service, wanted), Some(Vec::new()));
    service.status = None;
    assert_eq!(correction(&service, Vec::new()), None);
}

#[test]
fn another_implementations_service_is_left_alone() {
    let foreign = json!({"spec": {"loadBalancerClass": "example.com/other"},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}});
    let service = service("web", EARLY, 80, &foreign);
    assert!(!is_ours(&service));
    let Verdict::Addresses(wanted) = plan(&service, &Holders::new(), NODE) else { panic!() };
    assert_eq!(correction(&service, wanted), None);
    assert_eq!(
        verdicts(&[service, self::service("mine", LATE, 80, &json!({}))], &[])[1],
        Verdict::Addresses(address())
    );
}

#[test]
fn host_processes_come_first_except_own_endpoints() {
    let nginx = ("TCP".to_owned(), 80);
    let host = Holders::from([(nginx.clone(), "process nginx (pid 7)".to_owned())]);
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "own-1"},
        "addressType": "IPv4", "endpoints": [{"addresses": [NODE]}],
        "ports": [{"port": 80, "protocol": "TCP"}],
    }))
    .unwrap();
    let slices = [Arc::new(slice)];
    let verdict = |name: &str| {
        let given = json!({"status": {"loadBalancer": {"ingress": [{"ip": NODE}]}}});
        let service = service(name, EARLY, 80, &given);
        let served = |service: &Service| match service.metadata.name.as_deref() {
            Some("own") => served_at(&slices, NODE.parse().unwrap()),
            _ => BTreeSet::new(),
        };
        let holders = holders(&[Arc::new(service.clone())], &[], API_PORT, &host, served);
        plan(&service, &holders, NODE)
    };
    assert_eq!(held_by(&verdict("other")), "process nginx (pid 7)", "even with its address given");
    assert_eq!(verdict("own"), Verdict::Addresses(address()));
}

#[test]
fn conflicts_are_announced_once() {
    let announced = Announced::default();
    let key = ObjectKey::of(&service("web", EARLY, 80, &json!({})));
    assert!(announced.is_new(&key, Some("nginx")));
    assert!(!announced.is_new(&key, Some("nginx")));
    assert!(announced.is_new(&key, Some("apache")));
    assert!(!announced.is_new(&key, None));
    assert!(announced.is_new(&key, Some("apache")));
}
