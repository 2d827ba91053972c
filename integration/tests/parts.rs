//! The parts of a node: one that cannot run makes the node not ready, says why, and runs once it can;
//! and what the process gets from the kernel for itself.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::UdpSocket;

use coracle_integration::api::Api;
use coracle_integration::{Node, NodeOptions, eventually, privileged, within};
use serde_json::Value;

const TAKEN: &str =
    "listen at 10.47.240.10:53 for DNS over UDP: Address already in use (os error 98)";

/// The status, reason and message of the node's condition.
fn ready(api: &Api) -> (String, String, String) {
    let node = api.get("/api/v1/nodes/node").body;
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or(Value::Null);
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn taken_dns_port_makes_the_node_not_ready() {
    if !privileged() {
        return;
    }
    let mut node = Node::prepare(NodeOptions { without_images: true, ..NodeOptions::default() });
    // Another resolver of the machine, as dnsmasq would be.
    let resolver = node.ns.within(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    node.up();
    let (api, kubectl) = (Api::of(&node), node.any_kubectl());

    let not_ready = eventually(30, "the node is not ready", || {
        Some(ready(&api)).filter(|(status, ..)| status == "False")
    });
    let message = format!("dns is down: {TAKEN}");
    assert_eq!((not_ready.1.as_str(), not_ready.2), ("KubeletNotReady", message));
    let readyz = kubectl.fails(&["get", "--raw", "/readyz?verbose"]);
    assert!(readyz.contains("[-]dns failed: reason withheld"), "{readyz}");
    assert!(readyz.contains("[+]kubelet-pods ok"), "{readyz}");
    let reason = kubectl.fails(&["get", "--raw", "/readyz/dns"]);
    assert!(reason.contains(TAKEN), "{reason}");
    assert_eq!(api.request("GET", "/livez", None).code, 200);
    assert!(node.log().contains(TAKEN), "{}", node.log());

    drop(resolver);
    within(60, "the node is ready", || ready(&api).0 == "True");
    assert_eq!(api.request("GET", "/readyz", None).code, 200);
    within(10, "names are answered", || {
        let dig = [
            "@10.47.240.10",
            "+short",
            "+tries=1",
            "+time=2",
            "kubernetes.default.svc.cluster.local",
        ];
        let answer = node.ns.command("dig").args(dig).output().unwrap();
        String::from_utf8_lossy(&answer.stdout) == "10.47.240.1\n"
    });
}

#[test]
fn node_claims_open_files_and_spares_itself() {
    if !privileged() {
        return;
    }
    let node = Node::start_with(NodeOptions { without_images: true, ..NodeOptions::default() });
    let read =
        |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", node.pid())).unwrap();
    let limits = read("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [.., soft, hard, _] = files.split_whitespace().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(soft, hard, "{files}");
    let protected = read("oom_score_adj").trim() == "-999";
    assert!(protected || node.log().contains("oom_score_adj cannot be set to -999"));
}
