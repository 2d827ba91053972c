//! Processes of the machine keep their ports and get them back; rules that another program removes
//! come back.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use coracle_integration::node::NODE_IP;
use coracle_integration::{Kubectl, Node, eventually, privileged, story, within};

/// Longest time until the host has a port after its process began to listen.
const HOST_WINS: Duration = Duration::from_secs(3);
/// Longest time until rules are back after another program removed them.
const RULES_COME_BACK: Duration = Duration::from_secs(2);

fn get(ns: &coracle_integration::NetNs, url: &str) -> Option<String> {
    let mut curl = ns.command("curl");
    curl.args(["--silent", "--max-time", "1", url]).stderr(Stdio::null());
    let output = curl.output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn address(kubectl: &Kubectl) -> String {
    kubectl.jsonpath(&["service", "web"], "{.status.loadBalancer.ingress[*].ip}")
}

fn conflicts(kubectl: &Kubectl) -> String {
    kubectl.ok(&[
        "get",
        "events",
        "--field-selector=reason=PortConflict",
        "-o=jsonpath={range .items[*]}{.involvedObject.name}: {.message}{.note}{\"\\n\"}{end}",
    ])
}

#[test]
fn host_keeps_and_regains_its_ports() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    kubectl.ok(&["apply", "-f", &story("deployment.yml")]);
    kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
    let first = node.ns.listen(&format!("{NODE_IP}:80"));
    kubectl.ok(&[
        "expose",
        "deployment",
        "nginx-deployment",
        "--name=web",
        "--port=80",
        "--type=LoadBalancer",
    ]);
    let reported = eventually(10, "the conflict is reported", || {
        Some(conflicts(&kubectl)).filter(|text| text.contains("web"))
    });
    assert!(reported.contains("Port 80/TCP of the node is taken by process "), "{reported}");
    assert!(reported.contains(&format!("(pid {})", std::process::id())), "{reported}");
    assert_eq!(address(&kubectl), "");

    drop(first);
    within(5, "the address is given", || address(&kubectl) == NODE_IP);
    let url = format!("http://{NODE_IP}:80");
    let is_nginx = || get(&node.outside, &url).is_some_and(|page| page.contains("nginx"));
    within(5, "the Service is reached", is_nginx);

    let start = Instant::now();
    let second = node.ns.listen("0.0.0.0:80");
    second.set_nonblocking(true).unwrap();
    within(4, "the host has its port", || {
        let connection = node
            .outside
            .command("curl")
            .args(["--silent", "--max-time", "0.3", &url])
            .stderr(Stdio::null())
            .output()
            .unwrap();
        !connection.status.success() && second.accept().is_ok()
    });
    assert!(start.elapsed() < HOST_WINS + Duration::from_millis(500), "{:?}", start.elapsed());
    within(4, "the address is taken back", || address(&kubectl).is_empty());
    drop(second);
    within(5, "the address is given again", || address(&kubectl) == NODE_IP);
    within(5, "the Service is reached again", is_nginx);

    // An explicit node port on a port of the host.
    let third = node.ns.listen("0.0.0.0:30123");
    let explicit = "{\"spec\":{\"ports\":[{\"port\":80,\"nodePort\":30123}]}}";
    kubectl.ok(&["patch", "service", "web", "-p", explicit]);
    let reported = eventually(10, "the conflict of the node port is reported", || {
        Some(conflicts(&kubectl)).filter(|text| text.contains("30123"))
    });
    assert!(reported.contains("Node port 30123/TCP is taken by process "), "{reported}");
    drop(third);

    for command in [&["flush", "ruleset"][..], &["delete", "table", "ip", "coracle"]] {
        node.ns.run("nft", command);
        let start = Instant::now();
        within(5, "the Service is reached after a flush", is_nginx);
        let waited = start.elapsed();
        assert!(waited < RULES_COME_BACK + Duration::from_secs(1), "{command:?}: {waited:?}");
    }
    node.ns.run("nft", &["flush", "ruleset"]);
    kubectl.ok(&["scale", "deployment/nginx-deployment", "--replicas=6"]);
    kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
}
