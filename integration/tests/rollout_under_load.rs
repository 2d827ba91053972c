//! A rollout under load: no request fails, availability never drops.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use coracle_integration::node::NODE_IP;
use coracle_integration::{Node, privileged, story, within};
use serde_json::Value;

/// How many clients open connections at once to each of the two addresses.
const CLIENTS: usize = 2;

/// Opens a new connection per request without a pause until the marker file goes away. Prints a
/// line per failed request and at last how many there were.
fn load(mut shell: Command, url: &str, marker: &str) -> std::process::Child {
    let script = format!(
        "n=0; f=0; while [ -e {marker} ]; do \
         while read -r code rest; do n=$((n+1)); \
         [ $code = 200 ] || {{ f=$((f+1)); echo failed $code $rest at $(date +%T.%N); }}; done < \
         <(curl --silent --max-time 5 --output /dev/null --header 'Connection: close' \
         --write-out '%{{http_code}} %{{local_port}} %{{time_total}} %{{errormsg}}\\n' '{url}/?[1-20]' \
         ); done; echo requests $n failures $f"
    );
    shell.args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn no_request_fails_during_rollout_and_undo() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    kubectl.ok(&["apply", "-f", &story("deployment.yml")]);
    kubectl.ok(&["apply", "-f", &story("nodeport.yml")]);
    kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
    let cluster_ip = kubectl.jsonpath(&["service", "nginx-service"], "{.spec.clusterIP}");
    let port = kubectl.jsonpath(&["service", "nginx-service"], "{.spec.ports[0].nodePort}");
    within(10, "the Service answers", || {
        node.ns
            .command("curl")
            .args(["--silent", "--fail", "--output", "/dev/null", &format!("http://{cluster_ip}")])
            .status()
            .unwrap()
            .success()
    });

    let marker = node.path("load");
    std::fs::write(&marker, "").unwrap();
    let marker_text = marker.display().to_string();
    let clients: Vec<_> = (0..CLIENTS)
        .flat_map(|_| {
            let (inside, outside) = (node.ns.command("bash"), node.outside.command("bash"));
            [
                load(inside, &format!("http://{cluster_ip}"), &marker_text),
                load(outside, &format!("http://{NODE_IP}:{port}"), &marker_text),
            ]
        })
        .collect();
    let mut watch = kubectl
        .command(&["get", "deployment", "nginx-deployment", "--watch", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pod_watch = kubectl
        .command(&[
            "get",
            "pods",
            "-l",
            "app=nginx",
            "--watch",
            "--output-watch-events",
            "-o",
            "json",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    for _ in 0..2 {
        kubectl.ok(&["set", "image", "deployment/nginx-deployment", "nginx=nginx:1.9.1"]);
        kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
        kubectl.ok(&["rollout", "undo", "deployment/nginx-deployment"]);
        kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    std::fs::remove_file(&marker).unwrap();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!("{text}");
        let summary: Vec<u64> =
            text.lines().last().unwrap().split(' ').filter_map(|w| w.parse().ok()).collect();
        assert!(summary[0] > 50, "{text}");
        assert_eq!(summary[1], 0, "{text}");
    }
    watch.kill().unwrap();
    pod_watch.kill().unwrap();

    // Every state that the watch saw.
    let mut states = 0;
    for object in json_stream(watch.stdout.take().unwrap()) {
        let available = object["status"]["availableReplicas"].as_u64().unwrap_or(0);
        assert!(available >= 3, "{available} available in {object}");
        let replicas = object["status"]["replicas"].as_u64().unwrap_or(0);
        assert!(replicas <= 4, "{replicas} replicas");
        states += 1;
    }
    assert!(states > 8, "the watch saw {states} states only");
    // Pods that are not on their way out, at every event.
    let mut alive = std::collections::BTreeSet::new();
    for event in json_stream(pod_watch.stdout.take().unwrap()) {
        let pod = &event["object"];
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        if event["type"] == "DELETED" || !pod["metadata"]["deletionTimestamp"].is_null() {
            alive.remove(&name);
        } else {
            alive.insert(name);
        }
        assert!(alive.len() <= 4, "{alive:?}");
    }
    watch.wait().unwrap();
    pod_watch.wait().unwrap();
}

/// The JSON documents that kubectl prints one after the other.
fn json_stream(output: impl std::io::Read) -> Vec<Value> {
    let mut documents = Vec::new();
    let mut text = String::new();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        text.push_str(&line);
        text.push('\n');
        if line == "}" {
            documents.push(serde_json::from_str(&text).unwrap());
            text.clear();
        }
    }
    documents
}
