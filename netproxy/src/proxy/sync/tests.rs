//! Services with and without room.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::super::fake::{Kernel, proxy, proxy_over};
use super::*;

/// Endpoints that take the most slots.
const MANY: usize = 129;

fn put(proxy: &mut Proxy, id: (&str, &str), address: usize, endpoints: usize) {
    set(proxy, id, address, endpoints);
    proxy.flush().unwrap();
}

fn set(proxy: &mut Proxy, (namespace, name): (&str, &str), address: usize, endpoints: usize) {
    let service = json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"clusterIP": format!("10.47.{}.{}", 240 + address / 250, address % 250 + 1),
            "ports": [{"port": 80}]},
    });
    proxy.set_service(serde_json::from_value(service).unwrap());
    let endpoint = |n: usize| json!({"addresses": [format!("10.44.{}.{}", n / 250, n % 250 + 1)]});
    let slice = json!({
        "metadata": {"namespace": namespace, "name": name,
            "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 80}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<Value>>(),
    });
    proxy.set_slice(serde_json::from_value(slice).unwrap());
}

fn remove(proxy: &mut Proxy, namespace: &str, name: &str) {
    proxy.remove_service(&key(namespace, name));
    proxy.flush().unwrap();
}

fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.into(), name: name.into() }
}

fn shortage(namespace: &str, name: &str) -> Shortage {
    Shortage { service: key(namespace, name), uid: None, of: Bounded::Namespace }
}

/// The endpoints that the kernel has for a Service.
fn placed(proxy: &Proxy, namespace: &str, name: &str) -> usize {
    let known = &proxy.services[&key(namespace, name)];
    let placed = |(frontend, _): &(Frontend, _)| {
        proxy.installed.get(frontend)?.inside.as_ref().map(|view| view.endpoints.len())
    };
    known.targets.iter().filter_map(placed).sum()
}

#[test]
fn services_keep_the_room_that_they_have() {
    let mut proxy = proxy();
    put(&mut proxy, ("a", "small"), 0, 1);
    for number in 0..16 {
        put(&mut proxy, ("a", &format!("a{number}")), 1 + number, MANY);
    }
    // Half of all elements are fifteen times the most slots.
    assert_eq!((placed(&proxy, "a", "a14"), placed(&proxy, "a", "a15")), (MANY, 0));
    assert_eq!(proxy.take_shortages(), [shortage("a", "a15")]);
    for number in 0..8 {
        put(&mut proxy, ("b", &format!("b{number}")), 100 + number, MANY);
    }
    assert_eq!(placed(&proxy, "b", "b7"), MANY);
    assert!(proxy.take_shortages().is_empty());

    // What takes no more room changes, also now that the namespace has more than its share.
    put(&mut proxy, ("a", "a3"), 4, MANY + 1);
    assert_eq!(placed(&proxy, "a", "a3"), MANY + 1);
    put(&mut proxy, ("a", "small"), 0, 2);
    put(&mut proxy, ("a", "small"), 0, 3);
    assert_eq!(placed(&proxy, "a", "small"), 1);
    assert_eq!(proxy.take_shortages(), [shortage("a", "small")]);

    for number in 0..8 {
        remove(&mut proxy, "b", &format!("b{number}"));
    }
    assert_eq!((placed(&proxy, "a", "small"), placed(&proxy, "a", "a15")), (3, 0));
    remove(&mut proxy, "a", "a0");
    assert_eq!(placed(&proxy, "a", "a15"), MANY);
    assert!(proxy.waiting.is_empty());
}

#[test]
fn small_changes_are_little_work() {
    let mut proxy = proxy();
    put(&mut proxy, ("a", "first"), 0, 1);
    let mut is_little = |name: &str, address, endpoints| {
        set(&mut proxy, ("a", name), address, endpoints);
        let plans = proxy.plans_little();
        let changes = proxy.plan();
        let writes = proxy.writes_little(&changes);
        proxy.write(&changes).unwrap();
        (plans, writes)
    };
    assert_eq!(is_little("web", 1, 0), (true, true));
    assert_eq!(is_little("web", 1, 30), (true, true));
    assert_eq!(is_little("web", 1, MANY), (false, false));
    // Also what goes is work.
    assert_eq!(is_little("web", 1, 0), (false, false));
    assert_eq!(is_little("web", 1, 1), (true, true));
}

#[test]
fn waiting_services_of_one_namespace_hide_no_others() {
    let mut proxy = proxy();
    // As much as there is: half of it, half of the rest, and so on.
    for (namespace, services) in [("a", 15), ("b", 8), ("c", 4), ("d", 2), ("e", 1)] {
        for number in 0..services {
            let address = 100 * usize::from(namespace.as_bytes()[0] - b'a') + number;
            put(&mut proxy, (namespace, &format!("s{number}")), address, MANY);
        }
    }
    for number in 0..1100 {
        put(&mut proxy, ("a", &format!("w{number}")), 1000 + number, MANY);
    }
    put(&mut proxy, ("z", "last"), 3000, MANY);
    assert_eq!(placed(&proxy, "z", "last"), 0);
    for name in ["s0", "s1"] {
        remove(&mut proxy, "b", name);
    }
    assert_eq!(placed(&proxy, "z", "last"), MANY);
}

#[test]
fn failed_write_is_made_up_for() {
    let kernel = Kernel::default();
    let mut proxy = proxy_over(&kernel);
    put(&mut proxy, ("a", "first"), 0, 1);
    set(&mut proxy, ("a", "web"), 1, 3);
    kernel.fail(true);
    assert!(proxy.flush().is_err());
    kernel.fail(false);
    proxy.flush().unwrap();
    assert_eq!(kernel.frontends(), 2);
}
